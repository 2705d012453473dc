"""Pretrained backbone weights: none, ImageNet's through timm, or a file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import huggingface_hub
from timm.models import get_pretrained_cfg
from torch import nn

from afdcd.config import ModelConfig
from afdcd.errors import UserError
from afdcd.models.backbone import Backbone
from afdcd.models.tensors import mismatches, read_tensors, shortened

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
"""The file that timm's repositories on the hub hold."""

TIMEOUT = 10
"""Seconds for the one question whether the hub answers; its client alone would retry for most of a minute."""


def load_pretrained(backbone: Backbone, config: ModelConfig) -> None:
    """Fill a backbone as `config.pretrained` says: `none`, `imagenet` or the path of a weights file.

    Every tensor of the backbone must be in the file, by its name in timm and with its shape; others (the
    ImageNet classifier) are left aside.

    Raises:
        UserError: the download fails, the file cannot be read, or its tensors do not fit.
    """
    if config.pretrained == "none":
        return
    if config.pretrained == "imagenet":
        _require_normalisation(config)
    path = _imagenet(config.backbone) if config.pretrained == "imagenet" else Path(config.pretrained)
    network: nn.Module = backbone.network
    wanted = {_plain(name): tensor for name, tensor in network.state_dict().items()}
    found = {_plain(name): tensor for name, tensor in read_tensors(path).items()}
    # Batch counters are absent from old files and are used by no default momentum.
    needed = {name: tensor for name, tensor in wanted.items() if not name.endswith("num_batches_tracked")}
    wrong = mismatches(needed, found, extra=False)
    if wrong:
        raise UserError(
            f"the weights in {path} do not fit backbone {config.backbone!r} with backbone_options "
            f"{config.backbone_options}: {shortened(wrong)}; set pretrained: none or other weights"
        )
    for name, tensor in wanted.items():
        if name in found:
            tensor.copy_(found[name])
    unused = len(found.keys() - wanted.keys())
    logger.info("%s: %d tensors loaded from %s, %d left aside", config.backbone, len(needed), path, unused)


def _require_normalisation(config: ModelConfig) -> None:
    """Refuse a normalisation that timm's weights were not trained with; to mix them costs accuracy silently.

    Raises:
        UserError: it is another; theirs is told.
    """
    known: Any = get_pretrained_cfg(config.backbone)
    if known is None:
        return
    given = config.normalisation
    mean, std = ([round(255 * value, 3) for value in values] for values in (known.mean, known.std))
    wanted = [*mean, *std]
    same = all(abs(a - b) < 0.01 for a, b in zip((*given.mean, *given.std), wanted, strict=True))
    if given.order != "rgb" or not same:
        raise UserError(
            f"timm's weights of {config.backbone!r} expect the normalisation {{order: rgb, mean: {mean}, "
            f"std: {std}}}, the settings give {given.model_dump(mode='json')}; set it, or other weights"
        )


def _plain(name: str) -> str:
    """A tensor's name without what feature extractors change: dots of sequences, a wrapper's prefix."""
    return name.removeprefix("model.").replace(".", "_")


def _imagenet(name: str) -> Path:
    """The ImageNet weights of timm, from the hub's cache on this machine or downloaded.

    Raises:
        UserError: there are none, or the hub cannot be reached.
    """
    known: Any = get_pretrained_cfg(name)
    repository = getattr(known, "hf_hub_id", None)
    if not repository:
        raise UserError(f"timm has no ImageNet weights for {name!r}; set pretrained: none or a file's path")
    file = known.hf_hub_filename or WEIGHTS_FILE
    cached = huggingface_hub.try_to_load_from_cache(repository, file)
    if isinstance(cached, str):
        return Path(cached)
    url = huggingface_hub.hf_hub_url(repository, file)
    try:
        answer = huggingface_hub.get_session().head(url, timeout=TIMEOUT)
        if answer.status_code >= 400:
            raise OSError(f"the server answered {answer.status_code}")
        return Path(huggingface_hub.hf_hub_download(repository, file))
    except Exception as error:  # the hub's client raises its transport's errors, whichever that is
        reason = str(error).splitlines()[0].rstrip(". ") if str(error) else type(error).__name__
        raise UserError(
            f"the ImageNet weights of {name!r} could not be downloaded ({reason}): fetch {url} on a machine "
            f"with a network and set pretrained: to the path of that {file}, or set pretrained: none"
        ) from error
