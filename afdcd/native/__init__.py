"""Kernels in C for trainings on CPUs, built by the machine's own compiler for its own processor."""
