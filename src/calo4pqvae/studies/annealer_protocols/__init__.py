"""The study annealer protocols."""
