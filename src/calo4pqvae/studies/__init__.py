"""Studies of the Boltzmann machine, each one command: numbers, figures and a finding written from the numbers."""
