"""The study relaxation."""
