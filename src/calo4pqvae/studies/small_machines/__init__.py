"""The study small machines."""
