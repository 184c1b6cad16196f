"""A Boltzmann machine on its own, trained on a file of bits."""
