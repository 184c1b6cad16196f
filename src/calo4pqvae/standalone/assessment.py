"""What a trained stand-alone machine is worth: states drawn from it, the mixing of its chains, its log-likelihood.

Every result comes as plain numbers with errors, sizes and seed, ready for JSON.

**Where chains start** decides what they show if they do not mix. ``chains`` goes on with the persistent chains of the
training, ``data`` starts at training states, ``coins`` at fair coins; where the three differ the chains are not in
equilibrium, and a likelihood from reverse annealing is no bound.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor

from calo4pqvae.errors import CheckpointError, ConfigError
from calo4pqvae.models.qvae.trained import as_qvae
from calo4pqvae.prior.bits.file import BitsFile
from calo4pqvae.prior.estimates.chain_diagnosis import chain_diagnosis
from calo4pqvae.prior.estimates.likelihood import LogLikelihood, log_likelihood
from calo4pqvae.prior.estimates.log_z import LogZ
from calo4pqvae.prior.estimates.partition_function import MAX_ENUMERATED_BITS, bracket, exact_log_z
from calo4pqvae.prior.learning.hidden import drawn, partition_means
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState
from calo4pqvae.prior.sampling.replicas import ReplicaState
from calo4pqvae.prior.sampling.samplers import Sampler
from calo4pqvae.prior.sampling.tempering import TemperingSampler, tuned_ladder
from calo4pqvae.prior.sampling.trajectory import TrajectorySampler, select_checkpoints
from calo4pqvae.runs.generation import load_model, parse_energies
from calo4pqvae.seeds import derive_seed, stream
from calo4pqvae.standalone.runs import PriorRun, load_bits

__all__ = [
    "SamplerName",
    "Start",
    "diagnose_run",
    "draw_latents",
    "draw_states",
    "likelihood_of_run",
]

Start = Literal["chains", "data", "coins"]
SamplerName = Literal["gibbs", "tempering", "trajectory"]
_N_LEVELS = 12  # temperatures of a tuned ladder
_N_PILOTS = 64  # chains that tune a ladder or choose saved machines


@dataclass(frozen=True)
class _Chains:
    """Where chains stand, and the condition of each."""

    states: Tensor
    condition: Tensor | None


def draw_states(
    run: PriorRun,
    n: int,
    *,
    n_sweeps: int,
    seed: int,
    start: Start = "chains",
    sampler: SamplerName = "gibbs",
) -> BitsFile:
    """Visible bits drawn from a machine.

    Args:
        run: The run.
        n: Number of states.
        n_sweeps: Sweeps from the start.
        seed: Seed.
        start: Where the chains begin; under a condition, each takes that of its chain or of a training state.
        sampler: Block Gibbs, parallel tempering with a ladder tuned to the machine, or the machines saved along the
            training.

    Raises:
        PriorError: If there is no state to draw or a sampler cannot be made.
        ConfigError: If there are no chains to go on with.
    """
    generator = stream(seed, "states", device=run.machine.device)
    begun = _start(run, n, start, generator)
    if sampler == "gibbs":
        gibbs = BlockGibbsSampler(run.machine)
        states = gibbs.sample(GibbsState(begun.states), n_sweeps, generator, condition=begun.condition).states
    else:
        rule, n_levels = _replica_sampler(run, sampler, begun.condition, generator)
        replicas = ReplicaState.start(begun.states.repeat(n_levels, 1, 1))
        states = rule.sample(replicas, n_sweeps, generator, condition=begun.condition).states
    shape = load_bits(run.config)[0].shape
    bits = run.visible(states).cpu().numpy().astype(np.uint8)
    condition = None if begun.condition is None else begun.condition.cpu().numpy()
    return BitsFile(bits, None, condition, shape, f"drawn from {run.path.name}")


def draw_latents(path: Path, energies: str, n: int | None, *, n_sweeps: int | None, seed: int, device: str) -> BitsFile:
    """Latent bits drawn from the prior of a shower run, with the incident energies in MeV as condition.

    Args:
        path: Run directory of a shower model.
        energies: Incident energies, as ``calo4pqvae generate`` takes them.
        n: Number of states.
        n_sweeps: Sweeps from fair coins; those of the run if None.
        seed: Seed.
        device: ``cpu``, ``cuda`` or ``auto``.

    Raises:
        CheckpointError: If the run is not finished.
        DataError: If an energy is out of range.
    """
    model = as_qvae(load_model(path, device))
    limits = (model.config.data.energy_min_mev, model.config.data.energy_max_mev)
    incident = parse_energies(energies, n, seed, limits)
    generator = stream(seed, "states", device=model.device)
    sweeps = model.config.generation.n_sweeps if n_sweeps is None else n_sweeps
    bits = model.draw_bits(incident.to(model.device), "boltzmann", sweeps, generator)
    return BitsFile(bits.cpu().numpy().astype(np.uint8), None, incident.numpy(), (), f"drawn from {path.name}")


def diagnose_run(
    run: PriorRun, *, n_chains: int, n_sweeps: int, burn_in: int, seed: int, start: Start = "chains"
) -> dict[str, Any]:
    """How the chains of a machine mix.

    Args:
        run: The run.
        n_chains: Chains to follow.
        n_sweeps: Sweeps to follow them for.
        burn_in: Sweeps before that.
        seed: Seed.
        start: Where the chains begin.

    Returns:
        Times in sweeps with errors, R-hat and effective sizes of the energy and the leading modes; whether the sweeps
        of the training were enough.

    Raises:
        PriorError: If there is no chain, too few sweeps, or a parameter is not finite.
        ConfigError: If there are no chains to go on with.
    """
    generator = stream(seed, "diagnosis", device=run.machine.device)
    begun, gibbs = _start(run, n_chains, start, generator), BlockGibbsSampler(run.machine)
    state = gibbs.sample(GibbsState(begun.states), burn_in, generator, condition=begun.condition)
    every = max(1, n_sweeps // 1000)
    found = chain_diagnosis(run.machine, gibbs, state, n_sweeps, every, generator, condition=begun.condition)
    slowest = found.slowest.relaxation
    return {
        "series": [
            {
                "name": one.name,
                "tau_int": _estimate(one.integrated.value, one.integrated.error, one.integrated.is_converged),
                "relaxation_time": _estimate(one.relaxation.value, one.relaxation.error, one.relaxation.is_converged),
                "r_hat": one.r_hat,
                "ess": one.ess,
            }
            for one in found.series
        ],
        "relaxation_time": _estimate(slowest.value, slowest.error, slowest.is_converged) | {"of": found.slowest.name},
        "r_hat": found.r_hat,
        "ess": found.ess,
        "n_chains": n_chains,
        "n_sweeps": n_sweeps,
        "every": found.every,
        "burn_in": burn_in,
        "start": start,
        "seed": seed,
        "training_sweeps": run.n_sweeps,
        "training_sweeps_reach_relaxation_time": bool(run.n_sweeps >= slowest.value),
        "warning": found.warning(run.n_sweeps),
    }


def likelihood_of_run(
    run: PriorRun,
    *,
    n_chains: int,
    n_temperatures: int,
    burn_in: int,
    seed: int,
    start: Start = "chains",
    bits: Mapping[str, BitsFile] | None = None,
) -> dict[str, Any]:
    """Log-likelihood of bits in nats a state, between two estimates of log Z, or exactly.

    Args:
        run: The run of a machine without a condition.
        n_chains: Chains of each direction.
        n_temperatures: Temperatures between independent bits and the machine.
        burn_in: Sweeps that bring the samples of the reverse direction to equilibrium.
        seed: Seed.
        start: Where those samples begin.
        bits: Bits by name; the run's own ``train`` and ``test`` if None.

    Returns:
        Log Z and log-likelihoods with errors of both kinds, effective sizes and seeds, by direction.

    Raises:
        PriorError: If there is no chain, too few temperatures, or a parameter is not finite.
        ConfigError: If the machine has a condition, bits do not fit it, or there are no chains to go on with.
    """
    machine = run.machine
    if machine.n_condition:
        raise ConfigError(
            "the log-likelihood of a machine with a condition needs log Z at each of them: use "
            "calo4pqvae.prior.estimates.partition_function with the conditions as cases"
        )
    parts = dict(zip(("train", "test"), load_bits(run.config), strict=True)) if bits is None else bits
    for name, part in parts.items():
        if part.n_bits != int((~run.hidden).sum()):
            raise ConfigError(f"{name} has {part.n_bits} bits, the machine {int((~run.hidden).sum())} visible ones")
    estimates = _log_z(run, n_chains, n_temperatures, burn_in, seed, start)
    result: dict[str, Any] = {"log_z": {}, "log_likelihood": {name: {} for name in parts}}
    for estimate in estimates:
        result["log_z"][estimate.direction] = _told_log_z(estimate)
        for name, part in parts.items():
            found = log_likelihood(machine, run.states(part.bits), estimate, hidden=run.hidden)
            result["log_likelihood"][name][estimate.direction] = _told_likelihood(found)
    return result | {"start": start, "burn_in": burn_in, "seed": seed}


def _log_z(
    run: PriorRun, n_chains: int, n_temperatures: int, burn_in: int, seed: int, start: Start
) -> tuple[LogZ, ...]:
    """Exact where few enough bits remain, otherwise from both sides."""
    topology = run.machine.topology
    if topology.n_nodes - max(topology.sizes) <= MAX_ENUMERATED_BITS:
        return (exact_log_z(run.machine),)
    generator = stream(seed, "reverse", device=run.machine.device)
    begun = _start(run, n_chains, start, generator)
    samples = BlockGibbsSampler(run.machine).sample(GibbsState(begun.states), burn_in, generator).states
    both = bracket(run.machine, samples, betas=n_temperatures, seed=derive_seed(seed, "annealing") % 2**31)
    return both.forward, both.reverse


def _start(run: PriorRun, n: int, start: Start, generator: Generator) -> _Chains:
    if n < 1:
        raise ConfigError(f"{n} chains cannot be started: ask for at least one")
    if start == "chains":
        if run.chains is None:
            raise ConfigError(f"{run.path} keeps no chains (method = 'cd'): start at data or coins")
        rows = torch.arange(n) % len(run.chains)
        condition = None if run.chain_condition is None else run.chain_condition[rows].to(generator.device)
        return _Chains(run.chains[rows].to(generator.device), condition)
    train, _ = load_bits(run.config)
    rows = torch.randint(train.n_states, (n,), generator=generator, device=generator.device).cpu()
    condition = None
    if run.machine.n_condition and train.condition is not None:
        condition = torch.from_numpy(train.condition[rows.numpy()]).to(generator.device)
    if start == "coins":
        return _Chains(BlockGibbsSampler(run.machine).init(n, generator).states, condition)
    states = run.states(train.bits[rows.numpy()])
    if run.hidden.any():
        states = drawn(partition_means(run.machine, states, 1, condition), generator)
    return _Chains(states, condition)


def _replica_sampler(
    run: PriorRun, name: Literal["tempering", "trajectory"], condition: Tensor | None, generator: Generator
) -> tuple[Sampler[ReplicaState], int]:
    """A sampler with several levels, and how many."""
    pilots = None if condition is None else condition[torch.arange(_N_PILOTS, device=condition.device) % len(condition)]
    if name == "tempering":
        ladder = tuned_ladder(run.machine, _N_LEVELS, generator, n_chains=_N_PILOTS, condition=pilots)
        return TemperingSampler(run.machine, ladder), len(ladder)
    saved = [machine for _, machine in run.trajectory()]
    if len(saved) < 2:
        raise CheckpointError(f"{run.path} keeps no machines along its training: sample with gibbs or tempering")
    selection = select_checkpoints(saved, generator, n_chains=_N_PILOTS, condition=pilots)
    return TrajectorySampler([saved[index] for index in selection.indices]), len(selection.indices)


def _estimate(value: float, error: float, is_converged: bool) -> dict[str, Any]:
    return {"value": _number(value), "error": _number(error), "is_converged": is_converged}


def _told_log_z(estimate: LogZ) -> dict[str, Any]:
    return {
        "value": float(estimate.value[0]),
        "error": float(estimate.error[0]),
        "ess": float(estimate.ess[0]),
        "n_chains": estimate.n_chains,
        "n_temperatures": estimate.n_temperatures,
        "is_reliable": bool(estimate.is_reliable[0]),
        "seed": estimate.seed,
    }


def _told_likelihood(found: LogLikelihood) -> dict[str, Any]:
    return {
        "value": found.value,
        "error": found.error,
        "log_z_error": found.log_z_error,
        "n_states": found.n_states,
        "is_reliable": found.is_reliable,
        "seed": found.seed,
    }


def _number(value: float) -> float | None:
    """JSON knows no infinity: a time that could not be found is null."""
    return value if math.isfinite(value) else None
