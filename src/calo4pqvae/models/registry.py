"""Model families by name: those of this package, and those that other packages announce.

Another package announces a family as an entry point of the group ``calo4pqvae.families`` whose object is a subclass of
:class:`~calo4pqvae.models.model.Family`:

.. code-block:: toml

   [project.entry-points."calo4pqvae.families"]
   my-family = "my_package.family:MyFamily"

A family's module is imported when it is asked for.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType

from calo4pqvae.errors import ConfigError
from calo4pqvae.models.model import Family

__all__ = ["FAMILIES", "family_names", "find_family"]

FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "qvae": "calo4pqvae.models.qvae.family:QvaeFamily",
        "library": "calo4pqvae.models.library.family:LibraryFamily",
    }
)
"""Module and class of every family of this package."""

_GROUP = "calo4pqvae.families"


def family_names() -> list[str]:
    """Names of all families that are there."""
    return [*FAMILIES, *sorted({entry.name for entry in entry_points(group=_GROUP)} - set(FAMILIES))]


def find_family(name: str) -> Family:
    """The family of a name.

    Raises:
        ConfigError: If there is none, or another package announces something that is no family.
    """
    if name in FAMILIES:
        module, _, attribute = FAMILIES[name].partition(":")
        found = getattr(import_module(module), attribute)
    else:
        announced = {entry.name: entry for entry in entry_points(group=_GROUP)}
        if name not in announced:
            names = family_names()
            near = get_close_matches(name, names, n=1, cutoff=0.0)[0]
            raise ConfigError(f"there is no model family '{name}': the nearest one is '{near}' ({', '.join(names)})")
        found = announced[name].load()
    if not (isinstance(found, type) and issubclass(found, Family)):
        raise ConfigError(f"what is announced as model family '{name}' is no Family: mend the package that brings it")
    return found()
