"""Numbers, table and words of the protocol study, from made-up measurements."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from calo4pqvae.studies.annealer_protocols.measurements import Errors, Measured
from calo4pqvae.studies.annealer_protocols.rule_courses import RuleCourse
from calo4pqvae.studies.annealer_protocols.summary import (
    OURS,
    PRESENTED,
    Cell,
    claims_of,
    numbers_of_cell,
    table_of,
    text_of,
)


def measured(energy: float, known: float, access_s: float, distance: float = 1.0) -> Measured:
    errors = Errors(energy, 0.1, 0.02, distance)
    return Measured(errors, replace(errors, energy=energy / 2), 0.03, known, known, 2.0, 500.0, access_s, 40)


def cell(mode: Any, ours_known: float = 0.01, ours_s: float = 0.001) -> Cell:
    machine: Any = SimpleNamespace(name="Model A, Zephyr", origin="made up", gap=0.1, gap_error=0.2)
    protocols = {
        name: [measured(0.5, 0.02 + 0.001 * repeat, 0.3) for repeat in range(3)]
        for name in (*PRESENTED, "before-each, grouped")
    }
    protocols |= {name: [measured(-0.5, ours_known + 0.001 * repeat, ours_s) for repeat in range(3)] for name in OURS}
    protocols["before-each, published rule"] = [Measured.failed("no meaning")] * 3
    floor = Errors(0.1, 0.1, 0.01, 0.9)
    return Cell(machine, mode, "advantage2", protocols, [floor] * 3, [0.8] * 3)


COURSE = RuleCourse("18 spins", "multiplicative, 4", (4.0, 2.0, 5.0, 2.0, 5.0), 3.8, False, -2.0)


def test_claims_are_paired_differences_and_ratios() -> None:
    claim = claims_of([cell("calibrated"), cell("stress")], 1)["same-reads less before-each"]
    known = claim["difference"]["beta, as known"]
    assert known["value"] == pytest.approx(-0.01)
    assert known["n"] == 6
    assert claim["difference"]["energy"]["value"] == pytest.approx(0.0)  # the sign of an error does not matter
    assert "beta, as known" in claim["better"]
    assert claim["worse"] == []
    assert claim["least gain in access time"] == pytest.approx(300)


def test_what_is_worse_is_said_to_be_worse() -> None:
    cells = [cell("calibrated", 0.05, ours_s=0.01), cell("stress", 0.06, ours_s=0.01)]
    claims = claims_of(cells, 1)
    assert claims["tracked less before-each"]["worse"] == ["beta, as known"]
    text = "\n".join(text_of(cells, [COURSE], claims, "Made up.", "table.txt"))
    assert "it is worse in beta, as known (by 0.035" in text
    assert "30 to 30 times shorter (not at least 50 everywhere)" in text
    assert "swings between 2.00 and 5.00" in text
    assert text.startswith("All chips are emulated")


def test_table_has_a_line_for_each_protocol_and_its_floors() -> None:
    table = table_of([cell("calibrated"), cell("stress")])
    assert "All chips are emulated" in table
    assert table.count("before-each, published rule      failed: no meaning") == 2
    assert table.count("Geant4, same size (floor)") == 2
    assert table.count("tracked") == 2
    line = next(line for line in table.splitlines() if line.startswith("same-reads"))
    assert "-0.50" in line or "-0.5" in line


def test_numbers_have_errors_sizes_and_seeds_and_call_themselves_emulated() -> None:
    numbers = numbers_of_cell(cell("calibrated"), 9)
    assert numbers["emulated"] is True
    access = numbers["tracked"]["access time a shower (ms)"]
    assert (access["value"], access["n"], access["seed"]) == (pytest.approx(1.0), 3, 9)
    failed = numbers["before-each, published rule"]
    assert failed["failures"] == ["no meaning"] * 3
    assert failed["energy"]["value"] is None
    assert not any(isinstance(value, float) and math.isnan(value) for value in access.values())
