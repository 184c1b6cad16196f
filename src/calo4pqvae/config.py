r"""Every setting, in one tree.

A configuration is TOML with the sections below; presets hold only what differs from the defaults, and
``--set section.key=value`` changes one setting (the value is read as TOML). An unknown key is an error that names
the nearest known one. Derived sizes are properties and never stored. ``beta`` is inverse temperature and nothing
else; the sharpness of relaxed bits is ``tau``; the weight of the Kullback-Leibler term is ``kl_weight``.
"""

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from types import NoneType
from typing import Any, Literal, Self, TypeVar, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from calo4pqvae.errors import ConfigError

__all__ = [
    "CascadeConfig",
    "ConditionConfig",
    "Config",
    "DataConfig",
    "DecoderConfig",
    "EncoderConfig",
    "EvaluationConfig",
    "GenerationConfig",
    "LatentConfig",
    "ModelConfig",
    "PriorConfig",
    "TrainingConfig",
    "load_config",
    "preset_names",
]

BUNDLED = "bundled"

MetricGroup = Literal["distances", "separation", "wasserstein", "prdc", "correlations", "calo4pqvae-226"]

Positive = Field(gt=0)
Fraction = Field(ge=0, lt=1)


SectionKind = TypeVar("SectionKind", bound="Section")


class Section(BaseModel):
    """A group of settings: frozen, typed, closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    """Which showers are learned, and how they are read."""

    train: str = Field(BUNDLED, description="shower file to learn from, or 'bundled'")
    heldout: str = Field(BUNDLED, description="shower file for the final comparison, or 'bundled'")
    geometry: str = Field("ds2", description="name of a built-in geometry or a binning XML file")
    threshold_mev: float | None = Field(
        None, gt=0, description="read-out threshold; default: the geometry's (a binning XML file states none)"
    )
    energy_min_mev: float = Field(1e3, gt=0, description="lower end of the incident energies")
    energy_max_mev: float = Field(1e6, gt=0, description="upper end of the incident energies")
    drop_bad: bool = Field(False, description="drop (and count) showers that fail the validation")
    max_showers: int | None = Field(None, gt=0, description="use at most this many showers")
    validation_fraction: float = Field(0.05, gt=0, lt=0.9, description="share watched during training")
    canonical_frame: bool = Field(True, description="turn and mirror each shower to one orientation")
    layout: Literal["cylinder", "scrambled"] = Field(
        "cylinder",
        description="'scrambled' misreads (z, phi, r) as (z, r, phi), as models before the fix did",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.energy_min_mev < self.energy_max_mev:
            raise ValueError("energy_min_mev must be below energy_max_mev")
        if self.layout == "scrambled" and self.canonical_frame:
            raise ValueError("layout 'scrambled' needs canonical_frame = false: its grid cannot be turned")
        return self


class ModelConfig(Section):
    """Which family of models is trained, and what works on its showers afterwards.

    A family with settings of its own reads them from the section of its name.
    """

    family: str = Field("qvae", description="name of a model family")
    refiners: tuple[str, ...] = Field((), description="refiners of drawn showers, in their order")


class ConditionConfig(Section):
    """How the incident energy reaches the Boltzmann machine."""

    mode: Literal["clamp", "fold"] = Field(
        "clamp", description="'clamp': bits of partition 0; 'fold': fields on all nodes, no node spent"
    )
    code: Literal["thermometer", "gray"] = Field("thermometer", description="how ln E is written as bits")
    bits: int | None = Field(None, gt=0, description="length of the code; default: the size of a partition")


class LatentConfig(Section):
    """The latent bits."""

    levels: int = Field(3, ge=1, le=4, description="levels of the hierarchy, one partition each")
    bits_per_level: int = Field(96, ge=2, description="bits of each level, and nodes of each partition")
    factors: int = Field(
        3, ge=0, description="quantities of a shower, each written along a band of coupled nodes; 0: free logits"
    )
    factor_nodes: int | None = Field(
        None, ge=2, description="nodes of a band; default: seven eighths of a factor's share of the bits, at most 64"
    )
    wall: float = Field(1.5, gt=0, description="width in nodes of the wall between ones and zeros of a band")
    relaxation: Literal["straight-through", "gumbolt"] = "straight-through"
    tau_start: float = Field(1.0, gt=0, description="sharpness of relaxed bits at the start of training")
    tau_end: float = Field(0.3, gt=0, description="and at its end")


class EncoderConfig(Section):
    """Sizes of the encoder."""

    channels: tuple[int, int, int] = Field((16, 32, 32), description="channels of the three convolutions")
    hidden: int = Field(256, gt=0)
    voxels: Literal["log", "logit"] = Field("log", description="transform of the voxels that are looked at")
    attention: bool = Field(False, description="linear attention behind the convolutions")


class DecoderConfig(Section):
    """Sizes and choices of the decoder; sizes are those of the factorised law."""

    kind: Literal["factorised", "cascade"] = Field(
        "factorised", description="law of the voxels; 'cascade' has the settings of the section of its name"
    )
    base_channels: int = Field(16, gt=0)
    channels: int = Field(32, gt=0)
    hidden: int = Field(256, gt=0)
    layer_hidden: int = Field(128, gt=0, description="hidden units of the law of the layers")
    position_channels: int = Field(16, gt=0)
    head_hidden: int = Field(64, gt=0)
    components: int = Field(3, ge=1, le=10, description="components of the voxel-energy mixture")
    attention: bool = Field(False, description="linear attention in the voxel trunk")
    mask: bool = Field(True, description="train the activation on true hits only")
    periodic: bool = Field(True, description="False: zero padding in angle and radius, as older decoders")


class CascadeConfig(Section):
    """The splitting cascade, and how it is learned."""

    hidden: int = Field(64, gt=0, description="width of the network of a turn")
    components: int = Field(5, ge=1, le=20, description="logistic components of a split")
    spectra: int = Field(3, ge=1, le=20, description="learned spectra of absolute energies")
    steps: int = Field(20000, gt=0)
    batch_size: int = Field(12, gt=0, description="showers of a step")
    learning_rate: float = Field(4e-3, gt=0)
    gradient_clip: float = Field(1500.0, gt=0)
    averaging: float = Field(0.998, ge=0, lt=1, description="memory of the average of weights that is kept")
    checkpoint_every: int = Field(200, gt=0, description="steps between checkpoints")


class PriorConfig(Section):
    """The Boltzmann machine and its training."""

    graph: Literal["zephyr", "pegasus", "complete", "independent"] = "zephyr"
    size: int | None = Field(None, gt=0, description="m of Z_m or P_m; default: the smallest that fits")
    whole_chip: bool = Field(False, description="use every working qubit of the chip")
    missing: str | None = Field(None, description="working-graph file with missing qubits and couplers")
    kernel: Literal["auto", "packed", "torch", "torch-sparse", "torch-dense", "triton"] = Field(
        "auto", description="what makes the sweeps; auto takes the cheapest"
    )
    coupling_std: float = Field(0.01, ge=0, description="spread of the couplings at the start")
    start: Literal["independent", "pseudo-likelihood"] = Field(
        "pseudo-likelihood",
        description="where the prior stage starts: bits by themselves, or maximum pseudo-likelihood",
    )
    method: Literal["pcd", "cd"] = "pcd"
    gradient: Literal["plain", "centred", "mean-energy"] = Field(
        "centred", description="'mean-energy' adds the covariance of an older scheme, to be compared with"
    )
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = Field(0.1, gt=0)
    learning_rate_final: float = Field(0.005, gt=0)
    weight_decay: float = Field(0.0, ge=0, description="decay of the couplings")
    n_sweeps: int = Field(10, gt=0, description="block Gibbs sweeps in one negative phase")
    n_chains: int = Field(1000, gt=1, description="persistent chains")
    batch_size: int = Field(1000, gt=1, description="posterior states in one positive phase")
    updates: int = Field(600, gt=0, description="updates of the prior stage")
    joint_update: Literal["direct", "loss", "loss-covariance"] = Field(
        "direct",
        description="joint mode: own SGD from Gibbs statistics, or energies inside the loss with samples held fixed, "
        "or with their law differentiated too",
    )
    joint_learning_rate: float = Field(0.001, gt=0, description="SGD rate of the direct joint update")
    joint_sweeps: int = Field(2, gt=0, description="block Gibbs sweeps in a joint step")
    joint_chains: int = Field(256, gt=1, description="persistent chains of joint training")
    measure_every: int = Field(0, ge=0, description="updates between measurements of the relaxation time; 0: never")
    measure_sweeps: int = Field(200, ge=20, description="sweeps of a measurement")
    sweeps_growth: float | None = Field(None, gt=0, description="let n_sweeps grow to so many relaxation times")
    max_sweeps: int = Field(1000, gt=0, description="sweeps beyond which n_sweeps does not grow")
    checkpoint_every: int = Field(100, gt=0, description="updates between checkpoints of the prior stage")
    calibrate: bool = Field(True, description="scale mean layer energies of drawn showers to the training showers")
    max_gap: float = Field(5.0, gt=0, description="energy gap, in widths, at which training is stopped")


class TrainingConfig(Section):
    """The loop."""

    mode: Literal["staged", "joint", "autoencoder", "prior"] = "staged"
    epochs: int = Field(20, gt=0)
    batch_size: int = Field(64, gt=1)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0, description="decay of network weights")
    gradient_clip: float = Field(100.0, gt=0)
    layer_steps: int = Field(
        1500, ge=0, description="steps of the stage of the layers, with factors; 0: they are learned beside the voxels"
    )
    layer_learning_rate: float = Field(5e-3, gt=0)
    kl_weight: float = Field(0.2, ge=0)
    kl_warmup: float = Field(0.2, ge=0, le=1, description="share of the training over which kl_weight grows")
    free_bits: float = Field(0.0, ge=0, description="nats of information that cost nothing")
    joint_networks: bool = Field(False, description="staged mode: networks learn with the machine as prior")
    posterior_draws: int = Field(2, gt=0, description="posterior draws of each shower in the export")
    start_from: str | None = Field(None, description="prior mode: run whose networks and posterior bits are used")
    seed: int = Field(1, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    threads: int | None = Field(None, gt=0, description="CPU threads of torch; default: torch's own choice")
    checkpoint_every: int = Field(50, gt=0, description="steps between checkpoints")
    tensorboard: bool = False


class GenerationConfig(Section):
    """Sampling of showers."""

    n_sweeps: int = Field(300, gt=0, description="block Gibbs sweeps from random bits")
    chunk: int = Field(500, gt=0, description="showers made at a time; part of what a seed means")
    seed: int = Field(1, ge=0)


class EvaluationConfig(Section):
    """The comparison with held-out showers."""

    n_generated: int = Field(6000, gt=0)
    seed: int = Field(1, ge=0)
    metrics: tuple[MetricGroup, ...] = Field(
        ("distances", "separation", "wasserstein", "prdc", "correlations"),
        description="groups of the full set of metrics in the report of a run",
    )
    classifiers: str = Field(
        "off",
        pattern=r"^(off|(quick|plain|full)(,hard)?|hard(,(quick|plain|full))?)$",
        description="binary classifiers: off, quick, plain or full networks, hard, or two such as quick,hard",
    )


class Config(Section):
    """The whole tree.

    Raises:
        ConfigError: From :func:`load_config`, if settings contradict each other.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    condition: ConditionConfig = ConditionConfig()
    latent: LatentConfig = LatentConfig()
    encoder: EncoderConfig = EncoderConfig()
    decoder: DecoderConfig = DecoderConfig()
    cascade: CascadeConfig = CascadeConfig()
    prior: PriorConfig = PriorConfig()
    training: TrainingConfig = TrainingConfig()
    generation: GenerationConfig = GenerationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        clamped = self.condition.mode == "clamp"
        if clamped and self.latent.levels > 3:
            raise ValueError("latent.levels = 4 needs condition.mode = 'fold': partition 0 holds the condition")
        bits = self.condition.bits
        if clamped and bits is not None and bits > self.latent.bits_per_level and not self.prior.whole_chip:
            raise ValueError(
                f"condition.bits = {bits} does not fit in partition 0 of {self.latent.bits_per_level} nodes"
            )
        n_bits = self.latent.bits_per_level * self.latent.levels
        if not self.prior.whole_chip and self.latent.factors * (self.latent.factor_nodes or 3) > n_bits:
            raise ValueError(
                f"latent.factors = {self.latent.factors} bands of latent.factor_nodes = "
                f"{self.latent.factor_nodes or 3} nodes or more do not fit in {n_bits} bits"
            )
        if self.prior.whole_chip and self.prior.graph not in ("zephyr", "pegasus"):
            raise ValueError(f"prior.whole_chip needs a chip graph, not '{self.prior.graph}'")
        if self.prior.sweeps_growth is not None and not self.prior.measure_every:
            raise ValueError("prior.sweeps_growth needs measurements of the relaxation time; set prior.measure_every")
        return self

    @property
    def log_energy_range(self) -> tuple[float, float]:
        """Natural logarithms of the ends of the incident-energy range in MeV."""
        return math.log(self.data.energy_min_mev), math.log(self.data.energy_max_mev)

    def to_toml(self) -> str:
        """The whole tree as TOML; settings that are not set (None) are left out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    def section(self, name: str, kind: type[SectionKind]) -> SectionKind:
        """The section of a model family or refiner, which only that knows.

        Args:
            name: Name of the family or refiner, and of the section.
            kind: Its settings.

        Raises:
            ConfigError: If a key is unknown or a value does not fit.
        """
        try:
            return kind.model_validate((self.model_extra or {}).get(name, {}))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in (name, *first["loc"]))
            if first["type"] == "extra_forbidden":
                known = [f"{name}.{field}" for field in kind.model_fields] or ["none: it has no settings"]
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
                raise ConfigError(f"unknown setting '{key}': the nearest one is '{near}'") from error
            raise ConfigError(f"setting '{key}' = {first['input']!r} cannot be used: {first['msg']}") from error

    def replace(self, changes: Mapping[str, Any]) -> "Config":
        """A copy with dotted keys changed, checked like a file.

        Raises:
            ConfigError: As :func:`load_config`.
        """
        return _build(_merge(self.model_dump(mode="json", exclude_none=True), changes))


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    folder = resources.files("calo4pqvae") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_config(source: str | Path | None = None, overrides: Iterable[str] = (), base: Config | None = None) -> Config:
    """Reads a configuration.

    Args:
        source: Name of a preset, path of a TOML file, or None for the defaults (or for ``base``).
        overrides: Settings as ``section.key=value``; they win over the source.
        base: Configuration to start from when there is no source.

    Returns:
        The checked tree.

    Raises:
        ConfigError: If the source cannot be read, a key is unknown, a value does not fit, or settings contradict
            each other. The message names the key.
    """
    tree = _read_tree(source) if source is not None else {}
    if base is not None:
        tree = {**base.model_dump(mode="json", exclude_none=True), **tree}
    changes = dict(_parse_override(text) for text in overrides)
    return _build(_merge(tree, changes))


def _read_tree(source: str | Path) -> dict[str, Any]:
    if str(source) in preset_names():
        text = (resources.files("calo4pqvae") / "presets" / f"{source}.toml").read_text(encoding="utf-8")
        return tomllib.loads(text)
    path = Path(source)
    if not path.is_file():
        near = difflib.get_close_matches(str(source), preset_names(), n=1, cutoff=0.4)
        hint = f"; did you mean '{near[0]}'" if near else ""
        names = ", ".join(preset_names())
        raise ConfigError(f"no configuration '{source}': it is neither a file nor a preset ({names}){hint}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"'{text}' is no setting: write section.key=value")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    return key, parsed


def _merge(tree: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = {name: dict(section) if isinstance(section, dict) else section for name, section in tree.items()}
    for key, value in changes.items():
        section, dot, name = key.partition(".")
        if not dot or section not in (*Config.model_fields, *_named_sections(tree, changes)):
            raise ConfigError(_unknown(key))
        content = merged.setdefault(section, {})
        if not isinstance(content, dict):
            raise ConfigError(f"setting '{section}' = {content!r} cannot be used: it must be a section, [{section}]")
        if value is None or value == "none":
            content.pop(name, None)
            if section in Config.model_fields:
                _require_optional(section, name)
        else:
            content[name] = value
    return merged


def _named_sections(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> list[str]:
    """Sections of the model family and the refiners that the settings ask for; refiners only as lists of names."""
    stored = tree.get("model", {})
    chosen = {**(stored if isinstance(stored, dict) else {}), **_without_prefix(changes, "model.")}
    return [str(chosen.get("family", "qvae")), *(str(name) for name in chosen.get("refiners", ()))]


def _without_prefix(changes: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in changes.items() if key.startswith(prefix)}


def _require_optional(section: str, name: str) -> None:
    fields = _section_fields(section)
    if name not in fields:
        raise ConfigError(_unknown(f"{section}.{name}"))
    if NoneType not in get_args(fields[name].annotation):
        raise ConfigError(f"{section}.{name} cannot be none: give it a value")


def _section_fields(section: str) -> dict[str, Any]:
    model = Config.model_fields[section].annotation
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise TypeError(f"section {section} is no model")
    return dict(model.model_fields)


def _known_keys() -> list[str]:
    return [f"{section}.{name}" for section in Config.model_fields for name in _section_fields(section)]


def _unknown(key: str) -> str:
    known = _known_keys()
    last = key.rpartition(".")[2]
    by_name = {name.rpartition(".")[2]: name for name in reversed(known)}
    near = [name for name in known if name.startswith(key)] or [by_name[name] for name in (last,) if name in by_name]
    near = near or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not near:
        names = difflib.get_close_matches(last, list(by_name), n=1, cutoff=0.5)
        near = [by_name[name] for name in names] or difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"unknown setting '{key}': the nearest one is '{near[0]}'"


def _build(tree: Mapping[str, Any]) -> Config:
    for section, content in tree.items():
        if section not in Config.model_fields and section not in _named_sections(tree, {}):
            raise ConfigError(_unknown(section))
        if not isinstance(content, Mapping | BaseModel):
            raise ConfigError(f"setting '{section}' = {content!r} cannot be used: it must be a section, [{section}]")
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return _unknown(key)
    message = first["msg"].removeprefix("Value error, ")
    if not key or first["type"] == "value_error":
        return f"settings do not fit together: {message}"
    message = message[0].lower() + message[1:]
    return f"setting '{key}' = {first['input']!r} cannot be used: {message}"
