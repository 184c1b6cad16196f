"""What a study is: settings, work, and a result of numbers, figures and text that is written whole.

A study is a module of this package with a :class:`Study` called ``STUDY``. Its work takes settings, a folder for what
it trains on the way, a seed and a progress report, and gives :class:`Findings`: numbers as plain data (every one with
its uncertainty, sample size and seed, see :func:`estimate`), figures as functions that draw them, and paragraphs that
are written from the numbers. :meth:`Study.run` adds what decides a repetition (settings, seed, versions, run time) and
writes ``result.json``, ``finding.txt`` and every figure as PNG and SVG into ``OUT/NAME/``.

The text never says what the numbers do not: a sentence that compares holds the comparison, not its expected outcome.
"""

import json
import math
import platform
import shlex
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from calo4pqvae import __version__
from calo4pqvae.atomic import atomic_path, write_json, write_text
from calo4pqvae.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Findings",
    "Progress",
    "Study",
    "StudyFigure",
    "StudyResult",
    "StudySettings",
    "estimate",
    "silent",
    "with_error",
]

Progress = Callable[[str, int, int], None]
"""Told the name of a stage, how much of it is done, and how much there is."""

RESULT, FINDING = "result.json", "finding.txt"
_FORMATS = ("png", "svg")
_DOTS_PER_INCH = 130


class StudySettings(BaseModel):
    """Settings of a study: frozen, typed, closed to unknown keys; defaults are those of the full study."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class StudyFigure:
    """A figure of a study.

    Args:
        stem: Name of its files, without an ending.
        caption: What is shown, with the meaning of every line.
        draw: Makes the figure, in the style of :mod:`calo4pqvae.evaluation.pages.canvas`.
    """

    stem: str
    caption: str
    draw: Callable[[], "Figure"]


@dataclass(frozen=True)
class Findings:
    """What the work of a study gives.

    Args:
        numbers: Plain data, ready for JSON.
        figures: Figures in the order in which they are shown.
        text: Paragraphs, written from the numbers.
    """

    numbers: Mapping[str, Any]
    figures: Sequence[StudyFigure]
    text: Sequence[str]


@dataclass(frozen=True)
class StudyResult:
    """Findings with all that decides a repetition.

    Args:
        name: Name of the study.
        title: Its title.
        numbers: Plain data.
        figures: Figures.
        text: Paragraphs.
        settings: Settings as plain data.
        seed: Seed.
        command: What makes it again.
        runtime_s: Wall time in seconds, without drawing.
        versions: Versions of the packages that the numbers depend on.
    """

    name: str
    title: str
    numbers: Mapping[str, Any]
    figures: Sequence[StudyFigure]
    text: Sequence[str]
    settings: Mapping[str, Any]
    seed: int
    command: str
    runtime_s: float
    versions: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Writes figures, text and, last, the numbers; each file is whole or absent.

        Args:
            folder: The folder of the study.

        Raises:
            OutputError: If it cannot be written.
        """
        for figure in self.figures:
            _save_figure(figure, folder)
        write_text(folder / FINDING, "\n\n".join((self.title, *self.text)) + "\n")
        write_json(folder / RESULT, self.as_data())

    def as_data(self) -> dict[str, Any]:
        """Everything but the drawings, as plain data."""
        return {
            "study": self.name,
            "title": self.title,
            "text": list(self.text),
            "figures": [{"stem": one.stem, "caption": one.caption} for one in self.figures],
            "numbers": dict(self.numbers),
            "settings": dict(self.settings),
            "seed": self.seed,
            "command": self.command,
            "runtime_s": self.runtime_s,
            "versions": dict(self.versions),
        }


Work = Callable[[Any, Path, int, Progress], Findings]


def silent(stage: str, done: int, total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Study:
    """A study that can be run by name.

    Args:
        name: Name on the command line, and of the folder of its results.
        title: One line for people.
        settings: Class of its settings.
        quick: What differs from the defaults in the quick form.
        work: The work; called with settings, folder, seed and progress.
    """

    name: str
    title: str
    settings: type[StudySettings]
    work: Work
    quick: Mapping[str, Any] = field(default_factory=dict)

    def configure(self, *, quick: bool = False, overrides: Iterable[str] = ()) -> StudySettings:
        """Settings from defaults, the quick form and single changes.

        Args:
            quick: Whether to take the quick form.
            overrides: Changes as ``key=value``, the value read as TOML or else as text; they win.

        Raises:
            ConfigError: If a key is unknown or a value does not fit.
        """
        chosen: dict[str, Any] = dict(self.quick) if quick else {}
        for text in overrides:
            key, equals, value = (part.strip() for part in text.partition("="))
            if not equals or not key:
                raise ConfigError(f"'{text}' is no setting: write key=value")
            chosen[key] = _parsed(value)
        try:
            return self.settings.model_validate(chosen)
        except ValidationError as error:
            raise ConfigError(self._explain(error)) from error

    def run(self, settings: StudySettings, out: Path, seed: int, progress: Progress = silent) -> StudyResult:
        """Does the work and writes the result into ``out / name``.

        Args:
            settings: Settings of this study.
            out: Folder of all studies.
            seed: Seed of every random stream of the study.
            progress: Told how far the work is.

        Returns:
            What was written.

        Raises:
            CaloError: What the work raises for bad input, or if the folder cannot be written.
        """
        folder = out / self.name
        begin = time.perf_counter()
        findings = self.work(settings, folder, seed, progress)
        result = StudyResult(
            name=self.name,
            title=self.title,
            numbers=findings.numbers,
            figures=findings.figures,
            text=findings.text,
            settings=settings.model_dump(mode="json"),
            seed=seed,
            command=self.command(settings, seed),
            runtime_s=round(time.perf_counter() - begin, 2),
            versions=_versions(),
        )
        result.write(folder)
        return result

    def command(self, settings: StudySettings, seed: int) -> str:
        """The command line that gives these settings: the full or the quick form, whichever is nearer, and changes."""
        wanted = settings.model_dump(mode="json")
        forms = []
        for option, quick in (("", False), (" --quick", True)):
            base = self.configure(quick=quick).model_dump(mode="json")
            changes = [f"{key}={_written(value)}" for key, value in wanted.items() if value != base[key]]
            forms.append((len(changes), f"calo4pqvae study {self.name}{option}", changes))
        _, words, changes = min(forms, key=lambda form: form[0])
        return " ".join([words, *(f"--set {shlex.quote(change)}" for change in changes), f"--seed {seed}"])

    def is_finished(self, settings: StudySettings, out: Path, seed: int) -> bool:
        """Whether ``out`` holds a whole result of this study with the same settings, seed and version of the package.

        Args:
            settings: Settings of this study.
            out: Folder of all studies.
            seed: Seed.
        """
        folder = out / self.name
        try:
            found = json.loads((folder / RESULT).read_text(encoding="utf-8"))
            stems = [one["stem"] for one in found["figures"]]
            same = (found["settings"], found["seed"], found["versions"]["calo4pqvae"])
        except (OSError, ValueError, KeyError, TypeError):  # none, or a damaged one, which is made again
            return False
        is_whole = all((folder / f"{stem}.{ending}").is_file() for stem in stems for ending in _FORMATS)
        return is_whole and same == (settings.model_dump(mode="json"), seed, __version__)

    def _explain(self, error: ValidationError) -> str:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            near = get_close_matches(key, self.settings.model_fields, n=1, cutoff=0.0)
            known = f"the nearest one is '{near[0]}'" if near else "it has none"
            return f"unknown setting '{key}' of the study {self.name}: {known}"
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "value_error":
            return f"settings of the study {self.name} do not fit together: {message}"
        return f"setting '{key}' = {first['input']!r} cannot be used: {message[0].lower() + message[1:]}"


def estimate(value: float, error: float | None, n: int, seed: int | None = None) -> dict[str, float | int | None]:
    """A number with its standard error, sample size and seed; what is not finite becomes null.

    Args:
        value: The number.
        error: Its standard error; 0 for exact numbers, None where it cannot be told.
        n: Number of what was averaged over.
        seed: Seed of the draws; None for numbers without any.
    """
    return {
        "value": _finite(value),
        "error": None if error is None else _finite(error),
        "n": int(n),
        "seed": seed,
    }


def with_error(number: Mapping[str, float | int | None], digits: int = 2) -> str:
    """An :func:`estimate` for a sentence: value ± error, the error with a number of significant digits."""
    value, error = number["value"], number["error"]
    if value is None:
        return "not found"
    if error is None or error == 0:
        return f"{value:.4g}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(error))))
    return f"{value:.{places}f} ± {error:.{places}f}"


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _parsed(value: str) -> Any:  # noqa: ANN401
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value


def _written(value: object) -> str:
    """A setting as :func:`_parsed` reads it; of a place on this machine only the name is told."""
    if isinstance(value, str):
        return Path(value).name if Path(value).is_absolute() else value
    return json.dumps(value)


def _versions() -> dict[str, str]:
    return {
        "calo4pqvae": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def _save_figure(figure: StudyFigure, folder: Path) -> None:
    import matplotlib as mpl

    from calo4pqvae.evaluation.pages.canvas import figure_style

    drawn = figure.draw()
    with figure_style(), mpl.rc_context({"svg.hashsalt": figure.stem}):
        for ending in _FORMATS:
            metadata = {"Date": None} if ending == "svg" else None
            with atomic_path(folder / f"{figure.stem}.{ending}") as partial:
                drawn.savefig(partial, format=ending, dpi=_DOTS_PER_INCH, metadata=metadata)
