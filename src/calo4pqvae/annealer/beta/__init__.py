"""The effective inverse temperature of an annealer."""
