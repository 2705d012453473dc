"""Trained networks on disk: tensors as safetensors, the card as JSON, both or none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
from safetensors.torch import save
from torch import Tensor

from afdcd.config import Config, ModelConfig
from afdcd.errors import UserError
from afdcd.files import atomic_folder, read_json, write_json
from afdcd.models.formats.reading import read_foreign
from afdcd.models.segmenter import Segmenter
from afdcd.models.tensors import mismatches, read_tensors, shortened

WEIGHTS = "weights.safetensors"
CARD = "model.json"

OWN = "afdcd"
"""This project's own names among the formats of checkpoints."""

COUNTER = "num_batches_tracked"

ONLY_FOR_TRAINING = {"pretrained", "dropout", "projection_dropout"}
"""Settings of a network that a trained one does not depend on."""


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


def import_checkpoint(path: Path, config: ModelConfig, classes: Sequence[str], form: str = OWN) -> Segmenter:
    """A teacher that somebody else trained, in eval mode on the CPU.

    Args:
        path: a folder of `save_trained`, or a .safetensors/.pth state dict of a Segmenter or of `form`.
        config: the network it must be; where its own card differs, the checkpoint is refused.
        classes: the classes of the data; a folder must know the same in the same order, of a bare state
            dict only the number can be compared.
        form: whose names a file's tensors have, one of `afdcd.models.formats.FORMATS`.

    Raises:
        UserError: other classes or another network, or the file is damaged or asks to run code.
    """
    if form != OWN:
        foreign = read_foreign(path, form)
        _check_number(path, foreign.num_classes, len(classes))
        _check_settings(path, form, foreign.settings, config)
        model = Segmenter(config, len(classes))
        _fill(model, foreign.tensors, path, remedy=_auxiliary_remedy(config, foreign.tensors))
        return model.eval()
    if path.is_dir():
        card = _read_card(path)
        _check_number(path, card.num_classes, len(classes))
        _check_names(path, card.classes, classes)
        _check_same_network(path, card.model, config)
        path = path / WEIGHTS
    tensors = read_tensors(path)
    if "classifier.weight" in tensors:
        _check_number(path, tensors["classifier.weight"].shape[0], len(classes))
    model = Segmenter(config, len(classes))
    _fill(model, tensors, path, remedy=_auxiliary_remedy(config, tensors))
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


OTHER_CLASSES = "give a checkpoint trained on these classes or set teacher.checkpoint: null to train one"


def _check_number(path: Path, found: int, wanted: int) -> None:
    if found != wanted:
        raise UserError(f"checkpoint {path} has {found} classes, the data have {wanted}; {OTHER_CLASSES}")


def _check_names(path: Path, found: Sequence[str], wanted: Sequence[str]) -> None:
    if list(found) != list(wanted):
        raise UserError(
            f"checkpoint {path} knows the classes {', '.join(found)}, the data have {', '.join(wanted)}, "
            f"in this order; {OTHER_CLASSES}"
        )


def _check_same_network(path: Path, found: ModelConfig, wanted: ModelConfig) -> None:
    """Refuse what shapes the weights or changes what they compute."""
    for key, value in wanted.model_dump(mode="json", exclude=ONLY_FOR_TRAINING).items():
        other = found.model_dump(mode="json")[key]
        if value != other:
            raise UserError(
                f"checkpoint {path} is another network: its {key} is {other}, the settings say {value}; "
                f"set teacher.model.{key}: {other}"
            )


def _check_settings(path: Path, form: str, told: dict[str, Any], config: ModelConfig) -> None:
    """Refuse settings that change what the weights compute; the output stride alone is free, where it is."""
    for key, value in told.items():
        wanted = getattr(config, key)
        if key == "auxiliary" or (key == "output_stride" and form == "smp") or wanted == value:
            continue
        raise UserError(
            f"checkpoint {path} of format {form} has {key} {_words(value)}, the settings say "
            f"{_words(wanted)}; python -m pipeline.import_teacher {path} {form} prints those that fit"
        )


def _words(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, Config) else value


def _auxiliary_remedy(config: ModelConfig, tensors: dict[str, Tensor]) -> str:
    """What to set where weights and settings disagree about the training-only head."""
    present = any(name.startswith("auxiliary.") for name in tensors)
    return "" if present == config.auxiliary else f"; set teacher.model.auxiliary: {str(present).lower()}"


def _fill(model: Segmenter, tensors: dict[str, Tensor], path: Path, remedy: str = "") -> None:
    wanted = {
        name: x for name, x in model.state_dict().items() if name in tensors or not name.endswith(COUNTER)
    }
    wrong = mismatches(wanted, tensors, extra=True)
    if wrong:
        raise UserError(f"the weights in {path} do not fit the network described: {shortened(wrong)}{remedy}")
    # Batch counters are absent from some files and are used by no default momentum.
    counters = {name: x for name, x in model.state_dict().items() if name.endswith(COUNTER)}
    model.load_state_dict(counters | tensors)
