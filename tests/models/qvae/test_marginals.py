import numpy as np
import torch
from scipy import stats

from calo4pqvae.models.qvae.marginals import MarginalMap, NormalScores


def skew(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A gamma law whose skewness falls with the energy, and a normal one."""
    rng = np.random.default_rng(seed)
    position = rng.uniform(-1, 1, (n, 1))
    shape = np.exp(1.0 + 1.5 * position[:, 0])
    first = (rng.gamma(shape) - shape) / np.sqrt(shape)
    return torch.from_numpy(np.column_stack([first, rng.normal(size=n)])), torch.from_numpy(position)


def fitted() -> MarginalMap:
    values, position = skew(20_000, 1)
    marginals = MarginalMap(2).double()
    marginals.fit(values, position, torch.ones_like(values))
    return marginals


def test_scores_are_normal_at_every_energy() -> None:
    values, position = skew(20_000, 2)
    scores = fitted()(values, position).numpy()
    for third in np.array_split(np.argsort(position[:, 0].numpy()), 3):
        for column in scores[third].T:
            assert stats.kstest(column, "norm").statistic < 0.035
            assert abs(stats.skew(column)) < 0.3
    assert stats.skew(values[:, 0].numpy()[position[:, 0].numpy() < -0.5]) > 1  # what there was to take out


def test_the_inverse_undoes_it_far_outside_too() -> None:
    marginals = fitted()
    values = torch.linspace(-30, 40, 71, dtype=torch.float64)[:, None].repeat(1, 2)
    for t in (-1.0, -0.37, 0.5, 1.0):
        position = torch.full((71, 1), t, dtype=torch.float64)
        scores = marginals(values, position)
        assert (scores.diff(dim=0) > 0).all()
        torch.testing.assert_close(marginals.inverse(scores, position), values, rtol=1e-6, atol=1e-6)


def test_absent_values_do_not_count_and_few_change_nothing() -> None:
    values, position = skew(20_000, 3)
    present = torch.ones_like(values)
    present[::2, 0] = 0
    present[300:, 1] = 0
    spoiled = torch.where(present > 0, values, torch.full_like(values, 50.0))
    clean, found = MarginalMap(2).double(), MarginalMap(2).double()
    clean.fit(values[1::2], position[1::2], torch.ones_like(values[1::2]))
    found.fit(spoiled, position, present)
    torch.testing.assert_close(found.tables[:, :, 0], clean.tables[:, :, 0])
    torch.testing.assert_close(found.tables[:, :, 1], MarginalMap(2).double().tables[:, :, 1])  # the identity


def test_normal_scores_are_standardised_first() -> None:
    values, position = skew(20_000, 4)
    moved = 3 * values * torch.exp(position) + 10 + 5 * position
    scores = NormalScores(2).double()
    scores.fit(moved, position, torch.ones_like(moved))
    found = scores(moved, position)
    np.testing.assert_allclose(found.std(0).numpy(), 1, atol=0.03)
    torch.testing.assert_close(scores.inverse(found, position), moved, rtol=1e-6, atol=1e-6)
