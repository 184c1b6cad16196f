"""What is kept of a shower for comparisons."""
