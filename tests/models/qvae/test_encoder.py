import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from calo4pqvae.config import EncoderConfig
from calo4pqvae.models.qvae.encoder import EnergyEmbedding, HierarchicalEncoder, Posterior, multilayer
from calo4pqvae.models.qvae.grid import GridPlan
from calo4pqvae.models.qvae.vae import ShowerAutoencoder
from calo4pqvae.showers.geometry import Geometry
from tests.models.qvae.conftest import LEVEL_SIZES, Build

Sample = tuple[Tensor, Tensor]
N_BITS = sum(LEVEL_SIZES)
FREE = "latent.factors=0"
LEVELS = torch.split(torch.arange(N_BITS), LEVEL_SIZES)


def noise(n: int, seed: int = 2) -> Tensor:
    return torch.rand(n, N_BITS, generator=torch.Generator().manual_seed(seed))


def moved(showers: Tensor, grid: Geometry, turn: int, mirror: bool) -> Tensor:
    field = showers.view(-1, *grid.grid_shape).roll(turn, dims=2)
    return (field.flip(2) if mirror else field).reshape(showers.shape)


def test_bits_are_drawn_from_the_logits(build: Build, sample: Sample) -> None:
    uniform = noise(256)
    posterior = build(FREE).encode(*sample, uniform)
    assert posterior.bits.shape == posterior.logits.shape == (256, N_BITS)
    assert torch.equal(posterior.bits, (uniform > 1 - torch.sigmoid(posterior.logits)).float())
    assert not posterior.bits.requires_grad


def test_a_level_depends_on_the_bits_of_earlier_levels_only(build: Build, sample: Sample) -> None:
    autoencoder = build(FREE)
    showers, energies = sample[0][:16], sample[1][:16]
    uniform = noise(16)
    before = autoencoder.encode(showers, energies, uniform)
    for level, columns in enumerate(LEVELS):
        other = uniform.clone()
        other[:, columns] = 1 - other[:, columns]
        after = autoencoder.encode(showers, energies, other)
        assert (after.bits[:, columns] != before.bits[:, columns]).any()
        for seen, part in enumerate(LEVELS):
            changed = (after.logits[:, part] - before.logits[:, part]).abs().max()
            assert (changed > 1e-3) if seen > level else (changed == 0)


@pytest.mark.parametrize("relaxation", ["straight-through", "gumbolt"])
def test_gradients_pass_from_later_levels_through_earlier_bits(build: Build, sample: Sample, relaxation: str) -> None:
    autoencoder = build(FREE)
    view = autoencoder.observables(sample[0][:8], sample[1][:8])
    posterior = autoencoder.encoder(view, noise(8), 0.5, relaxation)
    first_level = list(autoencoder.encoder.levels[0].parameters())
    for part in LEVELS[1:]:
        gradients = torch.autograd.grad(posterior.logits[:, part].sum(), first_level, retain_graph=True)
        assert all(bool(torch.isfinite(gradient).all()) and gradient.abs().max() > 0 for gradient in gradients)
    is_bit = bool(torch.isin(posterior.bits, torch.tensor([0.0, 1.0])).all())
    assert is_bit == (relaxation == "straight-through")


def test_incident_energy_and_voxels_reach_every_level(build: Build, sample: Sample) -> None:
    autoencoder, uniform = build(FREE), noise(16)
    view = autoencoder.observables(sample[0][:16], sample[1][:16])
    before = autoencoder.encoder(view, uniform).logits
    for other in (view._replace(position=view.position + 0.3), view._replace(voxels=view.voxels + 1)):
        after = autoencoder.encoder(other, uniform).logits
        assert all((after[:, part] != before[:, part]).any() for part in LEVELS)


@pytest.mark.parametrize("options", [[], [FREE], [FREE, "encoder.attention=true"], [FREE, "encoder.voxels=logit"]])
def test_turned_and_mirrored_showers_have_identical_logits(
    build: Build, grid: Geometry, sample: Sample, options: list[str]
) -> None:
    autoencoder, uniform = build(*options), noise(64)
    showers, energies = sample[0][:64], sample[1][:64]
    expected = autoencoder.encode(showers, energies, uniform)
    for turn in range(8):
        for mirror in (False, True):
            found = autoencoder.encode(moved(showers, grid, turn, mirror), energies, uniform)
            assert torch.equal(found.logits, expected.logits)
            assert torch.equal(found.bits, expected.bits)


def test_without_the_canonical_frame_a_turn_is_seen(build: Build, grid: Geometry, sample: Sample) -> None:
    autoencoder, uniform = build(FREE, "data.canonical_frame=false"), noise(256)
    found = autoencoder.encode(moved(sample[0], grid, 1, False), sample[1], uniform)
    assert (found.logits - autoencoder.encode(*sample, uniform).logits).abs().max() > 1e-3


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("periodic", [False, True])
def test_trunk_commutes_with_multiples_of_its_strides(grid: Geometry, periodic: bool, attention: bool) -> None:
    torch.manual_seed(0)
    config = EncoderConfig(channels=(4, 6, 8), hidden=8, attention=attention)
    encoder = HierarchicalEncoder(config, GridPlan(grid), LEVEL_SIZES, periodic=periodic).double()
    cells = torch.randn(2, 1, *grid.grid_shape, dtype=torch.float64)
    with torch.no_grad():
        fields = encoder.trunk[:-1](cells)  # before it is flattened
        after = encoder.trunk[:-1](cells.roll(4, dims=3))
    assert fields.shape[3] == 2  # 8 sectors, strides 2 x 2 x 1
    assert torch.allclose(after, fields.roll(1, dims=3), rtol=0, atol=1e-12) == periodic


@pytest.mark.parametrize("shape", [(45, 16, 9), (7, 5, 11), (2, 3, 1)])
def test_any_regular_grid_can_be_encoded(shape: tuple[int, int, int]) -> None:
    layers, angles, radii = shape
    geometry = Geometry.regular("any", layers, angles, radii, 10.0, threshold_mev=0.1)
    config = EncoderConfig(channels=(2, 3, 4), hidden=8)
    encoder = HierarchicalEncoder(config, GridPlan(geometry), (4, 3))
    assert encoder.levels[1][0].in_features == 8 + EnergyEmbedding.size + 4


def test_entropy_and_information_are_those_of_coins() -> None:
    logits = torch.tensor([[0.0, 2.0, -40.0], [1.0, -1.0, 0.5]], dtype=torch.float64)
    posterior = Posterior((logits > 0).double(), logits)
    coins = stats.bernoulli.entropy(stats.logistic.cdf(logits.numpy())).sum(1)
    np.testing.assert_allclose(posterior.entropy().numpy(), coins, rtol=1e-12)
    np.testing.assert_allclose(posterior.information().numpy(), 3 * math.log(2) - coins, rtol=1e-12)


def test_logit_voxels_of_empty_cells_do_not_depend_on_the_energy(build: Build, sample: Sample) -> None:
    autoencoder: ShowerAutoencoder = build(FREE, "encoder.voxels=logit")
    view = autoencoder.observables(sample[0][:32], sample[1][:32])
    cells = autoencoder.encoder._voxels(view)
    empty = cells[view.hits == 0]
    assert torch.isfinite(cells).all()
    assert (empty == empty[0]).all()
    assert cells[view.hits > 0].min() > empty[0]


def test_multilayer_ends_with_a_linear_layer() -> None:
    network = multilayer(3, 5, 2)
    assert [type(step).__name__ for step in network] == ["Linear", "SiLU", "Linear"]


def test_every_bit_is_read_by_itself(build: Build) -> None:
    encoder = build(FREE).encoder
    bits = (noise(4) > 0.5).float()
    assert encoder.n_read == N_BITS
    assert torch.equal(encoder.read(bits), 2 * bits - 1)


def test_free_logits_have_no_parameter_that_never_learns_and_nothing_to_fit(grid: Geometry) -> None:
    encoder = HierarchicalEncoder(EncoderConfig(channels=(2, 3, 4), hidden=8), GridPlan(grid), LEVEL_SIZES)
    assert all(parameter.numel() > 0 for parameter in encoder.parameters())
    before = [parameter.clone() for parameter in encoder.parameters()]
    encoder.fit(torch.eye(6), torch.zeros(6, 1))
    assert all(torch.equal(old, new) for old, new in zip(before, encoder.parameters(), strict=True))
