import builtins
from pathlib import Path
from typing import Any

import pytest

from calo4pqvae.errors import ConfigError
from calo4pqvae.workshop.tracking import BoardWriter, scalars

ROW = {
    "stage": "networks",
    "epoch": 3,
    "train": {"hits": 12.5, "voxels": 7.0},
    "quality": {"score": 0.25},
    "accepted": True,
    "note": "text is no curve",
    "slope": None,
}


def test_rows_become_named_numbers() -> None:
    assert dict(scalars(ROW)) == {
        "networks/train/hits": 12.5,
        "networks/train/voxels": 7.0,
        "networks/quality/score": 0.25,
        "networks/accepted": 1.0,
    }


def test_the_log_holds_the_numbers_at_their_epoch(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    BoardWriter(tmp_path).add(ROW)
    log = events.EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in log.Scalars("networks/train/hits")] == [(3, 12.5)]


def test_without_tensorboard_one_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if "tensorboard" in name:
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match="install calo4pqvae"):
        BoardWriter(tmp_path)
