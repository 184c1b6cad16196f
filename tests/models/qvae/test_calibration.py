import pytest
import torch

from calo4pqvae.config import Config
from calo4pqvae.models.qvae.calibration import calibrate_layers
from calo4pqvae.models.qvae.latent_prior import LatentPrior, build_topology
from calo4pqvae.models.qvae.vae import ShowerAutoencoder
from calo4pqvae.seeds import stream
from calo4pqvae.showers.geometry import Geometry
from calo4pqvae.testing import synthetic_showers

GRID = Geometry.regular("small", 6, 8, 4, 5.0, particle="electron", threshold_mev=0.0151515, energy_range=(1e3, 1e5))
CONFIG = Config().replace(
    {
        "data.energy_max_mev": 1e5,
        "latent.bits_per_level": 6,
        "latent.factors": 2,
        "encoder.channels": [2, 2, 2],
        "encoder.hidden": 8,
        "decoder.hidden": 8,
        "decoder.channels": 2,
        "decoder.base_channels": 2,
    }
)


@pytest.fixture(scope="module")
def parts() -> tuple[ShowerAutoencoder, LatentPrior, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    prior = LatentPrior(CONFIG, build_topology(CONFIG))
    autoencoder = ShowerAutoencoder(CONFIG, GRID, prior.level_sizes)
    energies, showers = synthetic_showers(GRID, 3000, seed=1)
    incident = torch.from_numpy(energies).float().clamp(1e3, 1e5)
    voxels = torch.from_numpy(showers).float()
    voxels[:, 0] += 0.1  # no shower is empty
    autoencoder.fit_observables([(voxels, incident)])
    return autoencoder.eval(), prior, voxels, incident


def worst_deviation(layers: torch.Tensor, wanted: torch.Tensor, incident: torch.Tensor) -> float:
    """Largest relative deviation of mean layer energies, in thirds of ln E, where a layer holds 5 % of the energy."""
    worst = 0.0
    for rows in torch.tensor_split(torch.argsort(incident[:, 0]), 3):
        found, target = ((part / incident)[rows].mean(0) for part in (layers, wanted))
        large = target > 0.05 * target.sum()
        worst = max(worst, float((found / target - 1)[large].abs().max()))
    return worst


def test_drawn_layers_get_the_wanted_means_at_all_energies(
    parts: tuple[ShowerAutoencoder, LatentPrior, torch.Tensor, torch.Tensor],
) -> None:
    autoencoder, prior, _, incident = parts
    bits = prior.sample(incident, 5, stream(7, "bits"))
    plain = autoencoder.draw_layers(bits, incident, stream(7, "draw"))
    position = autoencoder.observables.position(incident)
    planted = torch.tensor([0.0, 0.3, -0.2, 0.1, 0.0, 0.2]) * (1 + 0.5 * position)
    wanted = plain * planted.exp()
    wanted = wanted * (plain.sum(1) / wanted.sum(1))[:, None]
    gain = calibrate_layers(autoencoder, prior, wanted, incident, n_sweeps=5, seed=3)
    found = autoencoder.draw_layers(bits, incident, stream(8, "draw"), gain)
    assert worst_deviation(plain, wanted, incident) > 0.15
    assert worst_deviation(found, wanted, incident) < 0.14


def test_totals_stay(parts: tuple[ShowerAutoencoder, LatentPrior, torch.Tensor, torch.Tensor]) -> None:
    autoencoder, prior, _, incident = parts
    bits = prior.sample(incident, 5, stream(7, "bits"))
    gain = torch.tensor([[0.5], [0.2], [0.0]]) * torch.linspace(-1, 1, 6)
    plain = autoencoder.draw_layers(bits, incident, stream(7, "draw"))
    scaled = autoencoder.draw_layers(bits, incident, stream(7, "draw"), gain)
    torch.testing.assert_close(scaled.sum(1), plain.sum(1), rtol=1e-3, atol=0.2)
    assert not torch.allclose(scaled, plain, rtol=0.05)


def test_nothing_to_calibrate_gives_small_gains(
    parts: tuple[ShowerAutoencoder, LatentPrior, torch.Tensor, torch.Tensor],
) -> None:
    autoencoder, prior, _, incident = parts
    bits = prior.sample(incident, 5, stream(9, "bits"))
    own = autoencoder.draw_layers(bits, incident, stream(9, "draw"))
    gain = calibrate_layers(autoencoder, prior, own, incident, n_sweeps=5, seed=3)
    again = autoencoder.draw_layers(bits, incident, stream(10, "draw"), gain)
    assert worst_deviation(again, own, incident) < 0.2  # two draws of a thousand showers differ by 4 to 9 % a layer
