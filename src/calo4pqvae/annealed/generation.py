"""Showers whose latent bits come from an annealer, in a CaloChallenge file that says so.

Requests whose condition is the same share a programming: the machine sees an incident energy only through its code, so
that energies with the same code need no programming of their own. With ``bins`` the bits are drawn at energies that are
shifted a little, so that still fewer programmings serve them; the decoder is given the energy that was asked for, and
how many conditions that changed is reported.

The file names the annealer, says whether it is emulated, and holds the inverse temperatures, the clamp failures and
the ledger. Everything else is in the folder ``OUT.annealer`` beside it: reads, ledger, ``report.json``. The same
request again goes on there; reads that were paid for are not paid again. There is no fallback to classical sampling; a
polish is classical sampling too, and its sweeps are told.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.annealed.decoding import decode_bits
from calo4pqvae.annealer.calls.annealer import Annealer
from calo4pqvae.annealer.calls.recorded import recorded
from calo4pqvae.annealer.chip.problem import FloatArray
from calo4pqvae.annealer.placing.placement import Placement, place, pruning_report
from calo4pqvae.annealer.placing.tiles import Tile, moved_onto
from calo4pqvae.annealer.protocols.base import Protocol
from calo4pqvae.annealer.protocols.conditioning import FailurePolicy, Method
from calo4pqvae.annealer.protocols.grouping import BinnedEnergies, RequestGroup, bin_energies, group_requests
from calo4pqvae.annealer.protocols.named import open_protocol
from calo4pqvae.annealer.protocols.run import Conditioning, ProtocolResult
from calo4pqvae.annealer.protocols.tiled import Tiled
from calo4pqvae.atomic import check_target, write_json
from calo4pqvae.errors import AnnealerError, ConfigError
from calo4pqvae.models.qvae.trained import TrainedModel
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.seeds import stream
from calo4pqvae.workshop.processes import process_rank

__all__ = ["AnnealedShowers", "AnnealerGeneration", "annealer_folder", "draw_annealed_bits", "generate_by_annealer"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class AnnealerGeneration:
    """How showers are drawn on an annealer.

    Args:
        protocol: Name of the protocol (:mod:`~calo4pqvae.annealer.protocols.named`).
        condition: How the incident energy is imposed: ``"fold"``, ``"flux"`` or ``"fields"``.
        policy: What is done with reads in which it slipped: ``"reject"``, ``"repair"`` or ``"report"``.
        correction: ``"polish"``, or ``"none"`` to use the reads as they are.
        polish_sweeps: Sweeps of a polish.
        bins: Largest relative shift of an energy that is put in a bin; None for no bins.
        is_pruned: Whether parts that are gone from the chip may be left out.
        reads_per_call: Most showers of one condition and programming (and copy of the machine); 0 for as many as the
            chip takes, None for what the protocol does by itself.
    """

    protocol: str = "same-reads"
    condition: Method = "fold"
    policy: FailurePolicy = "reject"
    correction: Literal["polish", "none"] = "polish"
    polish_sweeps: int = 10
    bins: float | None = None
    is_pruned: bool = False
    reads_per_call: int | None = None


@dataclass(frozen=True, eq=False)
class AnnealedShowers:
    """What was generated.

    Args:
        report: All numbers, for JSON.
        showers_per_second: Of the decoder alone.
    """

    report: dict[str, Any]
    showers_per_second: float


def annealer_folder(out: Path) -> Path:
    """Where the reads and the ledger of a shower file are."""
    return out.with_name(f"{out.name}.annealer")


def generate_by_annealer(
    model: TrainedModel,
    annealer: Annealer,
    energies: Tensor,
    out: Path,
    *,
    seed: int,
    settings: AnnealerGeneration | None = None,
    progress: Progress | None = None,
) -> AnnealedShowers:
    """Generates showers from annealer reads.

    Args:
        model: The model, on the CPU.
        annealer: The annealer, its ledger in :func:`annealer_folder`.
        energies: Incident energies (n, 1) in MeV.
        out: File to write.
        seed: Seed of everything random that is not the annealer's.
        settings: How they are drawn.
        progress: Told what is done, and how many of how many.

    Raises:
        AnnealerError: If the machine has no place on the chip, the condition cannot be held, a call fails for good, or
            other work stands in the folder; what came is on disk.
        ConfigError: If there are several processes.
        OutputError: If something cannot be written.
    """
    chosen = AnnealerGeneration() if settings is None else settings
    if process_rank()[1] > 1:
        raise ConfigError("an annealer serves one process: run generate --sampler annealer without torchrun")
    check_target(out)  # before anything is paid for
    folder = annealer_folder(out)
    bits, report = draw_annealed_bits(model, annealer, energies, folder, seed=seed, settings=chosen, progress=progress)
    rate = decode_bits(
        model,
        energies,
        bits,
        out,
        seed=seed,
        attributes=_attributes(report),
        progress=None if progress is None else lambda done, total: progress("decoding", done, total),
    )
    write_json(folder / "report.json", report)
    return AnnealedShowers(report, rate)


def draw_annealed_bits(
    model: TrainedModel,
    annealer: Annealer,
    energies: Tensor,
    folder: Path,
    *,
    seed: int,
    settings: AnnealerGeneration,
    progress: Progress | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Latent bits (n, n_bits) at incident energies (n, 1) in MeV, and all numbers of how they came about.

    Raises:
        AnnealerError: As :func:`generate_by_annealer`.
    """
    prior = model.prior
    if not prior.is_clamped and settings.condition != "fold":
        raise AnnealerError(
            f"the machine of {model.origin} takes its condition as fields, no bit is held; use --condition fold"
        )
    rows, binned, changed = _rows(model, energies, settings.bins)
    groups = group_requests(rows, len(rows))
    plan = _plan(model, annealer, settings)
    work = {"model": model.origin, "machine": _fingerprint(model), "seed": seed, **asdict(settings)}
    work |= {"mode": annealer.mode, "reads_per_call": plan.protocol.reads_per_call, "showers": len(rows)}
    work |= {"energies": _energies_told(energies)}
    told = None if progress is None else _reads_told(progress, len(rows), max(1, len(plan.tiles)))
    with recorded(annealer, folder, work, told) as recorder:
        result = plan.protocol.sample(
            recorder,
            plan.machine,
            np.stack([group.condition for group in groups]),
            np.array([group.n_reads for group in groups]),
            stream(seed, "annealer showers"),
        )
    states = _in_order(result, groups)
    report = _report(model, annealer, result, len(groups), settings, seed)
    report["left_out"] = plan.left_out(model, rows)
    report["tiles"] = plan.tiles_told()
    if binned is not None:
        report["bins"] = {
            "bins": binned.n_bins,
            "largest_shift": binned.largest_shift,
            "mean_shift": binned.mean_shift,
            "share_with_another_condition": changed,
        }
    return prior.latents(torch.from_numpy(states).float()), report


def _reads_told(progress: Progress, wanted: int, copies: int) -> Callable[[int], None]:
    """Reads of all copies so far; a protocol may need more than are wanted, and nobody knows how many."""
    return lambda done: progress("reads", done * copies, max(done * copies, wanted))


def _rows(
    model: TrainedModel, energies: Tensor, bins: float | None
) -> tuple[FloatArray, BinnedEnergies | None, float | None]:
    """Condition rows (n, n_c), the bins, and the share of requests whose condition they changed."""
    exact = model.prior.code.encode(energies).numpy().astype(np.float64)
    if bins is None:
        return exact, None, None
    binned = bin_energies(energies.double().numpy(), bins)
    rows = model.prior.code.encode(torch.from_numpy(binned.energies)).numpy().astype(np.float64)
    return rows, binned, float((rows != exact).any(axis=1).mean())


@dataclass(frozen=True, eq=False)
class _Plan:
    """A protocol, and where on the chip it puts the machine.

    Args:
        protocol: The protocol.
        machine: The machine with labels of the chip.
        placement: What of it is there; None for all of it, or if there are copies.
        tiles: Its copies, if the protocol has any.
        n_places: Copies that there would be if parts of them were left out.
    """

    protocol: Protocol
    machine: BoltzmannMachine
    placement: Placement | None = None
    tiles: tuple[Tile, ...] = ()
    n_places: int = 0

    def left_out(self, model: TrainedModel, rows: FloatArray) -> str:
        """What the chip of today does not have of the machine, in words."""
        if any(not tile.is_whole for tile in self.tiles):
            qubits = [tile.n_missing_qubits for tile in self.tiles]
            couplers = [tile.n_missing_couplers for tile in self.tiles]
            return (
                f"{len(self.tiles)} copies lack {np.mean(qubits):.3g} qubits ({max(qubits)} at most) and "
                f"{np.mean(couplers):.3g} couplers ({max(couplers)} at most) of the free bits on average"
            )
        seen = None if self.placement is None else self.placement.with_folded(model.prior.clamped)
        if seen is None or seen.is_whole:
            return ""
        condition = None if model.prior.is_clamped else torch.from_numpy(rows[:1]).float()
        return str(pruning_report(seen, self.machine, None, condition))

    def tiles_told(self) -> dict[str, int] | None:
        """Copies, how many of them are whole, and places if parts may be left out; None if the protocol has none."""
        if not self.tiles:
            return None
        whole = sum(tile.is_whole for tile in self.tiles)
        return {"copies": len(self.tiles), "whole": whole, "places": self.n_places}


def _plan(model: TrainedModel, annealer: Annealer, settings: AnnealerGeneration) -> _Plan:
    """The protocol of a generation; parts of the machine that are gone may be left out only if that is asked for.

    Raises:
        AnnealerError: If parts are gone and may not be left out, or there is no such protocol.
    """
    prior = model.prior
    words: dict[str, Any] = {"correction": settings.correction, "polish_sweeps": settings.polish_sweeps}
    if settings.reads_per_call is not None:
        words["reads_per_call"] = settings.reads_per_call
    conditioning = Conditioning(settings.condition, 0 if prior.is_clamped else None, settings.policy)
    if settings.protocol == Tiled.name:
        tiled = Tiled(conditioning=conditioning, is_pruned=settings.is_pruned, **words)
        tiles = tiled.tiles(annealer, prior.machine)
        places = tiles if settings.is_pruned else replace(tiled, is_pruned=True).tiles(annealer, prior.machine)
        if len(tiles) < len(places) / 2:
            raise AnnealerError(
                f"only {len(tiles)} of {len(places)} copies of the machine would be whole on {annealer.name}, and a "
                "programming for so few is dear; leave out what is gone (--prune), or take protocol same-reads"
            )
        return _Plan(tiled, prior.machine, tiles=tiles, n_places=len(places))
    machine = moved_onto(prior.machine, annealer, prior.clamped)
    placement = _placement(machine, prior.clamped, annealer, settings.is_pruned)
    conditioning = replace(conditioning, placement=placement)
    return _Plan(open_protocol(settings.protocol, conditioning=conditioning, **words), machine, placement)


def _placement(
    machine: BoltzmannMachine, held: NDArray[np.bool_], annealer: Annealer, is_pruned: bool
) -> Placement | None:
    """What of the machine is on the chip; held bits that are gone are folded in exactly and may be.

    Raises:
        AnnealerError: If other parts are gone and may not be left out.
    """
    placement = place(machine.topology, annealer.nodelist, annealer.edgelist, prune=True)
    if not is_pruned and not placement.with_folded(held).is_whole:
        place(machine.topology, annealer.nodelist, annealer.edgelist)  # says what is gone
    return None if placement.is_whole else placement


def _in_order(result: ProtocolResult, groups: tuple[RequestGroup, ...]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """States (n, N) in the order of the requests."""
    states = np.empty((sum(group.n_reads for group in groups), result.states.shape[1]), dtype=np.uint8)
    for index, group in enumerate(groups):
        states[group.members] = result.states[result.condition == index]
    return states


def _energies_told(energies: Tensor) -> str:
    """Range of incident energies, with a hash that tells other ones."""
    digest = hashlib.sha256(energies.double().numpy().tobytes()).hexdigest()[:8]
    return f"{float(energies.min()):g} to {float(energies.max()):g} MeV ({digest})"


def _fingerprint(model: TrainedModel) -> str:
    """SHA-256 of the machine's parameters."""
    digest = hashlib.sha256()
    for name, values in sorted(model.prior.machine.state_dict().items()):
        digest.update(name.encode() + values.cpu().numpy().tobytes())
    return digest.hexdigest()


def _report(
    model: TrainedModel,
    annealer: Annealer,
    result: ProtocolResult,
    n_groups: int,
    settings: AnnealerGeneration,
    seed: int,
) -> dict[str, Any]:
    ledger = annealer.ledger
    clamp = result.clamp
    n_reads = np.array([record.n_reads for record in result.betas])
    ratios = np.array([record.ratio for record in result.betas])
    return {
        "model": model.origin,
        "annealer": annealer.name,
        "emulated": annealer.is_emulated,
        "mode": annealer.mode,
        "graph_id": annealer.graph_id,
        "seed": seed,
        **asdict(settings),
        "n_showers": result.n_reads,
        "n_conditions": n_groups,
        "betas": [
            {
                "condition": record.condition,
                "programmed": record.programmed,
                "beta": record.beta,
                "beta_error": record.beta_error,
                "n_reads": record.n_reads,
                "reads_per_call": record.reads_per_call,
            }
            for record in result.betas
        ],
        "estimates_that_did_not_settle": sum(
            record.estimate is not None and not record.estimate.is_converged for record in result.betas
        ),
        "mean_ratio": float(np.average(ratios, weights=n_reads)),
        "clamp": asdict(clamp) | {"rate": clamp.rate, "rate_error": clamp.rate_error, "read_rate": clamp.read_rate},
        "polish": None if result.polish is None else asdict(result.polish),
        "ledger": ledger.to_dict(),
        "access_seconds_per_shower": ledger.access_seconds / result.n_reads,
    }


def _attributes(report: dict[str, Any]) -> dict[str, str | int | float]:
    """What the shower file says of its bits."""
    ledger, clamp = report["ledger"], report["clamp"]
    betas = [row["beta"] for row in report["betas"]]
    is_polished = report["correction"] == "polish"
    return {
        "prior": "boltzmann",
        "sampler": "annealer",
        "annealer": report["annealer"],
        "emulated": report["emulated"],
        "annealer_mode": report["mode"],
        "graph_id": report["graph_id"],
        "protocol": report["protocol"],
        "condition": report["condition"],
        "clamp_policy": report["policy"],
        "clamp_failure_rate": clamp["rate"],
        "clamp_failure_rate_error": clamp["rate_error"],
        "beta": float(np.mean(betas)),
        "beta_least": min(betas),
        "beta_largest": max(betas),
        "polish_sweeps": report["polish_sweeps"] if is_polished else 0,
        "programmings": ledger["programmings"],
        "reads": ledger["reads"],
        "access_seconds": ledger["access_seconds"],
        "bins": "none" if report["bins"] is None else json.dumps(report["bins"]),
        "left_out": report["left_out"],
    }
