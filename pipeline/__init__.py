"""The DVC graph: one thin stage a file, run as `python -m pipeline.<stage>`."""

import gc

# Importing torch makes a million objects that stay. Python's collector would look through them some eighty
# times meanwhile, half a second a stage.
gc.set_threshold(50_000, 20, 100)
