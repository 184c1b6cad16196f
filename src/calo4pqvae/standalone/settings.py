"""Settings of a stand-alone machine that is trained on a file of bits.

One flat group of settings; presets (``quick``, ``mnist``, ``fashion-mnist``) hold only what differs from the defaults,
and ``--set key=value`` changes one setting (the value is read as TOML). An unknown key is an error that names the
nearest known one.
"""

import difflib
import tomllib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from types import NoneType
from typing import Any, Literal, Self, get_args

import tomli_w
from pydantic import Field, ValidationError, model_validator

from calo4pqvae.config import Section
from calo4pqvae.errors import ConfigError
from calo4pqvae.prior.learning.constraints import ProgrammableRange
from calo4pqvae.prior.learning.gradients import GradientForm
from calo4pqvae.prior.learning.learner import LearningSettings

__all__ = ["PriorRunConfig", "load_prior_config", "prior_preset_names"]


class PriorRunConfig(Section):
    """Everything that decides what a stand-alone machine becomes."""

    data: str = Field(
        "mnist",
        description="file of bits, folder of fetched images, or 'mnist' or 'fashion-mnist' for the bundled samples",
    )
    test_data: str | None = Field(None, description="file of bits held out; default: the set's own, or a share of data")
    test_fraction: float = Field(0.1, gt=0, lt=1, description="share of data held out where there is no test set")
    dataset: str | None = Field(None, description="name of the bits in the file; default: 'bits' or the only one")
    threshold: float | None = Field(None, description="value above which a grey value is a one")
    condition: bool = Field(False, description="fold the conditions of the file into the fields")
    graph: Literal["bipartite", "complete", "zephyr", "pegasus"] = Field(
        "bipartite", description="'bipartite' has hidden bits; the others lay the visible bits on four partitions"
    )
    n_hidden: int = Field(500, gt=0, description="hidden bits of the bipartite graph")
    chip_size: int | None = Field(None, gt=0, description="m of Z_m or P_m; default: the smallest that fits")
    coupling_std: float = Field(0.01, ge=0, description="spread of the couplings at the start")
    method: Literal["pcd", "pt", "cd"] = "pcd"
    gradient: GradientForm = "centred"
    optimizer: Literal["sgd", "adam"] = "sgd"
    rao_blackwell: bool = Field(True, description="probabilities for the bits of the last partition in both phases")
    learning_rate: float = Field(0.1, gt=0)
    learning_rate_final: float = Field(0.002, gt=0)
    offset_rate: float = Field(0.01, gt=0, le=1, description="share of a batch in the moving offsets")
    weight_decay: float = Field(0.0, ge=0, description="L2 decay of the couplings")
    l1: float = Field(0.0, ge=0, description="L1 decay of the couplings")
    max_norm: float | None = Field(None, gt=0, description="largest norm of the couplings of a node")
    coupling_range: tuple[float, float] | None = Field(None, description="J that an annealer can be programmed with")
    field_range: tuple[float, float] | None = Field(None, description="h that an annealer can be programmed with")
    beta_eff: float = Field(1.0, gt=0, description="inverse temperature of that annealer")
    n_sweeps: int = Field(1, gt=0, description="block Gibbs sweeps in one negative phase")
    n_chains: int = Field(200, gt=0)
    n_temperatures: int = Field(10, gt=1, description="temperatures of method 'pt'")
    hottest: float = Field(0.1, ge=0, lt=1, description="smallest inverse temperature of method 'pt'")
    measure_every: int = Field(0, ge=0, description="steps between measurements of the mixing; 0: never")
    measure_sweeps: int = Field(200, gt=0, description="sweeps of a measurement")
    sweeps_growth: float | None = Field(None, gt=0, description="let n_sweeps grow to so many relaxation times")
    max_sweeps: int = Field(1000, gt=0, description="sweeps beyond which n_sweeps does not grow")
    batch_size: int = Field(200, gt=0)
    epochs: int = Field(60, gt=0)
    n_saved: int = Field(50, ge=2, description="machines kept along the training, at steps in geometric order")
    checkpoint_every: int = Field(500, gt=0, description="steps between checkpoints")
    seed: int = Field(1, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    threads: int | None = Field(None, gt=0, description="CPU threads of torch; default: torch's own choice")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.coupling_range is None) != (self.field_range is None):
            raise ValueError("coupling_range and field_range belong together: set both or none")
        try:
            self.learning()
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    def learning(self) -> LearningSettings:
        """The settings of the learner."""
        names = LearningSettings.__dataclass_fields__.keys() & type(self).model_fields.keys()
        programmable = None
        if self.coupling_range is not None and self.field_range is not None:
            programmable = ProgrammableRange(self.coupling_range, self.field_range, self.beta_eff)
        return LearningSettings(programmable=programmable, **{name: getattr(self, name) for name in names})

    def to_toml(self) -> str:
        """All settings as TOML; those that are not set (None) are left out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def prior_preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    folder = resources.files("calo4pqvae.standalone") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_prior_config(source: str | Path | None = None, overrides: Iterable[str] = ()) -> PriorRunConfig:
    """Reads settings.

    Args:
        source: Name of a preset, path of a TOML file, or None for the defaults.
        overrides: Settings as ``key=value``; they win over the source. ``none`` unsets one that may be missing.

    Raises:
        ConfigError: If the source cannot be read, a key is unknown, a value does not fit, or settings contradict
            each other.
    """
    settings = {} if source is None else _read(source)
    for text in overrides:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key:
            raise ConfigError(f"'{text}' is no setting: write key=value")
        settings.pop(key, None)
        if value != "none" or not _is_optional(key):
            settings[key] = _parsed(value)
    try:
        return PriorRunConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error


def _read(source: str | Path) -> dict[str, Any]:
    path = Path(source)
    if str(source) in prior_preset_names():
        path = Path(str(resources.files("calo4pqvae.standalone"))) / "presets" / f"{source}.toml"
    if not path.is_file():
        names = ", ".join(prior_preset_names())
        raise ConfigError(f"no configuration '{source}': it is neither a file nor a preset ({names})")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error


def _parsed(value: str) -> Any:  # noqa: ANN401
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value


def _is_optional(key: str) -> bool:
    field = PriorRunConfig.model_fields.get(key)
    return field is not None and NoneType in get_args(field.annotation)


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, PriorRunConfig.model_fields, n=1, cutoff=0.0)
        return f"unknown setting '{key}': the nearest one is '{near[0]}'"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"settings do not fit together: {message}"
    return f"setting '{key}' = {first['input']!r} cannot be used: {message[0].lower() + message[1:]}"
