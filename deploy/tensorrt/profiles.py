"""From the contract to the shapes that a plan is made for: least, usual, most."""

from __future__ import annotations

from typing import NamedTuple

from afdcd.errors import UserError
from deploy.bundle import Contract, Range

OPEN_BATCH = 8
"""Images a call at most where the contract leaves the number open: a plan reserves memory for the most."""

Shape = tuple[int, ...]


class Span(NamedTuple):
    """Shapes of one input; kernels are chosen for the usual one.

    Attributes:
        least: smallest lengths.
        usual: what is mostly asked for.
        most: largest lengths.
    """

    least: Shape
    usual: Shape
    most: Shape

    @property
    def fixed(self) -> bool:
        """Whether only one shape is possible."""
        return self.least == self.most


def span(contract: Contract) -> Span:
    """The shapes (B, H, W, 3) of a contract's images; usual is one image (or the fewest) at the input size.

    Raises:
        UserError: height or width has no upper limit.
    """
    given = contract.input
    ends = [_batch(given.batch), _side(given.height, "height"), _side(given.width, "width"), (3, 3)]
    usual = (ends[0][0], *contract.geometry.size, 3)
    return Span(tuple(low for low, _ in ends), usual, tuple(high for _, high in ends))


def narrowed(contract: Contract, shapes: Span) -> Contract:
    """The contract with a largest batch, which is what the plan was made for."""
    batch = contract.input.batch.model_copy(update={"max": shapes.most[0]})
    return contract.model_copy(update={"input": contract.input.model_copy(update={"batch": batch})})


def _batch(limit: Range) -> tuple[int, int]:
    return limit.min, max(OPEN_BATCH, limit.min) if limit.max is None else limit.max


def _side(limit: int | Range, name: str) -> tuple[int, int]:
    if isinstance(limit, int):
        return limit, limit
    if limit.max is None:
        raise UserError(
            f"the contract gives the {name} no upper limit, and a TensorRT plan needs one; "
            f"set deploy.export.dynamic.{name} to [least, most]"
        )
    return limit.min, limit.max
