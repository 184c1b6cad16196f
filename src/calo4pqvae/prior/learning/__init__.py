"""Learning of Boltzmann machines."""
