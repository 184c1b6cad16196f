"""Training of any model family into a run directory, and how it is resumed.

What is learned, and in which stages, is the family's matter (:mod:`calo4pqvae.models.model`); refiners are learned
after it, each in a stage of its own. All randomness comes from streams named by step (:mod:`calo4pqvae.seeds`), so that
a resumed run equals an uninterrupted one bit for bit, and the noise of a batch is drawn for the whole batch before it
is shared among processes.
"""

import difflib
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from calo4pqvae import __version__
from calo4pqvae.config import Config
from calo4pqvae.errors import CheckpointError
from calo4pqvae.models.model import Trainee
from calo4pqvae.models.refiners.registry import make_refiners
from calo4pqvae.models.registry import find_family
from calo4pqvae.runs.refining import refiner_stages
from calo4pqvae.workshop.bench import Bench, Reporter, Stage, run_stages, silent
from calo4pqvae.workshop.data import TrainingData
from calo4pqvae.workshop.processes import make_fabric
from calo4pqvae.workshop.rundir import RunDirectory
from calo4pqvae.workshop.tracking import BoardWriter

__all__ = ["train"]


def train(
    config: Config, out: Path, *, resume: bool = False, overwrite: bool = False, report: Reporter = silent
) -> RunDirectory:
    """Trains a model into a run directory.

    Args:
        config: Settings; on resuming they must be those of the run.
        out: The run directory.
        resume: Go on from the checkpoint in ``out``.
        overwrite: Start anew where a run stands.
        report: Told about progress.

    Returns:
        The finished run.

    Raises:
        DataError: If showers cannot be used.
        ConfigError: If settings do not fit data or machine.
        CheckpointError: If there is nothing to resume, or it belongs to another configuration.
        DivergenceError: If a loss or the machine left finite values; the last checkpoint is kept.
    """
    started = time.perf_counter()
    if resume:
        _same_config(config, RunDirectory.open(out).config(), out)
    family = find_family(config.model.family)
    data = TrainingData(config)
    make_refiners(config, data.geometry)  # what is wrong with them is told before anything is written
    fabric = make_fabric(config)
    trainee = family.trainee(config, data)
    if fabric.is_global_zero and not resume:
        RunDirectory.create(out, config, replace=overwrite)
    fabric.barrier()
    bench = Bench(config, RunDirectory(out), fabric, data, report)
    if config.training.tensorboard and fabric.is_global_zero:
        bench.board = BoardWriter(out / "tensorboard")
    if _is_finished(bench):
        return bench.run
    stages = [*trainee.stages, *refiner_stages(config, data.geometry)]
    _open(bench, trainee, stages)
    if fabric.is_global_zero and bench.stage is None:  # a checkpoint may prove to be of another configuration
        bench.run.write_provenance(_provenance(bench, trainee, finished=False, seconds=None))
        bench.run.save_tensors(
            "split", {"train": torch.from_numpy(data.train), "validation": torch.from_numpy(data.validation)}
        )
    run_stages(bench, stages)
    if fabric.is_global_zero:
        seconds = time.perf_counter() - started
        bench.run.write_provenance(_provenance(bench, trainee, finished=True, seconds=seconds))
        bench.run.tensor_path("checkpoint").unlink(missing_ok=True)
    fabric.barrier()
    return bench.run


def _is_finished(bench: Bench) -> bool:
    return not bench.run.has("checkpoint") and bool(bench.run.provenance().get("finished"))


def _open(bench: Bench, trainee: Trainee, stages: Sequence[Stage]) -> None:
    """Reads the checkpoint, or starts anew."""
    if bench.run.has("checkpoint"):
        bench.read_checkpoint([stage.name for stage in stages])
    else:
        bench.forget_metrics(0)
        trainee.start(bench)
    trainee.place(bench.fabric.device)


def _same_config(config: Config, stored: Config, out: Path) -> None:
    old, new = (tree.to_toml().splitlines() for tree in (stored, config))
    changed = [line for line in difflib.ndiff(old, new) if line.startswith(("+ ", "- "))]
    if changed:
        raise CheckpointError(
            f"{out} was made with another configuration ({'; '.join(changed[:4])}): resume without settings of your own"
        )


def _provenance(bench: Bench, trainee: Trainee, *, finished: bool, seconds: float | None) -> dict[str, Any]:
    return {
        "finished": finished,
        "seconds_of_last_start": seconds,
        "family": bench.config.model.family,
        "data": bench.data.provenance(),
        "seed": bench.seed,
        **trainee.facts(),
        "device": str(bench.fabric.device),
        "processes": bench.fabric.world_size,
        "threads": torch.get_num_threads(),
        "versions": {
            "calo4pqvae": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
    }
