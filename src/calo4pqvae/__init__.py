"""Calorimeter showers from a conditional VAE with a four-partite Boltzmann-machine prior.

The names below are what a notebook needs; each is imported when it is used, so that the package itself is light:

>>> import calo4pqvae
>>> calo4pqvae.load_config("demo").latent.levels > 0
True
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calo4pqvae.annealer.calls.annealer import open_annealer
    from calo4pqvae.config import load_config
    from calo4pqvae.evaluation.compare import evaluate_files as evaluate
    from calo4pqvae.runs.generation import generate, load_model, parse_energies, reconstruct
    from calo4pqvae.runs.report import report_run as report
    from calo4pqvae.runs.training import train
    from calo4pqvae.showers.files import ShowerFile
    from calo4pqvae.showers.geometry import geometry

__all__ = [
    "ShowerFile",
    "__version__",
    "evaluate",
    "generate",
    "geometry",
    "load_config",
    "load_model",
    "open_annealer",
    "parse_energies",
    "reconstruct",
    "report",
    "train",
]

__version__ = version("calo4pqvae")

_HOMES = {
    "ShowerFile": "showers.files",
    "evaluate": "evaluation.compare:evaluate_files",
    "generate": "runs.generation",
    "geometry": "showers.geometry",
    "load_config": "config",
    "load_model": "runs.generation",
    "open_annealer": "annealer.calls.annealer",
    "parse_energies": "runs.generation",
    "reconstruct": "runs.generation",
    "report": "runs.report:report_run",
    "train": "runs.training",
}
"""Where the lazy names are: module, and the name there if it is another."""


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _HOMES:
        raise AttributeError(f"module 'calo4pqvae' has no attribute '{name}'")
    module, _, inner = _HOMES[name].partition(":")
    return getattr(import_module(f"calo4pqvae.{module}"), inner or name)


def __dir__() -> list[str]:
    return sorted(__all__)
