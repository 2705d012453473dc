"""The DVC graph: one thin stage a file, run as `python -m pipeline.<stage>`."""
