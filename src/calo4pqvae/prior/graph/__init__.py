"""Graphs in partitions, chips, bands."""
