"""The DVC graph: one thin stage a file, run as `python -m pipeline.<stage>`."""

import gc

# Importing a training stage makes 400,000 objects that stay, among which Python's collector would look a
# thousand times meanwhile: 0.3 to 0.5 s of CPU.
gc.set_threshold(50_000, 20, 100)
