"""Where the nodes of a machine lie on a chip."""
