"""The shower model and its machine on an annealer: sampling, generation, training."""
