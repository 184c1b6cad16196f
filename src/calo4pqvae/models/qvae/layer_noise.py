r"""The noise of the layers: what is left of them when the bits have spoken.

With the mean m of each layer from the bits, the width s from the energy alone, and the residuals
:math:`e_l = (y_l - m_l)/s_l`,

.. math:: p(y \mid z, E) = \prod_l N\Big(y_l;\ m_l + s_l \sum_{j<l} A_{lj}(t)\, e_j,\ s_l\Big), \qquad
          A(t) = A_0 + A_1 t + A_2 t^2 ,

each factor cut below at the faintest layer that can exist. A is strictly lower triangular, so that the law is
normalised and drawn layer by layer. It says that layers share particles, and that their energies add up: residuals of
neighbours are anticorrelated at low energies and correlated at high ones. It cannot stand in for the bits, whatever
they are: it is the law of residuals about means that the bits give.
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from calo4pqvae.models.qvae.likelihood import sample_truncated_normal, truncated_normal_nll

__all__ = ["LayerNoise", "LayerValues"]

_N_POWERS = 3
_LARGEST = 6.0  # of a residual, in widths


class LayerValues(NamedTuple):
    """What is known of layers before their energies are, (B, L) each but for the position.

    Attributes:
        mean: Means m. log_std: ln s.
        layer_on: 1 where a layer has energy.
        floor: Faintest value there can be.
        position: Place of ln E in its range, (B, 1).
    """

    mean: Tensor
    log_std: Tensor
    layer_on: Tensor
    floor: Tensor
    position: Tensor


class LayerNoise(nn.Module):
    """Triangular law of residuals.

    Args:
        n_layers: Number of layers L.
    """

    below: Tensor

    def __init__(self, n_layers: int) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(torch.zeros(_N_POWERS, n_layers, n_layers))
        self.register_buffer("below", torch.ones(n_layers, n_layers).tril(-1), persistent=False)

    def nll(self, layers: Tensor, known: LayerValues) -> Tensor:
        """Negative log density of the layers that have energy, in nats, (B,)."""
        residuals = _residual(layers, known.mean, known.log_std, known.layer_on)
        shift = known.log_std.exp() * sum(
            known.position**power * (residuals @ matrix.T) for power, matrix in enumerate(self._matrices())
        )
        terms = truncated_normal_nll(layers, known.mean + shift, known.log_std, known.floor)
        return (terms * known.layer_on).sum(1)

    def sample(self, known: LayerValues, generator: Generator) -> Tensor:
        """Draws layers (B, L), one after the other; those without energy have a value that means nothing."""
        layers, residuals = torch.zeros_like(known.mean), torch.zeros_like(known.mean)
        matrices = self._matrices()
        for layer in range(layers.shape[1]):
            one = slice(layer, layer + 1)
            shift = sum(
                known.position**power * (residuals[:, :layer] @ matrix[layer, :layer, None])
                for power, matrix in enumerate(matrices)
            )
            mean = known.mean[:, one] + known.log_std[:, one].exp() * shift
            layers[:, one] = sample_truncated_normal(mean, known.log_std[:, one], known.floor[:, one], generator)
            residuals[:, one] = _residual(
                layers[:, one], known.mean[:, one], known.log_std[:, one], known.layer_on[:, one]
            )
        return layers

    def _matrices(self) -> Tensor:
        return self.coefficients * self.below


def _residual(layers: Tensor, mean: Tensor, log_std: Tensor, layer_on: Tensor) -> Tensor:
    return ((layers - mean) * (-log_std).exp()).clamp(-_LARGEST, _LARGEST) * layer_on
