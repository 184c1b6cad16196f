r"""The encoder of factors: a shower's few longitudinal quantities become thermometers along bands of the chip.

.. math:: q(z \mid x, E) = \prod_i \mathrm{Bernoulli}\big(z_i; \sigma(\ell_i(v(x, E)))\big)

with the factors v of :mod:`calo4pqvae.models.qvae.factors` and the code of :mod:`calo4pqvae.models.qvae.thermometer`.
The factors are computed once and written by all levels: one band holds one quantity, whatever partitions its nodes
lie in. Levels that compute a quantity each for themselves write thermometers that disagree, and a band of them has
many walls where it should have one.
"""

from torch import Tensor, nn

from calo4pqvae.config import LatentConfig
from calo4pqvae.models.qvae.encoder import Posterior
from calo4pqvae.models.qvae.factors import LayerFactors
from calo4pqvae.models.qvae.observables import ShowerView
from calo4pqvae.models.qvae.relaxation import Relaxation, draw_bits, relax_bits
from calo4pqvae.models.qvae.thermometer import ThermometerCode, band_length

__all__ = ["FactorEncoder"]


class FactorEncoder(nn.Module):
    """Encoder whose bits are thermometers of factors; fitted to training showers, without weights to train.

    Args:
        config: Number of factors, nodes a factor and width of a wall.
        n_layers: Number of layers.
        level_sizes: Number of bits of each level.
    """

    def __init__(self, config: LatentConfig, n_layers: int, level_sizes: tuple[int, ...]) -> None:
        super().__init__()
        length = config.factor_nodes or band_length(sum(level_sizes), config.factors)
        self.factors = LayerFactors(n_layers, config.factors)
        self.code = ThermometerCode(level_sizes, config.factors, length, config.wall)

    @property
    def n_read(self) -> int:
        """Numbers that a decoder reads from the bits."""
        return self.code.n_factors

    def fit(self, layers: Tensor, position: Tensor) -> None:
        """Fits the factors to standardised layers (N, L) of training showers at positions (N, 1)."""
        self.factors.fit(layers, position)

    def read(self, bits: Tensor) -> Tensor:
        """What a decoder is given of bits (B, n_bits): the value of each band, (B, n_read)."""
        return self.code.read(bits)

    def forward(
        self,
        view: ShowerView,
        uniform: Tensor,
        tau: float | None = None,
        relaxation: Relaxation = "straight-through",
    ) -> Posterior:
        """Draws bits for a batch, as :class:`~calo4pqvae.models.qvae.encoder.HierarchicalEncoder` does.

        Args:
            view: The showers.
            uniform: Noise between 0 and 1 that decides the draws, (B, n_bits).
            tau: Sharpness of relaxed bits; None draws plain bits.
            relaxation: Kind of relaxed bits.

        Returns:
            Bits and logits.
        """
        logits = self.code.logits(self.factors(view.layers, view.position))
        bits = draw_bits(logits, uniform) if tau is None else relax_bits(logits, uniform, tau, relaxation)
        return Posterior(bits, logits)
