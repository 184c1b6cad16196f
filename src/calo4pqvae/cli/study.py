"""The command ``calo4pqvae study``: parsing and messages. The work is done by :mod:`calo4pqvae.studies`.

One study is always done anew. With ``all``, a study that is finished with equal settings, seed and version is kept, so
that an interrupted command goes on where it stood, and one that fails does not keep the others from being done.
"""

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calo4pqvae.atomic import write_text
from calo4pqvae.cli.terminal import bars, complaints, console, print_table
from calo4pqvae.errors import CaloError, ConfigError

if TYPE_CHECKING:
    from calo4pqvae.studies.frame.study import Study, StudySettings

__all__ = ["study"]

_ALL, _LIST = "all", "list"
_TRACEBACK = "error.txt"
_FAILED = 1  # exit code if a study failed and it was not the user's input


def study(
    name: Annotated[str, typer.Argument(help="Name of a study, 'all' for every one, or 'list' to show them.")],
    out: Annotated[Path, typer.Option(help="Folder for the results of all studies.")] = Path("studies"),
    quick: Annotated[bool, typer.Option("--quick", help="The form that takes minutes.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change one setting; with 'all' also NAME.KEY=VALUE.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="With 'all': do finished studies anew too.")] = False,
    show_settings: Annotated[bool, typer.Option("--settings", help="Show the settings of the study and stop.")] = False,
) -> None:
    """Studies of the Boltzmann machine: numbers, figures and a short text with what was found."""
    from calo4pqvae.studies.frame.registry import STUDIES, load_study

    names = tuple(STUDIES) if name in (_ALL, _LIST) else (name,)
    studies = [load_study(one) for one in names]
    if name == _LIST:
        print_table("studies", [{"name": one.name, "what it shows": one.title} for one in studies])
        return
    if show_settings:
        for one in studies:
            _show_settings(one)
        return
    chosen = _chosen(studies, settings or [], quick=quick, is_all=name == _ALL)
    try:
        if name == _ALL:
            _run_all(chosen, out, seed, overwrite=overwrite)
        else:
            _run(*chosen[0], out, seed)
            _index(out)
    except KeyboardInterrupt:
        rest = "; the same command goes on with the others" if name == _ALL else ""
        complaints.print(f"what is finished stays in {out}{rest}", highlight=False, soft_wrap=True, markup=False)
        raise


def _chosen(
    studies: Sequence["Study"], changes: Sequence[str], *, quick: bool, is_all: bool
) -> list[tuple["Study", "StudySettings"]]:
    """Studies with their settings; all settings are read before any work is done."""
    own: dict[str, list[str]] = {one.name: [] for one in studies}
    for change in changes:
        key = change.partition("=")[0].strip()
        target, dot, _ = key.partition(".")
        if not is_all:
            own[studies[0].name].append(change)
        elif dot and target in own:
            own[target].append(change.partition(".")[2])
        else:
            having = [one.name for one in studies if key in one.settings.model_fields]
            if not having:
                raise ConfigError(
                    f"'{change}' is no setting of any study: with 'all', write KEY=VALUE for all that have it, or "
                    f"NAME.KEY=VALUE, NAME of {', '.join(own)}"
                )
            for one in having:
                own[one].append(change)
    return [(one, one.configure(quick=quick, overrides=own[one.name])) for one in studies]


def _run_all(chosen: Sequence[tuple["Study", "StudySettings"]], out: Path, seed: int, *, overwrite: bool) -> None:
    """One after another; failures are told at the end, and the page is renewed after each."""
    from calo4pqvae.studies.frame.index import write_index

    failures: dict[str, Exception] = {}
    for place, (one, settings) in enumerate(chosen, 1):
        _say(f"[bold]study {place} of {len(chosen)}: {one.name}[/]")
        if not overwrite and one.is_finished(settings, out, seed):
            _say("kept: it is finished with these settings, seed and version; --overwrite does it anew")
            continue
        try:
            _run(one, settings, out, seed)
            write_index(out)
        except CaloError as error:
            failures[one.name] = error
        except Exception as error:  # noqa: BLE001  a defect of one study must not cost the others
            write_text(out / one.name / _TRACEBACK, "".join(traceback.format_exception(error)))
            failures[one.name] = error
    if len(failures) < len(chosen):
        _index(out)
    for name, failure in failures.items():
        told = str(failure) if isinstance(failure, CaloError) else f"{failure!r}; {out / name / _TRACEBACK} says where"
        complaints.print(f"{name} failed: {told}", highlight=False, soft_wrap=True, markup=False)
    if not failures:
        return
    if all(isinstance(failure, CaloError) for failure in failures.values()):
        raise ConfigError(f"{len(failures)} of {len(chosen)} studies failed, as told above; the others are in {out}")
    raise typer.Exit(_FAILED)


def _run(one: "Study", settings: "StudySettings", out: Path, seed: int) -> None:
    with bars() as shown:
        result = one.run(settings, out, seed, shown.show)
    _say(f"[bold]{one.name}[/]: {one.title}")
    for paragraph in result.text:
        console.print(paragraph, highlight=False, soft_wrap=True, markup=False)
    _say(f"{len(result.figures)} figures and numbers in {out / one.name}, seed {seed}, {result.runtime_s:.0f} s")
    (out / one.name / _TRACEBACK).unlink(missing_ok=True)


def _index(out: Path) -> None:
    from calo4pqvae.studies.frame.index import write_index

    _say(f"all studies in this folder: {write_index(out)}")


def _say(line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)


def _show_settings(one: "Study") -> None:
    rows = [
        {
            "setting": key,
            "default": str(field.get_default(call_default_factory=True)),
            "quick": str(one.quick.get(key, "")),
            "meaning": field.description or "",
        }
        for key, field in one.settings.model_fields.items()
    ]
    print_table(f"settings of {one.name}: {one.title}", rows)
