r"""The decoder: bits and energy become totals, layers, hits and voxel energies.

.. math:: p(x \mid z, E) = p(r \mid z, E)\; p(\text{layers} \mid z, E)\;
          p(\text{hits} \mid \text{layers}, z, E)\; p(\text{voxels} \mid \text{hits}, \text{layers}, z, E)

* **Layers.** The means of response and layers come from what is read of the bits; their widths are functions of the
  energy alone. What is common to the layers (depth and length of the shower) therefore has no other way than through
  the bits, and that is what the prior is there to model; what is left over is the noise about these means
  (:mod:`calo4pqvae.models.qvae.layer_noise`).
* **Hits.** Bits and layers are mapped to a coarse cylinder and upsampled; each parent cell emits the logits of its
  voxels. Hits are drawn independently, at least one in a layer that has energy.
* **Voxels.** A small network reads the parent's features *at the hits only* and gives the mixture of
  :mod:`calo4pqvae.models.qvae.likelihood`; energies are scaled to the layer's energy at the end.

``mask``: the activation (the voxel-energy law) is trained on true hits only. Without the mask it is trained on every
voxel, an empty one being an energy below threshold, and in generation an activation below threshold empties a hit.
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from calo4pqvae.config import DecoderConfig
from calo4pqvae.models.qvae.cylinder import CylindricalConv3d, CylindricalUpsample, LinearAttention
from calo4pqvae.models.qvae.encoder import EnergyEmbedding, multilayer
from calo4pqvae.models.qvae.grid import GridPlan
from calo4pqvae.models.qvae.layer_noise import LayerNoise
from calo4pqvae.models.qvae.likelihood import LogisticMixture
from calo4pqvae.models.qvae.observables import Observables, ShowerView
from calo4pqvae.showers.transforms import apply_threshold

__all__ = ["HitMap", "LayerHead", "LayerLaw", "VoxelHead"]

_MAX_LOG_WIDTH = 1.2
_MIN_LOG_WIDTH = -3.5


class LayerLaw(NamedTuple):
    """Parameters of the law of response and layers, given bits and energy.

    Attributes:
        response_mean: (B, 1). response_log_std: (B, 1).
        layer_mean: (B, L). layer_log_std: (B, L).
        on_logits: Logit of a layer having energy, (B, L).
    """

    response_mean: Tensor
    response_log_std: Tensor
    layer_mean: Tensor
    layer_log_std: Tensor
    on_logits: Tensor


class HitMap(NamedTuple):
    """Hit logits and what the activation needs.

    Attributes:
        logits: Logit of each voxel being hit, (B, V) in file order.
        features: Features of the parent cells, (B, parents, channels).
    """

    logits: Tensor
    features: Tensor


class LayerHead(nn.Module):
    """Law of response and layer energies.

    Args:
        config: Sizes.
        n_read: Numbers read from the latent bits.
        n_layers: Number of layers.
    """

    def __init__(self, config: DecoderConfig, n_read: int, n_layers: int) -> None:
        super().__init__()
        self.n_layers = n_layers
        self.embedding = EnergyEmbedding()
        self.means = multilayer(
            n_read + self.embedding.size, config.layer_hidden, config.layer_hidden, 1 + 2 * n_layers
        )
        self.noise = LayerNoise(n_layers)
        self.log_stds = multilayer(self.embedding.size, 64, 1 + n_layers)
        last = self.log_stds[-1]
        nn.init.zeros_(last.weight)  # type: ignore[arg-type]
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(self, read: Tensor, position: Tensor) -> LayerLaw:
        """Law for what is read of bits, (B, n_read), at energy positions (B, 1)."""
        energy = self.embedding(position)
        means = self.means(torch.cat([read, energy], dim=1))
        log_stds = self.log_stds(energy).clamp(-4, 2)
        response, layers, on_logits = means.split([1, self.n_layers, self.n_layers], dim=1)
        return LayerLaw(response, log_stds[:, :1], layers, log_stds[:, 1:], on_logits)


class VoxelHead(nn.Module):
    """Law of hits and voxel energies, independent of each other given bits and layers (``factorised``).

    Args:
        config: Sizes.
        plan: The grid.
        n_read: Numbers read from the latent bits.
        ring_occupancy: Share of hit voxels of each (layer, ring) in the training showers.
        ring_voxels: Mean ln(e / threshold) of hits of each (layer, ring).
    """

    def __init__(
        self, config: DecoderConfig, plan: GridPlan, n_read: int, ring_occupancy: Tensor, ring_voxels: Tensor
    ) -> None:
        super().__init__()
        self.plan, self.mask = plan, config.mask
        self.embedding = EnergyEmbedding()
        n_layers = plan.shape[0]
        n_base = config.base_channels * plan.base[0] * plan.base[1] * plan.base[2]
        self.seed = multilayer(n_read + self.embedding.size + 2 * n_layers + 1, config.hidden, n_base)
        self.trunk = _trunk(config, plan)
        rings = (config.position_channels, plan.parents[0], 1, plan.parents[2])
        self.places = nn.Parameter(0.3 * torch.randn(rings))
        n_features = config.channels + 2 * plan.cell[0] + config.position_channels
        self.hits = multilayer(n_features, config.head_hidden, plan.n_slots)
        nn.init.zeros_(self.hits[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.hits[-1].bias)  # type: ignore[arg-type]
        self.ring_logits = nn.Parameter(ring_occupancy.flatten().logit())
        self.ring_slopes = nn.Parameter(torch.zeros(ring_occupancy.numel()))
        self.register_buffer("ring_voxels", ring_voxels.flatten().clone())
        self.slots = nn.Parameter(0.3 * torch.randn(plan.n_slots, 8))
        self.components = config.components
        self.energies = multilayer(n_features + 8 + 4, config.head_hidden, 3 * config.components)
        self._start_energies()

    ring_voxels: Tensor
    is_learned_apart = False

    def forward(
        self, read: Tensor, position: Tensor, response: Tensor, layers: Tensor, layer_on: Tensor, log_layers: Tensor
    ) -> HitMap:
        """Hit logits from what is read of bits and (true or drawn) layers.

        Args:
            read: (B, n_read).
            position: Energy positions, (B, 1).
            response: Standardised response, (B, 1).
            layers: Standardised layers, 0 where empty, (B, L).
            layer_on: 1 where a layer has energy, (B, L).
            log_layers: ln(E_l / threshold), (B, L).

        Returns:
            Hit logits in file order and parent features.
        """
        known = torch.cat([read, self.embedding(position), layers, layer_on, response], dim=1)
        base = self.seed(known).view(len(read), -1, *self.plan.base)
        per_layer = self.plan.layers_to_parents(torch.stack([layers, layer_on], dim=-1))
        return self.from_base(base, per_layer, log_layers)

    def from_base(self, base: Tensor, per_layer: Tensor, log_layers: Tensor) -> HitMap:
        """The spatial part: a base field (B, c, base) to hit logits; it commutes with rotations of the base."""
        upsampled, mix = self.trunk
        cells = mix(torch.cat([upsampled(base), per_layer], dim=1))
        places = self.places.expand(len(base), -1, -1, self.plan.parents[1], -1)
        features = torch.cat([cells, per_layer, places], dim=1).flatten(2).transpose(1, 2)
        rings, layer = self.plan.ring_of_voxel, self.plan.layer_of_voxel
        known = self.ring_logits[rings] + self.ring_slopes[rings] * (log_layers / 4)[:, layer]
        return HitMap(self.plan.slots_to_voxels(self.hits(features)) + known, features)

    def activation(
        self, hit_map: HitMap, batch: Tensor, voxel: Tensor, log_layers: Tensor, log_counts: Tensor
    ) -> LogisticMixture:
        """Law of ln(e / threshold) at chosen voxels.

        Args:
            hit_map: From :meth:`forward`.
            batch: Shower index of each chosen voxel, (n,).
            voxel: Voxel index in file order, (n,).
            log_layers: ln(E_l / threshold), (B, L).
            log_counts: ln of the number of hits of each layer, (B, L).

        Returns:
            One mixture a chosen voxel.
        """
        layer, mean = self.plan.layer_of_voxel[voxel], self.ring_voxels[self.plan.ring_of_voxel[voxel]]
        energy, count = log_layers[batch, layer], log_counts[batch, layer]
        known = torch.stack([mean / 3, energy / 4, count / 3, (energy - count) / 3], dim=1)
        parent = hit_map.features[batch, self.plan.parent_of_voxel[voxel]]
        slot = self.slots[self.plan.slot_of_voxel[voxel]]
        raw = self.energies(torch.cat([parent, slot, known], dim=1)).view(-1, 3, self.components)
        return LogisticMixture(
            log_weights=raw[:, 0].log_softmax(-1),
            centres=mean[:, None] + 1.5 * raw[:, 1],
            widths=raw[:, 2].clamp(_MIN_LOG_WIDTH, _MAX_LOG_WIDTH).exp(),
        )

    def start(self, observables: Observables) -> None:
        """Starts occupancies and mean energies of rings at those of the training showers."""
        with torch.no_grad():
            self.ring_logits.copy_(observables.ring_occupancy.flatten().logit())
            self.ring_voxels.copy_(observables.ring_voxels.flatten())

    def nll(self, bits: Tensor, view: ShowerView) -> tuple[Tensor, Tensor]:
        """Minus the log-likelihood of the hits and of the energies at them, in nats, batch means."""
        hit_map = self.of_view(bits, view)
        hits = functional.binary_cross_entropy_with_logits(hit_map.logits, view.hits, reduction="none")
        return hits.sum(1).mean(), self._energy_nll(hit_map, view)

    def draw(self, bits: Tensor, view: ShowerView, layer_energies: Tensor, generator: Generator) -> Tensor:
        """Voxels (B, V) in MeV: hits, energies at the hits, scaled to the layers' energies."""
        hit_map = self.of_view(bits, view)
        hits = self.draw_hits(hit_map.logits, view.layer_on, generator)
        log_counts = self._layer_sums(hits).clamp(min=1).log()
        batch, voxel = hits.nonzero(as_tuple=True)
        mixture = self.activation(hit_map, batch, voxel, view.log_layers, log_counts)
        showers = torch.zeros_like(hits)
        values = mixture.sample(generator, cut=self.mask).clamp(max=20)
        showers[batch, voxel] = values.exp() * (values >= 0)
        sums = self._layer_sums(showers)
        scale = layer_energies / torch.where(sums > 0, sums, torch.ones_like(sums))
        scaled = showers * scale[:, self.plan.layer_of_voxel]
        return apply_threshold(scaled, self.plan.threshold_mev)

    def of_view(self, bits: Tensor, view: ShowerView) -> HitMap:
        """:meth:`forward` with what a view holds."""
        hit_map: HitMap = self(bits, view.position, view.response, view.layers, view.layer_on, view.log_layers)
        return hit_map

    def draw_hits(self, logits: Tensor, layer_on: Tensor, generator: Generator | None = None) -> Tensor:
        """Draws hits (B, V): independent voxels, at least one in each layer that has energy, none elsewhere."""
        uniform = torch.rand(logits.shape, generator=generator, device=logits.device, dtype=logits.dtype)
        noisy = (logits + uniform.clamp(1e-7, 1 - 1e-7).logit()).view(len(logits), self.plan.shape[0], -1)
        hits = (noisy > 0).to(logits.dtype)
        hits.scatter_(2, noisy.argmax(2, keepdim=True), 1.0)
        return (hits * layer_on[..., None]).flatten(1)

    def _energy_nll(self, hit_map: HitMap, view: ShowerView) -> Tensor:
        if self.mask:
            batch, voxel = view.hits.nonzero(as_tuple=True)
            mixture = self.activation(hit_map, batch, voxel, view.log_layers, view.log_counts)
            log_likelihood = mixture.log_density(view.voxels[batch, voxel]) - mixture.log_above()
        else:
            batch, voxel = torch.ones_like(view.hits).nonzero(as_tuple=True)
            mixture = self.activation(hit_map, batch, voxel, view.log_layers, view.log_counts)
            is_hit = view.hits.flatten() > 0
            log_likelihood = torch.where(is_hit, mixture.log_density(view.voxels.flatten()), mixture.log_below())
        return -log_likelihood.sum() / len(view.hits)

    def _layer_sums(self, values: Tensor) -> Tensor:
        """Sums over the voxels of each layer, (B, V) to (B, L)."""
        return values.view(len(values), self.plan.shape[0], -1).sum(2)

    def _start_energies(self) -> None:
        last = self.energies[-1]
        nn.init.zeros_(last.weight)  # type: ignore[arg-type]
        spread = torch.linspace(0.4, -1.5, self.components) if self.components > 1 else torch.zeros(1)
        with torch.no_grad():
            last.bias.copy_(torch.cat([-0.5 * spread.square(), spread, torch.full_like(spread, -0.4)]))  # type: ignore[operator]


def _trunk(config: DecoderConfig, plan: GridPlan) -> nn.ModuleList:
    n_per_layer = 2 * plan.cell[0]
    upsampled = nn.Sequential(
        CylindricalConv3d(config.base_channels, config.channels, periodic=config.periodic),
        nn.GroupNorm(1, config.channels),
        nn.SiLU(),
        CylindricalUpsample(plan.scale),
    )
    mix: list[nn.Module] = [
        CylindricalConv3d(config.channels + n_per_layer, config.channels, periodic=config.periodic),
        nn.GroupNorm(1, config.channels),
        nn.SiLU(),
    ]
    if config.attention:
        mix.append(LinearAttention(config.channels))
    return nn.ModuleList([upsampled, nn.Sequential(*mix)])
