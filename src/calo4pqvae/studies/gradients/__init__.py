"""The study gradients."""
