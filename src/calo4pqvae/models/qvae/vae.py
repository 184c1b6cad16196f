r"""The autoencoder as a whole: encode, the terms of the bound, decode.

The loss of a shower is

.. math:: -\ln p(r|z) - \ln p(\text{layers}|z) - \ln p(\text{hits}|z) - \ln p(\text{voxels}|z)
          + w\,\big[-H(q) + \langle E(z)\rangle_q\big]

with every term a likelihood in nats, summed over bits or voxels and averaged over the batch, and w the ``kl_weight``.
:math:`\langle E\rangle` is the energy of the Boltzmann machine (joint training; :math:`\ln Z` depends on its parameters
only and enters through its own gradient) or, for the autoencoder alone, of fair coins, for which the bracket is
:math:`\mathrm{KL}(q\,\|\,\text{coins})` up to a constant. ``free_bits`` nats of information cost nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from calo4pqvae.config import Config
from calo4pqvae.models.qvae.decoder import LayerHead, LayerLaw
from calo4pqvae.models.qvae.encoder import HierarchicalEncoder, Posterior
from calo4pqvae.models.qvae.factor_encoder import FactorEncoder
from calo4pqvae.models.qvae.grid import GridPlan
from calo4pqvae.models.qvae.laws import VoxelLaw, voxel_law
from calo4pqvae.models.qvae.layer_noise import LayerValues
from calo4pqvae.models.qvae.likelihood import normal_nll, sample_normal
from calo4pqvae.models.qvae.observables import Observables, ShowerView
from calo4pqvae.models.qvae.relaxation import Relaxation
from calo4pqvae.showers.energies import check_energies
from calo4pqvae.showers.geometry import Geometry
from calo4pqvae.showers.transforms import apply_threshold

__all__ = ["LossTerms", "PriorEnergy", "ShowerAutoencoder"]

PriorEnergy = Callable[[Tensor, Tensor], Tensor]
"""Energy (B,) of latent bits (B, n_bits) at incident energies (B, 1) in MeV."""


class LossTerms(NamedTuple):
    """Batch means in nats.

    Attributes:
        response: -ln p of the response. layers: of the layers' energies. layer_on: of which layers have energy.
        hits: of the hits. voxels: of the voxel energies.
        entropy: Entropy of the posterior.
        information: ln 2 a bit minus the entropy.
        prior_energy: Mean energy of the bits under the prior, 0 for fair coins.
    """

    response: Tensor
    layers: Tensor
    layer_on: Tensor
    hits: Tensor
    voxels: Tensor
    entropy: Tensor
    information: Tensor
    prior_energy: Tensor

    def reconstruction(self) -> Tensor:
        """Sum of the five likelihood terms."""
        return self.response + self.layers + self.layer_on + self.hits + self.voxels

    def total(self, kl_weight: float, free_bits: float = 0.0, information: Tensor | None = None) -> Tensor:
        """The loss; the prior term is left out while the information is below ``free_bits``.

        Args:
            kl_weight: Weight of the prior term.
            free_bits: Nats of information that cost nothing.
            information: Information to decide by, where it is a mean over several processes; default: this batch's.
        """
        kl = self.prior_energy - self.entropy
        deciding = self.information.detach() if information is None else information
        is_free = float(deciding) < free_bits
        return self.reconstruction() if is_free else self.reconstruction() + kl_weight * kl


class ShowerAutoencoder(nn.Module):
    """Encoder and decoder between showers and bits.

    Args:
        config: Settings; sizes come from its sections.
        geometry: A regular grid.
        level_sizes: Number of bits of each level.

    Raises:
        DataError: If the geometry is not a regular grid.
    """

    def __init__(self, config: Config, geometry: Geometry, level_sizes: Sequence[int]) -> None:
        super().__init__()
        self.geometry, self.level_sizes = geometry, tuple(level_sizes)
        self.relaxation: Relaxation = config.latent.relaxation
        energy_range = (config.data.energy_min_mev, config.data.energy_max_mev)
        self.observables = Observables(geometry, energy_range, canonical_frame=config.data.canonical_frame)
        self.plan = GridPlan(geometry, config.data.layout)
        self.encoder: FactorEncoder | HierarchicalEncoder
        if config.latent.factors:
            self.encoder = FactorEncoder(config.latent, geometry.n_layers, self.level_sizes)
        else:
            self.encoder = HierarchicalEncoder(config.encoder, self.plan, level_sizes)
        self.layer_head = LayerHead(config.decoder, self.encoder.n_read, geometry.n_layers)
        self.voxel_head = voxel_law(config, self.plan, self.observables, self.encoder.n_read)

    @property
    def n_bits(self) -> int:
        """Number of latent bits."""
        return sum(self.level_sizes)

    @property
    def voxels(self) -> VoxelLaw:
        """The law of the voxels."""
        law: VoxelLaw = self.voxel_head  # type: ignore[assignment]  # a module that keeps the protocol
        return law

    def fit_observables(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Fits scales and starting values to training showers, once, before training.

        Args:
            batches: Showers and incident energies in MeV; gone through twice, so no mere iterator.
        """
        self.observables.fit(batches)
        views = (self.observables(showers, energies) for showers, energies in batches)
        parts = [(view.layers, view.position) for view in views]  # the rest of a view is large
        layers, position = (torch.cat(column) for column in zip(*parts, strict=True))
        self.encoder.fit(layers, position)
        self.voxels.start(self.observables)

    def encode(self, showers: Tensor, incident_energies: Tensor, uniform: Tensor) -> Posterior:
        """Posterior bits.

        Args:
            showers: (B, V) in MeV.
            incident_energies: (B, 1) in MeV.
            uniform: Noise between 0 and 1 that decides the draws, (B, n_bits).
        """
        posterior: Posterior = self.encoder(self.observables(showers, incident_energies), uniform)
        return posterior

    def loss_terms(
        self,
        showers: Tensor,
        incident_energies: Tensor,
        uniform: Tensor,
        tau: float | None,
        prior_energy: PriorEnergy | None = None,
    ) -> tuple[LossTerms, Posterior]:
        """Terms of the bound.

        Args:
            showers: (B, V) in MeV.
            incident_energies: (B, 1) in MeV.
            uniform: Noise between 0 and 1 of the posterior, (B, n_bits).
            tau: Sharpness of relaxed bits; None evaluates with plain bits.
            prior_energy: Energy of the bits; None stands for fair coins.

        Returns:
            The terms and the posterior they were computed with.
        """
        view = self.observables(showers, incident_energies)
        posterior: Posterior = self.encoder(view, uniform, tau, self.relaxation)
        bits = posterior.bits
        read = self.encoder.read(bits)
        law: LayerLaw = self.layer_head(read, view.position)
        nothing = bits.new_zeros(())
        hits, voxels = (nothing, nothing) if self.voxels.is_learned_apart else self.voxels.nll(read, view)
        response, layers, layer_on = self._layer_nll(law, view)
        energy = bits.new_zeros(len(bits)) if prior_energy is None else prior_energy(bits, incident_energies)
        terms = LossTerms(
            response=response.mean(),
            layers=layers.mean(),
            layer_on=layer_on.mean(),
            hits=hits,
            voxels=voxels,
            entropy=posterior.entropy().mean(),
            information=posterior.information().mean(),
            prior_energy=energy.mean(),
        )
        return terms, posterior

    def layer_loss(self, view: ShowerView, uniform: Tensor) -> Tensor:
        """Mean negative log likelihood of response and layers alone, in nats.

        Args:
            view: The showers; of their voxels nothing is used with an encoder of factors.
            uniform: Noise between 0 and 1 of the posterior, (B, n_bits).
        """
        bits = self.encoder(view, uniform).bits
        law: LayerLaw = self.layer_head(self.encoder.read(bits), view.position)
        return torch.stack(self._layer_nll(law, view)).sum(0).mean()

    @torch.no_grad()
    def decode(
        self, bits: Tensor, incident_energies: Tensor, generator: Generator, layer_gain: Tensor | None = None
    ) -> Tensor:
        """Draws showers from bits.

        Args:
            bits: Latent bits, (B, n_bits).
            incident_energies: (B, 1) in MeV.
            generator: Source of every fluctuation that the bits do not decide.
            layer_gain: Calibration of the source of the bits, (3, L); None for posterior bits.

        Returns:
            Showers (B, V) in MeV in file order; every voxel is 0 or at least the read-out threshold.

        Raises:
            DataError: If an incident energy is out of range.
        """
        check_energies(incident_energies, *self.observables.energy_range)
        view = self._draw_layers(bits, incident_energies, generator, layer_gain)
        showers = self.voxels.draw(self.encoder.read(bits), view, self._layer_energies(view), generator)
        frame_generator = Generator().manual_seed(
            int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        )
        return self.observables.random_frame(showers, frame_generator)

    @torch.no_grad()
    def draw_layers(
        self, bits: Tensor, incident_energies: Tensor, generator: Generator, layer_gain: Tensor | None = None
    ) -> Tensor:
        """Draws layer energies (B, L) in MeV alone, by the law of :meth:`decode`."""
        return self._layer_energies(self._draw_layers(bits, incident_energies, generator, layer_gain))

    def _layer_energies(self, view: ShowerView) -> Tensor:
        return view.log_layers.exp() * view.layer_on * self.geometry.threshold_mev

    def _layer_nll(self, law: LayerLaw, view: ShowerView) -> tuple[Tensor, Tensor, Tensor]:
        response = normal_nll(view.response, law.response_mean, law.response_log_std).sum(1)
        known = LayerValues(law.layer_mean, law.layer_log_std, view.layer_on, view.layer_floor, view.position)
        layer_on = functional.binary_cross_entropy_with_logits(law.on_logits, view.layer_on, reduction="none")
        return response, self.layer_head.noise.nll(view.layers, known), layer_on.sum(1)

    def _draw_layers(
        self, bits: Tensor, incident_energies: Tensor, generator: Generator, layer_gain: Tensor | None
    ) -> ShowerView:
        scales = self.observables
        position = scales.position(incident_energies)
        law: LayerLaw = self.layer_head(self.encoder.read(bits), position)
        response = sample_normal(law.response_mean, law.response_log_std, generator)
        ratio = scales.response.inverse(response, position).clamp(min=_MIN_RESPONSE)
        totals = torch.maximum(ratio * incident_energies, ratio.new_tensor(self.geometry.threshold_mev))
        uniform = torch.rand(law.on_logits.shape, generator=generator, device=bits.device, dtype=totals.dtype)
        layer_on = (uniform < torch.sigmoid(law.on_logits)).to(totals.dtype)
        layer_on.scatter_(1, law.on_logits.argmax(1, keepdim=True), 1.0)
        floor = scales.layer_floor(totals, position)
        known = LayerValues(law.layer_mean, law.layer_log_std, layer_on, floor, position)
        layers = self.layer_head.noise.sample(known, generator)
        roots = scales.layers.inverse(layers, position).clamp(min=1e-12) * layer_on
        squares = roots.square()
        if layer_gain is not None:
            powers = torch.cat([position**power for power in range(len(layer_gain))], dim=1)
            squares = squares * (powers @ layer_gain).exp()
        shares = squares / squares.sum(1, keepdim=True)
        layer_energies = apply_threshold(shares * totals, self.geometry.threshold_mev)
        layer_on = (layer_energies > 0).to(totals.dtype)
        empty = torch.zeros_like(layer_energies)
        return ShowerView(
            position=position,
            incident_energies=incident_energies,
            voxels=empty,
            hits=empty,
            response=response,
            layers=scales.layers((layer_energies / totals).sqrt(), position) * layer_on,
            layer_on=layer_on,
            layer_floor=floor,
            log_layers=scales.log_layers(layer_energies),
            log_counts=empty,
        )


_MIN_RESPONSE = 0.02
