"""Many independent products of moderate matrices, each on one thread, side by side.

A product of some thousand rows is too small for the threads of a BLAS: they wait for each other longer than they work,
and the pools of NumPy's and SciPy's libraries, which know nothing of each other, do so on the same cores. Here every
call has a BLAS of one thread, and as many calls run at a time as BLAS was allowed threads (``OMP_NUM_THREADS``). A
result does not depend on their number.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_info, threadpool_limits  # type: ignore[import-untyped]

__all__ = ["blas_threads", "in_threads"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def blas_threads() -> int:
    """Threads that BLAS may use now."""
    return max((int(pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Calls a function with every item, several at a time.

    Args:
        function: What is done; it spends its time where the interpreter is not held, as NumPy does.
        items: Its arguments; all are made before the first call ends.

    Returns:
        The results in the order of the items.
    """
    n_threads = blas_threads()
    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(function, items))
