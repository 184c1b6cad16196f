"""Refiners: showers to showers, after any family."""
