"""The bench: what every stage of a training works with, and the frame that lets a training go on where it stood.

A training is a list of stages. A stage that takes long saves its state from time to time with :meth:`Bench.save`, under
its own name; a training that is begun again skips the stages before that one and gives it its state back, once, by
:meth:`Bench.take`. Rows of metrics are cut back to those that stood there at the checkpoint, so that a resumed run
leaves the same file as one that was never stopped.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from calo4pqvae.config import Config
from calo4pqvae.errors import CheckpointError
from calo4pqvae.workshop.data import TrainingData
from calo4pqvae.workshop.rundir import RunDirectory
from calo4pqvae.workshop.tracking import BoardWriter

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Bench", "Reporter", "Stage", "run_stages", "silent"]


class Reporter(Protocol):
    """Told about progress; the library itself prints nothing."""

    def __call__(self, stage: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
        """Takes the stage, steps done and to do, and the latest numbers."""


def silent(stage: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
    """A reporter that says nothing."""


@dataclass
class Bench:
    """What all stages work with."""

    config: Config
    run: RunDirectory
    fabric: "Fabric"
    data: TrainingData
    report: Reporter
    board: BoardWriter | None = None
    checkpoint: dict[str, Tensor] = field(default_factory=dict)
    stage: str | None = None
    """The stage that the checkpoint belongs to; None if nothing is resumed or its state has been taken."""

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.config.training.seed

    def take(self, stage: str) -> dict[str, Tensor]:
        """The checkpoint that was read, if it belongs to this stage; it is given once."""
        tensors = self.checkpoint if self.stage == stage else {}
        self.checkpoint, self.stage = {}, None
        return tensors

    def read_checkpoint(self, stages: Sequence[str]) -> None:
        """Reads the checkpoint of the run and cuts the metrics back to where they stood.

        Raises:
            CheckpointError: If it is damaged or belongs to none of the stages.
        """
        self.checkpoint, notes = self.run.load_tensors("checkpoint")
        n_rows = notes.get("n_rows", "")
        if notes.get("stage") not in stages or not n_rows.isdigit():
            raise CheckpointError(
                f"{self.run.tensor_path('checkpoint')} is no checkpoint of a training: restore it or train again"
            )
        self.stage = notes["stage"]
        self.forget_metrics(int(n_rows))

    def forget_metrics(self, n_kept: int) -> None:
        """Cuts the metrics back to their first rows, from the first process."""
        if self.fabric.is_global_zero:
            self.run.keep_metrics(n_kept)

    def save(self, stage: str, tensors: Mapping[str, Tensor]) -> None:
        """Writes the checkpoint of a stage, from the first process."""
        if self.fabric.is_global_zero:
            self.run.save_tensors("checkpoint", tensors, stage=stage, n_rows=str(len(self.run.metrics())))

    def save_part(self, name: str, tensors: Mapping[str, Tensor], **notes: str) -> None:
        """Writes a part of the run, from the first process; the others wait until it is there."""
        if self.fabric.is_global_zero:
            self.run.save_tensors(name, tensors, **notes)
        self.fabric.barrier()

    def log(self, row: Mapping[str, Any]) -> None:
        """Adds a row of metrics, from the first process."""
        if self.fabric.is_global_zero:
            self.run.append_metrics(row)
            if self.board is not None:
                self.board.add(row)


@dataclass(frozen=True)
class Stage:
    """One stage of a training.

    Attributes:
        name: Its name in checkpoints, metrics and progress.
        run: Does it, from the state that :meth:`Bench.take` gives or from the start.
    """

    name: str
    run: Callable[[Bench], None]


def run_stages(bench: Bench, stages: Sequence[Stage]) -> None:
    """Runs the stages from the one that the checkpoint belongs to, or all of them."""
    names = [stage.name for stage in stages]
    first = 0 if bench.stage is None else names.index(bench.stage)
    for stage in stages[first:]:
        stage.run(bench)
