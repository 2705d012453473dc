from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pydantic
import pytest
from little_net import CLASSES, NORMALISATION

from afdcd.errors import UserError
from deploy.bundle import ClassMapOutput, Contract, Geometry, ImageInput, Range
from deploy.evaluate import Sample, Score
from deploy.protocols import ProtocolConfig, ProtocolScore, evaluate_protocol, per_class_csv, resolved

PLAIN: dict[str, Any] = {
    "view": "whole",
    "crop": None,
    "stride": None,
    "flip": False,
    "scales": [1.0],
    "absent": "skip",
    "boundary": None,
}


def protocol(**changes: Any) -> ProtocolConfig:
    return ProtocolConfig.model_validate(PLAIN | changes)


def contract(**sides: Any) -> Contract:
    limits: dict[str, Any] = {"batch": Range(min=1, max=None), "height": 8, "width": 16, **sides}
    return Contract(
        model="painted",
        input=ImageInput(name="images", dtype="uint8", layout="NHWC", **limits),
        output=ClassMapOutput(name="class_map", dtype="uint8"),
        logits="logits",
        classes=CLASSES,
        palette=[(1, 1, 1), (2, 2, 2), (3, 3, 3)],
        ignore_index=255,
        normalisation=NORMALISATION,
        geometry=Geometry(size=(8, 16), fit="stretch"),
        parameters=1,
        opset=20,
        weights_sha256="0" * 64,
        graphs={},
    )


class Painted:
    """An engine that sees the class in the red channel and remembers the sizes it was given."""

    def __init__(self, of: Contract) -> None:
        self.contract, self.sizes = of, set[tuple[int, ...]]()

    def logits(self, images: np.ndarray) -> np.ndarray:
        self.contract.admit(images)
        self.sizes.add(images.shape[1:3])
        red = images[..., 0].astype(np.float32)
        return np.stack([-10 * (red - number) ** 2 for number in range(3)], axis=1)


def sample(name: str, labels: np.ndarray, painted: np.ndarray | None = None) -> Sample:
    red = labels if painted is None else painted
    return Sample(name, np.stack([np.where(red == 255, 0, red)] * 3, axis=-1).astype(np.uint8), labels)


def halves(height: int, width: int) -> np.ndarray:
    labels = np.zeros((height, width), dtype=np.uint8)
    labels[:, width // 2 :] = 1
    return labels


def run(samples: list[Sample], of: Contract | None = None, **changes: Any) -> ProtocolScore:
    of = of or contract()
    return evaluate_protocol(Painted(of), samples, of, protocol(**changes), engine=None)


VARIED = [sample("a", halves(8, 16)), sample("b", halves(20, 24)), sample("c", halves(5, 9))]


def test_windows_score_images_of_any_size_at_their_own_size() -> None:
    found = run(VARIED, view="slide", flip=True)
    assert found.miou == 1.0 and sum(map(sum, found.confusion)) == 8 * 16 + 20 * 24 + 5 * 9
    assert (found.protocol.crop, found.protocol.stride) == ((8, 16), (6, 11))
    assert (found.input_size, found.fit, found.gated) == ((8, 16), None, False)


def test_the_whole_view_returns_to_the_labels_size() -> None:
    found = run(VARIED)
    assert sum(map(sum, found.confusion)) == 8 * 16 + 20 * 24 + 5 * 9
    assert found.miou > 0.85 and found.fit == "stretch"


def test_absent_classes_follow_the_stated_policy() -> None:
    skip, zero = run(VARIED, view="slide"), run(VARIED, view="slide", absent="zero")
    assert (skip.miou, zero.miou) == (1.0, pytest.approx(2 / 3))
    assert skip.absent_classes == [CLASSES[2]] and skip.iou[CLASSES[2]] is None
    assert (skip.protocol.absent, zero.protocol.absent) == ("skip", "zero")


def test_boundaries_are_counted_where_asked() -> None:
    wrong = sample("d", halves(20, 40), np.roll(halves(20, 40), 2, axis=1))
    found = run([wrong], view="slide", boundary=0.02)
    assert found.boundary_miou is not None and found.boundary_miou < found.miou < 1
    assert run([wrong], view="slide").boundary_iou is None


def test_several_scales_need_windows_or_an_engine_of_free_sizes() -> None:
    assert run(VARIED, view="slide", scales=[0.5, 1.0, 2.0]).miou > 0.9
    with pytest.raises(UserError, match=r"an image at scale 0.5 would be 4x8: .* view slide"):
        run(VARIED, scales=[0.5, 1.0])
    free = contract(height=Range(min=4, max=64, multiple=4), width=Range(min=8, max=64, multiple=8))
    engine = Painted(free)
    evaluate_protocol(engine, VARIED, free, protocol(scales=[0.5, 1.0, 1.3]), engine=None)
    assert engine.sizes == {(4, 8), (8, 16), (12, 24)}


def test_impossible_protocols_are_refused() -> None:
    with pytest.raises(UserError, match="a window would be 6x6"):
        resolved(protocol(view="slide", crop=(6, 6)), contract())
    with pytest.raises(UserError, match="stride 9x16 is longer than the window 8x16"):
        resolved(protocol(view="slide", stride=(9, 16)), contract())
    for bad in ({"crop": (8, 16)}, {"view": "slide", "crop": (4, 4), "stride": (5, 4)}, {"scales": []}):
        with pytest.raises(pydantic.ValidationError):
            protocol(**bad)
    with pytest.raises(UserError, match="nothing to score: 0 images"):
        run([])


def test_no_reader_of_scores_accepts_the_record() -> None:
    record = run(VARIED, view="slide").model_dump(mode="json")
    assert record["gated"] is False
    with pytest.raises(pydantic.ValidationError):
        Score.model_validate(record)
    with pytest.raises(pydantic.ValidationError):
        ProtocolScore.model_validate(record | {"gated": True})


def test_the_line_a_class() -> None:
    rows = list(csv.DictReader(io.StringIO(per_class_csv(run(VARIED, view="slide", boundary=0.02)))))
    assert [row["class"] for row in rows] == CLASSES
    assert rows[0]["iou"] == rows[0]["boundary_iou"] == "1.000000" and rows[2]["iou"] == ""
    assert rows[0]["truth_pixels"] == rows[0]["right_pixels"] == str(8 * 8 + 20 * 12 + 5 * 4)
