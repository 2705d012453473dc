from __future__ import annotations

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from contracts.segmenter import RGB, pictures
from safetensors.torch import save_file

from afdcd.config import ModelConfig
from afdcd.errors import UserError
from afdcd.models.segmenter import Segmenter, build_segmenter
from afdcd.models.store import ModelCard, import_checkpoint, load_trained, save_trained

Narrow = Callable[..., ModelConfig]
CLASSES = ("road", "sky", "car", "tree", "sign")


def card(config: ModelConfig, **changes: Any) -> ModelCard:
    values: dict[str, Any] = {
        "model": config,
        "num_classes": 5,
        "classes": CLASSES,
        "iteration": 40,
        "val_miou": 0.31,
        "iterations": 50,
        "world_size": 1,
        "device": "cpu",
        "precision": "fp32",
        "torch_version": torch.__version__,
        "seconds": 1.5,
    }
    return ModelCard(**{**values, **changes})


@pytest.fixture
def folder(tmp_path: Path, network: Segmenter) -> Path:
    save_trained(tmp_path / "teacher", network, card(network.config))
    return tmp_path / "teacher"


def logits(network: Segmenter) -> torch.Tensor:
    with torch.no_grad():
        out = network.eval()(pictures(1, 48, 64)).logits
    assert out is not None
    return out


def test_round_trip(folder: Path, network: Segmenter) -> None:
    again, found = load_trained(folder)
    assert found == card(network.config)
    assert not again.training and again.auxiliary is not None
    assert torch.equal(logits(again), logits(network))
    assert sorted(os.listdir(folder)) == ["model.json", "weights.safetensors"]


def test_channels_last_weights_survive(tmp_path: Path, network: Segmenter) -> None:
    expected = logits(network)
    save_trained(tmp_path / "n", network.to(memory_format=torch.channels_last), card(network.config))
    torch.testing.assert_close(logits(load_trained(tmp_path / "n")[0]), expected, rtol=1e-5, atol=1e-6)


def test_pretrained_weights_are_not_fetched_again(tmp_path: Path, network: Segmenter) -> None:
    config = network.config.model_copy(update={"pretrained": "/nowhere/weights.pth"})
    save_trained(tmp_path / "n", network, card(config))
    assert torch.equal(logits(load_trained(tmp_path / "n")[0]), logits(network))


def test_a_full_disk_keeps_the_previous_weights(
    folder: Path, network: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder / "weights.safetensors").read_bytes()

    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="disk is full"):
        save_trained(folder, network, card(network.config, iteration=50))
    assert (folder / "weights.safetensors").read_bytes() == before
    assert os.listdir(folder.parent) == ["teacher"]


@pytest.mark.parametrize("kept", [0, 100, 20_000])
def test_truncated_weights(folder: Path, kept: int) -> None:
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(UserError, match="weights.safetensors is truncated or damaged"):
        load_trained(folder)


def test_a_card_that_is_none(folder: Path) -> None:
    fields = json.loads((folder / "model.json").read_text())
    del fields["num_classes"]
    (folder / "model.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match="not the card of a trained network .num_classes"):
        load_trained(folder)
    (folder / "model.json").unlink()
    with pytest.raises(UserError, match="model.json is missing"):
        load_trained(folder)


def test_weights_that_belong_to_another_card(folder: Path, narrow: Narrow) -> None:
    save_file(build_segmenter(narrow(auxiliary=False), 5).state_dict(), folder / "weights.safetensors")
    with pytest.raises(UserError, match="do not fit the network described: auxiliary.* is missing"):
        load_trained(folder)


class TestImport:
    """A teacher's checkpoint given by path."""

    def test_a_folder(self, folder: Path, network: Segmenter) -> None:
        teacher = import_checkpoint(folder, network.config, CLASSES)
        assert not teacher.training
        assert torch.equal(logits(teacher), logits(network))

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    def test_a_state_dict(self, tmp_path: Path, network: Segmenter, suffix: str) -> None:
        path = tmp_path / f"teacher{suffix}"
        save_file(network.state_dict(), path) if suffix != ".pth" else torch.save(network.state_dict(), path)
        assert torch.equal(logits(import_checkpoint(path, network.config, CLASSES)), logits(network))

    def test_other_classes(self, folder: Path, network: Segmenter) -> None:
        for path in (folder, folder / "weights.safetensors"):
            with pytest.raises(UserError, match="has 5 classes, the data have 11"):
                import_checkpoint(path, network.config, [f"class_{number}" for number in range(11)])

    def test_other_names_or_another_order(self, folder: Path, network: Segmenter) -> None:
        for classes in (("sky", "road", *CLASSES[2:]), (*CLASSES[:4], "pole")):
            message = (
                f"knows the classes {', '.join(CLASSES)}, the data have {', '.join(classes)}, in this order"
            )
            with pytest.raises(UserError, match=message):
                import_checkpoint(folder, network.config, classes)

    def test_what_only_training_uses_may_differ(
        self, folder: Path, network: Segmenter, narrow: Narrow
    ) -> None:
        config = narrow(dropout=0.3, projection_dropout=0.0, pretrained="imagenet")
        teacher = import_checkpoint(folder, config, CLASSES)
        assert teacher.config == config and torch.equal(logits(teacher), logits(network))

    def test_another_normalisation(self, folder: Path, narrow: Narrow) -> None:
        other = RGB.model_copy(update={"order": "bgr"})
        with pytest.raises(UserError, match="its normalisation is .*'rgb'.*, the settings say .*'bgr'"):
            import_checkpoint(folder, narrow(normalisation=other), CLASSES)

    @pytest.mark.parametrize("present", [True, False])
    def test_only_one_has_an_auxiliary_head(self, tmp_path: Path, narrow: Narrow, present: bool) -> None:
        weights = build_segmenter(narrow(auxiliary=present), 5).state_dict()
        save_file(weights, tmp_path / "t.safetensors")
        with pytest.raises(UserError, match=f"set teacher.model.auxiliary: {str(present).lower()}$"):
            import_checkpoint(tmp_path / "t.safetensors", narrow(auxiliary=not present), CLASSES)

    def test_another_network(self, folder: Path, narrow: Narrow) -> None:
        with pytest.raises(UserError, match="its head is deeplabv3, the settings say psp"):
            import_checkpoint(folder, narrow(head="psp"), CLASSES)
        with pytest.raises(UserError, match="do not fit the network described: head"):
            import_checkpoint(folder / "weights.safetensors", narrow(head="psp"), CLASSES)

    def test_truncated(self, tmp_path: Path, network: Segmenter) -> None:
        torch.save(network.state_dict(), tmp_path / "t.pth")
        (tmp_path / "t.pth").write_bytes((tmp_path / "t.pth").read_bytes()[:5000])
        with pytest.raises(UserError, match="t.pth is truncated or damaged") as caught:
            import_checkpoint(tmp_path / "t.pth", network.config, CLASSES)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("legacy", [True, False])
    def test_a_pickle_that_asks_for_code(self, tmp_path: Path, network: Segmenter, legacy: bool) -> None:
        path, proof = tmp_path / "evil.pth", tmp_path / "proof"
        if legacy:
            path.write_bytes(pickle.dumps(Evil(proof)))
        else:
            torch.save({"weights": Evil(proof)}, path)
        with pytest.raises(UserError, match="is refused: it is a pickle that asks to run code") as caught:
            import_checkpoint(path, network.config, CLASSES)
        assert "\n" not in str(caught.value)
        assert not proof.exists()

    def test_what_is_no_state_dict(self, tmp_path: Path, network: Segmenter) -> None:
        torch.save([1, 2], tmp_path / "list.pth")
        with pytest.raises(UserError, match="holds no state dict"):
            import_checkpoint(tmp_path / "list.pth", network.config, CLASSES)
        (tmp_path / "weights.txt").write_text("")
        with pytest.raises(UserError, match="must end in"):
            import_checkpoint(tmp_path / "weights.txt", network.config, CLASSES)
        (tmp_path / "text.pth").write_text("no weights at all")
        with pytest.raises(UserError, match="damaged|refused"):
            import_checkpoint(tmp_path / "text.pth", network.config, CLASSES)


class Evil:
    """Unpickled, it leaves a file behind."""

    def __init__(self, proof: Path) -> None:
        self.proof = str(proof)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.proof,)
