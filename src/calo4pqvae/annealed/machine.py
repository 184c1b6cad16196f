"""A trained machine on an annealer: its place on the chip, its temperature there, and samples under conditions.

The condition is folded into the fields of the bits that are drawn, which is exact and takes no qubits. Requests whose
condition is the same share a programming. Samples are drawn as a resumable campaign: beta is estimated once, from one
programming, and kept with the campaign; the beta of the very reads that are used is estimated again from themselves and
told beside it. What is gone from the chip of today is drawn afterwards, given the rest.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.annealer.beta.pseudo_likelihood import BetaEstimate, maximum_pseudo_likelihood
from calo4pqvae.annealer.calls.annealer import Annealer
from calo4pqvae.annealer.calls.campaign import Campaign, Prepared, SamplingJob
from calo4pqvae.annealer.chip.problem import FloatArray, Reads
from calo4pqvae.annealer.placing.placement import place, pruning_report
from calo4pqvae.annealer.placing.tiles import chip_of, moved_onto
from calo4pqvae.annealer.protocols.conditioning import Conditioned, Conditioner
from calo4pqvae.annealer.protocols.grouping import RequestGroup, group_requests
from calo4pqvae.annealer.protocols.polish import polish
from calo4pqvae.atomic import write_json
from calo4pqvae.errors import AnnealerError, CheckpointError
from calo4pqvae.models.qvae.trained import as_qvae
from calo4pqvae.prior.bits.file import BitsFile
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState
from calo4pqvae.runs.generation import load_model, parse_energies
from calo4pqvae.seeds import stream
from calo4pqvae.standalone.runs import open_prior_run

__all__ = ["ChipMachine", "Sampling", "calibrate", "emulator_of", "numbers_of", "open_chip_machine", "sample_machine"]

_COMPLETING_SWEEPS = 20  # over bits that are gone from the chip
_TYPICAL_ENERGIES = 3  # at which beta is estimated, if energies are asked for


@dataclass(frozen=True, eq=False)
class ChipMachine:
    """The machine of a run, as an annealer needs it.

    Args:
        name: Name of the run.
        machine: The machine.
        partition: Partition that holds the condition as bits; None if there is none.
        visible: Mask (N,) of the bits that are given out.
        encode: Condition rows (B, n_c) of incident energies (B, 1) in MeV; None for machines without a condition.
        energy_range: Ends of the range of incident energies in MeV; None without a condition.
    """

    name: str
    machine: BoltzmannMachine
    partition: int | None
    visible: NDArray[np.bool_]
    encode: Callable[[Tensor], FloatArray] | None = None
    energy_range: tuple[float, float] | None = None

    def requests(self, energies: str | None, n: int | None, seed: int) -> tuple[FloatArray, Tensor | None]:
        """Condition rows (n, n_c) of what is asked for, and the incident energies (n, 1) in MeV.

        Args:
            energies: As ``calo4pqvae generate`` takes them; None for machines without a condition.
            n: Number of samples.
            seed: Seed of drawn energies.

        Raises:
            AnnealerError: If energies are missing or superfluous.
            DataError: If an energy is out of range.
        """
        if self.encode is None or self.energy_range is None:
            if energies is not None:
                raise AnnealerError(f"the machine of {self.name} takes no incident energies; leave them out")
            return np.zeros((1000 if n is None else n, 0)), None
        if energies is None:
            raise AnnealerError(
                f"the machine of {self.name} is conditioned on incident energies; give them (--energies)"
            )
        incident = parse_energies(energies, n, seed, self.energy_range)
        return self.encode(incident), incident


@dataclass(frozen=True, eq=False)
class Sampling:
    """What sampling brought.

    Args:
        bits: The samples.
        estimate: Of the beta of the very reads.
        report: All numbers, for JSON.
    """

    bits: BitsFile
    estimate: BetaEstimate
    report: dict[str, Any]


def open_chip_machine(path: Path) -> ChipMachine:
    """The machine of a run of either kind: of a shower model, or of a machine on its own.

    Args:
        path: Run directory.

    Raises:
        CheckpointError: If the run is not finished.
        AnnealerError: If its condition cannot be named on a command line.
    """
    if (path / "settings.toml").is_file():
        run = open_prior_run(path)
        if run.machine.n_condition:
            raise AnnealerError(f"the conditions of {path} are numbers of its own data; use the library for them")
        return ChipMachine(path.name, run.machine, None, ~run.hidden)
    if not (path / "config.toml").is_file():
        raise CheckpointError(f"{path} is no run: it has neither config.toml nor settings.toml")
    model = as_qvae(load_model(path))
    prior = model.prior
    limits = (model.config.data.energy_min_mev, model.config.data.energy_max_mev)

    def encode(incident_energies: Tensor) -> FloatArray:
        return prior.code.encode(incident_energies).numpy().astype(np.float64)

    held = 0 if prior.is_clamped else None
    return ChipMachine(path.name, prior.machine, held, ~prior.clamped, encode, limits)


def emulator_of(machine: BoltzmannMachine, *, is_full: bool = False) -> str:
    """Name of the emulated chip that has the graph of a machine.

    Args:
        machine: The machine.
        is_full: Whether the chip has its own size, not that of the machine's graph.

    Raises:
        AnnealerError: If its graph is not that of a chip.
    """
    family, size = chip_of(machine.topology)
    name = f"emulator:{'advantage2' if family == 'zephyr' else 'advantage4'}"
    return name if is_full else f"{name}:{size}"


def calibrate(
    run: ChipMachine,
    annealer: Annealer,
    rows: FloatArray,
    *,
    n_reads: int = 100,
    start: float | None = None,
    n_rounds: int = 2,
    is_pruned: bool = False,
    folder: Path | None = None,
    seed: int = 0,
) -> BetaEstimate:
    """Effective inverse temperature of an annealer for a machine, by pseudo-likelihood.

    Args:
        run: The machine.
        annealer: The annealer.
        rows: Condition rows (B, n_c); beta is estimated at some of them together.
        n_reads: Reads of a programming.
        start: What the machine is divided by first; the chip's documented beta if None.
        n_rounds: Programmings a condition: each divides by what the last one found.
        is_pruned: Whether parts that are gone from the chip may be left out.
        folder: Where reads are kept, so that an interrupted calibration goes on; None keeps none.
        seed: Of the bootstrap.

    Raises:
        AnnealerError: If the machine has no place on the chip, does not fit its ranges, or beta cannot be found.
    """
    if n_rounds < 1:
        raise AnnealerError(f"beta is not estimated in {n_rounds} rounds; ask for one or more")
    run = _moved(run, annealer)
    conditioner = _conditioner(run, annealer, is_pruned)
    distinct = np.unique(rows, axis=0)
    chosen = np.unique(np.linspace(0, len(distinct) - 1, _TYPICAL_ENERGIES).round().astype(int))
    jobs = [SamplingJob(n_reads, row) for row in distinct[chosen]]
    beta = annealer.chip.beta if start is None else start
    for number in range(n_rounds):
        prepare = partial(_prepared, run, conditioner, beta)
        if folder is None:
            batches = [annealer.read(prepare(job).problem, n_reads, label="calibration") for job in jobs]
        else:
            campaign = Campaign(folder / f"round-{number + 1}", jobs, prepare)
            campaign.run(annealer)
            batches = [Reads(campaign.bits(index), prepare(job).problem) for index, job in enumerate(jobs)]
        estimate = maximum_pseudo_likelihood(batches, seed=seed)
        beta = estimate.value
    return estimate


def sample_machine(
    run: ChipMachine,
    annealer: Annealer,
    folder: Path,
    rows: FloatArray,
    incident_energies: Tensor | None = None,
    *,
    beta: float | None = None,
    calibration_reads: int = 100,
    is_pruned: bool = False,
    polish_sweeps: int = 0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Sampling:
    """Draws samples on an annealer; called again with the same folder it goes on.

    Args:
        run: The machine.
        annealer: The annealer, its ledger in a file.
        folder: Where campaign, ledger and results are.
        rows: Condition row of every sample (n, n_c).
        incident_energies: (n, 1) in MeV, to be kept with the samples.
        beta: What the machine is divided by; estimated first if None.
        calibration_reads: Reads of that estimate.
        is_pruned: Whether parts that are gone from the chip may be left out.
        polish_sweeps: Sweeps of block Gibbs at inverse temperature one after the annealer; 0 for none.
        seed: Of everything classical.
        progress: Told about reads on disk and wanted.

    Raises:
        AnnealerError: If the annealer refuses, or the folder holds another campaign; what came is kept.
        OutputError: If something cannot be written.
    """
    run = _moved(run, annealer)
    conditioner = _conditioner(run, annealer, is_pruned)
    chosen, calibration = _kept_beta(run, annealer, folder, rows, beta, calibration_reads, is_pruned, seed)
    groups = group_requests(rows) if rows.shape[1] else (RequestGroup(np.zeros(0), np.arange(len(rows))),)
    jobs = [SamplingJob(group.n_reads, group.condition) for group in groups]
    campaign = Campaign(folder, jobs, partial(_prepared, run, conditioner, chosen))
    campaign.run(annealer, progress)
    generator = stream(seed, "annealer samples")
    states, batches = _gathered(run, conditioner, chosen, campaign, groups, generator)
    effect = None
    if polish_sweeps:
        condition = torch.from_numpy(rows).float() if run.machine.n_condition else None
        states, effect = polish(run.machine, states, polish_sweeps, generator, _held(run), condition)
    estimate = maximum_pseudo_likelihood(batches, seed=seed)
    bits = BitsFile(
        states[:, torch.from_numpy(run.visible)].numpy().astype(np.uint8),
        condition=None if incident_energies is None else incident_energies.numpy().astype(np.float32),
        source=f"drawn from {run.name} on {annealer.name}",
    )
    report = {
        "run": run.name,
        "annealer": annealer.name,
        "emulated": annealer.is_emulated,
        "graph_id": annealer.graph_id,
        "n_samples": bits.n_states,
        "n_conditions": len(groups),
        "programmed_beta": chosen,
        "calibration": calibration,
        "beta_of_the_reads": numbers_of(estimate),
        "left_out": _left_out(run, conditioner, rows),
        "polish": None if effect is None else numbers_of(effect),
        "ledger": annealer.ledger.to_dict(),
        "access_seconds_per_sample": annealer.ledger.access_seconds / bits.n_states,
        "seed": seed,
    }
    write_json(folder / "report.json", report)
    told: dict[str, str | int | float] = {"run": run.name, "annealer": annealer.name, "emulated": annealer.is_emulated}
    bits.write(folder / "bits.hdf5", told | {"seed": seed, "polish_sweeps": polish_sweeps, "programmed_beta": chosen})
    return Sampling(bits, estimate, report)


def _moved(run: ChipMachine, annealer: Annealer) -> ChipMachine:
    """The machine on the graph of the chip."""
    return replace(run, machine=moved_onto(run.machine, annealer, _held(run)))


def _conditioner(run: ChipMachine, annealer: Annealer, is_pruned: bool) -> Conditioner:
    """Folds conditions, so that the held partition needs no place on the chip.

    Raises:
        AnnealerError: If other parts are gone and may not be left out.
    """
    topology = run.machine.topology
    placement = place(topology, annealer.nodelist, annealer.edgelist, prune=True).with_folded(_held(run))
    if placement.is_whole:
        return Conditioner(run.machine, "fold", partition=run.partition)
    if not is_pruned:
        place(topology, annealer.nodelist, annealer.edgelist)  # says what is gone
    return Conditioner(run.machine, "fold", partition=run.partition, placement=placement)


def _left_out(run: ChipMachine, conditioner: Conditioner, rows: FloatArray) -> str:
    """What the chip of today does not have of the machine, in words."""
    if conditioner.placement is None:
        return ""
    condition = torch.from_numpy(rows[:1]).float() if run.machine.n_condition else None
    return str(pruning_report(conditioner.placement, run.machine, None, condition))


def _impose(run: ChipMachine, conditioner: Conditioner, beta: float, row: FloatArray) -> Conditioned:
    if run.partition is not None:
        return conditioner.impose(beta, row)
    return conditioner.impose(beta, None, torch.from_numpy(row).float() if run.machine.n_condition else None)


def _prepared(run: ChipMachine, conditioner: Conditioner, beta: float, job: SamplingJob) -> Prepared:
    return Prepared(_impose(run, conditioner, beta, job.condition.copy()).problem)


def _held(run: ChipMachine) -> NDArray[np.bool_]:
    held = np.zeros(run.machine.n_nodes, dtype=np.bool_)
    if run.partition is not None:
        held[run.machine.topology.slices[run.partition]] = True
    return held


def _kept_beta(
    run: ChipMachine,
    annealer: Annealer,
    folder: Path,
    rows: FloatArray,
    beta: float | None,
    n_reads: int,
    is_pruned: bool,
    seed: int,
) -> tuple[float, dict[str, Any] | None]:
    """Beta of the campaign in the folder, or a new one, and how it was found."""
    path = folder / "beta.json"
    if path.is_file():
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            value, found = float(kept["beta"]), kept["calibration"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AnnealerError(f"{path} is damaged ({type(error).__name__}): restore it") from error
        if beta is not None and beta != value:
            raise AnnealerError(f"the samples in {folder} were begun with beta = {value:g}; leave out another one")
        return value, found
    calibration = None
    if beta is None:
        kept_in = folder / "calibration"
        estimate = calibrate(run, annealer, rows, n_reads=n_reads, is_pruned=is_pruned, folder=kept_in, seed=seed)
        beta, calibration = estimate.value, numbers_of(estimate)
    write_json(path, {"beta": beta, "calibration": calibration})
    return beta, calibration


def _gathered(
    run: ChipMachine,
    conditioner: Conditioner,
    beta: float,
    campaign: Campaign,
    groups: tuple[RequestGroup, ...],
    generator: torch.Generator,
) -> tuple[Tensor, list[Reads]]:
    """States (n, N) of all samples in the order of the requests, and the reads by condition."""
    n_nodes = run.machine.n_nodes
    states = np.zeros((sum(group.n_reads for group in groups), n_nodes), dtype=np.uint8)
    known = np.ones(n_nodes, dtype=np.bool_)
    batches = []
    for index, group in enumerate(groups):
        imposed = _impose(run, conditioner, beta, group.condition.copy())
        bits = campaign.bits(index)[: group.n_reads]
        batches.append(Reads(bits, imposed.problem))
        states[group.members], known = imposed.states(bits, n_nodes)
    return _completed(run, states, known, groups, generator), batches


def _completed(
    run: ChipMachine,
    states: NDArray[np.uint8],
    known: NDArray[np.bool_],
    groups: tuple[RequestGroup, ...],
    generator: torch.Generator,
) -> Tensor:
    """States with the bits that are gone from the chip drawn given the others."""
    values = torch.from_numpy(states).float()
    if known.all():
        return values
    gone = torch.from_numpy(~known)
    values[:, gone] = torch.randint(0, 2, (len(values), int(gone.sum())), generator=generator).float()
    condition = None
    if run.machine.n_condition:
        condition = torch.zeros(len(values), run.machine.n_condition)
        for group in groups:
            condition[group.members] = torch.from_numpy(group.condition).float()
    sampler = BlockGibbsSampler(run.machine)
    return sampler.sample(GibbsState(values), _COMPLETING_SWEEPS, generator, clamped=known, condition=condition).states


def numbers_of(found: Any) -> dict[str, Any]:  # noqa: ANN401
    """A dataclass for JSON, numbers that are not known as None."""
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in asdict(found).items()
    }
