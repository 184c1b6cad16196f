"""Calls side by side: in order, on one thread of BLAS each, as many as BLAS was allowed."""

import threading
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from calo4pqvae.evaluation.metrics.workers import blas_threads, in_threads


def test_results_stand_in_the_order_of_the_items() -> None:
    assert in_threads(lambda item: item * item, range(20)) == [item * item for item in range(20)]


def test_every_call_has_one_thread_of_blas_and_the_limit_is_given_back() -> None:
    with threadpool_limits(limits=1, user_api="blas"):
        assert blas_threads() == 1
    before = blas_threads()
    assert in_threads(lambda _: blas_threads(), range(3)) == [1, 1, 1]
    assert blas_threads() == before


def test_as_many_calls_run_at_once_as_blas_was_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calo4pqvae.evaluation.metrics.workers.blas_threads", lambda: 3)
    together = threading.Barrier(3, timeout=20)  # three calls wait for each other; fewer would break it
    assert in_threads(lambda item: (together.wait(), item)[1], range(3)) == [0, 1, 2]


def test_an_error_is_not_lost() -> None:
    def inverse(matrix: Any) -> Any:
        return np.linalg.inv(matrix)

    with pytest.raises(np.linalg.LinAlgError):
        in_threads(inverse, [np.eye(2), np.zeros((2, 2))])
