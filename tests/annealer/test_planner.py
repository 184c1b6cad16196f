"""The planner against products done by hand."""

import json
import math

import pytest

from calo4pqvae.annealer.calls.annealer import open_annealer
from calo4pqvae.annealer.chip.table import CHIPS, access_time, chip
from calo4pqvae.annealer.placing.tiles import tiles_on
from calo4pqvae.annealer.planner import (
    PROTOCOLS,
    Job,
    ProtocolCost,
    plain_hours,
    plan,
    plan_calls,
    plan_table,
    protocol_cost,
    ways_out,
)
from calo4pqvae.annealer.protocols.named import PROTOCOLS as STRATEGIES
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.graph.chips import chip_topology
from calo4pqvae.prior.machine import BoltzmannMachine

JOB = Job(n_qubits=1208, n_samples=100_000, n_epochs=200, n_conditions=100_000)
ZEPHYR = chip("advantage2")


def test_twenty_milliseconds_times_100k_times_200_is_111_hours() -> None:
    assert plain_hours() == pytest.approx(111.1, abs=0.05)
    assert plain_hours(0.016, 80_000, 1) == pytest.approx(0.016 * 80_000 / 3600)


def test_one_read_a_sample_is_the_product_with_the_time_of_a_call() -> None:
    row = plan(JOB, protocol_cost("one-read"), ZEPHYR)
    call = access_time(ZEPHYR, 1, n_qubits=1208).seconds
    assert (row.programmings, row.reads) == (20_000_000, 20_000_000)
    assert row.access_seconds == pytest.approx(call * 2e7, rel=1e-12)
    assert row.access_hours == pytest.approx(plain_hours(call), rel=1e-12)


def test_a_group_shares_a_programming() -> None:
    job = Job(n_qubits=1208, n_samples=1050, n_epochs=3, n_conditions=10)
    row = plan(job, protocol_cost("tracked"), ZEPHYR, most_reads=100)
    assert row.programmings == 3 * 10 * 2  # 105 reads a condition take two calls of 100 at most
    calls = 3 * 10 * (access_time(ZEPHYR, 100, n_qubits=1208).seconds + access_time(ZEPHYR, 5, n_qubits=1208).seconds)
    assert row.access_seconds == pytest.approx(calls, rel=1e-12)
    assert row.seconds_per_sample == pytest.approx(calls / 3150, rel=1e-12)
    assert row.wall_seconds == pytest.approx(calls + 60 * 0.22, rel=1e-12)


def test_uneven_groups_are_shared_in_whole_numbers() -> None:
    job = Job(n_qubits=10, n_samples=11, n_conditions=2)
    assert plan(job, protocol_cost("same-reads"), ZEPHYR, most_reads=5).programmings == 1 + 2  # groups of 5 and of 6


def test_estimates_are_paid_for() -> None:
    job = Job(n_qubits=1208, n_samples=100, n_epochs=2)
    one, estimate = (access_time(ZEPHYR, n, n_qubits=1208).seconds for n in (1, 256))
    before = plan(job, protocol_cost("before-each"), ZEPHYR)
    assert before.programmings == 200 * 21
    assert before.access_seconds == pytest.approx(200 * (one + 20 * estimate), rel=1e-12)
    once = plan(job, protocol_cost("once"), ZEPHYR)
    assert once.access_seconds == pytest.approx(200 * one + 20 * estimate, rel=1e-12)
    waiting = plan(job, protocol_cost("once-with-wait"), ZEPHYR)
    assert waiting.access_seconds == once.access_seconds
    assert waiting.wall_seconds - once.wall_seconds == pytest.approx(200 * 2.5)
    single = plan(job, protocol_cost("one-read-per-call"), ZEPHYR)
    assert single.access_seconds == pytest.approx((200 + 20 * 256) * one, rel=1e-12)


def test_reads_that_serve_the_estimate_alone_are_planned() -> None:
    """Thirty-one conditions of three or four samples: a hundred reads each."""
    row = plan(Job(n_qubits=96, n_samples=100, n_conditions=31), protocol_cost("same-reads"), ZEPHYR)
    assert (row.programmings, row.reads) == (31, 3100)
    assert row.access_seconds == pytest.approx(31 * access_time(ZEPHYR, 100, n_qubits=96).seconds, rel=1e-12)


@pytest.mark.parametrize("anneal_us", [math.nan, 0.1, 5000.0, 1e9])
def test_anneals_that_no_chip_makes(anneal_us: float) -> None:
    with pytest.raises(AnnealerError, match=r"is outside 0\.5 to 2000 of Advantage2_system1"):
        plan(JOB, protocol_cost("tracked"), ZEPHYR, anneal_us=anneal_us)
    with pytest.raises(AnnealerError, match=r"is outside 0\.5 to 2000 of Advantage2_system1"):
        plan_calls([10], 100, ZEPHYR, anneal_us=anneal_us)
    for price in (-3.0, math.inf):
        with pytest.raises(AnnealerError, match="is no price of an hour"):
            plan(JOB, protocol_cost("tracked"), ZEPHYR, price_per_hour=price)


def test_copies_side_by_side_share_a_programming() -> None:
    """Of a model of 128 qubits there are as many copies as compact patches that lie apart on the ideal graph."""
    job = Job(n_qubits=128, n_samples=1000, n_epochs=2, n_conditions=1000)
    row = plan(job, protocol_cost("tiled"), ZEPHYR)
    grid = open_annealer("emulator:advantage2:12:whole", seed=1)
    copies = len(tiles_on(BoltzmannMachine(chip_topology("zephyr", 2, 32)), grid))
    assert copies > 5
    assert row.programmings == 2 * math.ceil(1000 / copies)
    call = access_time(ZEPHYR, math.ceil(100 / copies), n_qubits=128 * copies)
    assert row.access_seconds == pytest.approx(row.programmings * call.seconds, rel=1e-12)
    large = Job(n_qubits=4500, n_samples=10)
    assert plan(large, protocol_cost("tiled"), ZEPHYR).programmings == 10
    assert plan(large, protocol_cost("tiled"), ZEPHYR).reads == 1000


def test_planned_protocols_are_those_that_exist() -> None:
    assert set(STRATEGIES) == set(PROTOCOLS) - {"one-read"}


def test_the_published_budget_of_an_estimate_per_sample() -> None:
    """16.1 ms a one-read call, twenty calls an event, 80,000 events: 7.16 h an epoch."""
    hours = plain_hours(20 * 0.0161, 80_000, 1)
    assert hours == pytest.approx(7.16, abs=0.01)


@pytest.mark.parametrize(
    ("name", "one_ms", "hundred_ms", "thousand_ms"),
    [
        ("Advantage_system4", 14.4, 0.416, 0.290),
        ("Advantage_system6", 14.4, 0.355, 0.228),
        ("Advantage2_system1", 33.8, 0.518, 0.215),
        ("Advantage2_system2", 24.6, 0.381, 0.160),
        ("Advantage2_system4", 8.1, 0.166, 0.094),
    ],
)
def test_times_of_a_sample_are_those_of_the_documented_table(
    name: str, one_ms: float, hundred_ms: float, thousand_ms: float
) -> None:
    entry = chip(name)
    for n_samples, expected in ((1, one_ms), (100, hundred_ms), (1000, thousand_ms)):
        row = plan(Job(entry.n_qubits, n_samples), protocol_cost("tracked"), entry)
        assert row.seconds_per_sample * 1e3 == pytest.approx(expected, rel=0.01)


def test_each_way_out_is_cheaper_than_the_last() -> None:
    rows = ways_out(JOB, ZEPHYR, n_bins=100, prior_epochs=50, prior_samples=20_000)
    assert [row.protocol for row in rows] == ["before-each", "one-read", *["tracked"] * 4]
    hours = [row.access_hours for row in rows]
    assert hours == sorted(hours, reverse=True)
    assert hours[1] == pytest.approx(hours[2])  # every energy of its own: grouping gains nothing
    assert hours[3] < hours[2] / 100
    assert rows[4].access_seconds == pytest.approx(rows[3].access_seconds / 4)
    last = 50 * 100 * access_time(ZEPHYR, 200, n_qubits=1208).seconds
    assert rows[5].access_seconds == pytest.approx(last, rel=1e-12)


def test_the_table_has_a_row_for_each_chip_and_protocol() -> None:
    rows = plan_table(JOB, price_per_hour=1000.0)
    assert len(rows) == len(CHIPS) * len(PROTOCOLS)
    small = [row for row in rows if row.chip == "Advantage2_system4"]
    assert not any(row.fits for row in small)  # 1,208 qubits on a chip of 1,202
    row = next(row for row in rows if row.fits)
    assert row.price == pytest.approx(1000 * row.access_hours)
    assert json.loads(json.dumps(row.to_dict()))["access_hours"] == row.access_hours


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"n_samples": 0}, "is no job"),
        ({"n_conditions": 200_000}, "more conditions than samples"),
    ],
)
def test_jobs_that_are_none(changes: dict[str, int], told: str) -> None:
    with pytest.raises(AnnealerError, match=told):
        Job(**{"n_qubits": 10, "n_samples": 100_000, "n_epochs": 1, "n_conditions": 1} | changes)


def test_plans_that_cannot_be() -> None:
    with pytest.raises(AnnealerError, match=r"takes 1 to 82\d\d reads of 1208 qubits a call, not 20000"):
        plan(JOB, protocol_cost("same-reads"), ZEPHYR, most_reads=20_000)
    with pytest.raises(AnnealerError, match="there is no protocol 'luck'"):
        protocol_cost("luck")
    with pytest.raises(AnnealerError, match="ask for fewer"):
        ways_out(JOB, ZEPHYR, n_bins=100, prior_epochs=500, prior_samples=20_000)


def test_the_run_limit_bounds_a_call() -> None:
    full = Job(n_qubits=4577, n_samples=10_000)
    assert plan(full, protocol_cost("same-reads"), ZEPHYR).programmings == 2  # 8,256 reads fit in a second
    assert plan(full, ProtocolCost("long", is_grouped=True), ZEPHYR, anneal_us=2000.0).programmings == 22


@pytest.mark.parametrize(
    ("name", "n_qubits", "call_ms", "hours"),
    [  # programming + (20 anneal + readout of the full chip + delay), by hand
        ("Advantage_system4", 5627, 14.100 + 0.020 + 0.235 + 0.0205, 79.86),
        ("Advantage_system6", 5612, 14.200 + 0.020 + 0.173 + 0.0205, 80.08),
        ("Advantage2_system1", 4577, 33.600 + 0.020 + 0.101 + 0.0606, 187.68),
        ("Advantage2_system2", 4514, 24.500 + 0.020 + 0.095 + 0.0206, 136.86),
        ("Advantage2_system4", 1202, 8.000 + 0.020 + 0.045 + 0.0206, 44.92),
    ],
)
def test_one_read_a_call_by_hand_on_each_chip(name: str, n_qubits: int, call_ms: float, hours: float) -> None:
    """100k samples x 200 epochs of a full chip: 20 million calls; 20 ms each would be 111.1 h."""
    row = plan(Job(n_qubits, 100_000, 200, 100_000), protocol_cost("one-read"), chip(name))
    assert row.seconds_per_sample * 1e3 == pytest.approx(call_ms, rel=1e-9)
    assert row.access_hours == pytest.approx(hours, abs=0.01)


def test_the_ways_out_by_hand() -> None:
    """Full Advantage2_system1: 33.6 ms a programming, 20 + 101 + 60.6 = 181.6 us a read."""
    job = Job(n_qubits=4577, n_samples=100_000, n_epochs=200, n_conditions=100_000)
    rows = ways_out(job, chip("Advantage2_system1"), n_bins=100, prior_epochs=50, prior_samples=20_000)
    seconds = [row.access_seconds for row in rows]
    assert seconds[0] == pytest.approx(2e7 * (0.0337816 + 20 * (0.0336 + 256 * 181.6e-6)), rel=1e-9)
    assert seconds[1] == pytest.approx(2e7 * 0.0337816, rel=1e-9)  # 187.7 h
    assert seconds[3] == pytest.approx(200 * (100 * 0.0336 + 100_000 * 181.6e-6), rel=1e-9)  # 1.196 h
    assert seconds[4] == pytest.approx(50 * (100 * 0.0336 + 100_000 * 181.6e-6), rel=1e-9)  # 17.9 min
    assert seconds[5] == pytest.approx(50 * (100 * 0.0336 + 20_000 * 181.6e-6), rel=1e-9)  # 5.8 min
    assert [round(value / 3600, 2) for value in seconds] == [9086.52, 187.68, 187.68, 1.2, 0.3, 0.1]


def test_calls_one_by_one() -> None:
    """250 steps of 4 programmings of 100 reads: 1,000 x 33.6 ms + 100,000 x 181.6 us = 51.8 s."""
    row = plan_calls([100] * 1000, 4577, chip("Advantage2_system1"), price_per_hour=3600.0)
    assert (row.programmings, row.reads) == (1000, 100_000)
    assert row.access_seconds == pytest.approx(33.6 + 18.16, rel=1e-9)
    assert row.wall_seconds == pytest.approx(33.6 + 18.16 + 220, rel=1e-9)
    assert row.price == pytest.approx(51.76)
    uneven = plan_calls([10, 9000], 4577, chip("Advantage2_system1"))  # 8,256 reads fit in a call
    assert (uneven.programmings, uneven.reads) == (3, 9010)
    assert not plan_calls([1], 4577, chip("Advantage2_system4")).fits
    for calls, qubits in (([], 10), ([0], 10), ([1], 0)):
        with pytest.raises(AnnealerError, match="are no plan"):
            plan_calls(calls, qubits, ZEPHYR)
