"""mIoU of a network on whole images of a split, shared by all processes without padding."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from afdcd.data.manifest import Entry, Manifest
from afdcd.errors import UserError
from afdcd.metrics import ConfusionMatrix
from afdcd.models.segmenter import Segmenter
from afdcd.training.distributed import World
from afdcd.training.task import Precision


class Validation:
    """Scores a network on one split at the labels' own size, as a callable; collective over processes."""

    def __init__(
        self, manifest: Manifest, split: str, *, batch_size: int, precision: Precision, world: World
    ) -> None:
        """Take this process's part of the split.

        Raises:
            UserError: the split is empty.
        """
        self._manifest = manifest
        self._entries = manifest.split(split)[world.rank :: world.size]
        self._batch_size = batch_size
        self._precision = precision
        self._world = world

    def __call__(self, network: Segmenter) -> float:
        """mIoU, 0..1, over all processes' parts; the network's mode is kept.

        Raises:
            UserError: no pixel of the split is labelled.
        """
        training = network.training
        network.eval()
        matrix = ConfusionMatrix(self._manifest.num_classes, self._manifest.info.ignore_index)
        for entries in self._groups():
            images = np.stack([self._manifest.image(entry) for entry in entries])
            labels = np.stack([self._manifest.labels(entry) for entry in entries])
            matrix.update(self._predict(network, torch.from_numpy(images), labels.shape[1:]), labels)
        network.train(training)
        counts = self._world.sum(torch.from_numpy(matrix.counts).to(self._world.device))
        matrix.counts = counts.cpu().numpy()
        miou = matrix.miou()
        if math.isnan(miou):
            raise UserError(f"no pixel of the val images of {self._manifest.folder} is labelled; label some")
        return miou

    @torch.no_grad()
    def _predict(self, network: Segmenter, images: Tensor, size: tuple[int, ...]) -> np.ndarray:
        """Class maps uint8 (B, H, W) of images uint8 (B, H, W, 3)."""
        device = self._world.device
        with self._precision.context():
            logits = network(images.permute(0, 3, 1, 2).to(device, memory_format=torch.channels_last)).logits
        assert logits is not None
        upsampled = F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)
        return upsampled.argmax(1).to(torch.uint8).cpu().numpy()

    def _groups(self) -> Iterator[list[Entry]]:
        """Neighbours of one size, at most a batch of them."""
        for _, same in groupby(self._entries, key=attrgetter("height", "width")):
            entries = list(same)
            for first in range(0, len(entries), self._batch_size):
                yield entries[first : first + self._batch_size]
