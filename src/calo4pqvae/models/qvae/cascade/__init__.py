"""The splitting cascade: voxel energies by splitting each layer's energy down a binary tree, in depth order."""
