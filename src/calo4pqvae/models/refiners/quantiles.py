r"""The refiner ``quantiles``: the spectrum of voxel energies, ring by ring, set right by a monotone map.

With the distribution functions :math:`F` of the logarithmic energies of drawn hits and :math:`G` of true ones,

.. math:: \ln e' = G^{-1}(F(\ln e)) ,

as tables of ``knots`` quantiles a ring, linear between them; the energy of each layer is then set back to what it was.
Hits stay where they are: what such a map can mend is the spectrum, and nothing of the pattern.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from calo4pqvae.config import Config, Section
from calo4pqvae.errors import CheckpointError
from calo4pqvae.models.refiners.refiner import Refiner
from calo4pqvae.showers.geometry import Geometry
from calo4pqvae.showers.transforms import LayerSplit, apply_threshold

__all__ = ["QuantileRefiner", "QuantileSettings"]

NAME = "quantiles"


class QuantileSettings(Section):
    """The section ``[quantiles]``."""

    knots: int = Field(200, gt=1, description="quantiles of a ring's spectrum")


class QuantileRefiner(Refiner):
    """Tables of quantiles of drawn and of true hits, (rings, knots)."""

    def __init__(self, config: Config, geometry: Geometry) -> None:
        super().__init__(config, geometry)
        n_knots = config.section(NAME, QuantileSettings).knots
        self._rings = torch.from_numpy(geometry.voxel_radial_index())
        self._layers = torch.from_numpy(geometry.voxel_layers())
        self._split = LayerSplit(geometry)
        shape = (int(self._rings.max()) + 1, n_knots)
        self.drawn = torch.zeros(shape, dtype=torch.float64)
        self.true = torch.zeros(shape, dtype=torch.float64)

    def fit(self, pairs: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Takes the quantiles of ln e of all hits of a ring; a ring without hits keeps the identity."""
        found: list[list[list[Tensor]]] = [[[] for _ in self.drawn] for _ in range(2)]
        for true, drawn, _ in pairs:
            for kind, showers in enumerate((drawn, apply_threshold(true, self.geometry.threshold_mev))):
                _, voxels = showers.nonzero(as_tuple=True)
                logs, rings = showers[showers > 0].log().double(), self._rings[voxels]
                for ring, parts in enumerate(found[kind]):
                    parts.append(logs[rings == ring])
        shares = np.linspace(0, 1, self.drawn.shape[1])
        for ring in range(len(self.drawn)):
            logs_of = [torch.cat(found[kind][ring]).numpy() for kind in range(2)]
            if min(map(len, logs_of)) > 0:
                self.drawn[ring], self.true[ring] = (torch.from_numpy(np.quantile(logs, shares)) for logs in logs_of)

    def tensors(self) -> dict[str, Tensor]:
        """Both tables."""
        return {"drawn": self.drawn, "true": self.true}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes both tables.

        Raises:
            CheckpointError: If one is missing or of another shape.
        """
        for name in ("drawn", "true"):
            if name not in tensors or tensors[name].shape != self.drawn.shape:
                raise CheckpointError(f"the refiner '{NAME}' of the run is damaged ({name}): restore it or train again")
        self.drawn, self.true = tensors["drawn"], tensors["true"]

    def refine(self, showers: Tensor, incident_energies: Tensor) -> Tensor:
        """Showers (B, V) with mapped voxel energies and the layer energies that they had."""
        del incident_energies
        mapped, is_hit = showers.cpu().clone(), showers.cpu() > 0
        rings = self._rings.expand(showers.shape)[is_hit]
        values = mapped[is_hit].log().double().numpy()
        for ring, (drawn, true) in enumerate(zip(self.drawn.numpy(), self.true.numpy(), strict=True)):
            own = (rings == ring).numpy()
            if drawn[0] < drawn[-1]:
                values[own] = np.interp(values[own], drawn, true)
        mapped[is_hit] = torch.from_numpy(values).exp().float()
        before, after = self._split.layer_energies(showers.cpu()), self._split.layer_energies(mapped)
        scale = before / torch.where(after > 0, after, torch.ones_like(after))
        return apply_threshold(mapped * scale[:, self._layers], self.geometry.threshold_mev).to(showers.device)
