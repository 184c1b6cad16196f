r"""The order in which modes are learned: growth along the eigenvectors of the data, and when they leave the bulk.

Near the start couplings are small, and the gradient of the log-likelihood is linear in them. With :math:`\langle
\delta h_j \mid v \rangle = g_j \sum_i W_{ij} \delta v_i`, :math:`g = 1/4` for hidden bits without biases,

.. math:: \frac{dW}{dt} = \big( C - \mathrm{diag}\, C \big)\, W / 4 ,

C the covariance of the data, its diagonal that of the model with the means of the data, and t the sum of the learning
rates. In the basis of eigenvectors :math:`c_k` of the matrix in brackets, with eigenvalues :math:`\mu_k`, the rows
:math:`W^T c_k` grow independently, :math:`\propto e^{\mu_k t / 4}`: strong correlations of the data first, one mode
after the other, until the largest amplitude :math:`\alpha` is no longer small and the model answers.

Growth is measured along the start, :math:`\ln [ (W_t^T c_k) \cdot (W_0^T c_k) / |W_0^T c_k|^2 ]`, which the noise of
the gradient moves to either side; the jackknife over hidden bits gives its error.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from calo4pqvae.errors import PriorError
from calo4pqvae.studies.frame.along_training import Training
from calo4pqvae.studies.theory.marchenko_pastur import bulk_edges
from calo4pqvae.studies.theory.modes import coupling_block, linear_modes

__all__ = ["ModeLearning", "learn_modes"]

FloatArray = NDArray[np.float64]

_LARGEST_AMPLITUDE = 0.4  # alpha up to which couplings count as small
_LEAST_MACHINES = 2


@dataclass(frozen=True)
class ModeLearning:
    """How modes of the data grow in a machine with hidden bits; K modes, T machines.

    Args:
        steps: Learning steps of the machines.
        times: Sum of the learning rates before each, shape (T,).
        strengths: mu of the data, falling, shape (K,).
        amplitudes: Length of W^T c_k in each machine, shape (T, K).
        rates: Measured growth per unit of time, shape (K,).
        rate_errors: Their standard errors.
        theory: mu / 4, shape (K,).
        n_window: Machines after the start in which couplings are small.
        edge: Upper edge of the bulk at the start.
        crossings: First step at which the amplitude is beyond the edge, NaN if never, shape (K,).
        rank_correlation: Spearman's correlation of strengths and measured rates.
        alignment: Squared overlap of the leading left singular vector with the first K eigenvectors of the data,
            shape (T,).
    """

    steps: tuple[int, ...]
    times: FloatArray
    strengths: FloatArray
    amplitudes: FloatArray
    rates: FloatArray
    rate_errors: FloatArray
    theory: FloatArray
    n_window: int
    edge: float
    crossings: FloatArray
    rank_correlation: float
    alignment: FloatArray


def learn_modes(training: Training, n_modes: int) -> ModeLearning:
    """Follows the eigenvectors of the data through a training.

    Args:
        training: Machines of two partitions, the second one hidden, from the start on.
        n_modes: Modes of the data to follow.

    Raises:
        PriorError: If the machines have not two partitions, or hardly any was saved while couplings were small.
    """
    topology = training.final.topology
    if topology.n_partitions != 2 or not training.hidden[topology.slices[1]].all():
        raise PriorError("the order of learning is that of a machine with one visible and one hidden partition")
    bits = training.data.bits.astype(np.float64)
    covariance = np.cov(bits, rowvar=False, bias=True)
    values, vectors = np.linalg.eigh(covariance - np.diag(np.diag(covariance)))
    strengths, modes = values[::-1][:n_modes], vectors[:, ::-1][:, :n_modes]
    blocks = [coupling_block(machine) for machine in training.machines]
    rows = np.stack([modes.T @ block for block in blocks])  # (T, K, hidden)
    times = np.array([training.time(step) for step in training.steps])
    n_window = _window(training, np.diag(covariance))
    rates, errors = _growth(rows[: n_window + 1], times[: n_window + 1])
    edge = bulk_edges(blocks[0].shape, float(blocks[0].std()))[1]
    amplitudes = np.linalg.norm(rows, axis=2)
    leading = np.stack([np.linalg.svd(block, full_matrices=False)[0][:, 0] for block in blocks])
    return ModeLearning(
        steps=training.steps,
        times=times,
        strengths=strengths,
        amplitudes=amplitudes,
        rates=rates,
        rate_errors=errors,
        theory=strengths / 4,
        n_window=n_window,
        edge=edge,
        crossings=_crossings(amplitudes, training.steps, edge),
        rank_correlation=float(spearmanr(strengths, rates).statistic),
        alignment=((leading @ modes) ** 2).sum(axis=1),
    )


def _window(training: Training, variances: FloatArray) -> int:
    """Machines after the start whose largest amplitude, with the gains of the start, is small."""
    n_hidden = training.final.topology.sizes[1]
    gains = np.concatenate([np.minimum(variances, 0.25), np.full(n_hidden, 0.25)])
    n_small = 0
    for machine in training.machines[1:]:
        if linear_modes(machine, gains).amplitudes[0] > _LARGEST_AMPLITUDE:
            break
        n_small += 1
    if n_small < _LEAST_MACHINES:
        raise PriorError(
            f"{n_small} machines were saved while couplings were small; start at smaller ones or save more machines"
        )
    return n_small


def _growth(rows: FloatArray, times: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Growth rates of rows (T, K, hidden) along their start, by least squares through the start, and errors."""

    def rates(kept: FloatArray) -> FloatArray:
        shares = (kept[1:] * kept[0]).sum(axis=2) / (kept[0] ** 2).sum(axis=1)
        logs = np.log(np.maximum(shares, np.finfo(float).tiny))
        return np.asarray((times[1:, None] * logs).sum(axis=0) / (times[1:] ** 2).sum())

    n_hidden = rows.shape[2]
    parts = np.array_split(np.arange(n_hidden), min(16, n_hidden))
    without = np.stack([rates(np.delete(rows, part, axis=2)) for part in parts])
    n = len(parts)
    spread = ((without - without.mean(axis=0)) ** 2).sum(axis=0)
    return rates(rows), np.sqrt((n - 1) / n * spread)


def _crossings(amplitudes: FloatArray, steps: tuple[int, ...], edge: float) -> FloatArray:
    beyond = amplitudes > edge
    return np.array([steps[int(column.argmax())] if column.any() else math.nan for column in beyond.T])
