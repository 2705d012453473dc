"""Learning: losses, models, data and training for distilled segmentation networks."""
