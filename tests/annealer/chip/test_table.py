"""The chip table against the documented numbers, written down apart from it."""

from dataclasses import replace

import numpy as np
import pytest

from calo4pqvae.annealer.chip.table import (
    CHIPS,
    access_time,
    chip,
    fields_to_flux,
    flux_to_fields,
    readout_time,
)
from calo4pqvae.errors import AnnealerError

NAMES = ("Advantage_system4", "Advantage_system6", "Advantage2_system1", "Advantage2_system2", "Advantage2_system4")


@pytest.mark.parametrize(
    ("n_reads", "expected_ms", "digits"),
    [
        (1, (14.4, 14.4, 33.8, 24.6, 8.1), 0.05),
        (100, (0.416, 0.355, 0.518, 0.381, 0.166), 0.0006),
        (1000, (0.290, 0.228, 0.215, 0.160, 0.094), 0.0006),
    ],
)
def test_access_times_a_read_are_those_of_the_table(
    n_reads: int, expected_ms: tuple[float, ...], digits: float
) -> None:
    for name, expected in zip(NAMES, expected_ms, strict=True):
        assert access_time(CHIPS[name], n_reads).per_read_us / 1e3 == pytest.approx(expected, abs=digits), name


def test_access_time_is_its_parts() -> None:
    time = access_time(
        chip("advantage4"), 7, 50.0, programming_thermalization_us=3000.0, readout_thermalization_us=11.0,
        reduce_intersample_correlation=True,
    )  # fmt: skip
    assert time.programming_us == 14_100 + 2000
    assert time.delay_us == 20.5 + 500 + 50 * 4.75
    assert time.total_us == 16_100 + 7 * (50 + 235 + 11 + 757.5 + 0.5)
    assert time.seconds == time.total_us * 1e-6


@pytest.mark.parametrize("n_qubits", [1, 7, 96, 1000, 3000, 5627])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"annealing_time": 50.0},
        {"programming_thermalization": 20.0},
        {"readout_thermalization": 5.0},
        {"reduce_intersample_correlation": True, "annealing_time": 100.0},
    ],
)
def test_access_time_is_that_of_the_client_of_the_maker(n_qubits: int, options: dict[str, float]) -> None:
    """With the facts of the timing data that D-Wave's client is tested with, for any size, reads and options."""
    pytest.importorskip("dwave.cloud", reason="dwave-cloud-client is not installed (extra qpu)")
    from dwave.cloud.solver import StructuredSolver
    from dwave.cloud.testing import mocks

    data, timing = mocks.qpu_pegasus_solver_data(16), mocks.qpu_problem_timing_data()
    data["properties"]["problem_timing_data"] = timing
    solver = StructuredSolver(client=None, data=data)
    parameters = timing["readout_time_model_parameters"]
    entry = replace(
        chip("Advantage_system4"),
        programming_us=timing["typical_programming_time"] + timing["default_programming_thermalization"],
        delay_us=timing["qpu_delay_time_per_sample"],
        readout_us=(10 ** parameters[6], 10 ** parameters[-1]),
    )
    words = {"annealing_time": "anneal_us", "reduce_intersample_correlation": "reduce_intersample_correlation"}
    own = {words.get(name, f"{name}_us"): value for name, value in options.items()}
    for n_reads in (1, 100, 1000):
        expected = solver.estimate_qpu_access_time(n_qubits, num_reads=n_reads, **options)
        assert access_time(entry, n_reads, n_qubits=n_qubits, **own).total_us == pytest.approx(expected, rel=2e-4)  # type: ignore[arg-type]


def test_readout_lies_between_one_qubit_and_the_full_chip() -> None:
    entry = chip("advantage2")
    times = [readout_time(entry, n) for n in (1, 10, 1000, 4577)]
    assert (times[0], times[-1]) == pytest.approx((17.0, 101.0))
    assert times == sorted(times)
    for n in (0, 4578):
        with pytest.raises(AnnealerError, match="cannot be read"):
            readout_time(entry, n)


@pytest.mark.parametrize(
    ("name", "at_critical_point", "at_freeze_out"),
    [
        ("Advantage_system4", -4.21e-4, -7.07e-4),
        ("Advantage_system6", -3.93e-4, -6.52e-4),
        ("Advantage2_system1", -3.07e-4, -5.75e-4),
    ],
)
def test_flux_of_a_unit_field(name: str, at_critical_point: float, at_freeze_out: float) -> None:
    entry = CHIPS[name]
    assert fields_to_flux(entry, 1.0) == pytest.approx(at_freeze_out, rel=2e-3)
    assert fields_to_flux(entry, 1.0, entry.critical_b_ghz) == pytest.approx(at_critical_point, rel=2e-3)
    fields = np.array([-2.0, 0.0, 0.3])
    np.testing.assert_allclose(flux_to_fields(entry, fields_to_flux(entry, fields)), fields)


def test_the_limit_of_flux_in_units_of_fields() -> None:
    for name, field in (("Advantage_system4", 14.1), ("Advantage_system6", 15.3), ("Advantage2_system1", 17.4)):
        assert flux_to_fields(CHIPS[name], -0.01) == pytest.approx(field, abs=0.06)


def test_inverse_temperatures() -> None:
    betas = {"advantage4": 5.05, "advantage6": 4.52, "advantage2": 8.93, "Advantage2_system2": 8.40}
    for name, beta in betas.items():
        assert chip(name).beta == pytest.approx(beta, abs=0.006)


@pytest.mark.parametrize("name", ["Advantage2_system1.10", " advantage2_SYSTEM1 ", "zephyr", "advantage2"])
def test_names_with_and_without_the_version_of_the_working_graph(name: str) -> None:
    assert chip(name) is CHIPS["Advantage2_system1"]


def test_b_of_chips_without_schedule_is_implied_by_the_temperature_and_said_so() -> None:
    entry = chip("Advantage2_system2")
    assert entry.freeze_out_b_ghz == pytest.approx(2 * 20.836619 * 0.0167 / 0.119, rel=1e-4)  # k_B / h in GHz / K
    assert "implied" in entry.flux_source
    assert "published schedule" in chip("advantage2").flux_source


def test_refusals() -> None:
    with pytest.raises(AnnealerError, match="there is no chip 'ours'"):
        chip("ours")
    for n_reads, anneal in ((0, 20.0), (1, -1.0)):
        with pytest.raises(AnnealerError, match="make no call"):
            access_time(chip("advantage2"), n_reads, anneal)
