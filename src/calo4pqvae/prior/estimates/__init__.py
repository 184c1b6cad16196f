"""Partition functions, likelihoods, autocorrelation."""
