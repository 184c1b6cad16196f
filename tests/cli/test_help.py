"""The help of every command: nothing of it is lost on a terminal of 80 columns; the shell completes it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from calo4pqvae.cli.main import app


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """All commands and groups below one, with the words that lead to them."""
    yield " ".join(path), command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def squeezed(text: str) -> str:
    """Text without the frame, the blanks and the line ends of its display."""
    return "".join(text.replace("│", " ").split())


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", [80, 200])
def test_no_word_of_the_help_is_lost(name: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERMINAL_WIDTH", str(columns))
    told = CliRunner().invoke(app, [*name.split(), "--help"]).stdout
    assert max(map(len, told.splitlines())) <= columns
    assert "…" not in told
    command = COMMANDS[name]
    rows = [line for line in told.splitlines() if line.startswith("│")]
    seen = squeezed(told)
    for parameter in command.params:
        for option in (*parameter.opts, *parameter.secondary_opts):
            if option.startswith("-"):
                assert option in told
        words = (getattr(parameter, "help", None) or "").split()
        assert [word for word in words if word not in seen] == [], parameter.name
    assert [word for word in (command.help or "").split() if word not in seen] == []
    for inner in getattr(command, "commands", {}):
        assert any(inner in row for row in rows)


def test_the_shell_completes_commands() -> None:
    asked = {"_CALO4PQVAE_COMPLETE": "complete_bash", "COMP_WORDS": "calo4pqvae gen", "COMP_CWORD": "1"}
    words = [sys.executable, "-c", "from calo4pqvae.cli.main import main; main()"]
    done = subprocess.run(words, env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["generate"]
