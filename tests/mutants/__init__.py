"""Faults planted in copies of the code, each of which a test must see."""
