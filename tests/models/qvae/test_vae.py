import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from calo4pqvae.errors import DataError
from calo4pqvae.models.qvae.latent_prior import LatentPrior
from calo4pqvae.models.qvae.likelihood import LogisticMixture
from calo4pqvae.models.qvae.relaxation import bit_entropy
from calo4pqvae.models.qvae.standardiser import Standardiser
from calo4pqvae.models.qvae.vae import LossTerms, ShowerAutoencoder
from calo4pqvae.prior.graph.topology import complete_topology
from calo4pqvae.showers.geometry import GEOMETRIES, Geometry
from tests.models.qvae.conftest import LEVEL_SIZES, Build, shake, small_config

Sample = tuple[Tensor, Tensor]
Array = NDArray[np.float64]
N_BITS = sum(LEVEL_SIZES)
RANGE = (1e3, 1e5)


def noise(n: int, seed: int = 2) -> Tensor:
    return torch.rand(n, N_BITS, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prior_for(mode: str) -> LatentPrior:
    sizes = (3, *LEVEL_SIZES) if mode == "clamp" else LEVEL_SIZES
    prior = LatentPrior(small_config(f"condition.mode={mode}", "condition.bits=3"), complete_topology(sizes))
    shake(prior, 0.5)
    return prior


OPTIONS = [
    [],
    ["decoder.mask=false", "latent.relaxation=gumbolt"],
    ["latent.factors=0", "encoder.attention=true", "decoder.attention=true"],
    ["latent.factors=0", "decoder.mask=false", "decoder.attention=true", "encoder.voxels=logit"],
    ["latent.factors=0", "decoder.periodic=false", "decoder.components=1", "data.canonical_frame=false"],
    ["data.layout=scrambled", "data.canonical_frame=false", "latent.relaxation=gumbolt"],
]


@pytest.mark.parametrize("mode", ["clamp", "fold"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options) or "default")
def test_every_parameter_gets_a_gradient(build: Build, sample: Sample, options: list[str], mode: str) -> None:
    autoencoder, prior = build(*options), prior_for(mode)
    terms, _ = autoencoder.loss_terms(sample[0][:32], sample[1][:32], noise(32), 0.7, prior.energy)
    terms.total(0.5).backward()  # type: ignore[no-untyped-call]
    for module in (autoencoder, prior):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().max() > 0, name


def test_clamped_condition_nodes_have_a_gradient_only_through_the_energy(build: Build, sample: Sample) -> None:
    """The prior's own terms: d<E>/db_i is minus the mean of bit i."""
    autoencoder, prior = build(), prior_for("fold")
    terms, posterior = autoencoder.loss_terms(sample[0][:32], sample[1][:32], noise(32), 0.7, prior.energy)
    terms.prior_energy.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(prior.machine.biases.grad, -posterior.bits.detach().mean(0))


# --- the bound, term by term, against sums written out in numpy -------------------------------------------------------


def moments(standardiser: Standardiser, t: float) -> tuple[Array, Array]:
    """Mean and width of every column at a position, from the stored coefficients."""
    parts = {name: buffer.double().numpy() for name, buffer in standardiser.named_buffers()}
    mean = sum(parts["mean_coefficients"][power] * t**power for power in range(5))
    log_std = sum(parts["log_std_coefficients"][power] * t**power for power in range(3))
    low, high = parts["mean_range"]
    log_low, log_high = parts["log_std_range"]
    return np.minimum(np.maximum(mean, low), high), np.exp(np.minimum(np.maximum(log_std, log_low), log_high))


def coin_nll(logits: Array, outcomes: Array) -> float:
    p = stats.logistic.cdf(np.where(outcomes > 0, logits, -logits))
    return float(-np.log(p).sum())


def voxel_nll(law: LogisticMixture, shower: Array, threshold: float, mask: bool) -> float:
    total = 0.0
    rows = np.flatnonzero(shower > 0) if mask else np.arange(len(shower))
    for row, voxel in enumerate(rows):
        parts = list(
            zip(law.log_weights[row].exp().tolist(), law.centres[row].tolist(), law.widths[row].tolist(), strict=True)
        )
        value = math.log(shower[voxel] / threshold) if shower[voxel] > 0 else None
        below = sum(w * stats.logistic.cdf(0, loc=c, scale=s) for w, c, s in parts)
        if value is None:
            total -= math.log(below)
            continue
        density = sum(w * stats.logistic.pdf(value, loc=c, scale=s) for w, c, s in parts)
        total -= math.log(density / (1 - below) if mask else density)
    return total


def terms_by_hand(
    autoencoder: ShowerAutoencoder, grid: Geometry, shower: Array, energy: float, bits: Tensor
) -> dict[str, float]:
    """Terms of one shower; the networks are asked for their outputs, everything else is written out."""
    threshold, (layers, angles, radii) = grid.threshold_mev, grid.grid_shape
    t = 2 * math.log(energy / RANGE[0]) / math.log(RANGE[1] / RANGE[0]) - 1
    layer_energies = shower.reshape(layers, -1).sum(1)
    on = layer_energies > 0
    total = layer_energies.sum()
    mean, std = moments(autoencoder.observables.response, t)
    response = (total / energy - mean) / std
    mean, std = moments(autoencoder.observables.layers.scales, t)
    q = np.where(on, (np.sqrt(layer_energies / total) - mean) / std, 0.0)
    floor = (math.sqrt(threshold / total) - mean) / std
    log_layers = np.where(on, np.log(np.where(on, layer_energies, 1) / threshold), 0.0)
    counts = (shower.reshape(layers, -1) > 0).sum(1)

    def row(values: Array) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.float64)).reshape(1, -1)

    position = torch.full((1, 1), t, dtype=torch.float64)
    read = autoencoder.encoder.read(bits)
    law = autoencoder.layer_head(read, position)
    hit_map = autoencoder.voxel_head(read, position, row(response), row(q), row(on), row(log_layers))
    mask = autoencoder.voxel_head.mask
    voxels = torch.from_numpy(np.flatnonzero(shower > 0) if mask else np.arange(angles * radii * layers))
    log_counts = row(np.log(np.maximum(counts, 1)))
    mixture = autoencoder.voxel_head.activation(hit_map, torch.zeros_like(voxels), voxels, row(log_layers), log_counts)
    centre, width = law.layer_mean[0].numpy().copy(), law.layer_log_std[0].exp().numpy()
    matrices = autoencoder.layer_head.noise.coefficients.detach().numpy()
    residual = np.where(on, (q - centre) / width, 0.0)
    for layer in range(layers):  # the noise of a layer leans on the residuals of those before it
        row_of = sum(matrices[power][layer, :layer] * t**power for power in range(3))
        centre[layer] += width[layer] * row_of @ residual[:layer]
    oracle = stats.truncnorm((floor - centre) / width, np.inf, loc=centre, scale=width)
    response_law = stats.norm(float(law.response_mean), float(law.response_log_std.exp()))
    return {
        "response": float(-response_law.logpdf(response[0])),
        "layers": float(-oracle.logpdf(q)[on].sum()),
        "layer_on": coin_nll(law.on_logits[0].numpy(), on),
        "hits": coin_nll(hit_map.logits[0].numpy(), shower > 0),
        "voxels": voxel_nll(mixture, shower, threshold, mask),
    }


@pytest.mark.parametrize("mask", [True, False])
def test_terms_of_the_bound_are_those_of_a_sum_by_hand(
    build: Build, grid: Geometry, sample: Sample, mask: bool
) -> None:
    autoencoder = build(f"decoder.mask={str(mask).lower()}", "data.canonical_frame=false").double()
    rows = [0, 1, 15]  # the first and last layers of rows 0 and 15 are empty
    showers, energies = (part[rows].double() for part in sample)
    prior = prior_for("fold").double()
    with torch.no_grad():
        terms, posterior = autoencoder.loss_terms(showers, energies, noise(3).double(), None, prior.energy)
        each = [
            terms_by_hand(autoencoder, grid, shower.numpy(), float(energy), bits[None])
            for shower, energy, bits in zip(showers, energies, posterior.bits, strict=True)
        ]
        energy = prior.energy(posterior.bits, energies)
    for name in each[0]:
        expected = sum(one[name] for one in each) / 3
        assert float(getattr(terms, name)) == pytest.approx(expected, rel=1e-5), name
    entropy = stats.bernoulli.entropy(stats.logistic.cdf(posterior.logits.numpy())).sum() / 3
    assert float(terms.entropy) == pytest.approx(entropy)
    assert float(terms.information) == pytest.approx(N_BITS * math.log(2) - entropy)
    assert float(terms.prior_energy) == pytest.approx(float(energy.mean()))
    expected_total = sum(sum(one.values()) for one in each) / 3 + 0.3 * (float(energy.mean()) - entropy)
    assert float(terms.total(0.3)) == pytest.approx(expected_total, rel=1e-5)


def test_loss_of_a_batch_is_the_mean_over_showers(build: Build, sample: Sample) -> None:
    autoencoder, uniform = build().double(), noise(5).double()
    showers, energies = (part[:5].double() for part in sample)
    together, _ = autoencoder.loss_terms(showers, energies, uniform, 0.5)
    parts = [slice(n, n + 1) for n in range(5)]
    alone = [autoencoder.loss_terms(showers[n], energies[n], uniform[n], 0.5)[0] for n in parts]
    for name, value in together._asdict().items():
        expected = sum(getattr(one, name) for one in alone) / 5
        torch.testing.assert_close(value, torch.as_tensor(expected), rtol=1e-9, atol=1e-9, msg=name)


def test_free_bits_cost_nothing() -> None:
    terms = LossTerms(*(torch.tensor(value) for value in (1.0, 2.0, 4.0, 8.0, 16.0, 5.0, 3.0, 0.5)))
    assert float(terms.reconstruction()) == 31
    assert float(terms.total(2.0)) == 31 + 2 * (0.5 - 5)
    assert float(terms.total(2.0, free_bits=2.9)) == 31 + 2 * (0.5 - 5)
    assert float(terms.total(2.0, free_bits=3.1)) == 31


def test_loss_does_not_depend_on_orientation(build: Build, grid: Geometry, sample: Sample) -> None:
    autoencoder, uniform = build(), noise(32)
    showers, energies = sample[0][:32], sample[1][:32]
    moved = showers.view(-1, *grid.grid_shape).roll(3, dims=2).flip(2).reshape(showers.shape)
    expected, _ = autoencoder.loss_terms(showers, energies, uniform, None)
    found, _ = autoencoder.loss_terms(moved, energies, uniform, None)
    assert found == expected


# --- learning ---------------------------------------------------------------------------------------------------------


def dependence(autoencoder: ShowerAutoencoder, sample: Sample, n: int = 200) -> float:
    """Mutual information in nats between each bit of the last level and all earlier bits, given a shower; the mean."""
    n_earlier = sum(LEVEL_SIZES[:-1])
    found = []
    with torch.no_grad():
        for row in range(4):
            showers, energies = (part[row : row + 1].expand(n, -1) for part in sample)
            logits = autoencoder.encode(showers, energies, noise(n, seed=row)).logits[:, n_earlier:].double()
            marginal = torch.sigmoid(logits).mean(0).logit()
            found.append(float((bit_entropy(marginal) - bit_entropy(logits).mean(0)).mean()))
    return float(np.mean(found))


def test_training_reduces_the_loss_and_later_levels_use_earlier_bits(grid: Geometry, sample: Sample) -> None:
    torch.manual_seed(0)
    autoencoder = ShowerAutoencoder(small_config("latent.factors=0"), grid, LEVEL_SIZES)
    autoencoder.fit_observables([sample])
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=5e-3)

    def evaluated() -> float:
        with torch.no_grad():
            return float(autoencoder.loss_terms(*sample, noise(256, seed=9), None)[0].total(0.2))

    before = evaluated()
    for step in range(60):
        rows = slice(64 * (step % 4), 64 * (step % 4 + 1))
        terms, _ = autoencoder.loss_terms(sample[0][rows], sample[1][rows], noise(64, seed=step), 0.7)
        optimizer.zero_grad()
        terms.total(0.2).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert evaluated() < before - 10
    assert dependence(autoencoder, sample) > 1e-5
    last = autoencoder.encoder.levels[-1][0]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():  # a level that is blind to earlier bits, to show that the measure can be zero
        last.weight[:, -sum(LEVEL_SIZES[:-1]) :] = 0
    assert dependence(autoencoder, sample) == pytest.approx(0, abs=1e-7)


# --- decoding ---------------------------------------------------------------------------------------------------------


def decoded(autoencoder: ShowerAutoencoder, n: int = 64, seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    bits = (torch.rand(n, N_BITS, generator=seeded(seed)) < 0.5).float()
    energies = torch.exp(torch.linspace(math.log(RANGE[0]), math.log(RANGE[1]), n))[:, None].clamp(*RANGE)
    return autoencoder.decode(bits, energies, seeded(seed)), bits, energies


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options) or "default")
def test_voxels_are_empty_or_above_threshold(build: Build, grid: Geometry, options: list[str]) -> None:
    showers, _, energies = decoded(build(*options))
    assert showers.shape == (64, grid.n_voxels)
    assert showers.dtype == torch.float32
    assert torch.isfinite(showers).all()
    assert ((showers == 0) | (showers >= grid.threshold_mev)).all()
    assert (showers.sum(1) > 0).float().mean() > 0.9
    assert (showers.sum(1) < 10 * energies[:, 0]).all()


@pytest.mark.parametrize("options", OPTIONS[:2], ids=["mask", "no mask"])
def test_layer_sums_are_the_drawn_layer_energies(build: Build, grid: Geometry, options: list[str]) -> None:
    autoencoder = build(*options)
    showers, bits, energies = decoded(autoencoder)
    with torch.no_grad():  # the layers are drawn first, so the same seed gives the same ones
        view = autoencoder._draw_layers(bits, energies, seeded(3), None)
    drawn = (view.log_layers.exp() * view.layer_on).double() * grid.threshold_mev
    sums = showers.double().view(64, grid.n_layers, -1).sum(2)
    n_cells = grid.grid_shape[1] * grid.grid_shape[2]
    missing = drawn - sums
    is_dark = sums == 0
    assert (missing.abs()[~is_dark] <= (1e-5 * drawn + n_cells * grid.threshold_mev)[~is_dark]).all()
    assert (missing >= -1e-5 * drawn).all()
    assert (sums[view.layer_on == 0] == 0).all()
    lit = is_dark & (view.layer_on > 0)
    if autoencoder.voxel_head.mask:  # every layer with energy has a hit; only sharing it out below threshold darkens it
        assert (drawn[lit] < n_cells * grid.threshold_mev).all()
    assert (missing[~is_dark] < 1e-4 * drawn[~is_dark]).double().mean() > 0.5


def test_drawn_layers_make_up_the_drawn_response(build: Build, grid: Geometry) -> None:
    autoencoder = build()
    _, bits, energies = decoded(autoencoder)
    with torch.no_grad():
        view = autoencoder._draw_layers(bits, energies, seeded(3), None)
        ratio = autoencoder.observables.response.inverse(view.response, view.position).clamp(min=0.02)
    layers = view.log_layers.exp() * view.layer_on * grid.threshold_mev
    assert (((layers > 0) & (layers < grid.threshold_mev * (1 - 1e-6))).sum()) == 0
    lost = ratio * energies - layers.sum(1, keepdim=True)
    assert (lost >= -1e-4 * ratio * energies).all()
    assert (lost <= 1e-4 * ratio * energies + grid.n_layers * grid.threshold_mev).all()


def test_same_generator_same_showers(build: Build) -> None:
    autoencoder = build()
    first, bits, energies = decoded(autoencoder)
    assert torch.equal(autoencoder.decode(bits, energies, seeded(3)), first)
    assert not torch.equal(autoencoder.decode(bits, energies, seeded(4)), first)
    assert not torch.equal(autoencoder.decode(1 - bits, energies, seeded(3)), first)


def images_of(shower: Tensor, grid: Geometry) -> list[Tensor]:
    field = shower.view(grid.grid_shape)
    turned = [field.roll(turn, dims=1) for turn in range(grid.grid_shape[1])]
    return [image.flatten() for image in (*turned, *(one.flip(1) for one in turned))]


def test_decoded_showers_are_turned_and_mirrored_at_random(build: Build, grid: Geometry) -> None:
    autoencoder = build()
    turned, bits, energies = decoded(autoencoder, n=256)
    autoencoder.observables.frame = None
    plain = autoencoder.decode(bits, energies, seeded(3))
    found = np.zeros(16)
    for before, after in zip(plain, turned, strict=True):
        matches = [torch.equal(image, after) for image in images_of(before, grid)]
        assert any(matches)
        if sum(matches) == 1:
            found[matches.index(True)] += 1
    assert found.sum() > 200
    assert stats.chisquare(found).pvalue > 1e-4


@pytest.mark.parametrize("energy", [999.0, 1.1e5, math.nan])
def test_energies_out_of_range_are_refused(build: Build, energy: float) -> None:
    with pytest.raises(DataError):
        build().decode(torch.zeros(1, N_BITS), torch.tensor([[energy]]), seeded(0))


def test_extreme_weights_decode_to_finite_showers(build: Build, grid: Geometry) -> None:
    autoencoder = build()
    shake(autoencoder, 20.0)
    showers, _, _ = decoded(autoencoder)
    assert torch.isfinite(showers).all()
    assert ((showers == 0) | (showers >= grid.threshold_mev)).all()


def test_starting_values_come_from_the_showers(grid: Geometry, sample: Sample) -> None:
    """Before any training the hits of each ring are as frequent as in the data."""
    autoencoder = ShowerAutoencoder(small_config(), grid, LEVEL_SIZES)
    autoencoder.fit_observables([sample])
    view = autoencoder.observables(sample[0][:64], sample[1][:64])
    bits = (noise(64) < 0.5).float()
    with torch.no_grad():
        logits = autoencoder.voxel_head.of_view(autoencoder.encoder.read(bits), view).logits
    expected = (sample[0] > 0).float().view(-1, *grid.grid_shape).mean((0, 2))
    found = torch.sigmoid(logits).view(-1, *grid.grid_shape).mean((0, 2))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01)


def test_bits_reach_the_decoded_showers_through_every_level(build: Build) -> None:
    autoencoder = build()
    first, bits, energies = decoded(autoencoder)
    for columns in torch.split(torch.arange(N_BITS), LEVEL_SIZES):
        flipped = bits.clone()
        flipped[:, columns] = 1 - flipped[:, columns]
        assert not torch.equal(autoencoder.decode(flipped, energies, seeded(3)), first)


def test_irregular_grids_are_refused() -> None:
    with pytest.raises(DataError, match="regular"):
        ShowerAutoencoder(small_config(), GEOMETRIES["ds1-pions"], LEVEL_SIZES)


def test_weights_and_scales_come_back_from_a_state_dictionary(build: Build, grid: Geometry) -> None:
    autoencoder = build()
    other = ShowerAutoencoder(small_config(), grid, LEVEL_SIZES)
    compare: Callable[[], bool] = lambda: torch.equal(decoded(other)[0], decoded(autoencoder)[0])  # noqa: E731
    assert not compare()
    other.load_state_dict(autoencoder.state_dict())
    assert compare()
