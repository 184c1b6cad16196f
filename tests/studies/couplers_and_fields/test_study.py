"""Couplers against fields: the map to spins by hand, laws of random parameters, ranges by hand, the whole study."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from calo4pqvae.annealer.chip.table import chip
from calo4pqvae.errors import AnnealerError, PriorError
from calo4pqvae.prior.bits.file import BitsFile
from calo4pqvae.prior.graph.chips import chip_topology
from calo4pqvae.prior.graph.topology import Topology, complete_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.studies.couplers_and_fields.measurements import SUMMARIES, SpinRatios, range_use, spin_ratios
from calo4pqvae.studies.frame.registry import load_study
from calo4pqvae.studies.frame.study import silent
from calo4pqvae.studies.frame.trained import finished_run
from tests.small_runs import tiny_config, tiny_file

SIZE = SUMMARIES.index("median size")


def normal_machine(topology: Topology, bias_std: float, coupling_std: float, seed: int = 0) -> BoltzmannMachine:
    machine, generator = BoltzmannMachine(topology), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        machine.biases.copy_(bias_std * torch.randn(topology.n_nodes, generator=generator))
        machine.couplings.copy_(coupling_std * torch.randn(topology.n_edges, generator=generator))
    return machine


def test_ratios_of_a_machine_by_hand() -> None:
    """Bits 0 | 1, 2 | 3: couplers 01, 02, 13; bit 3 has no bias; spins by J = -W/4, h = -b/2 - sum W/4."""
    topology = Topology("hand", (1, 2, 1), np.array([[0, 1], [0, 2], [1, 3]]))
    machine = BoltzmannMachine(topology)
    with torch.no_grad():
        machine.biases.copy_(torch.tensor([1.0, -2.0, 4.0, 0.0]))
        machine.couplings.copy_(torch.tensor([0.8, -1.6, 2.4]))
    found = spin_ratios(machine, "hand", "trained")
    sums = np.array([0.8 - 1.6, 0.8 + 2.4, -1.6, 2.4])
    biases = np.array([1.0, -2.0, 4.0, 0.0])
    np.testing.assert_allclose(found.ratios["as programmed"], (sums / 4) / (biases / 2 + sums / 4), rtol=1e-6)
    np.testing.assert_allclose(found.ratios["without the share"][:3], sums[:3] / 4 / (biases[:3] / 2), rtol=1e-6)
    assert np.isinf(found.ratios["without the share"][3])
    roots = np.sqrt([0.64 + 2.56, 0.64 + 5.76, 2.56, 5.76])
    np.testing.assert_allclose(found.ratios["in bits"][:3], roots[:3] / np.abs(biases[:3]), rtol=1e-6)
    assert found.partition.tolist() == [0, 1, 1, 2]
    assert found.mean_degree == pytest.approx(1.5)


@pytest.mark.parametrize("family", ["zephyr", "pegasus"])
def test_ratio_is_one_wherever_a_bit_has_no_bias(family: str) -> None:
    machine = normal_machine(chip_topology(family, 3), 0.0, 1.3)  # type: ignore[arg-type]
    found = spin_ratios(machine, family, "random")
    np.testing.assert_allclose(found.ratios["as programmed"], 1.0, rtol=1e-4)
    assert np.isinf(found.ratios["without the share"]).all()


def test_without_the_share_normal_parameters_give_a_cauchy_law() -> None:
    """Median size sqrt(d) / 2 and quartiles of the same size, exactly, at equal spreads and degree d."""
    topology = complete_topology((300, 300, 300, 300))
    found = spin_ratios(normal_machine(topology, 1.0, 1.0, seed=3), "normal", "random")
    summary = found.summary("without the share", np.random.default_rng(1))
    scale = math.sqrt(900) / 2
    assert abs(summary.values[SIZE] - scale) < 4 * summary.errors[SIZE]
    assert summary.errors[SIZE] < 0.1 * scale
    assert abs(summary.values[SUMMARIES.index("upper quartile")] / scale - 1) < 0.25
    assert abs(summary.values[SUMMARIES.index("share negative")] - 0.5) < 0.06
    programmed = found.summary("as programmed", np.random.default_rng(1))
    assert abs(programmed.values[0] - 1) < 0.05


def test_errors_of_the_median_cover_it() -> None:
    """The median size of Cauchy numbers is their scale; its bootstrap error must cover it."""
    rng, pulls = np.random.default_rng(5), []
    for _ in range(60):
        one = SpinRatios("a", "random", np.zeros(300, dtype=np.int64), 1.0, {"in bits": rng.standard_cauchy(300)})  # type: ignore[dict-item]
        summary = one.summary("in bits", rng)
        pulls.append((summary.values[SIZE] - 1) / summary.errors[SIZE])
    assert 0.6 < np.mean(np.square(pulls)) < 1.6


def test_partitions_are_kept_apart_and_spins_without_anything_left_out() -> None:
    values = np.array([1.0, 2.0, 3.0, np.nan, -5.0, np.inf])
    one = SpinRatios("a", "trained", np.array([0, 0, 0, 0, 1, 1]), 1.0, {"in bits": values})  # type: ignore[dict-item]
    rng = np.random.default_rng(1)
    first, second = (one.summary("in bits", rng, partition, 20) for partition in (0, 1))
    assert (first.n_spins, first.n_infinite, first.values[0]) == (3, 0, 2.0)
    assert (second.n_spins, second.n_infinite) == (2, 1)
    assert np.isfinite(first.errors[0])
    empty = SpinRatios("a", "trained", np.array([0]), 0.0, {"in bits": np.array([np.nan])})  # type: ignore[dict-item]
    with pytest.raises(PriorError, match="no spin has a coupler"):
        empty.summary("in bits", rng)


@pytest.mark.parametrize(("family", "name"), [("zephyr", "Advantage2_system1"), ("pegasus", "Advantage_system4")])
def test_range_use_by_hand(family: str, name: str) -> None:
    machine = BoltzmannMachine(chip_topology(family, 2))  # type: ignore[arg-type]
    with torch.no_grad():
        machine.couplings[0] = -8.0  # J = 2, of a range that ends at 1 on this side
    entry = chip(name)
    found = range_use(machine, family, "trained")
    assert found.chip == name
    assert found.largest["J"] == pytest.approx(2.0 / entry.beta / entry.j_range[1])
    assert found.largest["h"] == pytest.approx(2.0 / entry.beta / 4.0)
    sums = entry.per_group_range or entry.per_qubit_range
    assert sums is not None
    assert found.largest["sums of J"] == pytest.approx(2.0 / entry.beta / sums[1])
    assert found.margin == pytest.approx(1 / found.largest["J"])
    assert found.share_below_error == pytest.approx(1 - 1 / machine.topology.n_edges)
    with torch.no_grad():
        machine.couplings[0] = 8.0
    assert range_use(machine, family, "trained").largest["J"] == pytest.approx(2.0 / entry.beta / 2.0)


def test_a_graph_that_is_no_chip_has_no_ranges() -> None:
    with pytest.raises(AnnealerError, match="not that of a chip"):
        range_use(normal_machine(complete_topology((2, 2)), 1.0, 1.0), "a", "random")


@pytest.mark.parametrize("mode", ["clamp", "fold"])
def test_study_end_to_end(tmp_path: Path, mode: str) -> None:
    config = tiny_config(tiny_file(tmp_path), {"condition.mode": mode, "prior.graph": "zephyr"})
    run = finished_run(config, tmp_path / "shower", "training", silent)
    images = tmp_path / "images.h5"
    BitsFile(np.random.default_rng(1).integers(0, 2, (300, 64), dtype=np.uint8), shape=(8, 8)).write(images)
    study = load_study("couplers-and-fields")
    tiny = {
        "data": f'"{images}"', "run": f'"{run}"', "epochs": 2, "zephyr_size": 8, "pegasus_size": 8,
        "complete_size": 8, "n_bootstrap": 10,
    }  # fmt: skip
    settings = study.configure(quick=True, overrides=[f"{key}={value}" for key, value in tiny.items()])
    result = study.run(settings, tmp_path, 2)
    stored = json.loads((tmp_path / "couplers-and-fields" / "result.json").read_text())["numbers"]
    for graph in ("zephyr", "pegasus", "complete"):
        assert set(stored[f"images, {graph}"]) == {"start", "trained"}
        kinds = stored[f"images, {graph}"]["trained"]
        assert kinds["as programmed"]["median"]["n"] == 16
        assert ("range use" in kinds) == (graph != "complete")
    assert ("showers, zephyr" in stored) == (mode == "clamp")
    if mode == "clamp":  # the partition of the condition has no biases of its own
        trained = stored["showers, zephyr"]["trained"]
        assert trained["as programmed"]["partition 0"]["median"]["value"] == pytest.approx(1.0, rel=1e-4)
        assert trained["without the share"]["partition 0"]["spins without a field"] > 0
    assert "range use" in stored["showers at 100 GeV, zephyr"]["trained"]
    assert [one.stem for one in result.figures] == ["ratios", "partitions", "ranges"]
    assert "nan" not in " ".join(result.text)
