r"""Area under the receiver operating characteristic, with DeLong's error; Jensen-Shannon divergence of a classifier.

The AUC is the probability that a random reference shower scores higher than a random generated one, ties counting half:

.. math:: \hat A = \frac{1}{m n} \sum_{i \le m} \sum_{j \le n} \psi(x_i, y_j), \qquad
          \psi = [x_i > y_j] + \tfrac12 [x_i = y_j] .

With the components :math:`V_i = \frac1n \sum_j \psi(x_i, y_j)` and :math:`U_j = \frac1m \sum_i \psi(x_i, y_j)` its
variance is :math:`\mathrm{Var} V / m + \mathrm{Var} U / n`, and the components of two scores of the same showers give
the error of a difference. All are made of ranks, in n log n.

With calibrated probabilities q of being a reference shower and equally many showers of both kinds, the
Jensen-Shannon divergence between the two laws is, in units of ln 2 (bits),

.. math:: \mathrm{JSD} = 1 + \frac{1}{\ln 2} \big\langle t \ln q + (1 - t) \ln(1 - q) \big\rangle ,

0 for one law and 1 for disjoint ones, never above the true divergence up to its statistical error, since a classifier
is at best optimal. Where it has learned nothing it can come out slightly negative.

References:
    DeLong, DeLong, Clarke-Pearson, Biometrics 44 (1988) 837; the fast form: Sun and Xu, IEEE Signal Processing
    Letters 21 (2014) 1389. Divergence as in the CaloChallenge, arXiv 2410.21611.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from calo4pqvae.evaluation.metrics.estimate import Estimate

__all__ = ["AucComponents", "auc_components", "auc_difference", "jensen_shannon"]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class AucComponents:
    """An AUC with the share of every shower in it.

    Args:
        reference: For each reference shower, the fraction of generated ones that score lower, (m,).
        generated: For each generated shower, the fraction of reference ones that score higher, (n,).
    """

    reference: FloatArray
    generated: FloatArray

    @property
    def estimate(self) -> Estimate:
        """The AUC, its standard error after DeLong, and the number of showers of both kinds."""
        number = len(self.reference) + len(self.generated)
        return Estimate(float(self.reference.mean()), _error(self.reference, self.generated), number)


def auc_components(scores: FloatArray, is_reference: BoolArray) -> AucComponents:
    """Components of the AUC of scores that are high for reference showers.

    Args:
        scores: One number a shower, (N,).
        is_reference: Which showers are reference ones, (N,); at least two of each kind.
    """
    positive, negative = scores[is_reference], scores[~is_reference]
    m, n = len(positive), len(negative)
    together = rankdata(np.concatenate([positive, negative]))
    above = (together[:m] - rankdata(positive)) / n
    below = 1.0 - (together[m:] - rankdata(negative)) / m
    return AucComponents(above, below)


def auc_difference(first: AucComponents, second: AucComponents) -> Estimate:
    """AUC of ``first`` less that of ``second`` on the same showers, with the error of the paired difference."""
    reference, generated = first.reference - second.reference, first.generated - second.generated
    return Estimate(float(reference.mean()), _error(reference, generated), len(reference) + len(generated))


def jensen_shannon(probabilities: FloatArray, is_reference: BoolArray) -> Estimate:
    """Jensen-Shannon divergence in bits from calibrated probabilities strictly between 0 and 1, with its error."""
    likelihood = np.where(is_reference, probabilities, 1.0 - probabilities)
    gains = np.log(likelihood) / np.log(2.0)
    error = float(np.std(gains, ddof=1)) / np.sqrt(len(gains))
    return Estimate(1.0 + float(gains.mean()), float(error), len(gains))


def _error(reference: FloatArray, generated: FloatArray) -> float:
    variance = np.var(reference, ddof=1) / len(reference) + np.var(generated, ddof=1) / len(generated)
    return float(np.sqrt(variance))
