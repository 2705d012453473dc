"""Training: tasks, the loop, checkpoints, several processes."""
