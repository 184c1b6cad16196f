"""What every run needs: its directory, checkpoints, tracking, data, processes."""
