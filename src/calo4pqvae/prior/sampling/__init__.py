"""Samplers of Boltzmann machines."""
