"""Compiled loops of the cascade: pyramids, contexts, draws."""
