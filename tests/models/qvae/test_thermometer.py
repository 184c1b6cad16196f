import numpy as np
import pytest
import torch
from scipy import stats

from calo4pqvae.config import LatentConfig
from calo4pqvae.errors import ConfigError
from calo4pqvae.models.qvae.thermometer import ThermometerCode, band_length
from calo4pqvae.prior.graph.bands import Bands
from calo4pqvae.testing import all_states

SIZES = (5, 4, 6)


def code(n_factors: int = 2, length: int = 6, wall: float = 2.0) -> ThermometerCode:
    return ThermometerCode(SIZES, n_factors, length, wall)


def test_logits_by_hand() -> None:
    written = code()
    written.lay(Bands(np.array([[9, 2, 4, 0, 13, 1], [3, 14, 5, 12, 6, 7]])))
    logits = written.logits(torch.tensor([[0.5, 0.25]]))[0]
    assert logits[9] == pytest.approx(2 * (3 - 0.5))  # place 0 of factor 0, four over the width
    assert logits[1] == pytest.approx(2 * (3 - 5.5))
    assert logits[5] == pytest.approx(2 * (1.5 - 2.5))
    assert (logits[[8, 10, 11]] == 0).all()  # bits in no band are coins


def test_bits_are_monotone_along_the_band_up_to_the_wall() -> None:
    written = code(1, 15, wall=1.5)
    factors = torch.rand(4000, 1, generator=torch.Generator().manual_seed(1))
    logits = written.logits(factors)[:, written.bands().nodes[0]]
    assert (logits.diff(dim=1) < 0).all()
    chances = torch.sigmoid(logits)
    bits = (torch.rand(chances.shape, generator=torch.Generator().manual_seed(2)) < chances).float()
    wrong = (bits - (torch.arange(15) + 0.5 < 15 * factors).float()).abs()
    distance = (torch.arange(15) + 0.5 - 15 * factors).abs()
    assert wrong[distance > 3 * 1.5].sum() == 0
    assert wrong[distance < 0.4].mean() > 0.2
    mixed = code(1, 15, wall=1.5)  # a mark out of order is seen
    swapped = mixed.bands().nodes.copy()
    swapped[0, [3, 10]] = swapped[0, [10, 3]]
    assert not (mixed.logits(factors)[:, swapped[0]].diff(dim=1) < 0).all()


def test_wall_goes_from_an_eighth_to_seven_eighths_over_its_width() -> None:
    wide = code(1, 15, wall=3.0)
    order = wide.bands().nodes[0]
    chances = torch.sigmoid(wide.logits(torch.tensor([[0.5]])))[0, order]
    width = np.interp(-0.12, -chances.numpy(), np.arange(15)) - np.interp(-0.88, -chances.numpy(), np.arange(15))
    assert width == pytest.approx(3.0, rel=0.1)


def test_reading_is_the_number_of_ones_and_of_unit_variance() -> None:
    written = code(2, 7)
    factors = torch.rand(20_000, 2, generator=torch.Generator().manual_seed(3))
    bits = torch.rand(20_000, 15, generator=torch.Generator().manual_seed(4)) < torch.sigmoid(written.logits(factors))
    read = written.read(bits.float())
    np.testing.assert_allclose(read.mean(0).numpy(), 0, atol=0.03)
    np.testing.assert_allclose(read.std(0).numpy(), 1, atol=0.08)
    correlation = np.corrcoef(read.T.numpy(), factors.T.numpy())
    np.testing.assert_allclose(np.diagonal(correlation, 2), 1, atol=0.07)
    ones = bits[:, written.bands().nodes[0]].sum(1)
    assert stats.spearmanr(ones.numpy(), read[:, 0].numpy()).statistic == pytest.approx(1)


def test_law_of_a_band_is_normalised_and_that_of_draws() -> None:
    written = code(1, 6, wall=1.5)
    states = torch.zeros(64, 15)
    states[:, written.bands().nodes[0].copy()] = all_states(6)
    law = written.log_law(states)[:, 0].exp()
    assert float(law.sum()) == pytest.approx(1, abs=1e-6)
    factors = torch.rand(100_000, 1, generator=torch.Generator().manual_seed(5))
    noise = torch.rand(100_000, 15, generator=torch.Generator().manual_seed(6))
    bits = (noise < torch.sigmoid(written.logits(factors)))[:, written.bands().nodes[0].copy()]
    number = (bits.long() * 2 ** torch.arange(5, -1, -1)).sum(1)
    order = (all_states(6).long() * 2 ** torch.arange(5, -1, -1)).sum(1)
    found = torch.bincount(number, minlength=64)[order].double() / 100_000
    assert (found - law).abs().max() < 0.005


@pytest.mark.parametrize("distances", [(1, 3, 5), (1, 3), (1, 2, 3)])
def test_a_band_carries_its_law_exactly_at_the_default_wall(distances: tuple[int, ...]) -> None:
    """The best machine on the links of a band is within 0.05 nats of the law of the code; without links it is not."""
    assert divergence(distances) < 0.05


@pytest.mark.parametrize("distances", [(), (2,), (3, 5)])
def test_without_consecutive_links_it_does_not(distances: tuple[int, ...]) -> None:
    assert divergence(distances) > 0.3


def divergence(distances: tuple[int, ...], length: int = 12) -> float:
    """Least KL in nats from the law of one band to machines with links at these distances; all states enumerated."""
    sizes = (length // 2, length - length // 2)
    written = ThermometerCode(sizes, 1, length, LatentConfig().wall)
    order = written.bands().nodes[0].copy()
    along = torch.zeros(2**length, length, dtype=torch.float64)
    along[:, order] = all_states(length).double()
    log_law = written.log_law(along)[:, 0]
    bits = along[:, order]
    statistics = torch.cat([bits, *(bits[:, d:] * bits[:, : length - d] for d in distances)], dim=1)
    weights = torch.zeros(statistics.shape[1], dtype=torch.float64, requires_grad=True)
    climber = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")
    wanted = log_law.exp() @ statistics

    def closure() -> torch.Tensor:
        climber.zero_grad()
        loss = torch.logsumexp(statistics @ weights, 0) - wanted @ weights
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    climber.step(closure)  # type: ignore[no-untyped-call]
    log_z = torch.logsumexp(statistics @ weights, 0)
    return float((log_law.exp() @ log_law + log_z - wanted @ weights).detach())


def test_bands_lie_across_levels_until_they_are_laid() -> None:
    level = np.repeat(np.arange(3), SIZES)[code(2, 6).bands().nodes]
    assert (np.diff(level, axis=1) != 0).all()


def test_bands_go_with_the_weights() -> None:
    first, second = code(), code()
    nodes = np.random.default_rng(1).permutation(15)[:12].reshape(2, 6)
    first.lay(Bands(nodes))
    second.load_state_dict(first.state_dict())
    assert (second.bands().nodes == nodes).all()


def test_length_of_a_band() -> None:
    assert band_length(96, 3) == 28
    assert band_length(24, 3) == 7
    assert band_length(906, 3) == 64
    with pytest.raises(ConfigError, match="3 factors do not fit in 5 bits"):
        band_length(5, 3)


def test_codes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="do not fit in 15 bits"):
        code(4, 4)
    with pytest.raises(ConfigError, match="do not fit a code of 2 factors of 6 nodes"):
        code(2, 6).lay(Bands(np.arange(12).reshape(3, 4)))
