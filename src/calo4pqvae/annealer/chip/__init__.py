"""The chip: graph, limits, problems and answers in its terms."""
