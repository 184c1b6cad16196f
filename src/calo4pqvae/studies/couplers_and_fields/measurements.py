r"""Couplers against fields of every spin of a machine, and how much of a chip's ranges a machine uses.

With :math:`\Sigma_i = \sum_j J_{ij}` the map from bits to spins gives :math:`h_i = -b_i / 2 + \Sigma_i` (all divided by
beta): each coupler puts its own strength into the fields of its ends. So of the ratio of couplers and field,

.. math:: r_i = \frac{\Sigma_i}{h_i} = \frac{\rho_i}{1 + \rho_i}, \qquad \rho_i = \frac{\Sigma_i}{-b_i / 2},

the first is one for every bit without a bias, whatever its couplings, and :math:`\rho`, without that share, is the
one that says which is stronger. Neither depends on beta. A third is blind to the signs that cancel in the sum,
:math:`\sqrt{\sum_j W_{ij}^2}\,/\,|b_i|`. All have heavy tails where a denominator is near zero: for independent
normal biases and couplings of equal spread :math:`\rho` is a Cauchy variable of scale :math:`\sqrt{d} / 2` at degree
d, which has no mean. Hence medians, quartiles and logarithms.

**Ranges.** A chip takes h, J and sums of J at a qubit, or in a group of its couplers, within ranges
(:mod:`~calo4pqvae.annealer.chip.limits`). The machine divided by the chip's own inverse temperature uses a share of
each; the largest of the shares is what the machine could still grow by. At the other end stand the errors with which h
and J are realised.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from calo4pqvae.annealed.machine import emulator_of
from calo4pqvae.annealer.chip.limits import smallest_beta, smallest_scale
from calo4pqvae.annealer.chip.problem import ising_problem
from calo4pqvae.annealer.chip.table import chip
from calo4pqvae.annealer.emulator.graph import listed_graph, solver_properties
from calo4pqvae.annealer.emulator.settings import emulator_settings
from calo4pqvae.errors import PriorError
from calo4pqvae.prior.machine import BoltzmannMachine

__all__ = ["KINDS", "SUMMARIES", "Kind", "RangeUse", "SpinRatios", "Stage", "Summary", "range_use", "spin_ratios"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Stage = Literal["random", "start", "trained"]
Kind = Literal["as programmed", "without the share", "in bits"]

KINDS: tuple[Kind, ...] = ("as programmed", "without the share", "in bits")
SUMMARIES = ("median", "lower quartile", "upper quartile", "median size", "median log10 size", "share negative")
_LIMITS = {
    "h": ("h_range",),
    "J": ("extended_j_range",),
    "sums of J": ("per_qubit_coupling_range", "per_group_coupling_range", "topology", "coupling_groups"),
}


@dataclass(frozen=True, eq=False)
class Summary:
    """Robust summaries of a ratio over spins, in the order of :data:`SUMMARIES`.

    Args:
        values: The summaries.
        errors: Bootstrap errors over spins.
        n_spins: Spins with a number, infinite ones among them.
        n_infinite: Spins without a field.
    """

    values: FloatArray
    errors: FloatArray
    n_spins: int
    n_infinite: int


@dataclass(frozen=True, eq=False)
class SpinRatios:
    """Ratios of couplers and field of every spin of a machine.

    Args:
        label: Name of the machine.
        stage: Whether it is random, at the start of a training, or trained.
        partition: Partition of every spin (N,).
        mean_degree: Couplers of a spin, on average.
        ratios: Ratio of each kind (N,); infinite without a field, NaN without either.
    """

    label: str
    stage: Stage
    partition: IntArray
    mean_degree: float
    ratios: dict[Kind, FloatArray]

    def summary(
        self, kind: Kind, rng: np.random.Generator, partition: int | None = None, n_bootstrap: int = 200
    ) -> Summary:
        """Summaries over all spins or those of a partition.

        Args:
            kind: Kind of the ratio.
            rng: Source of the bootstrap.
            partition: The partition; all if None.
            n_bootstrap: Replicas.

        Raises:
            PriorError: If no spin has a number.
        """
        values = self.ratios[kind] if partition is None else self.ratios[kind][self.partition == partition]
        values = values[~np.isnan(values)]
        if not len(values):
            raise PriorError(
                "no spin has a coupler or a field, so that there is no ratio; give a machine with couplers"
            )
        picks = rng.integers(0, len(values), (n_bootstrap, len(values)))
        replicas = np.array([_summaries(values[pick]) for pick in picks])
        is_told, errors = np.isfinite(replicas).all(axis=0), np.full(len(SUMMARIES), np.nan)
        errors[is_told] = replicas[:, is_told].std(axis=0, ddof=1)
        return Summary(_summaries(values), errors, len(values), int(np.isinf(values).sum()))


@dataclass(frozen=True)
class RangeUse:
    """What a machine uses of the ranges of a chip, at the inverse temperature of single qubits of that chip.

    Args:
        label: Name of the machine.
        stage: Whether it is random, at the start of a training, or trained.
        chip: The chip.
        beta: Its inverse temperature, by which the machine is divided.
        largest: Share of the range that the worst h, J and sum of J use; above 1 is out of range.
        smallest_beta: Smallest beta by which the machine may be divided.
        median_field: Median of the size of h.
        median_coupling: Median of the size of J.
        field_error: Standard deviation with which h is realised.
        coupling_error: That of J.
        share_below_error: Share of the couplers whose J is smaller than that.
    """

    label: str
    stage: Stage
    chip: str
    beta: float
    largest: dict[str, float]
    smallest_beta: float
    median_field: float
    median_coupling: float
    field_error: float
    coupling_error: float
    share_below_error: float

    @property
    def name(self) -> str:
        """Machine and stage, for people."""
        return self.label if self.stage == "random" else f"{self.label}, {self.stage}"

    @property
    def margin(self) -> float:
        """Factor by which the machine could grow and still be programmed at beta; below 1 it does not fit."""
        return self.beta / self.smallest_beta


def spin_ratios(machine: BoltzmannMachine, label: str, stage: Stage) -> SpinRatios:
    """Ratios of couplers and field of every spin.

    Args:
        machine: The machine, without a condition.
        label: Its name.
        stage: Its stage.
    """
    problem = ising_problem(machine, 1.0)
    n = problem.n_qubits
    sums, squares = np.zeros(n), np.zeros(n)
    for ends in problem.edges.T:
        sums += np.bincount(ends, problem.couplings, n)
        squares += np.bincount(ends, (4 * problem.couplings) ** 2, n)
    biases = machine.biases.detach().cpu().double().numpy()
    return SpinRatios(
        label=label,
        stage=stage,
        partition=machine.topology.partition.astype(np.int64),
        mean_degree=2 * len(problem.edges) / n,
        ratios={
            "as programmed": _divided(sums, problem.fields),
            "without the share": _divided(sums, -biases / 2),
            "in bits": _divided(np.sqrt(squares), np.abs(biases)),
        },
    )


def range_use(machine: BoltzmannMachine, label: str, stage: Stage) -> RangeUse:
    """What a machine on the graph of a chip uses of that chip's ranges.

    Args:
        machine: The machine, without a condition.
        label: Its name.
        stage: Its stage.

    Raises:
        AnnealerError: If its graph is not that of a chip.
    """
    _, name, size = emulator_of(machine).split(":")
    entry, errors = chip(name), emulator_settings("calibrated")
    properties = solver_properties(listed_graph(entry, int(size)))
    problem = ising_problem(machine, entry.beta)
    largest = {
        what: smallest_scale(problem, {key: properties[key] for key in keys if key in properties})
        for what, keys in _LIMITS.items()
    }
    return RangeUse(
        label=label,
        stage=stage,
        chip=entry.name,
        beta=entry.beta,
        largest=largest,
        smallest_beta=smallest_beta(problem, properties),
        median_field=float(np.median(np.abs(problem.fields))),
        median_coupling=float(np.median(np.abs(problem.couplings))),
        field_error=errors.field_error,
        coupling_error=errors.coupling_error,
        share_below_error=float(np.mean(np.abs(problem.couplings) < errors.coupling_error)),
    )


def _divided(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """The ratio; signed infinity where only the denominator is zero, NaN where both are."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(numerator / denominator)


def _summaries(values: FloatArray) -> FloatArray:
    """Summaries of values, infinite ones among them: quantiles are those of the order, without interpolation."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), method="nearest")
    size = np.quantile(np.abs(values), 0.5, method="nearest")
    with np.errstate(divide="ignore"):
        return np.array([middle, low, high, size, np.log10(size), np.mean(values < 0)])
