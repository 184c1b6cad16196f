"""Calorimeter showers from a conditional VAE with a four-partite Boltzmann-machine prior."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("calo4pqvae")
