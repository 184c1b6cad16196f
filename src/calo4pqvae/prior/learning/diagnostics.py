r"""Is the machine right? Few numbers that tell, each with its error, and a guard that stops what went wrong.

Data and model samples of a learned machine have the same mean energy, the same bit means and the same correlations.

- **Energy gap**: mean energy of the data minus that of the model's samples, in nats, with its standard error. Both
  are energies of the same machine, so the partition function drops out.
- **Bit means**: largest and mean absolute difference.
- **Correlation slope**: model covariances regressed on data covariances through the origin, once over the couplers,
  which learning sees, and once over random pairs that no coupler joins, which it does not. Covariances of n states
  carry noise of order 1/sqrt(n), which would bend the slope to zero; the states are therefore cut into K blocks and
  the denominator uses products of different blocks only, whose noise is independent:

.. math:: s = \frac{\sum_{ij} \bar C^d_{ij} \bar C^m_{ij}}
              {\frac{1}{K(K-1)} \sum_{k \ne l} \sum_{ij} C^{d,k}_{ij} C^{d,l}_{ij}} .

Errors of the slopes are jackknife errors over the blocks. They hold for independent states: states of one chain
count as fewer than they are.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import DivergenceError, PriorError
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.machine import BoltzmannMachine

__all__ = ["DivergenceGuard", "WatchReport", "watch"]

N_BLOCKS = 10
_PAIR_CHUNK = 1024


@dataclass(frozen=True)
class WatchReport:
    """How a machine's samples compare with data; energies in nats.

    Args:
        energy_data: Mean energy of the data.
        energy_model: Mean energy of the samples.
        energy_spread: Standard deviation of the energy over the data.
        gap: ``energy_data - energy_model``.
        gap_error: Standard error of the gap, for independent states.
        mean_error_max: Largest absolute difference of bit means.
        mean_error_mean: Mean absolute difference of bit means.
        slope: Correlation slope over the couplers; NaN without couplers.
        slope_error: Its jackknife error.
        far_slope: Correlation slope over random pairs that are not coupled; NaN if all pairs are.
        far_slope_error: Its jackknife error.
        n_data: Number of data states.
        n_model: Number of samples.
    """

    energy_data: float
    energy_model: float
    energy_spread: float
    gap: float
    gap_error: float
    mean_error_max: float
    mean_error_mean: float
    slope: float
    slope_error: float
    far_slope: float
    far_slope_error: float
    n_data: int
    n_model: int


@torch.no_grad()
def watch(
    machine: BoltzmannMachine,
    data_states: Tensor,
    model_states: Tensor,
    condition: Tensor | None = None,
    model_condition: Tensor | None = None,
    n_pairs: int = 5000,
    seed: int = 0,
    held: NDArray[np.bool_] | None = None,
) -> WatchReport:
    """Compares samples of a machine with data.

    Args:
        machine: The machine.
        data_states: Bits of data (B, N).
        model_states: Bits drawn from the machine (B', N).
        condition: Conditions of the data, if the machine has a condition.
        model_condition: Conditions of the samples; those of the data if None.
        n_pairs: Random uncoupled pairs to look at.
        seed: Seed of their choice.
        held: Mask (N,) of clamped bits; pairs of two of them are left out, since data and model agree there by design.

    Raises:
        PriorError: If a shape does not fit or there are fewer than 20 states of a kind.
    """
    least = 2 * N_BLOCKS
    if min(len(data_states), len(model_states)) < least:
        raise PriorError(
            f"{len(data_states)} data states and {len(model_states)} samples are too few to compare; "
            f"give at least {least} of each"
        )
    data, model = data_states.to(machine.biases), model_states.to(machine.biases)
    other = condition if model_condition is None else model_condition
    energies, sampled = machine.energy(data, condition).double(), machine.energy(model, other).double()
    difference = (data.mean(dim=0) - model.mean(dim=0)).abs()
    couplers = torch.from_numpy(machine.topology.edges.copy()).to(data.device)
    pairs = _uncoupled_pairs(machine.topology, n_pairs, seed)
    if held is not None:
        pairs = pairs[~held[pairs].all(axis=1)]
    far = torch.from_numpy(pairs).to(data.device)
    slope, slope_error = _correlation_slope(data, model, couplers)
    far_slope, far_slope_error = _correlation_slope(data, model, far)
    return WatchReport(
        energy_data=float(energies.mean()),
        energy_model=float(sampled.mean()),
        energy_spread=float(energies.std()),
        gap=float(energies.mean() - sampled.mean()),
        gap_error=math.sqrt(float(energies.var() / len(energies) + sampled.var() / len(sampled))),
        mean_error_max=float(difference.max()),
        mean_error_mean=float(difference.mean()),
        slope=slope,
        slope_error=slope_error,
        far_slope=far_slope,
        far_slope_error=far_slope_error,
        n_data=len(data),
        n_model=len(model),
    )


@dataclass
class DivergenceGuard:
    """Stops learning that has left the region where its numbers mean anything.

    Args:
        limit: Largest energy gap, in standard deviations of the energy over the data.
        floor: Gap in nats that is always allowed, since a machine near its start has almost no spread.
        patience: Checks in a row beyond the limit that stop.
    """

    limit: float = 5.0
    floor: float = 5.0
    patience: int = 3
    n_beyond: int = field(default=0, init=False)

    def check(self, energy_data: float, energy_model: float, energy_spread: float) -> None:
        """Takes note of one comparison of data and model, as :func:`watch` gives it.

        Args:
            energy_data: Mean energy of the data, in nats.
            energy_model: Mean energy of the model's samples, in nats.
            energy_spread: Standard deviation of the energy over the data, in nats.

        Raises:
            DivergenceError: If a number is not finite, or the gap was too large ``patience`` times in a row.
        """
        if not all(math.isfinite(number) for number in (energy_data, energy_model, energy_spread)):
            raise DivergenceError(
                f"the prior's energies are no longer finite (data {energy_data}, model {energy_model}); "
                "go back to the last checkpoint and lower the learning rate"
            )
        gap = abs(energy_data - energy_model)
        allowed = max(self.floor, self.limit * energy_spread)
        self.n_beyond = self.n_beyond + 1 if gap > allowed else 0
        if self.n_beyond >= self.patience:
            raise DivergenceError(
                f"the energy gap between data and prior is {gap:.3g} nats, beyond {allowed:.3g} for {self.n_beyond} "
                "checks in a row; lower the learning rate or raise the number of sweeps"
            )


def _uncoupled_pairs(topology: Topology, n_pairs: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Distinct random pairs (n, 2), i < j, without those that a coupler joins."""
    n_nodes = topology.n_nodes
    draws = np.sort(np.random.default_rng(seed).integers(0, n_nodes, (2 * n_pairs, 2)), axis=1)
    codes = np.unique(draws[draws[:, 0] < draws[:, 1]] @ np.array([n_nodes, 1]))
    codes = np.setdiff1d(codes, topology.edges @ np.array([n_nodes, 1]))
    kept = np.random.default_rng(seed).permutation(codes)[:n_pairs]
    return np.stack([kept // n_nodes, kept % n_nodes], axis=1)


def _correlation_slope(data: Tensor, model: Tensor, pairs: Tensor) -> tuple[float, float]:
    """Slope of model on data covariances and its jackknife error; NaN where the data have no covariance to see."""
    if len(pairs) == 0:
        return math.nan, math.nan
    of_data, of_model = _block_covariances(data, pairs), _block_covariances(model, pairs)
    across, own = of_data @ of_model.t(), of_data @ of_data.t()
    every = list(range(N_BLOCKS))
    slope = _slope(across, own, every)
    left_out = [_slope(across, own, [block for block in every if block != out]) for out in every]
    spread = sum((other - sum(left_out) / N_BLOCKS) ** 2 for other in left_out)
    return slope, math.sqrt((N_BLOCKS - 1) / N_BLOCKS * spread)


def _slope(across: Tensor, own: Tensor, blocks: list[int]) -> float:
    n_blocks = len(blocks)
    products = own[blocks][:, blocks]
    signal = float(products.sum() - products.diagonal().sum()) / (n_blocks * (n_blocks - 1))
    return float(across[blocks][:, blocks].mean()) / signal if signal > 0 else math.nan


def _block_covariances(states: Tensor, pairs: Tensor) -> Tensor:
    """Unbiased covariances of the pairs in each block of states, float64, shape (blocks, pairs)."""
    rows = []
    for block in torch.tensor_split(states, N_BLOCKS):
        centred = (block - block.mean(dim=0)).t().contiguous()
        sums = [
            (centred.index_select(0, part[:, 0]) * centred.index_select(0, part[:, 1])).sum(dim=1)
            for part in torch.split(pairs, _PAIR_CHUNK)
        ]
        rows.append(torch.cat(sums).double() / (len(block) - 1))
    return torch.stack(rows)
