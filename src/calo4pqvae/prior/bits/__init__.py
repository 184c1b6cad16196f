"""Files of bits."""
