"""The emulator: its law against enumeration, what it answers, and that it always says what it is."""

import json
from typing import Any

import dimod
import numpy as np
import pytest
from dimod.testing import assert_sampler_api, assert_structured_api

from calo4pqvae.annealer.chip.table import CHIPS, readout_time
from calo4pqvae.annealer.emulator.emulator import Emulator
from calo4pqvae.annealer.emulator.settings import EmulatorSettings
from calo4pqvae.errors import AnnealerError
from tests.annealer.laws import ExactLaw, exact_law, random_problem, spins_of

BETA = 1 / 0.112  # documented one-qubit temperature of Advantage2_system1
PHI_OF_UNIT_FIELD = -5.75e-4  # documented constants of that chip at freeze-out, worked out apart from the code
N_READS = 5000


def ideal(seed: int = 1, **settings: Any) -> Emulator:
    return Emulator("advantage2", mode="ideal", seed=seed, **({"m": 1} | settings))


def slice_of(sampler: Any, n: int = 10) -> list[int]:
    """Qubits that hang together, in partitions of different sizes."""
    near: dict[int, set[int]] = {}
    for a, b in sampler.edgelist:
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    found = [sampler.nodelist[0]]
    while len(found) < n:
        border = sorted(set().union(*(near[label] for label in found)) - set(found))
        found.append(max(border, key=lambda label: len(near[label] & set(found))))
    return sorted(found)


def draw(sampler: Any, fields: Any, couplings: Any, n: int = N_READS, **options: Any) -> Any:
    return sampler.sample_ising(
        fields, couplings, num_reads=n, **({"auto_scale": False, "answer_mode": "raw"} | options)
    )


def small(seed: int = 0, size: float = 0.06) -> tuple[Emulator, dict[int, float], dict[tuple[int, int], float]]:
    sampler = ideal(seed + 1)
    return sampler, *random_problem(sampler, slice_of(sampler), seed, size)


# --- the law ------------------------------------------------------------------------------------------------------


def test_the_slice_has_partitions_of_different_sizes() -> None:
    sampler, fields, couplings = small()
    topology = sampler._graph.topology
    where = dict(zip(topology.node_labels, topology.partition.tolist(), strict=True))
    assert len(set(np.bincount([where[label] for label in fields]).tolist())) > 1
    assert len(couplings) > len(fields)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_moments_are_those_of_the_exact_law(seed: int) -> None:
    sampler, fields, couplings = small(seed)
    assert exact_law(fields, couplings, BETA).follows(spins_of(draw(sampler, fields, couplings)))


def test_the_test_of_moments_has_power() -> None:
    _, fields, couplings = small()
    law = exact_law(fields, couplings, BETA)
    for wrong in (0.95, 1.05):
        warmer = Emulator("advantage2", seed=1, m=1, settings=EmulatorSettings(beta=wrong * BETA))
        assert not law.follows(spins_of(draw(warmer, fields, couplings)))
    turned = {label: -h for label, h in fields.items()}
    assert not law.follows(spins_of(draw(ideal(), turned, couplings)))


@pytest.mark.slow
def test_moments_of_a_pegasus_chip_are_those_of_tree_decomposition() -> None:
    samplers = pytest.importorskip("dwave.samplers", reason="dwave-samplers is not installed")
    sampler = Emulator("advantage4", mode="ideal", seed=4, m=2)
    fields, couplings = random_problem(sampler, sampler.nodelist, 3, 0.12)
    bqm = dimod.BinaryQuadraticModel(fields, couplings, 0.0, "SPIN")
    exact = samplers.TreeDecompositionSampler().sample(bqm, beta=1 / 0.198, num_reads=1, marginals=True, seed=1)
    spins = spins_of(draw(sampler, fields, couplings, 8_000))
    labels = sorted(fields)
    p = np.array([exact.info["variable_marginals"][label] for label in labels])
    z = (spins.mean(axis=0) - (2 * p - 1)) / np.sqrt(4 * p * (1 - p) / len(spins))
    assert np.abs(z).max() < 4.5
    column = {label: index for index, label in enumerate(labels)}
    for (a, b), table in exact.info["interaction_marginals"].items():
        mean = sum(s * t * value for (s, t), value in table.items())
        error = np.sqrt((1 - mean**2) / len(spins))
        assert abs((spins[:, column[a]] * spins[:, column[b]]).mean() - mean) < 5 * error
    assert len(exact.info["interaction_marginals"]) == len(couplings)


def biased(fields: dict[int, float], extra: dict[int, float]) -> dict[int, float]:
    return {label: h + extra.get(label, 0.0) for label, h in fields.items()}


def test_a_flux_bias_is_its_equivalent_field_of_opposite_sign() -> None:
    sampler, fields, couplings = small(3)
    extra = dict(zip(list(fields)[:4], (0.15, -0.1, 0.2, -0.25), strict=True))
    flux = np.zeros(sampler.properties["num_qubits"])
    for label, h in extra.items():
        flux[label] = PHI_OF_UNIT_FIELD * h
    spins = spins_of(draw(sampler, fields, couplings, flux_biases=flux.tolist(), flux_drift_compensation=False))
    assert exact_law(biased(fields, extra), couplings, BETA).follows(spins)
    turned = {label: -h for label, h in extra.items()}
    for wrong in ({}, turned, {label: 1.7 * h for label, h in extra.items()}):
        assert not exact_law(biased(fields, wrong), couplings, BETA).follows(spins)


def test_spin_reversal_leaves_the_law_unchanged() -> None:
    sampler, fields, couplings = small(5)
    law = exact_law(fields, couplings, BETA)
    signs = dict(zip(fields, np.random.default_rng(1).choice([-1, 1], len(fields)).tolist(), strict=True))
    assert set(signs.values()) == {-1, 1}
    turned_fields = {label: signs[label] * h for label, h in fields.items()}
    turned_couplings = {(a, b): signs[a] * signs[b] * j for (a, b), j in couplings.items()}
    spins = spins_of(draw(sampler, turned_fields, turned_couplings)) * np.array(
        [signs[label] for label in sorted(fields)]
    )
    assert law.follows(spins)
    assert not law.follows(spins_of(draw(sampler, turned_fields, turned_couplings)))


def test_a_frozen_problem_needs_a_longer_anneal() -> None:
    """Barriers of this problem are not crossed in the 200 sweeps of 20 microseconds: reads freeze, as on a chip."""
    sampler = ideal(5)
    fields, couplings = random_problem(sampler, slice_of(sampler), 4, 0.1)
    law = exact_law(fields, couplings, BETA)
    worst = {
        anneal: np.abs(law.scores(spins_of(draw(sampler, fields, couplings, 1000, annealing_time=anneal)))).max()
        for anneal in (20.0, 200.0)
    }
    assert worst[20.0] > 10
    assert worst[200.0] < worst[20.0] / 2


def test_few_sweeps_leave_reads_out_of_equilibrium() -> None:
    sampler = ideal(m=2)
    fields, couplings = random_problem(sampler, sampler.nodelist, 2, 0.3)
    energies = {
        anneal: draw(sampler, fields, couplings, 400, annealing_time=anneal).record.energy for anneal in (0.5, 20.0)
    }
    error = np.hypot(*(values.std() / 20 for values in energies.values()))
    assert energies[0.5].mean() - energies[20.0].mean() > 10 * error


def test_reads_of_one_call_are_independent() -> None:
    sampler, fields, couplings = small(6)
    law = exact_law(fields, couplings, BETA)
    spins = spins_of(draw(sampler, fields, couplings))
    mean = law.probabilities @ law.states
    centred = (spins - mean) / np.sqrt(1 - mean**2)
    for lag in (1, 2, 64):
        scores = (centred[:-lag].T @ centred[lag:]) / np.sqrt(len(spins) - lag)
        assert np.abs(scores).max() < 4.8, lag


# --- answers ------------------------------------------------------------------------------------------------------


def test_it_is_a_dimod_sampler() -> None:
    sampler = ideal()
    assert_sampler_api(sampler)
    assert_structured_api(sampler)


def test_energies_and_labels_are_those_of_the_problem() -> None:
    sampler, fields, couplings = small(7)
    bqm = dimod.BinaryQuadraticModel(fields, couplings, 1.5, "SPIN")
    for problem in (bqm, bqm.change_vartype("BINARY", inplace=False)):
        answer = sampler.sample(problem, num_reads=20, auto_scale=False, answer_mode="raw")
        assert answer.vartype is problem.vartype
        np.testing.assert_allclose(problem.energies((answer.record.sample, answer.variables)), answer.record.energy)


def test_histograms_merge_and_sort_and_most_answers_are_kept() -> None:
    sampler, fields, couplings = small(8)
    answer = sampler.sample_ising(fields, couplings, num_reads=500, auto_scale=False)
    assert (np.diff(answer.record.energy) >= 0).all()
    assert len(answer) < 500 == answer.record.num_occurrences.sum()
    few = sampler.sample_ising(fields, couplings, num_reads=500, auto_scale=False, max_answers=3)
    assert len(few) == 3


def test_automatic_scaling_changes_the_temperature_and_is_told() -> None:
    sampler, fields, couplings = small(9)
    spins = spins_of(draw(sampler, fields, couplings, auto_scale=True))
    assert not exact_law(fields, couplings, BETA).follows(spins)
    answer = sampler.sample_ising(fields, couplings, num_reads=2000, answer_mode="raw")  # on by default
    scale = answer.info["divided_by"]
    assert scale == pytest.approx(
        max(
            max(abs(h) / 4 for h in fields.values()),
            max(j if j > 0 else -j / 2 for j in couplings.values()),
            max(group_excess(sampler, couplings)),
        )
    )
    by_hand = ideal(10)
    draw(by_hand, fields, couplings)
    divided = {label: h / scale for label, h in fields.items()}, {pair: j / scale for pair, j in couplings.items()}
    np.testing.assert_array_equal(spins_of(answer), spins_of(draw(by_hand, *divided, 2000)))


def group_excess(sampler: Any, couplings: dict[tuple[int, int], float]) -> list[float]:
    sums = [sum(couplings.get(tuple(pair), 0.0) for pair in group) for group in sampler.properties["coupling_groups"]]
    return [total / 10 if total > 0 else -total / 13 for total in sums]


def test_the_same_seed_and_calls_give_the_same_reads() -> None:
    answers = []
    for seed in (1, 1, 2):
        sampler = Emulator("advantage2", mode="stress", seed=seed, m=1)
        fields, couplings = random_problem(sampler, slice_of(sampler), 0)
        answers.append([spins_of(draw(sampler, fields, couplings, 50)) for _ in range(2)])
    np.testing.assert_array_equal(answers[0], answers[1])
    assert not np.array_equal(answers[0], answers[2])
    assert not np.array_equal(answers[0][0], answers[0][1])


def test_a_refused_call_changes_nothing_that_follows() -> None:
    reads = []
    for fails in (False, True):
        sampler = Emulator("advantage2", mode="stress", seed=1, m=1)
        fields, couplings = random_problem(sampler, slice_of(sampler), 0)
        if fails:
            with pytest.raises(AnnealerError, match="num_reads"):
                draw(sampler, fields, couplings, 20_000)
        reads.append(spins_of(draw(sampler, fields, couplings, 50)))
    np.testing.assert_array_equal(*reads)


# --- what it costs, and what it says of itself --------------------------------------------------------------------


def test_timing_is_that_of_the_formula() -> None:
    sampler, fields, couplings = small()
    timing = draw(
        sampler,
        fields,
        couplings,
        70,
        annealing_time=30.0,
        programming_thermalization=1500.0,
        readout_thermalization=5.0,
    ).info["timing"]
    readout = readout_time(sampler.chip, len(fields)) + 5.0
    expected = {
        "qpu_sampling_time": 70 * (30.0 + readout + 60.6),
        "qpu_anneal_time_per_sample": 30.0,
        "qpu_readout_time_per_sample": readout,
        "qpu_access_time": 33_600.0 + 500.0 + 70 * (30.0 + readout + 60.6),
        "qpu_access_overhead_time": 15_000.0,
        "qpu_programming_time": 34_100.0,
        "qpu_delay_time_per_sample": 60.6,
        "total_post_processing_time": 0.0,
        "post_processing_overhead_time": 0.0,
    }
    assert timing == pytest.approx(expected, rel=1e-12)
    assert sampler.usage.access_us == pytest.approx(expected["qpu_access_time"], rel=1e-12)
    assert (sampler.usage.programmings, sampler.usage.reads) == (1, 70)


def test_the_nine_times_are_those_of_the_mock_of_the_chip() -> None:
    pytest.importorskip("dwave.system", reason="dwave-system is not installed")
    from tests.annealer.machines import mock

    sampler, fields, couplings = small()
    real = mock()
    theirs = real.sample_ising({real.nodelist[0]: 1.0}, {}).info["timing"]
    assert set(draw(sampler, fields, couplings, 1).info["timing"]) == set(theirs)


def test_everything_says_that_it_is_emulated() -> None:
    sampler, fields, couplings = small()
    answer = draw(sampler, fields, couplings, 5, label="mine")
    assert answer.info["emulated"] is True
    assert answer.info["category"] == sampler.properties["category"] == "emulator"
    assert answer.info["problem_label"] == "mine"
    assert sampler.properties["emulated"] is True
    for name in (sampler.properties["chip_id"], sampler.properties["graph_id"], answer.info["problem_id"]):
        assert name.startswith("emulated-")


def numbers_in(thing: Any) -> list[float]:
    if isinstance(thing, dict):
        return [number for key, value in thing.items() for number in [*numbers_in(key), *numbers_in(value)]]
    if isinstance(thing, list | tuple):
        return [number for value in thing for number in numbers_in(value)]
    return [float(thing)] if isinstance(thing, int | float) else []


@pytest.mark.parametrize("mode", ["ideal", "calibrated", "stress"])
def test_the_inverse_temperature_is_hidden_from_the_caller(mode: Any) -> None:
    sampler = Emulator("advantage2", mode=mode, seed=1, m=1)
    fields, couplings = random_problem(sampler, slice_of(sampler), 0)
    answer = draw(sampler, fields, couplings, 5)
    (truth,) = sampler.reveal()
    shown = numbers_in([answer.info, sampler.properties])
    assert shown
    hidden = {
        truth.beta,
        1 / truth.beta,
        CHIPS["Advantage2_system1"].beta,
        CHIPS["Advantage2_system1"].one_qubit_temperature,
    }
    for number in hidden:
        assert not np.isclose(shown, number, rtol=1e-6).any()
    assert not [name for name in vars(sampler) if "beta" in name or "temperature" in name]
    json.dumps(answer.info)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"beta": 1.0}, "the emulator does not know beta"),
        ({"answer_mode": "sorted"}, "answer_mode is 'sorted'"),
        ({"num_reads": 0}, "num_reads is 0"),
        ({"num_reads": 2.5}, "num_reads is 2.5"),
        ({"annealing_time": float("nan")}, "annealing_time is nan"),
        ({"readout_thermalization": -1.0}, "readout_thermalization is -1"),
        ({"annealing_time": 0.1}, "annealing time in microseconds is 0.1"),
        ({"num_reads": 10_000, "annealing_time": 200.0}, "more than the 1 s of a call"),
        ({"flux_biases": [0.0]}, "one for each of the 48 qubits"),
        ({"flux_biases": [0.0] * 48, "auto_scale": True}, "flux biases and auto_scale exclude each other"),
        ({"fast_anneal": True, "annealing_time": 0.01}, "a fast anneal takes no fields"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], told: str) -> None:
    sampler, fields, couplings = small()
    with pytest.raises(AnnealerError, match=told):
        sampler.sample_ising(fields, couplings, **({"auto_scale": False} | options))
    assert sampler.usage.programmings == 0


def test_a_fast_anneal_takes_flux_biases_in_place_of_fields() -> None:
    sampler, fields, couplings = small(4)
    flux = np.zeros(48)
    for label, h in fields.items():
        flux[label] = PHI_OF_UNIT_FIELD * h
    answer = draw(
        sampler, dict.fromkeys(fields, 0.0), couplings, fast_anneal=True, annealing_time=20.0, flux_biases=flux.tolist()
    )
    assert exact_law(fields, couplings, BETA).follows(spins_of(answer))


def test_a_large_flux_bias_is_warned_of() -> None:
    sampler, fields, couplings = small()
    with pytest.warns(UserWarning, match=r"beyond 0\.01 flux quanta"):
        draw(sampler, fields, couplings, 1, flux_biases=[0.02] * 48)


@pytest.mark.parametrize("labels", [["a", "b"], [0, 10**6], []])
def test_problems_of_other_labels_are_refused(labels: list[Any]) -> None:
    with pytest.raises(AnnealerError, match="do not work on emulated-"):
        ideal().sample_ising(dict.fromkeys(labels, 0.1), {}, auto_scale=False)


def test_couplers_that_do_not_exist_are_refused_by_name() -> None:
    sampler = ideal()
    pairs = set(sampler.edgelist)
    strange = next((a, b) for a in sampler.nodelist for b in sampler.nodelist if a < b and (a, b) not in pairs)
    with pytest.raises(AnnealerError, match=rf"1 of the 1 couplers .* do not work .*\({strange[0]}, {strange[1]}\)"):
        sampler.sample_ising({}, {strange: 0.1}, auto_scale=False)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"mode": "perfect"}, "no mode 'perfect'"),
        ({"m": 0}, "does not exist"),
        ({"nodelist": [0, 999]}, r"qubits \[999\] are not on zephyr m=1"),
        ({"edgelist": [(0, 2)]}, "does not join working qubits"),
    ],
)
def test_emulators_that_cannot_be(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(AnnealerError, match=told):
        ideal(**arguments) if "mode" not in arguments else Emulator("advantage2", seed=1, m=1, **arguments)


def test_the_law_sees_what_it_is_given() -> None:
    """The oracle itself, by hand: two spins, h = (0.5, 0), J = 1."""
    law: ExactLaw = exact_law({0: 0.5, 1: 0.0}, {(0, 1): 1.0}, 2.0)
    weights = {(-1, -1): np.exp(-1.0), (-1, 1): np.exp(3.0), (1, -1): np.exp(1.0), (1, 1): np.exp(-3.0)}
    z = sum(weights.values())
    for state, p in zip(law.states, law.probabilities, strict=True):
        assert p == pytest.approx(weights[int(state[0]), int(state[1])] / z)
