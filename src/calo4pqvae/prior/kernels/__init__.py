"""Kernels of block Gibbs sampling: the same law, drawn in different ways."""
