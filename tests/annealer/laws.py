"""Exact laws of small Ising problems, by plain enumeration of spins, and the test of reads against them."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Fields = Mapping[int, float]
Couplings = Mapping[tuple[int, int], float]


@dataclass(frozen=True)
class ExactLaw:
    """States (S, n) of spins in the order of ``labels`` with their energies H and probabilities."""

    labels: list[int]
    states: FloatArray
    energies: FloatArray
    probabilities: FloatArray
    pairs: list[tuple[int, int]]

    def statistics(self, spins: FloatArray) -> FloatArray:
        """Spins, products over couplers, and the energy of every state, shape (states, n + m + 1)."""
        column = {label: index for index, label in enumerate(self.labels)}
        products = np.stack([spins[:, column[a]] * spins[:, column[b]] for a, b in self.pairs], axis=1)
        rows = ((spins + 1) / 2 @ 2.0 ** np.arange(len(self.labels))[::-1]).astype(int)
        return np.column_stack([spins, products, self.energies[rows]])

    def scores(self, spins: FloatArray) -> FloatArray:
        """Means of the statistics of independent reads, from their exact means in their exact standard errors."""
        exact = self.statistics(self.states)
        mean = self.probabilities @ exact
        spread = np.sqrt(np.maximum(self.probabilities @ (exact - mean) ** 2, 1e-12))
        scores: FloatArray = (self.statistics(spins).mean(axis=0) - mean) / spread * np.sqrt(len(spins))
        return scores

    def follows(self, spins: FloatArray, limit: float = 4.5) -> bool:
        """Whether no statistic is further from its mean than chance allows."""
        return bool(np.abs(self.scores(spins)).max() < limit)


def exact_law(fields: Fields, couplings: Couplings, beta: float) -> ExactLaw:
    """The law e^{-beta H} with H = sum h s + sum J s s, state by state."""
    labels = sorted(fields)
    states = np.array(list(itertools.product((-1.0, 1.0), repeat=len(labels))))
    column = {label: index for index, label in enumerate(labels)}
    energies = np.zeros(len(states))
    for label, h in fields.items():
        energies += h * states[:, column[label]]
    for (a, b), j in couplings.items():
        energies += j * states[:, column[a]] * states[:, column[b]]
    weights = np.exp(-beta * (energies - energies.min()))
    return ExactLaw(labels, states, energies, weights / weights.sum(), list(couplings))


def spins_of(answer: Any) -> FloatArray:
    """Spins of a raw answer, columns by ascending label, shape (reads, n)."""
    order = np.argsort(list(answer.variables))
    return np.asarray(answer.record.sample[:, order], dtype=np.float64)


def random_problem(
    sampler: Any, labels: list[int], seed: int = 0, size: float = 0.1
) -> tuple[dict[int, float], dict[tuple[int, int], float]]:
    """Random fields and couplings on some qubits of a sampler, with all its couplers between them."""
    rng = np.random.default_rng(seed)
    fields = {label: float(rng.normal(0, size)) for label in labels}
    kept = [(a, b) for a, b in sampler.edgelist if a in fields and b in fields]
    return fields, {pair: float(rng.normal(0, size)) for pair in kept}
