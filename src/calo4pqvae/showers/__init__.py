"""Showers on the ground floor: voxel grids, files, memory stores, transforms, downloads, bundled sample."""
