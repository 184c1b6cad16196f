"""The study couplers and fields."""
