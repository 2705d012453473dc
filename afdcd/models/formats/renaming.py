"""Renaming tensors by a list of patterns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor


def renamed(tensors: Mapping[str, Tensor], rules: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """Each tensor under the name that the first pattern which begins it gives; others keep theirs.

    A name kept is one that no network here has, so that the comparison with the network names it.
    """
    compiled = [(re.compile(pattern), new) for pattern, new in rules]
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new_name = name
        for pattern, new in compiled:
            if pattern.match(name):
                new_name = pattern.sub(new, name, count=1)
                break
        found[new_name] = tensor
    return found
