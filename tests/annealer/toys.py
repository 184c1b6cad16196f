"""Small spin machines whose mean energies are known exactly, by enumeration from the formula: no noise."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from calo4pqvae.annealer.beta.energy_matching import EnergyMatch, EnergyRule, EnergySample, match_energy

FloatArray = NDArray[np.float64]


def toy_energies(n_spins: int, coupling: float, seed: int = 1) -> FloatArray:
    """Energies h s + s J s of all states, J of spread ``coupling`` / sqrt(n), h of a tenth of ``coupling``."""
    rng = np.random.default_rng(seed)
    couplings = np.triu(rng.normal(0, coupling / np.sqrt(n_spins), (n_spins, n_spins)), 1)
    fields = rng.normal(0, 0.1 * coupling, n_spins)
    spins = 2.0 * ((np.arange(2**n_spins)[:, None] >> np.arange(n_spins)) & 1) - 1
    energies: FloatArray = spins @ fields + ((spins @ couplings) * spins).sum(axis=1)
    return energies


def moments(energies: FloatArray, ratio: float) -> tuple[float, float]:
    """Mean and variance of the energy under e^{-ratio E}."""
    weights = np.exp(-ratio * (energies - energies.min()))
    weights /= weights.sum()
    mean = float(weights @ energies)
    return mean, float(weights @ (energies - mean) ** 2)


def reader(energies: FloatArray, true: float, n: float = 128) -> Callable[[float], EnergySample]:
    """An annealer of inverse temperature ``true``: reads follow e^{-(true / beta) E}."""
    return lambda beta: EnergySample(*moments(energies, true / beta), n)


def course(
    energies: FloatArray, true: float, start: float, rule: EnergyRule | None, steps: int = 25, n: float = 128
) -> EnergyMatch:
    """Course of a rule with exact means."""
    wanted = EnergySample(*moments(energies, 1.0), n)
    return match_energy(reader(energies, true, n), wanted, rule, start=start, max_programmings=steps)
