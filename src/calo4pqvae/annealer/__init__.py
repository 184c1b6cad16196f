"""Annealers as samplers of the prior: the Ising door, the table of chips, the emulator and what works through them."""
