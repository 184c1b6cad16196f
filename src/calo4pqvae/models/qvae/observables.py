r"""What the networks see of a shower: totals, layers, hits and voxels, each on a scale of order one.

A shower of incident energy E is turned to its canonical frame and taken apart:

* position of the energy, :math:`t = 2(\ln E - \ln E_0)/(\ln E_1 - \ln E_0) - 1`, between -1 and 1;
* response :math:`r = E_{tot}/E`;
* layers, :math:`q_l = \sqrt{E_l/E_{tot}}`: the square root makes the sampling noise of a layer alike from the hottest
  to the faintest, and a mean in q is no ill-behaved mean of a logarithm;
* hits, and :math:`v = \ln(e/t_0)` of each hit, with the threshold :math:`t_0` of the read-out.

Response and layers are standardised *given the energy*: mean and log width are polynomials in t fitted to the
training showers, so that the latent bits have fluctuations to carry and not the trend with energy. Layers are then
mapped to normal scores (:mod:`calo4pqvae.models.qvae.marginals`): few particles make skew laws.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from calo4pqvae.errors import DataError
from calo4pqvae.models.qvae.marginals import NormalScores
from calo4pqvae.models.qvae.standardiser import Standardiser
from calo4pqvae.showers.energies import check_energies
from calo4pqvae.showers.geometry import Geometry
from calo4pqvae.showers.transforms import CanonicalFrame, Frame, LayerSplit, apply_threshold

__all__ = ["Observables", "ShowerView"]

_MIN_EVENTS = 20


class ShowerView(NamedTuple):
    """A batch of showers as the networks see it; B showers, L layers, V voxels.

    Attributes:
        position: Place t of ln E in its range, (B, 1).
        incident_energies: MeV, (B, 1).
        voxels: v = ln(e / threshold), 0 where empty, canonical frame, (B, V).
        hits: 1 where a voxel is hit, (B, V).
        response: Standardised response, (B, 1).
        layers: Standardised q_l, 0 where the layer is empty, (B, L).
        layer_on: 1 where a layer has energy, (B, L).
        layer_floor: Standardised value of the faintest layer there can be, (B, L).
        log_layers: ln(E_l / threshold), 0 where empty, (B, L).
        log_counts: ln of the number of hits of a layer, 0 where empty, (B, L).
    """

    position: Tensor
    incident_energies: Tensor
    voxels: Tensor
    hits: Tensor
    response: Tensor
    layers: Tensor
    layer_on: Tensor
    layer_floor: Tensor
    log_layers: Tensor
    log_counts: Tensor


class Observables(nn.Module):
    """Takes showers apart and puts totals and layers together again.

    Args:
        geometry: A regular grid.
        energy_range: Ends of the incident energies in MeV.
        canonical_frame: Whether showers are turned and mirrored to one orientation.

    Raises:
        DataError: If the geometry is irregular or has no threshold, of which logarithms are taken.
    """

    ring_occupancy: Tensor
    ring_voxels: Tensor

    def __init__(self, geometry: Geometry, energy_range: tuple[float, float], *, canonical_frame: bool = True) -> None:
        super().__init__()
        self.geometry, self.energy_range = geometry, energy_range
        n_layers, _, n_radius = geometry.grid_shape
        if not geometry.threshold_mev > 0:
            raise DataError(
                f"training needs a read-out threshold above 0 MeV; {geometry.name} has none: set data.threshold_mev"
            )
        self.frame = CanonicalFrame(geometry) if canonical_frame else None
        self.split = LayerSplit(geometry)
        self.response = Standardiser(1)
        self.layers = NormalScores(n_layers)
        self.register_buffer("ring_occupancy", torch.full((n_layers, n_radius), 0.1))
        self.register_buffer("ring_voxels", torch.full((n_layers, n_radius), 5.0))

    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Fits scales to training showers, given as (showers, incident energies) batches.

        Raises:
            DataError: If there are too few showers, or one has no energy at all.
        """
        positions, responses, roots = [], [], []
        hit_counts = torch.zeros_like(self.ring_occupancy, dtype=torch.float64)
        voxel_sums = torch.zeros_like(hit_counts)
        n_showers = 0
        for showers, incident_energies in batches:
            parts = self.split.forward(apply_threshold(showers, self.geometry.threshold_mev), incident_energies)
            positions.append(self.position(incident_energies))
            responses.append(parts.response)
            roots.append(parts.layer_fractions.sqrt())
            log_voxels = self._log_voxels(showers).reshape(len(showers), *self.geometry.grid_shape).double()
            hit_counts += (log_voxels > 0).double().sum((0, 2))
            voxel_sums += log_voxels.sum((0, 2))
            n_showers += len(showers)
        if n_showers < _MIN_EVENTS:
            raise DataError(f"{n_showers} showers are too few to learn from: give at least {_MIN_EVENTS}")
        position, response, root = torch.cat(positions), torch.cat(responses), torch.cat(roots)
        _check_not_empty(response)
        self.response.fit(response, position, (response > 0).float())
        self.layers.fit(root, position, (root > 0).float())
        n_cells = n_showers * self.geometry.grid_shape[1]
        self.ring_occupancy.copy_((hit_counts + 0.5) / (n_cells + 1))
        self.ring_voxels.copy_((voxel_sums + 5.0) / (hit_counts + 1))

    def position(self, incident_energies: Tensor) -> Tensor:
        """Place of ln E in its range, between -1 and 1, with the shape of the input (MeV)."""
        low, high = (math.log(end) for end in self.energy_range)
        return (2 * (incident_energies.log() - low) / (high - low) - 1).clamp(-1, 1)

    def forward(self, showers: Tensor, incident_energies: Tensor) -> ShowerView:
        """Takes apart (B, V) showers and (B, 1) incident energies, both in MeV.

        Raises:
            DataError: If energies are out of range or a shower is empty.
        """
        check_energies(incident_energies, *self.energy_range)
        showers = apply_threshold(showers, self.geometry.threshold_mev)
        if self.frame is not None:
            showers = self.frame.to_canonical(showers, self.frame.frame(showers))
        parts = self.split.forward(showers, incident_energies)
        _check_not_empty(parts.response)
        position = self.position(incident_energies)
        layer_on = (parts.layer_fractions > 0).to(showers.dtype)
        totals = parts.response * incident_energies
        voxels = self._log_voxels(showers)
        hits = (voxels > 0).to(showers.dtype)
        return ShowerView(
            position=position,
            incident_energies=incident_energies,
            voxels=voxels,
            hits=hits,
            response=self.response(parts.response, position),
            layers=self.layers(parts.layer_fractions.sqrt(), position) * layer_on,
            layer_on=layer_on,
            layer_floor=self.layer_floor(totals, position),
            log_layers=self.log_layers(parts.layer_fractions * totals),
            log_counts=self.split.layer_energies(hits).clamp(min=1).log(),
        )

    def layer_floor(self, totals: Tensor, position: Tensor) -> Tensor:
        """Standardised q of a layer at threshold, for totals (B, 1) in MeV, with shape (B, L)."""
        root = (self.geometry.threshold_mev / totals).sqrt()
        floor: Tensor = self.layers(root.expand(-1, self.geometry.n_layers), position)
        return floor

    def log_layers(self, layer_energies: Tensor) -> Tensor:
        """ln(E_l / threshold), 0 for empty layers; input in MeV."""
        return (layer_energies / self.geometry.threshold_mev).clamp(min=1).log()

    def random_frame(self, showers: Tensor, generator: torch.Generator) -> Tensor:
        """Turns and mirrors generated showers at random, if the model works in a canonical frame."""
        if self.frame is None:
            return showers
        frame: Frame = self.frame.random(len(showers), generator)
        return self.frame.from_canonical(showers, frame)

    def _log_voxels(self, showers: Tensor) -> Tensor:
        relative = showers / self.geometry.threshold_mev
        # a voxel exactly at threshold is a hit and must stay one: v is kept above 0
        return torch.where(relative >= 1, relative.clamp(min=1).log().clamp(min=1e-6), torch.zeros_like(relative))


def _check_not_empty(response: Tensor) -> None:
    if not bool((response > 0).all()):
        raise DataError("a shower has no energy above threshold: drop such events (data.drop_bad = true)")
