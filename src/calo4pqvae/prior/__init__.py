"""The Boltzmann-machine prior over latent bits: graphs, machines, samplers and learning."""
