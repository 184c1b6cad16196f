"""The command ``calo4pqvae study``: parsing and messages. The work is done by :mod:`calo4pqvae.studies`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calo4pqvae.errors import ConfigError
from calo4pqvae.terminal import bars, console, print_table

if TYPE_CHECKING:
    from calo4pqvae.studies.study import Study, StudySettings

__all__ = ["study"]

_ALL, _LIST = "all", "list"


def study(
    name: Annotated[str, typer.Argument(help="Name of a study, 'all' for every one, or 'list' to show them.")],
    out: Annotated[Path, typer.Option(help="Folder for the results of all studies.")] = Path("studies"),
    quick: Annotated[bool, typer.Option("--quick", help="The form that takes minutes.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; with 'all', NAME.KEY=VALUE."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed.")] = 1,
    show_settings: Annotated[bool, typer.Option("--settings", help="Show the settings of the study and stop.")] = False,
) -> None:
    """Studies of the Boltzmann machine: numbers, figures and a short text with what was found."""
    from calo4pqvae.studies.registry import STUDIES, load_study

    names = tuple(STUDIES) if name in (_ALL, _LIST) else (name,)
    if name == _LIST:
        print_table("studies", [{"name": one, "what it shows": load_study(one).title} for one in names])
        return
    if show_settings:
        for one in names:
            _show_settings(load_study(one))
        return
    if seed < 0:
        raise ConfigError(f"--seed {seed} is negative: use 0 or more")
    for chosen, its_settings in _chosen(names, settings or [], quick=quick, is_all=name == _ALL):
        _run(chosen, its_settings, out, seed)
    _index(out)


def _chosen(
    names: tuple[str, ...], changes: list[str], *, quick: bool, is_all: bool
) -> list[tuple["Study", "StudySettings"]]:
    """Studies with their settings; all settings are read before any work is done."""
    from calo4pqvae.studies.registry import load_study

    own: dict[str, list[str]] = {name: [] for name in names}
    for change in changes:
        target, rest = change.partition(".")[::2] if is_all else (names[0], change)
        if target not in own or not rest:
            raise ConfigError(
                f"'{change}' names no study: with 'all', write NAME.KEY=VALUE, NAME of {', '.join(names)}"
            )
        own[target].append(rest)
    studies = [load_study(name) for name in names]
    return [(one, one.configure(quick=quick, overrides=own[one.name])) for one in studies]


def _run(one: "Study", settings: "StudySettings", out: Path, seed: int) -> None:
    with bars() as shown:
        result = one.run(settings, out, seed, shown.show)
    console.print(f"[bold]{one.name}[/]: {one.title}", highlight=False, soft_wrap=True)
    for paragraph in result.text:
        console.print(paragraph, highlight=False, soft_wrap=True, markup=False)
    console.print(
        f"{len(result.figures)} figures and numbers in {out / one.name}, seed {seed}, {result.runtime_s:.0f} s",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def _index(out: Path) -> None:
    from calo4pqvae.studies.index import write_index

    console.print(f"all studies in this folder: {write_index(out)}", highlight=False, soft_wrap=True, markup=False)


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
