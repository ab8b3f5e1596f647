"""Training: the run's folder, its checkpoints, and the loop that learns."""
