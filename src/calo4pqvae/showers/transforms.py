r"""Invertible maps between voxel energies and the numbers that a network sees.

A voxel of energy :math:`e` (MeV) in a shower of incident energy :math:`E` has the fraction
:math:`\epsilon = e/E`. Fractions span seven decades, and most are exactly zero. Three ways to tame them:

* the logit of the Calo4pQVAE line, with a small regulator :math:`R`,

  .. math:: x = \frac1\sigma \ln\frac{y\,(1-R)}{R\,(1-y)}, \qquad y = R + (1-2R)\,\epsilon ,

  which maps 0 to exactly 0, so that :math:`x > 0` is the hit mask, and 1 to :math:`2\ln((1-R)/R)/\sigma`;
* a logarithm, :math:`x = \ln(1 + e/u)` with a unit :math:`u`;
* the split of a shower into its response :math:`E_{tot}/E`, the layers' shares :math:`E_l/E_{tot}` and
  the shape :math:`e/E_l` inside each layer, so that a model can treat sums and shapes apart.

Written as they stand, the logit and its inverse lose the small fractions in float32. Both are evaluated as

.. math::
    \sigma x = \mathrm{log1p}\frac{(1-2R)\epsilon}{R} - \ln\frac{R + (1-2R)(1-\epsilon)}{1-R}, \qquad
    \epsilon = \frac{1-R}{1-2R}\,\frac{w}{1+w}, \quad w = R\,\mathrm{expm1}(\sigma x) ,

which keep the relative error of a round trip near 1e-6 in float32 and 1e-14 in float64, for every fraction.

Showers have no preferred angle, so a regular grid may be turned by whole angular cells and mirrored without
leaving the law of the showers: :class:`CanonicalFrame` moves each shower to one representative of its
dihedral orbit.

References:
    Amram and Pedro, Denoising diffusion models with geometry adaptation for high fidelity calorimeter
    simulation (2023), arXiv:2308.03876, for the logit.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from calo4pqvae.errors import DataError
from calo4pqvae.showers.geometry import Geometry

__all__ = [
    "CanonicalFrame",
    "Compose",
    "Frame",
    "IncidentFraction",
    "LayerSplit",
    "LogTransform",
    "LogitTransform",
    "OnParts",
    "ShowerParts",
    "Transform",
    "apply_threshold",
]

Input = TypeVar("Input")
Output = TypeVar("Output")


class Transform(ABC, Generic[Input, Output]):
    """A map with an inverse, both given the incident energies (B, 1) in MeV."""

    @abstractmethod
    def forward(self, x: Input, incident_energies: Tensor) -> Output:
        """Maps towards the network."""

    @abstractmethod
    def inverse(self, y: Output, incident_energies: Tensor) -> Input:
        """Maps back towards voxel energies."""


class Compose(Transform[Any, Any]):
    """A chain of transforms, the first nearest to the voxel energies.

    Args:
        steps: The transforms; each takes what the one before it gives.

    Example:
        >>> chain = Compose([IncidentFraction(), LogitTransform()])
        >>> energies, showers = torch.tensor([[1000.0]]), torch.tensor([[0.0, 1000.0]])
        >>> chain.inverse(chain.forward(showers, energies), energies).tolist()
        [[0.0, 1000.0]]
    """

    def __init__(self, steps: Sequence[Transform[Any, Any]]) -> None:
        self.steps = tuple(steps)

    def forward(self, x: Any, incident_energies: Tensor) -> Any:  # noqa: ANN401
        """Applies the steps from the first to the last."""
        for step in self.steps:
            x = step.forward(x, incident_energies)
        return x

    def inverse(self, y: Any, incident_energies: Tensor) -> Any:  # noqa: ANN401
        """Undoes the steps from the last to the first."""
        for step in reversed(self.steps):
            y = step.inverse(y, incident_energies)
        return y


class IncidentFraction(Transform[Tensor, Tensor]):
    r"""Voxel energies as fractions of the incident energy, :math:`\epsilon = e / E`.

    Raises:
        DataError: If the incident energies are not of shape (B, 1), finite and positive.
    """

    def forward(self, x: Tensor, incident_energies: Tensor) -> Tensor:
        """Divides (B, V) energies in MeV by the incident energies."""
        _check_incident_energies(x, incident_energies)
        return x / incident_energies

    def inverse(self, y: Tensor, incident_energies: Tensor) -> Tensor:
        """Multiplies (B, V) fractions by the incident energies; the result is in MeV."""
        _check_incident_energies(y, incident_energies)
        return y * incident_energies


class LogitTransform(Transform[Tensor, Tensor]):
    r"""The logit of the fraction, shifted so that zero stays exactly zero (formula in the module's head).

    The inverse takes any real number: those below 0 give an empty voxel, those above the image of 1 give 1.

    Args:
        r: The regulator :math:`R`, between 0 and 1/2.
        scale: The divisor :math:`\sigma`, a positive constant.
    """

    def __init__(self, r: float = 1e-7, scale: float = 1.0) -> None:
        if not 0 < r < 0.5:
            raise DataError(f"the regulator of the logit is {r}; give a number between 0 and 0.5")
        if not 0 < scale < math.inf:
            raise DataError(f"the scale of the logit is {scale}; give a positive number")
        self.r = r
        self.scale = scale

    @property
    def maximum(self) -> float:
        """The image of a fraction of 1."""
        return 2 * math.log((1 - self.r) / self.r) / self.scale

    def forward(self, x: Tensor, incident_energies: Tensor) -> Tensor:  # noqa: ARG002
        """Maps fractions in [0, 1] to [0, :attr:`maximum`].

        Raises:
            DataError: If a fraction is NaN, negative or above 1.
        """
        _check_interval(x, 1.0, "voxel fraction")
        r = self.r
        rise = torch.log1p(x * ((1 - 2 * r) / r))
        # 1 - x is exact for x >= 1/2, log1p is exact for small x: each form where it is the better one
        near_one = torch.log((r + (1 - 2 * r) * (1 - x)) / (1 - r))
        near_zero = torch.log1p(-x.clamp(max=0.5) * ((1 - 2 * r) / (1 - r)))
        return (rise - torch.where(x < 0.5, near_zero, near_one)) / self.scale

    def inverse(self, y: Tensor, incident_energies: Tensor) -> Tensor:  # noqa: ARG002
        """Maps any real number to a fraction in [0, 1]."""
        w = self.r * torch.expm1(y.clamp(0.0, self.maximum) * self.scale)
        return ((1 - self.r) / (1 - 2 * self.r) * (w / (1 + w))).clamp(max=1.0)


class LogTransform(Transform[Tensor, Tensor]):
    r"""The logarithm :math:`x = \ln(1 + e/u)`; its inverse gives 0 for numbers below 0.

    Args:
        unit_mev: The energy :math:`u` in MeV at which the map turns from linear to logarithmic.
    """

    def __init__(self, unit_mev: float) -> None:
        if not 0 < unit_mev < math.inf:
            raise DataError(f"the unit of the log transform is {unit_mev} MeV; give a positive energy")
        self.unit_mev = unit_mev

    def forward(self, x: Tensor, incident_energies: Tensor) -> Tensor:  # noqa: ARG002
        """Maps energies in MeV to non-negative numbers.

        Raises:
            DataError: If an energy is NaN, negative or infinite.
        """
        _check_interval(x, torch.finfo(x.dtype).max, "voxel energy")
        return torch.log1p(x / self.unit_mev)

    def inverse(self, y: Tensor, incident_energies: Tensor) -> Tensor:  # noqa: ARG002
        """Maps any real number to an energy in MeV."""
        return self.unit_mev * torch.expm1(y.clamp(min=0.0))


class ShowerParts(NamedTuple):
    """A shower taken apart; where there is no energy to divide by, the quotients are zero."""

    response: Tensor
    """Total over incident energy, shape (B, 1)."""
    layer_fractions: Tensor
    """Layer over total energy, shape (B, L)."""
    shape: Tensor
    """Voxel over layer energy, shape (B, V)."""


class LayerSplit(Transform[Tensor, ShowerParts]):
    r"""Splits a shower into response, layer fractions and the shape inside each layer.

    .. math:: e_v = E \cdot \frac{E_{tot}}{E} \cdot \frac{E_l}{E_{tot}} \cdot \frac{e_v}{E_l}

    The inverse multiplies the parts as they are: it does not make generated fractions sum to one.

    Args:
        geometry: Any geometry, regular or not.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self._sizes = [layer.n_voxels for layer in geometry.layers]

    def forward(self, x: Tensor, incident_energies: Tensor) -> ShowerParts:
        """Takes apart (B, V) voxel energies in MeV.

        Raises:
            DataError: If an energy is NaN, negative or infinite, or the shapes do not fit.
        """
        _check_width(x, self.geometry.n_voxels)
        _check_incident_energies(x, incident_energies)
        _check_interval(x, torch.finfo(x.dtype).max, "voxel energy")
        layer_energies = self.layer_energies(x)
        total = layer_energies.sum(dim=1, keepdim=True)
        return ShowerParts(
            response=total / incident_energies,
            layer_fractions=_ratio(layer_energies, total),
            shape=_ratio(x, self._spread(layer_energies)),
        )

    def inverse(self, y: ShowerParts, incident_energies: Tensor) -> Tensor:
        """Puts the parts together to (B, V) voxel energies in MeV."""
        _check_width(y.shape, self.geometry.n_voxels)
        _check_incident_energies(y.shape, incident_energies)
        layer_energies = y.layer_fractions * (y.response * incident_energies)
        return y.shape * self._spread(layer_energies)

    def layer_energies(self, showers: Tensor) -> Tensor:
        """Sums (B, V) voxel energies to (B, L) layer energies, in the unit of the input."""
        return torch.stack([layer.sum(dim=1) for layer in torch.split(showers, self._sizes, dim=1)], dim=1)

    def _spread(self, values: Tensor) -> Tensor:
        columns = torch.split(values, 1, dim=1)
        return torch.cat([column.expand(-1, n) for column, n in zip(columns, self._sizes, strict=True)], dim=1)


class OnParts(Transform[ShowerParts, ShowerParts]):
    """Applies a transform of its own to each part of a split shower; ``None`` leaves the part as it is.

    Args:
        response: For the response, which may exceed 1.
        layer_fractions: For the layers' shares, in [0, 1].
        shape: For the shape inside the layers, in [0, 1].
    """

    def __init__(
        self,
        response: Transform[Tensor, Tensor] | None = None,
        layer_fractions: Transform[Tensor, Tensor] | None = None,
        shape: Transform[Tensor, Tensor] | None = None,
    ) -> None:
        identity = Compose([])
        self.steps = (response or identity, layer_fractions or identity, shape or identity)

    def forward(self, x: ShowerParts, incident_energies: Tensor) -> ShowerParts:
        """Maps each part towards the network."""
        return ShowerParts(*(s.forward(part, incident_energies) for s, part in zip(self.steps, x, strict=True)))

    def inverse(self, y: ShowerParts, incident_energies: Tensor) -> ShowerParts:
        """Maps each part back."""
        return ShowerParts(*(s.inverse(part, incident_energies) for s, part in zip(self.steps, y, strict=True)))


class Frame(NamedTuple):
    """How each shower is moved to its canonical position: turned first, then mirrored where so marked."""

    rotation: Tensor
    """Angular cells by which the shower is turned towards rising angle, shape (B,), int64 in [0, n_alpha)."""
    reflected: Tensor
    r"""Whether it is then mirrored, :math:`\alpha \to -\alpha`, shape (B,), bool."""


class CanonicalFrame:
    r"""Turns and mirrors showers of a regular grid to a canonical position.

    The symmetries of :math:`N_\alpha` angular cells are the :math:`2 N_\alpha` elements of the dihedral
    group: the turns by :math:`k` cells, each with or without the mirror :math:`\alpha \to -\alpha` (cell
    :math:`a` to cell :math:`N_\alpha - 1 - a`). They permute voxels within rings, so nothing is interpolated
    and every move is undone exactly. Convention: in canonical position the energy centroid of the whole
    shower has the angle

    .. math:: \operatorname{atan2}\Big(\sum_v e_v \phi_v, \sum_v e_v \eta_v\Big) \in [0, \pi / N_\alpha] ,

    the half cell beside the positive :math:`\eta` axis on the side of positive :math:`\phi`. A centroid on
    the border of that sector is a tie, settled by rounding; an empty shower is left where it is.

    Args:
        geometry: A regular geometry.

    Raises:
        DataError: If the geometry is not regular.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.grid_shape = geometry.grid_shape
        _, self.n_alpha, n_radial = self.grid_shape
        eta, phi, _ = geometry.voxel_centres()
        cells = slice(0, self.n_alpha * n_radial)
        # (A * R, 2): coordinates in mm of the cells of one layer; all layers are alike
        self._coordinates = torch.stack([torch.from_numpy(eta[cells]), torch.from_numpy(phi[cells])], dim=1)

    def centroid_angle(self, showers: Tensor) -> Tensor:
        r"""Angle of the energy centroid in :math:`[-\pi, \pi]`, shape (B,), float64; 0 if there is none."""
        _check_width(showers, math.prod(self.grid_shape))
        flattened = showers.reshape(len(showers), self.grid_shape[0], -1).sum(dim=1).to(torch.float64)
        moment = flattened @ self._coordinates.to(showers.device)
        angle = torch.atan2(moment[:, 1], moment[:, 0])
        return torch.where(flattened.any(dim=1), angle, torch.zeros_like(angle))

    def frame(self, showers: Tensor) -> Frame:
        """The frame that moves each of the (B, V) showers to its canonical position."""
        cells = self.centroid_angle(showers) * (self.n_alpha / (2 * math.pi))
        nearest = torch.round(cells)
        return Frame(torch.remainder(-nearest, self.n_alpha).to(torch.int64), cells < nearest)

    def random(self, n: int, generator: torch.Generator) -> Frame:
        """Draws ``n`` frames uniformly from the dihedral group, on the generator's device."""
        device = generator.device
        rotation = torch.randint(self.n_alpha, (n,), generator=generator, device=device)
        return Frame(rotation, torch.randint(2, (n,), generator=generator, device=device).to(torch.bool))

    def to_canonical(self, showers: Tensor, frame: Frame) -> Tensor:
        """Turns, then mirrors (B, V) showers as the frame says."""
        cell = torch.arange(self.n_alpha, device=showers.device)
        rotation, reflected = self._columns(showers, frame)
        unmirrored = torch.where(reflected, self.n_alpha - 1 - cell, cell)
        return self._take(showers, torch.remainder(unmirrored - rotation, self.n_alpha))

    def from_canonical(self, showers: Tensor, frame: Frame) -> Tensor:
        """Undoes :meth:`to_canonical` exactly."""
        cell = torch.arange(self.n_alpha, device=showers.device)
        rotation, reflected = self._columns(showers, frame)
        turned = torch.remainder(cell + rotation, self.n_alpha)
        return self._take(showers, torch.where(reflected, self.n_alpha - 1 - turned, turned))

    def _columns(self, showers: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
        _check_width(showers, math.prod(self.grid_shape))
        if len(frame.rotation) != len(showers):
            raise DataError(f"{len(frame.rotation)} frames were given for {len(showers)} showers; give one a shower")
        return frame.rotation.to(showers.device)[:, None], frame.reflected.to(showers.device)[:, None]

    def _take(self, showers: Tensor, source: Tensor) -> Tensor:
        grid = showers.reshape(-1, *self.grid_shape)  # (B, L, A, R)
        index = source[:, None, :, None].expand(grid.shape)
        return grid.gather(2, index).reshape(showers.shape)


def apply_threshold(showers: Tensor, threshold_mev: float) -> Tensor:
    """Sets voxels below the threshold to zero, as the readout does; energies in MeV, any shape."""
    return torch.where(showers < threshold_mev, torch.zeros_like(showers), showers)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, and 0 where the denominator is 0 (the numerators there are 0 too)."""
    return numerator / torch.where(denominator > 0, denominator, torch.ones_like(denominator))


def _check_width(showers: Tensor, n_voxels: int) -> None:
    if showers.ndim != 2 or showers.shape[1] != n_voxels:
        raise DataError(f"showers have shape {tuple(showers.shape)}; the geometry needs (showers, {n_voxels})")


def _check_incident_energies(showers: Tensor, incident_energies: Tensor) -> None:
    if incident_energies.shape != (len(showers), 1):
        raise DataError(
            f"incident energies have shape {tuple(incident_energies.shape)}; {len(showers)} showers need "
            f"({len(showers)}, 1)"
        )
    if not bool(((incident_energies > 0) & torch.isfinite(incident_energies)).all()):
        raise DataError("an incident energy is not finite and positive; give energies in MeV above 0")


def _check_interval(values: Tensor, high: float, what: str) -> None:
    inside = (values >= 0) & (values <= high)
    if bool(inside.all()):
        return
    first = values[~inside][0].item()
    limit = "at most 1" if high == 1.0 else "finite"
    raise DataError(
        f"{int((~inside).sum())} values of the {what} are outside their range (the first is {first}); "
        f"they must be at least 0 and {limit}, so run `calo4pqvae data validate` and drop the bad showers"
    )
