"""mIoU of a network on whole images of a split, at the geometry that ships, shared by all processes."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from afdcd.config import Size
from afdcd.data.manifest import Manifest
from afdcd.errors import UserError
from afdcd.geometry import Fit, fit, unfit
from afdcd.metrics import ConfusionMatrix
from afdcd.models.segmenter import Segmenter
from afdcd.training.distributed import World
from afdcd.training.precision import Precision


class Validation:
    """Scores a network on one split as an engine is scored, as a callable; collective over processes.

    Images are fitted to the input size, class maps brought back to the labels' own: what is best here is
    best as it ships.
    """

    def __init__(
        self,
        manifest: Manifest,
        split: str,
        *,
        size: Size,
        mode: Fit,
        batch_size: int,
        precision: Precision,
        world: World,
    ) -> None:
        """Take this process's part of the split.

        Args:
            manifest: the prepared data.
            split: name of the split.
            size: (height, width) of the network's input.
            mode: how images are fitted to it.
            batch_size: images in one forward pass.
            precision: of the forward pass.
            world: the processes.

        Raises:
            UserError: the split is empty.
        """
        self._manifest = manifest
        self._entries = manifest.split(split)[world.rank :: world.size]
        self._size, self._mode = size, mode
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
        for first in range(0, len(self._entries), self._batch_size):
            entries = self._entries[first : first + self._batch_size]
            fitted = [fit(self._manifest.image(entry), self._size, self._mode) for entry in entries]
            predicted = self._predict(network, torch.from_numpy(np.stack([each.image for each in fitted])))
            for entry, each, class_map in zip(entries, fitted, predicted, strict=True):
                matrix.update(unfit(class_map, each), self._manifest.labels(entry))
        network.train(training)
        counts = self._world.sum(torch.from_numpy(matrix.counts).to(self._world.device))
        matrix.counts = counts.cpu().numpy()
        miou = matrix.miou()
        if math.isnan(miou):
            raise UserError(f"no pixel of the val images of {self._manifest.folder} is labelled; label some")
        return miou

    @torch.no_grad()
    def _predict(self, network: Segmenter, images: Tensor) -> np.ndarray:
        """Class maps uint8 (B, H, W) of images uint8 (B, H, W, 3)."""
        device = self._world.device
        with self._precision.context():
            logits = network(images.permute(0, 3, 1, 2).to(device, memory_format=torch.channels_last)).logits
        assert logits is not None
        upsampled = F.interpolate(logits.float(), self._size, mode="bilinear", align_corners=False)
        return upsampled.argmax(1).to(torch.uint8).cpu().numpy()
