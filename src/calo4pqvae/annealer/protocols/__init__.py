"""Protocols of sampling from an annealer."""
