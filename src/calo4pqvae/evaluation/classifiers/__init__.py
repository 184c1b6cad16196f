"""Binary classifiers between two samples."""
