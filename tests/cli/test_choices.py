"""Options with a choice list it in their help, refuse anything else in one line, and agree with the library."""

import subprocess
import sys
from typing import Any, get_args

import pytest
from typer.testing import CliRunner

from calo4pqvae.annealer.emulator.settings import MODES
from calo4pqvae.annealer.protocols import conditioning, run
from calo4pqvae.annealer.protocols.named import PROTOCOLS
from calo4pqvae.cli import choices
from calo4pqvae.cli.main import app
from calo4pqvae.prior.bits.mnist import IMAGE_SETS
from calo4pqvae.standalone import assessment

OPTIONS = {
    ("generate", "--sampler"): choices.Sampler,
    ("generate", "--mode"): choices.AnnealerMode,
    ("generate", "--condition"): choices.ConditionMethod,
    ("generate", "--protocol"): choices.Protocol,
    ("generate", "--slips"): choices.SlipPolicy,
    ("generate", "--device"): choices.Device,
    ("evaluate", "--device"): choices.Device,
    ("report", "--device"): choices.Device,
    ("prior sample", "--start"): choices.Start,
    ("prior sample", "--sampler"): choices.MachineSampler,
    ("prior diagnose", "--start"): choices.Start,
    ("prior loglik", "--start"): choices.Start,
    ("annealer sample", "--mode"): choices.AnnealerMode,
    ("annealer train", "--protocol"): choices.LearningProtocol,
    ("annealer train", "--correction"): choices.Correction,
}


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_help_lists_the_choices(command: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = CliRunner().invoke(app, [*command.split(), "--help"]).stdout
    words = "".join(line.strip("│ ").replace(" ", "") for line in told.partition(option)[2].splitlines())
    for choice in get_args(OPTIONS[command, option]):
        assert choice.replace(" ", "") in words


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_anything_else_is_refused(command: str, option: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), option, "magic"], standalone_mode=False)
    assert "'magic' is not one of" in str(result.exception)
    assert all(choice in str(result.exception) for choice in get_args(OPTIONS[command, option]))


def test_a_refusal_is_one_line_with_exit_code_2() -> None:
    words = [sys.executable, "-m", "calo4pqvae", "report", "x", "--device", "tpu"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "tpu" in done.stderr


@pytest.mark.parametrize(
    ("words", "known"),
    [
        (choices.AnnealerMode, MODES),
        (choices.ConditionMethod, get_args(conditioning.Method)),
        (choices.SlipPolicy, get_args(conditioning.FailurePolicy)),
        (choices.Protocol, PROTOCOLS),
        (choices.Correction, get_args(run.Correction)),
        (choices.Start, get_args(assessment.Start)),
        (choices.MachineSampler, get_args(assessment.SamplerName)),
        (choices.ImageSet, IMAGE_SETS),
    ],
)
def test_choices_are_those_of_the_library(words: Any, known: Any) -> None:
    assert set(get_args(words)) == set(known)
