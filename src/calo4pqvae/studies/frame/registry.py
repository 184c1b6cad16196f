"""The studies by name; the module of one is imported when it is asked for."""

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from types import MappingProxyType

from calo4pqvae.errors import ConfigError
from calo4pqvae.studies.frame.study import Study

__all__ = ["STUDIES", "load_study"]

STUDIES: Mapping[str, str] = MappingProxyType(
    {
        "high-temperature": "calo4pqvae.studies.high_temperature.study",
        "small-machines": "calo4pqvae.studies.small_machines.study",
        "phase-diagram": "calo4pqvae.studies.phase_diagram.study",
        "couplers-and-fields": "calo4pqvae.studies.couplers_and_fields.study",
        "reciprocal-space": "calo4pqvae.studies.reciprocal_space.study",
        "relaxation": "calo4pqvae.studies.relaxation.study",
        "gradients": "calo4pqvae.studies.gradients.study",
        "variants": "calo4pqvae.studies.variants.study",
        "annealer-protocols": "calo4pqvae.studies.annealer_protocols.study",
    }
)
"""Module of every study, in the order in which they are run and shown; each holds a ``STUDY``."""


def load_study(name: str) -> Study:
    """The study of a name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in STUDIES:
        near = get_close_matches(name, STUDIES, n=1, cutoff=0.0)[0]
        raise ConfigError(f"there is no study '{name}': the nearest one is '{near}' (calo4pqvae study list shows all)")
    study = import_module(STUDIES[name]).STUDY
    if not isinstance(study, Study):
        raise TypeError(f"STUDY of {STUDIES[name]} is {type(study).__name__}, not a Study")
    return study
