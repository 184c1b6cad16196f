"""Every way of training: what it leaves, what moves and what must not."""

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from calo4pqvae.config import Config
from calo4pqvae.errors import CheckpointError, ConfigError, DivergenceError
from calo4pqvae.runs.training import train
from calo4pqvae.showers.files import content_hash
from calo4pqvae.workshop.rundir import RunDirectory
from tests.small_runs import (
    N_SHOWERS,
    N_STEPS,
    N_UPDATES,
    WEIGHTS,
    Diary,
    InterruptionError,
    contents,
    stop_at,
    tiny_config,
    tiny_file,
)


@pytest.fixture(scope="module")
def showers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_file(tmp_path_factory.mktemp("showers"))


@pytest.fixture(scope="module")
def networks(showers: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished run of mode 'autoencoder', from which priors can be trained."""
    return train(tiny_config(showers, {"training.mode": "autoencoder"}), tmp_path_factory.mktemp("networks"))


def prior_config(showers: Path, networks: RunDirectory, changes: Mapping[str, Any]) -> Config:
    start = {"training.mode": "prior", "training.start_from": str(networks.path)}
    return tiny_config(showers, start | dict(changes))


def parameters_at_first_checkpoint(config: Config, out: Path, stage: str, done: int) -> dict[str, Tensor]:
    """Parameters in the checkpoint that stands when a step of a stage is done."""
    with pytest.raises(InterruptionError):
        train(config, out, report=stop_at(stage, done))
    return load_file(out / "checkpoint.safetensors")


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def assert_moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Nearly every number of every tensor is another one; a pair of bits may never be seen together."""
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.isfinite(after[name]).all(), name
        still = int((tensor == after[name]).sum())
        assert still <= 0.02 * tensor.numel(), f"{name}: {still} numbers have not moved"


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"training.mode": "staged"}, {"networks", "prior"}),
        ({"training.joint_networks": True}, {"networks", "prior"}),
        ({"training.mode": "joint"}, {"networks"}),
        ({"training.mode": "joint", "prior.joint_update": "loss"}, {"networks"}),
        ({"training.mode": "autoencoder"}, {"networks"}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_every_mode_leaves_a_whole_run(
    changes: dict[str, Any], stages: set[str], showers: Path, tmp_path: Path
) -> None:
    config = tiny_config(showers, changes)
    diary = Diary()
    run = train(config, tmp_path, report=diary)
    expected = [("networks", step + 1) for step in range(N_STEPS)]
    if "prior" in stages:
        expected += [("prior", update + 1) for update in range(N_UPDATES)]
    assert diary.steps == expected
    files = {"config.toml", "metrics.jsonl", "provenance.json", *(f"{n}.safetensors" for n in ("split", "posterior"))}
    weights = {WEIGHTS[0]} if changes.get("training.mode") == "autoencoder" else set(WEIGHTS)
    assert set(contents(tmp_path)) == files | weights
    assert run.config() == config
    assert [row["stage"] for row in run.metrics()][:3] == ["networks", "networks", "export"]
    assert ("prior" in stages) == any(row["stage"] == "prior" for row in run.metrics())
    for row in run.metrics()[:2]:
        assert row["validation"]["information"] > 0
        assert (row["validation"]["prior_energy"] == 0) == ("joint" not in str(changes))


def test_the_layers_have_a_stage_of_their_own(showers: Path, tmp_path: Path) -> None:
    config = tiny_config(showers, {"training.mode": "autoencoder", "training.layer_steps": 60})
    diary = Diary()
    with pytest.raises(InterruptionError):
        train(config, tmp_path / "first", report=stop_at("networks", 4))
    before = load_file(tmp_path / "first" / "checkpoint.safetensors")
    run = train(config, tmp_path / "second", report=diary)
    assert diary.steps[:2] == [("layers", 50), ("layers", 60)]
    assert [row["stage"] for row in run.metrics()][:2] == ["layers", "networks"]
    after = load_file(run.path / "autoencoder.safetensors")
    for name, tensor in with_prefix(before, "autoencoder.").items():
        if name.startswith("layer_head."):  # learned before the networks, which leave it as it is
            assert torch.equal(tensor, after[name]), name
    assert any((after[name] != 0).any() for name in after if name == "layer_head.noise.coefficients")


def test_every_coupling_moves_in_the_prior_stage(showers: Path, tmp_path: Path) -> None:
    config = tiny_config(showers)
    before = parameters_at_first_checkpoint(config, tmp_path, "prior", 2)
    after = load_file(train(config, tmp_path, resume=True).path / "prior.safetensors")
    couplings = before["prior.machine.couplings"]
    assert len(couplings) == len(after["graph.edges"])
    assert_moved({"couplings": couplings}, {"couplings": after["machine.couplings"]})


@pytest.mark.parametrize("update", ["direct", "loss", "loss-covariance"])
def test_every_coupling_moves_in_joint_training(update: str, showers: Path, tmp_path: Path) -> None:
    config = tiny_config(showers, {"training.mode": "joint", "prior.joint_update": update})
    before = parameters_at_first_checkpoint(config, tmp_path, "networks", 4)
    after = load_file(train(config, tmp_path, resume=True).path / "prior.safetensors")
    assert_moved(
        {"couplings": before["prior.machine.couplings"]},
        {"couplings": after["machine.couplings"]},
    )


@pytest.mark.parametrize(
    "changes", [{"training.mode": "staged"}, {"training.mode": "joint", "latent.factors": 0}], ids=["factors", "free"]
)
def test_networks_move_in_their_stage(changes: dict[str, Any], showers: Path, tmp_path: Path) -> None:
    config = tiny_config(showers, changes)
    before = with_prefix(parameters_at_first_checkpoint(config, tmp_path, "networks", 4), "autoencoder.")
    train(config, tmp_path, resume=True)
    after = load_file(tmp_path / "autoencoder.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    learned = {name for name in before if name.split(".")[0] != "observables"}
    has_weights = (
        {"encoder", "layer_head", "voxel_head"} if "latent.factors" in changes else {"layer_head", "voxel_head"}
    )
    assert {name.split(".")[0] for name in moved} == has_weights
    assert moved <= learned
    assert all(torch.isfinite(tensor).all() for tensor in after.values())


def test_networks_are_untouched_by_the_prior_stage(showers: Path, tmp_path: Path) -> None:
    seen: dict[str, bytes] = {}

    def look(stage: str, done: int, _total: int, _numbers: Mapping[str, float]) -> None:
        if (stage, done) == ("prior", 1):
            seen.update(contents(tmp_path))

    train(tiny_config(showers, {"training.joint_networks": True}), tmp_path, report=look)
    after = contents(tmp_path)
    for name in ("autoencoder.safetensors", "posterior.safetensors"):
        assert after[name] == seen[name]
    assert after["prior.safetensors"] != seen["prior.safetensors"]


@pytest.mark.parametrize(
    "changes",
    [
        {"prior.graph": "zephyr"},
        {"prior.graph": "pegasus"},
        {"prior.graph": "complete", "prior.gradient": "plain"},
        {"prior.graph": "independent"},
        {"condition.mode": "fold", "condition.bits": 6},
        {"condition.code": "gray", "prior.method": "cd", "prior.optimizer": "adam"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_prior_mode_with_every_graph_and_condition(
    changes: dict[str, Any], showers: Path, networks: RunDirectory, tmp_path: Path
) -> None:
    config = prior_config(showers, networks, changes)
    before = with_prefix(parameters_at_first_checkpoint(config, tmp_path, "prior", 2), "prior.machine.")
    run = train(config, tmp_path, resume=True)
    stored = load_file(run.path / "prior.safetensors")
    after = with_prefix(stored, "machine.")
    assert {"couplings"} <= before.keys()
    if changes.get("condition.mode") == "fold":
        assert before["condition_weights"].shape == (6, 24)
        assert_moved(before, after)
    else:  # nodes of the condition are held at their values: their biases have nothing to learn
        assert_moved({"couplings": before["couplings"]}, {"couplings": after["couplings"]})
        assert_moved({"biases": before["biases"][8:]}, {"biases": after["biases"][8:]})
        assert torch.equal(before["biases"][:8], after["biases"][:8])
    assert (len(after["couplings"]) == 0) == (changes.get("prior.graph") == "independent")
    for name in ("autoencoder.safetensors", "posterior.safetensors"):
        assert (run.path / name).read_bytes() == (networks.path / name).read_bytes()
    exported = [row for row in networks.metrics() if row["stage"] == "export"]
    assert [row for row in run.metrics() if row["stage"] == "export"] == exported
    assert run.metrics()[-1]["update"] == N_UPDATES


def test_prior_mode_names_what_it_lacks(showers: Path, networks: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.start_from"):
        train(tiny_config(showers, {"training.mode": "prior"}), tmp_path / "a")
    with pytest.raises(CheckpointError, match="24 bits, the prior 30"):
        train(prior_config(showers, networks, {"latent.bits_per_level": 10}), tmp_path / "b")


def test_same_seed_same_run_other_seed_other_run(showers: Path, tmp_path: Path) -> None:
    config = tiny_config(showers, {"training.epochs": 1, "prior.updates": 20})
    runs = [train(config, tmp_path / name) for name in ("a", "b")]
    other = train(config.replace({"training.seed": 2}), tmp_path / "c")
    for name in (*WEIGHTS, "posterior.safetensors", "split.safetensors", "metrics.jsonl"):
        first, second, third = ((run.path / name).read_bytes() for run in (*runs, other))
        assert first == second
        assert first != third


def test_exported_bits_are_those_of_the_training_showers(networks: RunDirectory, showers: Path) -> None:
    split = load_file(networks.path / "split.safetensors")
    rows = torch.cat([split["train"], split["validation"]])
    assert torch.equal(rows.sort().values, torch.arange(N_SHOWERS))
    posterior = load_file(networks.path / "posterior.safetensors")
    n_train, n_validation = len(split["train"]), len(split["validation"])
    assert (n_train, n_validation) == (84, 36)
    assert posterior["bits"].shape == (2 * n_train, 24)  # two draws of each shower
    assert posterior["validation_bits"].shape == (n_validation, 24)
    assert set(posterior["bits"].flatten().tolist()) == {0, 1}
    first, second = posterior["energies"].chunk(2)
    assert torch.equal(first, second)
    assert len(first.unique()) == n_train
    bits_of_first, bits_of_second = posterior["bits"].chunk(2)
    assert not torch.equal(bits_of_first, bits_of_second)
    export = networks.metrics()[-1]
    assert 0 < export["information"] < 24 * 0.6932
    assert export["information_error"] > 0
    provenance = networks.provenance()
    assert provenance["data"]["content_hash"] == content_hash(showers)


def test_provenance_says_what_was_done_and_names_no_folder(networks: RunDirectory) -> None:
    provenance = networks.provenance()
    assert provenance["finished"] is True
    assert (provenance["data"]["n_train"], provenance["data"]["n_validation"]) == (84, 36)
    assert provenance["seed"] == 1
    assert provenance["graph"]["sizes"] == [8, 8, 8, 8]
    assert set(provenance["versions"]) == {"calo4pqvae", "python", "torch", "numpy"}
    assert str(networks.path.parent.parent) not in json.dumps(provenance)


def test_accepted_weights_are_those_of_an_accepted_epoch(showers: Path, tmp_path: Path) -> None:
    config = tiny_config(showers, {"training.mode": "autoencoder", "training.epochs": 4})
    kept: list[bytes] = []

    def look(_stage: str, done: int, _total: int, _numbers: Mapping[str, float]) -> None:
        if done > 5 and done % 5 == 1:  # the first step after an epoch that had a successor
            kept.append((tmp_path / "autoencoder.safetensors").read_bytes())

    rows = train(config, tmp_path, report=look).metrics()[:4]
    kept.append((tmp_path / "autoencoder.safetensors").read_bytes())
    best = float("inf")
    for epoch, row in enumerate(rows):
        score = row["quality"]["score"]
        assert row["accepted"] == (epoch == 0 or score <= 1.5 * best)
        best = min(best, score) if row["accepted"] else best
        if epoch > 0:
            assert (kept[epoch] != kept[epoch - 1]) == row["accepted"]


def test_divergence_stops_and_keeps_the_checkpoint(showers: Path, tmp_path: Path) -> None:
    config = tiny_config(showers, {"training.learning_rate": 1e12, "training.checkpoint_every": 1})
    with pytest.raises(DivergenceError, match="no longer finite"):
        train(config, tmp_path)
    assert (tmp_path / "checkpoint.safetensors").is_file()
    assert not RunDirectory(tmp_path).provenance()["finished"]


def test_diverging_prior_stops(showers: Path, networks: RunDirectory, tmp_path: Path) -> None:
    config = prior_config(
        showers, networks, {"prior.learning_rate": 1e38, "prior.learning_rate_final": 1e38, "prior.updates": 200}
    )
    with pytest.raises(DivergenceError):
        train(config, tmp_path)


def test_the_relaxation_time_is_measured_and_the_sweeps_follow_it(
    showers: Path, networks: RunDirectory, tmp_path: Path
) -> None:
    plain = train(prior_config(showers, networks, {}), tmp_path / "plain")
    looked = {"prior.measure_every": 20, "prior.measure_sweeps": 40}
    measured = train(prior_config(showers, networks, looked), tmp_path / "measured")
    same = [(run.path / "prior.safetensors").read_bytes() for run in (plain, measured)]
    assert same[0] == same[1], "looking changed what was learned"
    rows = [row for row in measured.metrics() if row["stage"] == "mixing"]
    assert [row["update"] for row in rows] == [20, 40, 60]
    assert {row["n_sweeps"] for row in rows} == {2}
    for row in rows:
        assert (row["warning"] is not None) == (row["relaxation_time"] > 2)
    grown = train(prior_config(showers, networks, looked | {"prior.sweeps_growth": 9.0}), tmp_path / "grown")
    rows = [row for row in grown.metrics() if row["stage"] == "mixing"]
    for before, after in itertools.pairwise(rows):
        assert after["n_sweeps"] == max(before["n_sweeps"], math.ceil(9 * before["relaxation_time"]))
    assert rows[-1]["n_sweeps"] > 2
