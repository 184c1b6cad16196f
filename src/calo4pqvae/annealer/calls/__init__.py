"""Calls of an annealer: the door, retries, the ledger, reads on disk."""
