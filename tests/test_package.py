"""The package as a notebook meets it: few names, imported when they are used."""

import subprocess
import sys

import pytest

import calo4pqvae
from calo4pqvae.runs.generation import load_model


def test_names_are_there_and_lazy() -> None:
    program = (
        "import sys, calo4pqvae; light = 'torch' not in sys.modules; "
        "names = [getattr(calo4pqvae, name) for name in calo4pqvae.__all__]; "
        "print(light, len(names), 'lightning_fabric' in sys.modules)"  # a training alone needs Fabric
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", str(len(calo4pqvae.__all__)), "False"]
    assert calo4pqvae.load_model is load_model
    assert {"load_model", "generate", "train", "evaluate", "open_annealer"} <= set(dir(calo4pqvae))


def test_another_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'generat'"):
        _ = calo4pqvae.generat


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "calo4pqvae", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"calo4pqvae {calo4pqvae.__version__}\n"
