"""Every imperfection of the emulator, each shown by a test that fails without it (the ideal one is the control)."""

from typing import Any

import numpy as np
import pytest

from calo4pqvae.annealer.emulator.emulator import Emulator
from calo4pqvae.annealer.emulator.settings import MODES, EmulatorSettings, emulator_settings
from calo4pqvae.errors import AnnealerError
from tests.annealer.emulator.test_emulator import draw, slice_of
from tests.annealer.laws import exact_law, random_problem, spins_of

BETA = 4.0


def emulator(name: str = "advantage2", seed: int = 1, **settings: Any) -> Emulator:
    return Emulator(name, seed=seed, m=1 if name == "advantage2" else 2, settings=EmulatorSettings(BETA, **settings))


def betas(n_calls: int, n_reads: int = 1, rest: float = 0.0, **settings: Any) -> np.ndarray[Any, Any]:
    """True inverse temperatures of calls in a row."""
    sampler = emulator(**settings)
    fields = {sampler.nodelist[0]: 0.1}
    for _ in range(n_calls):
        draw(sampler, fields, {}, n_reads)
        sampler.wait(rest)
    return np.array([record.beta for record in sampler.reveal()])


def test_drift_has_its_size_and_memory_and_is_off_in_ideal() -> None:
    logs = np.log(betas(400, drift_std=0.02) / BETA)
    assert logs.std() == pytest.approx(0.02, rel=0.35)  # 400 steps of memory 0.9 are 21 independent ones
    assert np.corrcoef(logs[:-1], logs[1:])[0, 1] == pytest.approx(0.9, abs=0.06)
    assert np.ptp(betas(20)) == 0


def test_programming_heats_and_rest_cools() -> None:
    busy, rested = betas(30, heat=0.03), betas(30, heat=0.03, rest=2.5)
    assert busy[-1] < 0.8 * BETA
    assert rested[-1] > 0.96 * BETA
    assert (np.diff(busy) < 0).all()
    np.testing.assert_allclose(betas(30), BETA)


def test_heat_falls_while_reads_are_made() -> None:
    sampler = emulator(heat=0.1, heat_decay_s=0.05)
    draw(sampler, {sampler.nodelist[0]: 0.1}, {}, 2000)
    (record,) = sampler.reveal()
    assert record.betas[0] < 0.95 * record.betas[-1]
    assert (np.diff(record.betas) >= 0).all()


def test_many_reads_of_a_call_are_colder_than_calls_of_one_read() -> None:
    assert betas(10, 1000, heat=0.03)[-1] > 1.05 * betas(10, 1, heat=0.03)[-1]


def test_waiting_needs_a_time() -> None:
    for seconds in (-1.0, float("nan")):
        with pytest.raises(AnnealerError, match="cannot be waited"):
            emulator().wait(seconds)


def spread_between_programmings(sampler: Emulator, fields: Any, couplings: Any) -> float:
    """Chi-square a degree of freedom of the means of repeated programmings around their mean."""
    n = 500
    means = np.array([spins_of(draw(sampler, fields, couplings, n)).mean(axis=0) for _ in range(20)])
    centre = means.mean(axis=0)
    return float(((means - centre) ** 2 / (1 - centre**2) * n).sum() / (19 * means.shape[1]))


@pytest.mark.parametrize("settings", [{"field_error": 0.05}, {"coupling_error": 0.05}])
def test_control_errors_are_anew_with_each_programming(settings: dict[str, float]) -> None:
    spreads = []
    for chosen in (settings, {}):
        sampler = emulator(**chosen)
        spreads.append(spread_between_programmings(sampler, *random_problem(sampler, slice_of(sampler), 1)))
    assert spreads[0] > 2
    assert abs(spreads[1] - 1) < 0.5


def test_a_field_error_has_its_size() -> None:
    sampler = emulator(field_error=0.05)
    labels = sampler.nodelist[::8]
    spins = [spins_of(draw(sampler, dict.fromkeys(labels, 0.0), {}, 4000)) for _ in range(30)]
    seen = -np.arctanh(np.array([part.mean(axis=0) for part in spins])) / BETA
    shot = 1 / (BETA * np.sqrt(4000))
    assert np.sqrt(seen.var() - shot**2) == pytest.approx(0.05, rel=0.25)


def test_scales_of_fields_are_fixed_for_a_chip() -> None:
    sampler = emulator(field_scale_spread=0.2)
    labels = sampler.nodelist
    means = np.array([spins_of(draw(sampler, dict.fromkeys(labels, 0.2), {}, 5000)).mean(axis=0) for _ in range(2)])
    scales = -np.arctanh(means) / (BETA * 0.2)
    assert scales.std(axis=1) == pytest.approx([0.2, 0.2], rel=0.35)
    assert np.corrcoef(*scales)[0, 1] > 0.9


def test_flux_offsets_are_reduced_by_compensation() -> None:
    sampler = emulator(flux_offset=1e-4)
    labels = sampler.nodelist
    fields = []
    for compensated in (True, False):
        spins = spins_of(draw(sampler, dict.fromkeys(labels, 0.0), {}, 10_000, flux_drift_compensation=compensated))
        fields.append(-np.arctanh(spins.mean(axis=0)) / BETA)
    assert fields[1].std() == pytest.approx(1e-4 / 5.75e-4, rel=0.35)
    assert fields[0].std() == pytest.approx(0.2 * fields[1].std(), rel=0.3)


def test_readout_flips_bits_that_cannot_be_wrong_otherwise() -> None:
    wrong = []
    for flip in (0.01, 0.0):
        sampler = emulator(readout_flip=flip)
        spins = spins_of(draw(sampler, dict.fromkeys(sampler.nodelist[:40], -3.9), {}, 2000))
        wrong.append(float((spins < 0).mean()))
    assert wrong[1] == 0
    assert wrong[0] == pytest.approx(0.01, abs=4.5 * np.sqrt(0.01 / 80_000))


def test_susceptibility_is_that_of_the_formula() -> None:
    chi = -0.3
    sampler = emulator(susceptibility=chi)
    labels = slice_of(sampler)
    fields, couplings = random_problem(sampler, labels, 2)
    j = np.zeros((10, 10))
    for (a, b), value in couplings.items():
        j[labels.index(a), labels.index(b)] = j[labels.index(b), labels.index(a)] = value
    total = j + chi * j @ j
    h = np.array([fields[label] for label in labels]) @ (np.eye(10) + chi * j)
    all_pairs = {(labels[a], labels[b]): total[a, b] for a in range(10) for b in range(a + 1, 10)}
    spins = spins_of(draw(sampler, fields, couplings, 10_000))
    assert exact_law(dict(zip(labels, h, strict=True)), all_pairs, BETA).follows(spins)
    assert not exact_law(fields, couplings, BETA).follows(spins)


def test_digital_steps_round_fields_and_couplings() -> None:
    sampler = emulator(field_half_step=0.1, coupling_half_step=0.1)
    labels = slice_of(sampler)
    fields, couplings = random_problem(sampler, labels, 3, 0.15)
    rounded = {key: round(value / 0.2) * 0.2 for key, value in fields.items()}
    rounded_couplings = {key: round(value / 0.2) * 0.2 for key, value in couplings.items()}
    assert set(rounded.values()) != {0.0}
    spins = spins_of(draw(sampler, fields, couplings, 5000))
    assert exact_law(rounded, rounded_couplings, BETA).follows(spins)
    assert not exact_law(fields, couplings, BETA).follows(spins)


def test_a_failed_programming_frees_one_qubit() -> None:
    for share, n_free in ((1.0, 1), (0.0, 0)):
        sampler = emulator(failed_programming=share)
        spins = spins_of(draw(sampler, dict.fromkeys(sampler.nodelist[:20], -3.9), {}, 400))
        assert (np.abs(spins.mean(axis=0)) < 0.5).sum() == n_free


@pytest.mark.parametrize(
    ("name", "options", "is_correlated"),
    [
        ("advantage4", {}, True),
        ("advantage4", {"reduce_intersample_correlation": True}, False),
        ("advantage2", {}, False),
    ],
)
def test_polarisation_correlates_reads_on_advantage_unless_they_are_kept_apart(
    name: str, options: dict[str, Any], is_correlated: bool
) -> None:
    sampler = emulator(name, polarisation=0.05)
    spins = spins_of(draw(sampler, dict.fromkeys(sampler.nodelist, 0.0), {}, 1000, **options))
    product = spins[1:] * spins[:-1]
    score = product.mean() * np.sqrt(product.size)
    assert (score > 10) == is_correlated
    assert is_correlated or abs(score) < 4.5
    if is_correlated:
        assert product.mean() == pytest.approx(np.tanh(BETA * 0.05), rel=0.1)


def test_pauses_against_correlation_cost_time_on_advantage_only() -> None:
    delays = {}
    for name in ("advantage4", "advantage2"):
        sampler = emulator(name)
        answer = draw(sampler, {sampler.nodelist[0]: 0.1}, {}, 1, reduce_intersample_correlation=True)
        delays[name] = answer.info["timing"]["qpu_delay_time_per_sample"]
    assert delays == pytest.approx({"advantage4": 20.5 + 500 + 20 * 4.75, "advantage2": 60.6})


def test_the_temperature_may_depend_on_the_largest_coupling() -> None:
    sampler = emulator(temperature_offset=0.05)
    pair = sampler.edgelist[0]
    for j in (0.5, 1.0):
        draw(sampler, {}, {pair: j}, 1)
    assert [record.beta for record in sampler.reveal()] == pytest.approx(
        [1 / (1 / BETA + 0.05 / j) for j in (0.5, 1.0)]
    )


def test_longer_anneals_have_more_sweeps_up_to_a_limit() -> None:
    settings = EmulatorSettings()
    assert [settings.n_sweeps(anneal) for anneal in (0.005, 0.5, 20.0, 100.0, 2000.0)] == [1, 5, 200, 1000, 2000]


def test_ideal_has_no_error_at_all_and_stress_more_than_calibrated() -> None:
    ideal, calibrated, stress = (emulator_settings(mode) for mode in MODES)
    for name in (
        "drift_std",
        "heat",
        "field_error",
        "coupling_error",
        "field_scale_spread",
        "flux_offset",
        "readout_flip",
    ):
        assert 0 == getattr(ideal, name) < getattr(calibrated, name) < getattr(stress, name)
    assert ideal.polarisation == ideal.failed_programming == ideal.susceptibility == ideal.field_half_step == 0
    assert (calibrated.field_error, calibrated.coupling_error) == (0.010, 0.010)
    assert (stress.field_error, stress.coupling_error) == (0.025, 0.015)


@pytest.mark.parametrize(
    "settings",
    [
        {"drift_std": -0.1},
        {"readout_flip": 1.5},
        {"beta": 0.0},
        {"sweeps": 0},
        {"sweeps": 3000},
        {"heat": float("nan")},
        {"heat_decay_s": 0.0},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(AnnealerError, match=r"emulator setting|an emulator needs"):
        EmulatorSettings(**settings)
