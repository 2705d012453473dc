"""Colours of classes; torch-free."""

from __future__ import annotations


def voc_colour(number: int) -> tuple[int, int, int]:
    """PASCAL VOC's colour (red, green, blue) of a class: neighbouring numbers get colours far apart.

    Bits 0, 1, 2 of each octal digit of the number become the high bits of red, green, blue. Source: the
    colour map of VOC's development kit.
    """
    channels = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            channels[channel] |= ((number >> (3 * place + channel)) & 1) << (7 - place)
    return channels[0], channels[1], channels[2]
