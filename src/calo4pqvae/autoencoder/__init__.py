"""The autoencoder: cylindrical layers, hierarchical encoder to bits, decoder from bits to showers."""
