"""An emulated annealer, always labelled emulated."""
