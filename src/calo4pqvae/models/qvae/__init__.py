"""The family of the quantum-assisted variational autoencoder: networks, latent bits, Boltzmann prior."""
