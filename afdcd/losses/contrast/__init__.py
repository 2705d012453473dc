"""Contrast of rows within patches of a feature map, in several forms that give the same numbers."""
