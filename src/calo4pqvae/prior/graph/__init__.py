"""Graphs in partitions, chips, regions."""
