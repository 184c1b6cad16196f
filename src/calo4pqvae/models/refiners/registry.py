"""Refiners by name."""

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType

from calo4pqvae.config import Config
from calo4pqvae.errors import ConfigError
from calo4pqvae.models.refiners.quantiles import QuantileRefiner
from calo4pqvae.models.refiners.refiner import Refiner
from calo4pqvae.showers.geometry import Geometry

__all__ = ["REFINERS", "make_refiners"]

REFINERS: Mapping[str, type[Refiner]] = MappingProxyType({"quantiles": QuantileRefiner})


def make_refiners(config: Config, geometry: Geometry) -> dict[str, Refiner]:
    """The refiners that the settings ask for, in their order, fresh.

    Raises:
        ConfigError: If one is unknown or named twice, or its settings do not fit.
    """
    names = config.model.refiners
    for name in names:
        if name not in REFINERS:
            near = get_close_matches(name, REFINERS, n=1, cutoff=0.0)[0]
            raise ConfigError(f"there is no refiner '{name}': the nearest one is '{near}'")
    if len(set(names)) < len(names):
        raise ConfigError(f"model.refiners = {', '.join(names)} names a refiner twice: name each once")
    return {name: REFINERS[name](config, geometry) for name in names}
