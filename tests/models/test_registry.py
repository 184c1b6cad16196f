"""Families by name, those of other packages too, and what all of them must offer."""

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from calo4pqvae.errors import ConfigError
from calo4pqvae.models import registry
from calo4pqvae.models.library.family import LibraryFamily
from calo4pqvae.models.model import Family
from calo4pqvae.models.registry import FAMILIES, family_names, find_family


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_offers_what_the_jobs_need(name: str) -> None:
    family = find_family(name)
    assert isinstance(family, Family)
    assert family.parts
    first = next(iter(family.sources.values()))
    assert not first.from_showers


def test_an_unknown_family_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="the nearest one is 'library'"):
        find_family("librery")


@pytest.fixture
def _announced(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        EntryPoint("theirs", "calo4pqvae.models.library.family:LibraryFamily", "calo4pqvae.families"),
        EntryPoint("broken", "calo4pqvae.models.library.family:LibrarySettings", "calo4pqvae.families"),
    ]

    def entry_points(group: str) -> Any:
        assert group == "calo4pqvae.families"
        return found

    monkeypatch.setattr(registry, "entry_points", entry_points)


@pytest.mark.usefixtures("_announced")
def test_families_of_other_packages_are_found() -> None:
    assert isinstance(find_family("theirs"), LibraryFamily)
    assert family_names() == [*FAMILIES, "broken", "theirs"]
    with pytest.raises(ConfigError, match="is no Family"):
        find_family("broken")
