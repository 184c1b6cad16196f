"""Whole jobs of any model family: training, generation, report."""
