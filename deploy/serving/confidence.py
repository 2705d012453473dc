"""How sure a model is of what it sees in production: a share that grows when the images drift away."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable

import numpy as np

from deploy.bundle import Pixels
from deploy.sessions import Session

log = logging.getLogger("deploy.serving")


class Watch:
    """Looks at one answer in `every` again, through the graph of the logits; nothing of an image is kept.

    Args:
        every: answers of which the last is looked at.
        sure: a pixel is of low confidence where its likeliest class has a softmax probability below this.
        tell: is given the number of pixels, and of those of low confidence.
    """

    def __init__(self, every: int, sure: float, tell: Callable[[int, int], None]) -> None:
        self._every, self._limit, self._tell = every, 1.0 / sure, tell
        self._answers = itertools.count(1)
        self._broken = False

    def due(self) -> bool:
        """Count an answer, from any thread; True where it is to be looked at."""
        return next(self._answers) % self._every == 0 and not self._broken

    def look(self, session: Session, image: Pixels) -> None:
        """Count the pixels of an image (H, W, 3). An engine without logits is logged once and left alone."""
        try:
            logits = session.logits(image[None])[0]
        except Exception:
            self._broken = True
            log.exception("confidence is no longer watched: the engine gave no logits")
            return
        # The sum of e^(logit - highest) is the inverse of the highest probability.
        logits -= logits.max(axis=0)
        unlikely = np.exp(logits, out=logits).sum(axis=0) > self._limit
        self._tell(unlikely.size, int(np.count_nonzero(unlikely)))
