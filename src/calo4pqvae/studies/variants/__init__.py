"""The study variants."""
