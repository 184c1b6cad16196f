"""Training of a stand-alone machine on a file of bits, into a run directory.

* ``settings.toml``: the resolved settings (:mod:`~calo4pqvae.standalone.settings`);
* ``provenance.json``: versions, seed, hashes of the data, graph;
* ``prior.safetensors``: graph and parameters of the machine and mean of every visible bit, as in a shower run;
* ``checkpoint.safetensors``: machine, chains, offsets and optimiser, all that is needed to go on bit for bit;
* ``trajectory/``: the machine at steps in geometric order, for estimates and samplers that go along the training;
* ``metrics.jsonl``: one row an epoch, and one for each measurement of the mixing.

Every file is whole or absent. All randomness comes from streams named by what they are for, and the order of the data
depends on seed and epoch alone, so that a run that was interrupted anywhere ends bit for bit like one that was not.
"""

import difflib
import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae import __version__
from calo4pqvae.atomic import write_text
from calo4pqvae.errors import CheckpointError, ConfigError
from calo4pqvae.prior.bits.file import BitsFile
from calo4pqvae.prior.graph.chips import chip_topology, smallest_chip
from calo4pqvae.prior.graph.topology import Topology, bipartite_topology, complete_topology
from calo4pqvae.prior.learning.diagnostics import DivergenceGuard
from calo4pqvae.prior.learning.learner import PriorLearner, StepReport
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.collapsed import free_energy
from calo4pqvae.seeds import stream
from calo4pqvae.standalone.runs import PriorRun, chosen_device, load_bits, open_prior_run, stored_config
from calo4pqvae.standalone.settings import PriorRunConfig
from calo4pqvae.workshop.checkpoints import load_module, prefixed, with_prefix
from calo4pqvae.workshop.rundir import RunDirectory

__all__ = ["Progress", "silent", "train_prior_alone"]

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called after each step with its number, the number of steps, and what is known about energies and chains."""

_N_WATCHED = 1000  # states of each kind whose free energies are compared once an epoch
_N_PARTITIONS = 4
_SMOOTHING = 1e-3  # of the means that the biases start at


def silent(done: int, total: int, numbers: Mapping[str, float]) -> None:
    """Tells nobody."""


def train_prior_alone(
    config: PriorRunConfig,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> PriorRun:
    """Trains a machine.

    Args:
        config: Settings; on resuming they must be those of the run.
        out: The run directory.
        resume: Go on from the checkpoint in ``out``.
        overwrite: Start anew where a run stands.
        progress: Told about every step.

    Returns:
        The finished run.

    Raises:
        DataError: If the bits cannot be used.
        ConfigError: If settings do not fit the data.
        CheckpointError: If there is nothing to resume, or it belongs to other settings or data.
        DivergenceError: If the machine left the region where its numbers mean anything; the last checkpoint is kept.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = chosen_device(config.device)
    train, test = load_bits(config)
    topology, hidden = _graph(config, train.n_bits)
    run = RunDirectory(out)
    provenance = _provenance(config, topology, train, test)
    job = _Job(config, run, train, test, hidden, *_learner(config, topology, hidden, train, device))
    if resume:
        _check_same(config, out, provenance)
    else:
        _create(run, config, provenance, replace=overwrite)
    if resume and run.has("checkpoint"):
        job.restore()
    elif resume:
        run.keep_metrics(0)
    job.go(progress)
    run.write_provenance(provenance | {"finished": True})
    return open_prior_run(out, str(device))


@dataclass
class _Job:
    """A training under way."""

    config: PriorRunConfig
    run: RunDirectory
    train: BitsFile
    test: BitsFile
    hidden: NDArray[np.bool_]
    learner: PriorLearner
    n_steps: int
    n_rows: int = 0

    @property
    def machine(self) -> BoltzmannMachine:
        return self.learner.machine

    @property
    def steps_per_epoch(self) -> int:
        return self.n_steps // self.config.epochs

    def go(self, progress: Progress) -> None:
        """All steps that are left."""
        guard, saved = DivergenceGuard(), _saved_steps(self.n_steps, self.config.n_saved)
        bits = torch.from_numpy(self.train.bits.copy())
        condition = self._condition_of(self.train)
        numbers: dict[str, float] = {}
        if self.learner.n_done == 0:
            self._save_trajectory()
        order, order_epoch = torch.empty(0, dtype=torch.int64), -1
        while self.learner.n_done < self.n_steps:
            epoch, batch = divmod(self.learner.n_done, self.steps_per_epoch)
            if epoch != order_epoch:
                order = torch.randperm(len(bits), generator=stream(self.config.seed, "order", epoch))
                order_epoch = epoch
            rows = order[batch * self.config.batch_size : (batch + 1) * self.config.batch_size]
            report = self.learner.step(bits[rows], None if condition is None else condition[rows])
            numbers |= _numbers(report)
            progress(report.step, self.n_steps, numbers)
            if report.mixing is not None:
                self._log({"stage": "mixing", "step": report.step} | _finite(asdict(report.mixing)))
            if report.step in saved:
                self._save_trajectory()
            if report.step % self.steps_per_epoch == 0:
                self._end_epoch(report, epoch, guard)
            if report.step % self.config.checkpoint_every == 0 and report.step < self.n_steps:
                self._save_checkpoint()
        self._save_machine()
        self._save_checkpoint()

    def restore(self) -> None:
        """Goes back to the last checkpoint."""
        tensors, _ = self.run.load_tensors("checkpoint")
        if "n_rows" not in tensors:
            raise CheckpointError(f"the checkpoint in {self.run.path} is damaged; train again")
        load_module(self.machine, with_prefix(tensors, "machine."))
        self.learner.load_state_dict(with_prefix(tensors, "learner."))
        self.n_rows = int(tensors["n_rows"])
        self.run.keep_metrics(self.n_rows)

    def _end_epoch(self, report: StepReport, epoch: int, guard: DivergenceGuard) -> None:
        seen = {name: self._free_energies(part) for name, part in (("train", self.train), ("test", self.test))}
        guard.check(report.energy_data, report.energy_model, float(seen["train"].std()))
        row = {
            "stage": "epoch",
            "epoch": epoch,
            "step": report.step,
            "energy_data": report.energy_data,
            "energy_model": report.energy_model,
            "gradient_norm": report.gradient_norm,
            "learning_rate": report.learning_rate,
            "n_sweeps": report.n_sweeps,
            "free_energy_train": float(seen["train"].mean()),
            "free_energy_test": float(seen["test"].mean()),
        }
        self._log(row)

    def _log(self, row: Mapping[str, Any]) -> None:
        self.run.append_metrics(row)
        self.n_rows += 1

    def _free_energies(self, part: BitsFile) -> Tensor:
        states = torch.zeros(min(_N_WATCHED, part.n_states), self.machine.n_nodes)
        states[:, torch.from_numpy(~self.hidden)] = torch.from_numpy(part.bits[:_N_WATCHED].astype(np.float32))
        condition = self._condition_of(part)
        rows = None if condition is None else condition[:_N_WATCHED].to(self.machine.device)
        return free_energy(self.machine, states.to(self.machine.device), self.hidden, rows)

    def _condition_of(self, part: BitsFile) -> Tensor | None:
        if not self.config.condition or part.condition is None:
            return None
        return torch.from_numpy(part.condition)

    def _save_trajectory(self) -> None:
        self.run.save_tensors(f"trajectory/{self.learner.n_done:09d}", self.machine.state_dict())

    def _save_checkpoint(self) -> None:
        tensors = prefixed("machine.", self.machine.state_dict()) | prefixed("learner.", self.learner.state_dict())
        self.run.save_tensors("checkpoint", tensors | {"n_rows": torch.tensor(self.n_rows)})

    def _save_machine(self) -> None:
        topology = self.machine.topology
        tensors = {f"graph.{name}": torch.from_numpy(array) for name, array in topology.to_arrays().items()}
        tensors |= prefixed("machine.", self.machine.state_dict())
        tensors |= {
            "hidden": torch.from_numpy(self.hidden.astype(np.uint8)),
            "bit_means": torch.from_numpy(self.train.bits.mean(axis=0, dtype=np.float64)).float(),
        }
        self.run.save_tensors("prior", tensors, graph=topology.name)


def _learner(
    config: PriorRunConfig, topology: Topology, hidden: NDArray[np.bool_], train: BitsFile, device: torch.device
) -> tuple[PriorLearner, int]:
    """The learner at its start, and how many steps it shall make."""
    n_batches = train.n_states // config.batch_size
    if n_batches == 0:
        raise ConfigError(
            f"batch_size = {config.batch_size} is more than the {train.n_states} states of {train.source}; lower it"
        )
    n_condition = train.condition.shape[1] if config.condition and train.condition is not None else 0
    machine = BoltzmannMachine(topology, n_condition)
    means = torch.full((topology.n_nodes,), 0.5)
    means[torch.from_numpy(~hidden)] = torch.from_numpy(train.bits.mean(axis=0, dtype=np.float64)).float()
    machine.initialise(means, config.coupling_std, stream(config.seed, "couplings"), _SMOOTHING)
    n_steps = config.epochs * n_batches
    learner = PriorLearner(
        machine.to(device),
        config.learning(),
        stream(config.seed, "chains", device=device),
        n_steps=n_steps,
        hidden=hidden if hidden.any() else None,
    )
    return learner, n_steps


def _graph(config: PriorRunConfig, n_bits: int) -> tuple[Topology, NDArray[np.bool_]]:
    """The graph and the mask of hidden bits; visible bits keep their order and fill partition after partition."""
    if config.graph == "bipartite":
        topology = bipartite_topology(n_bits, config.n_hidden)
        return topology, topology.is_in_partition(1)
    if n_bits < _N_PARTITIONS:
        raise ConfigError(f"{n_bits} bits are too few for the four partitions of graph = '{config.graph}'")
    sizes = tuple(len(part) for part in np.array_split(np.arange(n_bits), _N_PARTITIONS))
    if config.graph == "complete":
        topology = complete_topology(sizes)
    else:
        m = config.chip_size or smallest_chip(config.graph, sizes)
        topology = chip_topology(config.graph, m, sizes)
    return topology, np.zeros(n_bits, dtype=np.bool_)


def _saved_steps(n_steps: int, n_saved: int) -> set[int]:
    """Steps in geometric order, the last one among them; the start is saved besides."""
    return set(np.unique(np.geomspace(1, n_steps, n_saved).round().astype(int)).tolist())


def _create(run: RunDirectory, config: PriorRunConfig, provenance: Mapping[str, Any], *, replace: bool) -> None:
    settings = run.path / "settings.toml"
    if (settings.exists() or run.config_path.exists()) and not replace:
        raise CheckpointError(
            f"{run.path} already holds a run: resume it (--resume), choose another folder, or start anew (--overwrite)"
        )
    write_text(settings, config.to_toml())
    for path in (run.metrics_path, *run.path.glob("*.safetensors"), *run.path.glob("trajectory/*.safetensors")):
        path.unlink(missing_ok=True)
    run.write_provenance({**provenance, "finished": False})


def _check_same(config: PriorRunConfig, out: Path, provenance: Mapping[str, Any]) -> None:
    old, new = stored_config(out).to_toml().splitlines(), config.to_toml().splitlines()
    changed = [line for line in difflib.ndiff(old, new) if line.startswith(("+ ", "- "))]
    if changed:
        raise CheckpointError(
            f"{out} was made with other settings ({'; '.join(changed[:4])}): resume without settings of your own"
        )
    stored = RunDirectory(out).provenance().get("data")
    if stored is not None and stored != provenance["data"]:
        raise CheckpointError(f"the bits in {config.data} are not those that {out} was begun with: restore them")


def _provenance(config: PriorRunConfig, topology: Topology, train: BitsFile, test: BitsFile) -> dict[str, Any]:
    return {
        "data": {
            name: {"source": part.source, "n_states": part.n_states, "n_bits": part.n_bits, "sha256": part.content_hash}
            for name, part in (("train", train), ("test", test))
        },
        "seed": config.seed,
        "graph": {
            "name": topology.name,
            "sizes": list(topology.sizes),
            "n_couplers": topology.n_edges,
            "content_hash": topology.content_hash,
        },
        "threads": torch.get_num_threads(),
        "versions": {
            "calo4pqvae": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
    }


def _numbers(report: StepReport) -> dict[str, float]:
    """What a progress bar shows; numbers of the chains stay until they are measured anew."""
    numbers = {"energy_data": report.energy_data, "energy_model": report.energy_model, "sweeps": report.n_sweeps}
    if report.mixing is not None:
        numbers |= {"tau": report.mixing.tau_energy, "ess": report.mixing.ess}
    return numbers


def _finite(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN: numbers that do not exist become null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in numbers.items()
    }
