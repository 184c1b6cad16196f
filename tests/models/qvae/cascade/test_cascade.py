"""The cascade on small grids: exact law by enumeration, conservation, the compiled draws, no leak, symmetry."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from calo4pqvae.config import CascadeConfig
from calo4pqvae.models.qvae.cascade.cascade import Cascade
from calo4pqvae.showers.geometry import Geometry

T = 1.0
RANGE = (1e3, 1e5)


def grid(layers: int, angles: int, rings: int) -> Geometry:
    return Geometry.regular("small", layers, angles, rings, 10.0, threshold_mev=T)


def shaken(geometry: Geometry, seed: int = 1, size: float = 0.4) -> Cascade:
    """A cascade whose networks say something: every weight moved."""
    torch.manual_seed(seed)
    cascade = Cascade(CascadeConfig(hidden=8, components=2, spectra=2), geometry, RANGE)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values in cascade.parameters():
            values.add_(size * torch.randn(values.shape, generator=generator))
    return cascade.requires_grad_(False)


def showers(geometry: Geometry, n: int, seed: int = 1, hits: float = 0.4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = T + torch.rand(n, geometry.n_voxels, generator=generator).log().neg() * 4
    return values * (torch.rand(values.shape, generator=generator) < hits)


def layers_of(geometry: Geometry, rows: Tensor) -> Tensor:
    return rows.view(len(rows), geometry.n_layers, -1).sum(2)


INCIDENT = torch.tensor([[2e4]])


def test_layers_and_threshold_are_kept() -> None:
    geometry = grid(4, 6, 5)
    cascade = shaken(geometry)
    layers = layers_of(geometry, showers(geometry, 200))
    drawn = cascade.sample(layers, INCIDENT.expand(200, 1), torch.Generator().manual_seed(3))
    torch.testing.assert_close(layers_of(geometry, drawn), layers, rtol=2e-6, atol=1e-6)
    assert drawn[drawn > 0].min() >= T
    assert (drawn > 0).float().mean() > 0.05


def test_compiled_draws_are_the_plain_ones() -> None:
    geometry = grid(5, 6, 5)
    cascade, layers = shaken(geometry), layers_of(geometry, showers(geometry, 40))
    layers[0, 2] = 0.0
    one, other = (
        kind(layers, INCIDENT.expand(40, 1), torch.Generator().manual_seed(5))
        for kind in (cascade.sample, cascade.sample_plainly)
    )
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_a_shower_does_not_depend_on_its_batch() -> None:
    geometry = grid(3, 6, 5)
    cascade, layers = shaken(geometry), layers_of(geometry, showers(geometry, 30))
    energies = INCIDENT.expand(30, 1)
    together = cascade.sample(layers, energies, torch.Generator().manual_seed(7))
    first = cascade.sample(layers[:1], energies[:1], torch.Generator().manual_seed(7))
    torch.testing.assert_close(first[0], together[0], rtol=1e-3, atol=1e-3)


def test_patterns_of_a_tiny_layer_sum_to_one_and_are_drawn_so() -> None:
    """One layer of 2 x 2 cells with energy below 2: exactly one cell is hit, four outcomes; all enumerated."""
    geometry = grid(1, 2, 2)
    cascade, energy = shaken(geometry, size=1.0), 1.6
    outcomes = torch.eye(4) * energy
    chances = cascade.log_likelihood(outcomes, INCIDENT.expand(4, 1)).exp()
    assert float(chances.sum()) == pytest.approx(1, abs=1e-5)
    n = 20_000
    drawn = cascade.sample(torch.full((n, 1), energy), INCIDENT.expand(n, 1), torch.Generator().manual_seed(2))
    counts = (drawn > 0).sum(0).numpy()
    assert counts.sum() == n
    expected = chances.detach().double().numpy()
    assert chisquare(counts, n * expected / expected.sum()).pvalue > 1e-3
    assert chisquare(counts, n * np.roll(expected, 1) / expected.sum()).pvalue < 1e-6  # power: cells taken for others


def test_two_cells_integrate_to_one() -> None:
    """One layer of two cells: two outcomes with one hit, and the density of both by the rule of rectangles."""
    geometry, energy, n = grid(1, 1, 2), 5.0, 20_000
    cascade = shaken(geometry, size=1.0)
    bound = np.log(energy - 1)
    edges = torch.linspace(-bound, bound, n + 1, dtype=torch.float64)
    left = energy * torch.sigmoid(0.5 * (edges[1:] + edges[:-1]))
    rows = torch.stack([left, energy - left], 1).float()
    density = cascade.log_likelihood(rows, INCIDENT.expand(n, 1)).exp().double()
    both = float(density.sum() * 2 * bound / n)
    alone = cascade.log_likelihood(torch.eye(2) * energy, INCIDENT.expand(2, 1)).exp().sum()
    assert both + float(alone) == pytest.approx(1, abs=2e-3)
    jacobian = cascade.log_jacobian(rows, INCIDENT.expand(n, 1)).exp().double()
    in_energy = float((density * jacobian * (left * (energy - left) / energy)).sum() * 2 * bound / n)
    assert in_energy == pytest.approx(both, rel=1e-4)


def test_the_likelihood_is_that_of_the_draws_on_the_way() -> None:
    """What the teacher says of a drawn shower is the law that drew it: mean log-likelihood is minus the entropy."""
    geometry = grid(2, 2, 2)
    cascade = shaken(geometry)
    n, layers = 4000, torch.tensor([[1.5, 1.7]])
    drawn = cascade.sample(layers.expand(n, 2), INCIDENT.expand(n, 1), torch.Generator().manual_seed(4))
    patterns, index, counts = torch.unique(drawn > 0, dim=0, return_inverse=True, return_counts=True)
    told = cascade.log_likelihood(drawn, INCIDENT.expand(n, 1)).exp()
    assert len(patterns) <= 16
    for number in range(len(patterns)):
        expected = float(told[index == number][0])
        spread = (expected * (1 - expected) / n) ** 0.5
        assert abs(float(counts[number]) / n - expected) < 5 * spread + 1e-6


def test_nothing_of_later_layers_but_their_energies_is_seen() -> None:
    """Other patterns in layers behind, with the same energies, leave the likelihood of the first ones as it is."""
    geometry = grid(4, 4, 4)
    cascade = shaken(geometry)
    one = showers(geometry, 1, hits=0.6)
    other = one.clone().view(1, 4, -1)
    other[0, 2] = other[0, 2].flip(0)
    contributions = [per_layer(cascade, geometry, rows) for rows in (one, other.flatten(1))]
    torch.testing.assert_close(contributions[0][:2], contributions[1][:2])
    assert not torch.allclose(contributions[0][2:], contributions[1][2:])


def per_layer(cascade: Cascade, geometry: Geometry, rows: Tensor) -> Tensor:
    """Log-likelihood of the shower with all layers behind each one put into a single cell."""
    found = []
    for layer in range(geometry.n_layers):
        cut = rows.clone().view(1, geometry.n_layers, -1)
        for behind in range(layer + 1, geometry.n_layers):
            energy = cut[0, behind].sum()
            cut[0, behind] = 0
            cut[0, behind, 0] = energy
        found.append(cascade.log_likelihood(cut.flatten(1), INCIDENT))
    return torch.cat(found)


def test_turned_showers_are_the_same_cells() -> None:
    geometry = grid(2, 6, 3)
    cascade = shaken(geometry)
    rows = showers(geometry, 50)
    turned = cascade.turned(rows, torch.Generator().manual_seed(1)).view(50, 2, 6, 3)
    before = rows.view(50, 2, 6, 3)
    for one, other in zip(before, turned, strict=True):
        candidates = [
            torch.roll(one.flip(1) if mirror else one, shift, dims=1) for mirror in (False, True) for shift in range(6)
        ]
        assert any(torch.equal(candidate, other) for candidate in candidates)
    assert not torch.equal(before, turned)


def test_the_law_of_draws_is_symmetric() -> None:
    """Mean energies of all angles agree within errors after the turn, and do not before it: power."""
    geometry, n = grid(1, 4, 2), 6000
    cascade, generator = shaken(geometry, size=1.0), torch.Generator().manual_seed(8)
    plain = cascade.sample(torch.full((n, 1), 1.5), INCIDENT.expand(n, 1), generator)
    sums = [rows.view(n, 4, 2).sum(2) > 0 for rows in (plain, cascade.turned(plain, generator))]
    pvalues = [chisquare(hit.sum(0).numpy()).pvalue for hit in sums]
    assert pvalues[0] < 1e-6
    assert pvalues[1] > 1e-3


def test_spectra_start_at_those_of_the_rings() -> None:
    geometry = grid(3, 4, 4)
    cascade = shaken(geometry)
    rows = showers(geometry, 500).view(500, 3, 4, 4)
    rows[..., 2:] = torch.where(rows[..., 2:] > 0, 2.0 * T, 0.0)
    cascade.start_spectra(rows.flatten(1))
    outer, inner = cascade.spectra.softmax(1)
    assert float(outer.max()) > 0.8
    assert float(inner.max()) < 0.3
