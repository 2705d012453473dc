"""Loss kernels in C for CPUs, built by the machine's own compiler for its own processor."""
