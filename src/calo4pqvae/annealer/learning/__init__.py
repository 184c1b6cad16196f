"""Learning from reads of an annealer."""
