"""Formulas and measures that several studies use."""
