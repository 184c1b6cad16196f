"""The study reciprocal space."""
