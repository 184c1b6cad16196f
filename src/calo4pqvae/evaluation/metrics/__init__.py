"""Metrics of two samples, with their errors."""
