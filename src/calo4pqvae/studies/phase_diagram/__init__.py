"""The study phase diagram."""
