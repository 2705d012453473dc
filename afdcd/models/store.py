"""Trained networks on disk: tensors as safetensors, the card as JSON, both or none."""

from __future__ import annotations

from pathlib import Path

import pydantic
from safetensors.torch import save
from torch import Tensor

from afdcd.config import Config, ModelConfig
from afdcd.errors import UserError
from afdcd.files import atomic_folder, read_json, write_json
from afdcd.models.segmenter import Segmenter
from afdcd.models.tensors import mismatches, read_tensors, shortened

WEIGHTS = "weights.safetensors"
CARD = "model.json"


class ModelCard(Config):
    """What a trained network is and how it came about.

    Attributes:
        model: what it was built from.
        classes: class names, in the order of the logits' channels.
        iteration: the iteration whose weights were kept, the best on val.
        val_miou: its mIoU on val in 0..1, None where it was not validated.
        iterations: how many were trained.
        seconds: wall time of the training.
    """

    model: ModelConfig
    num_classes: int
    classes: tuple[str, ...]
    iteration: int
    val_miou: float | None
    iterations: int
    world_size: int
    device: str
    precision: str
    torch_version: str
    seconds: float


def save_trained(folder: Path, model: Segmenter, card: ModelCard) -> None:
    """Write weights (auxiliary head included) and card to `folder` in one step.

    Raises:
        UserError: the disk is full or not writable; what stood there before is kept.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_folder(folder) as temporary:
        # Python writes the bytes: the library's own writer hides a full disk behind an error of its own.
        (temporary / WEIGHTS).write_bytes(save(tensors))
        write_json(temporary / CARD, card.model_dump(mode="json"))


def load_trained(folder: Path) -> tuple[Segmenter, ModelCard]:
    """A network and its card from a folder of `save_trained`, in eval mode on the CPU.

    Raises:
        UserError: a file is missing, truncated, or does not belong to the other.
    """
    card = _read_card(folder)
    model = Segmenter(card.model, card.num_classes)
    _fill(model, read_tensors(folder / WEIGHTS), folder / WEIGHTS)
    return model.eval(), card


def import_checkpoint(path: Path, config: ModelConfig, num_classes: int) -> Segmenter:
    """A teacher that somebody else trained, in eval mode on the CPU.

    Args:
        path: a folder of `save_trained`, or a .safetensors/.pth state dict of a Segmenter.
        config: the network it must be; where its own card differs, the checkpoint is refused.
        num_classes: the classes of the data.

    Raises:
        UserError: another number of classes or another network, or the file is damaged or asks to run code.
    """
    if path.is_dir():
        card = _read_card(path)
        _check_classes(path, card.num_classes, num_classes)
        _check_same_network(path, card.model, config)
        path = path / WEIGHTS
    tensors = read_tensors(path)
    if "classifier.weight" in tensors:
        _check_classes(path, tensors["classifier.weight"].shape[0], num_classes)
    model = Segmenter(config, num_classes)
    _fill(model, tensors, path)
    return model.eval()


def _read_card(folder: Path) -> ModelCard:
    try:
        return ModelCard.model_validate(read_json(folder / CARD))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{folder / CARD} is not the card of a trained network ({place}: {first['msg']}); train it anew"
        ) from error


def _check_classes(path: Path, found: int, wanted: int) -> None:
    if found != wanted:
        raise UserError(
            f"checkpoint {path} has {found} classes, the data have {wanted}; "
            "give a checkpoint trained on these classes or set teacher.checkpoint: null to train one"
        )


def _check_same_network(path: Path, found: ModelConfig, wanted: ModelConfig) -> None:
    """Where the weights came from at first does not matter; everything else changes what they compute."""
    for key, value in wanted.model_dump(mode="json", exclude={"pretrained"}).items():
        other = found.model_dump(mode="json")[key]
        if value != other:
            raise UserError(
                f"checkpoint {path} is another network: its {key} is {other}, the settings say {value}; "
                f"set teacher.model.{key}: {other}"
            )


def _fill(model: Segmenter, tensors: dict[str, Tensor], path: Path) -> None:
    wrong = mismatches(model.state_dict(), tensors, extra=True)
    if wrong:
        raise UserError(f"the weights in {path} do not fit the network described: {shortened(wrong)}")
    model.load_state_dict(tensors)
