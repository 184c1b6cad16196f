import json
import math
import tomllib
from pathlib import Path

import pytest

from calo4pqvae.config import Config, load_config, preset_names
from calo4pqvae.errors import ConfigError
from calo4pqvae.showers.geometry import geometry

PRESETS = ["demo", "pegasus-ds2", "zephyr-demo", "zephyr-ds2", "zephyr-full"]


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_presets_are_those_that_are_promised() -> None:
    assert preset_names() == sorted(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_load_and_hold_differences_only(name: str) -> None:
    config, default = load_config(name), Config()
    path = Path(__file__).parents[1] / "src" / "calo4pqvae" / "presets" / f"{name}.toml"
    changed = tomllib.loads(path.read_text(encoding="utf-8"))
    ours, theirs = config.model_dump(mode="json"), default.model_dump(mode="json")
    for section, values in changed.items():
        for key, value in values.items():
            assert ours[section][key] == value
            assert theirs[section][key] != value, f"{section}.{key} is the default and need not be said"
            theirs[section][key] = value
    assert ours == theirs
    assert geometry(config.data.geometry).grid_shape == (45, 16, 9)


@pytest.mark.parametrize(("name", "graph", "bits"), [("zephyr-ds2", "zephyr", 302), ("pegasus-ds2", "pegasus", 512)])
def test_presets_have_the_published_sizes(name: str, graph: str, bits: int) -> None:
    config = load_config(name)
    assert (config.prior.graph, config.latent.bits_per_level, config.latent.levels) == (graph, bits, 3)
    assert config.condition.mode == "clamp"


def test_whole_chip_preset_is_a_zephyr_12() -> None:
    prior = load_config("zephyr-full").prior
    assert (prior.graph, prior.size, prior.whole_chip) == ("zephyr", 12, True)


@pytest.mark.parametrize("source", [None, *PRESETS])
def test_resolved_configuration_comes_back_from_toml(tmp_path: Path, source: str | None) -> None:
    changes = ["prior.size=15", 'data.train=with "quotes" and ünïcode', "training.learning_rate=1.23456789e-05"]
    config = load_config(source, changes)
    assert load_config(write(tmp_path, config.to_toml())) == config
    assert config.prior.size == 15
    assert config.data.train == 'with "quotes" and ünïcode'


@pytest.mark.parametrize(
    ("text", "section", "name", "value"),
    [
        ("training.epochs=3", "training", "epochs", 3),
        ("training.learning_rate=1e-4", "training", "learning_rate", 1e-4),
        ("training.learning_rate = 1", "training", "learning_rate", 1.0),
        ("decoder.mask=false", "decoder", "mask", False),
        ("encoder.channels=[1, 2, 3]", "encoder", "channels", (1, 2, 3)),
        ("prior.graph=pegasus", "prior", "graph", "pegasus"),
        ("prior.graph='pegasus'", "prior", "graph", "pegasus"),
        ("data.train=a=b.hdf5", "data", "train", "a=b.hdf5"),
        ("condition.bits=none", "condition", "bits", None),
    ],
)
def test_a_setting_can_be_overridden(text: str, section: str, name: str, value: object) -> None:
    config = load_config("demo", [text])
    assert getattr(getattr(config, section), name) == value
    default = load_config("demo")
    assert default.replace({f"{section}.{name}": value}) == config
    others = [field for field in Config.model_fields if field != section]
    assert all(getattr(config, field) == getattr(default, field) for field in others)


def test_overrides_win_over_the_file_and_the_last_over_the_first(tmp_path: Path) -> None:
    path = write(tmp_path, "[training]\nseed = 3\nepochs = 4\n")
    config = load_config(path, ["training.seed=5", "training.seed=6"])
    assert (config.training.seed, config.training.epochs) == (6, 4)


def test_none_takes_an_optional_setting_back_to_its_default() -> None:
    assert load_config("zephyr-full", ["prior.size=none"]).prior.size is None


def test_base_is_the_start_when_there_is_no_source() -> None:
    base = load_config("demo", ["training.seed=9"])
    assert load_config(None, ["training.epochs=2"], base=base) == base.replace({"training.epochs": 2})


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("training.epoch", "training.epochs"),
        ("prior.optimiser", "prior.optimizer"),
        ("latent.bits", "latent.bits_per_level"),
        ("trainig.seed", "training.seed"),
        ("kl_weight", "training.kl_weight"),
        ("evaluation.kl_weight", "training.kl_weight"),
        ("data.train.file", "data.train"),
        ("geometry", "data.geometry"),
    ],
)
def test_unknown_key_names_the_nearest(tmp_path: Path, key: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown setting '{key}': the nearest one is '{nearest}'"):
        load_config(None, [f"{key}=1"])
    if key.count(".") == 1:
        section, name = key.split(".")
        with pytest.raises(ConfigError, match="unknown setting"):
            load_config(write(tmp_path, f"[{section}]\n{name} = 1\n"))
    with pytest.raises(ConfigError, match="unknown setting"):
        load_config(None, [f"{key}=none"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["latent.levels=4"], "needs condition.mode = 'fold'"),
        (["condition.bits=97"], "condition.bits = 97 does not fit in partition 0 of 96 nodes"),
        (["prior.graph=complete", "prior.whole_chip=true"], "whole_chip needs a chip graph, not 'complete'"),
        (["data.energy_min_mev=1e6"], "energy_min_mev must be below energy_max_mev"),
        (["data.layout=scrambled"], "needs canonical_frame = false"),
        (["latent.bits_per_level=4", "latent.factors=5"], "latent.factors = 5 bands of .* do not fit in 12 bits"),
        (["prior.sweeps_growth=5"], "sweeps_growth needs measurements of the relaxation time; set prior.measure_every"),
    ],
)
def test_contradictions_are_explained(changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"settings do not fit together: .*{message}"):
        load_config(None, changes)


@pytest.mark.parametrize(
    "changes",
    [
        ["latent.levels=4", "condition.mode=fold"],
        ["condition.bits=97", "condition.mode=fold"],
        ["condition.bits=96"],
        ["data.layout=scrambled", "data.canonical_frame=false"],
        ["prior.sweeps_growth=5", "prior.measure_every=10"],
    ],
)
def test_the_way_out_of_a_contradiction_is_allowed(changes: list[str]) -> None:
    found = load_config(None, changes)
    for change in changes:
        path, _, value = change.partition("=")
        section, name = path.split(".")
        kept = getattr(getattr(found, section), name)
        assert (str(kept).lower() if isinstance(kept, (str, bool)) else f"{kept:g}") == value


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("training.epochs=0", "training.epochs"),
        ("training.epochs=2.5", "training.epochs"),
        ("training.learning_rate=nan", "training.learning_rate"),
        ("training.learning_rate=inf", "training.learning_rate"),
        ("training.batch_size=many", "training.batch_size"),
        ("prior.graph=chimera", "prior.graph"),
        ("data.validation_fraction=1", "data.validation_fraction"),
        ("encoder.channels=[1, 2]", "encoder.channels"),
        ("latent.tau_end=0", "latent.tau_end"),
        ("decoder.mask=perhaps", "decoder.mask"),
        ("training.seed=none", "training.seed"),
        ("training={}", "training"),
        ("training.seed", "training.seed"),
        ("=3", "=3"),
    ],
)
def test_values_that_do_not_fit_are_named(change: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [change])
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training\nseed = 1", "cannot read the configuration"),
        ("training = 5", "setting 'training' = 5 cannot be used"),
        ("seed = 5", "unknown setting 'seed': the nearest one is"),
        ("[traning]\nseed = 1", "unknown setting 'traning'"),
    ],
)
@pytest.mark.parametrize("changes", [[], ["training.epochs=1"]])
def test_files_that_are_no_configuration(tmp_path: Path, text: str, message: str, changes: list[str]) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text), changes)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_config(path)


def test_unknown_source_names_the_nearest_preset(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither a file nor a preset .*did you mean 'zephyr-ds2'"):
        load_config("zephyr_ds2")
    with pytest.raises(ConfigError, match="neither a file nor a preset"):
        load_config(tmp_path)


def test_configuration_is_frozen_and_plain() -> None:
    config = Config()
    with pytest.raises(ValueError, match="frozen"):
        config.training.seed = 3
    assert json.loads(json.dumps(config.model_dump(mode="json")))["training"]["seed"] == 1
    assert config.log_energy_range == (math.log(1e3), math.log(1e6))


def test_no_weight_decay_unless_asked() -> None:
    assert (Config().training.weight_decay, Config().prior.weight_decay) == (0.0, 0.0)


def test_defaults_name_no_folder() -> None:
    assert "/" not in Config().to_toml()
