"""The command line: parsing, messages, tables."""
