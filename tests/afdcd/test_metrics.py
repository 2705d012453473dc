from __future__ import annotations

import math

import numpy as np
import pytest

from afdcd.errors import UserError
from afdcd.metrics import ConfusionMatrix, agreement


def matrix(prediction: list[int], labels: list[int], num_classes: int) -> ConfusionMatrix:
    confusion = ConfusionMatrix(num_classes)
    confusion.update(np.array(prediction, dtype=np.uint8), np.array(labels, dtype=np.uint8))
    return confusion


def test_hand_value_of_miou() -> None:
    confusion = matrix([0, 0, 1, 1], [0, 1, 1, 255], num_classes=3)
    assert confusion.miou("zero") == pytest.approx(1 / 3, abs=1e-12)
    assert confusion.miou("skip") == confusion.miou() == pytest.approx(1 / 2, abs=1e-12)
    assert confusion.pixel_accuracy() == pytest.approx(2 / 3, abs=1e-12)
    assert confusion.counts.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert math.isnan(confusion.iou()[2])


def test_a_class_only_predicted_or_only_labelled_counts_as_zero() -> None:
    assert matrix([0, 2], [0, 1], num_classes=4).iou()[:3].tolist() == [1.0, 0.0, 0.0]


def test_against_naive_loops() -> None:
    random = np.random.default_rng(3)
    prediction = random.integers(0, 5, (3, 7, 9))
    labels = random.choice([0, 1, 2, 3, 4, 255], (3, 7, 9)).astype(np.uint8)
    confusion = ConfusionMatrix(5)
    confusion.update(prediction, labels)
    for index in range(5):
        both = either = 0
        for p, t in zip(prediction.flat, labels.flat, strict=True):
            if t == 255:
                continue
            both += p == index and t == index
            either += p == index or t == index
        assert confusion.iou()[index] == pytest.approx(both / either, abs=1e-12)


def test_counts_stay_exact_above_two_to_the_24() -> None:
    confusion = ConfusionMatrix(2)
    confusion.counts[0, 0] = 2**24
    confusion.update(np.array([0]), np.array([0]))
    assert confusion.counts[0, 0] == 2**24 + 1
    confusion.counts[0, 0] = 2**53
    confusion.update(np.array([0]), np.array([0]))
    assert confusion.counts[0, 0] == 2**53 + 1


def test_parts_add_up_to_the_whole() -> None:
    random = np.random.default_rng(0)
    prediction, labels = random.integers(0, 4, (2, 50)), random.integers(0, 4, (2, 50))
    whole = ConfusionMatrix(4)
    whole.update(prediction, labels)
    parts = [ConfusionMatrix(4), ConfusionMatrix(4)]
    for index, part in enumerate(parts):
        part.update(prediction[index], labels[index])
    before = parts[0].counts.copy()
    assert np.array_equal((parts[0] + parts[1]).counts, whole.counts)
    assert np.array_equal(parts[0].counts, before)
    assert np.array_equal(parts[0].merge(parts[1]).counts, whole.counts)
    with pytest.raises(ValueError, match="3 classes to 4"):
        whole.merge(ConfusionMatrix(3))


@pytest.mark.parametrize(
    ("prediction", "labels", "message"),
    [
        ([0, 7], [0, 1], "prediction holds class 7"),
        ([0, 255], [0, 255], "prediction holds class 255"),
        ([0, 1], [0, 37], "label map holds class 37"),
    ],
)
def test_classes_outside_are_refused_by_value(prediction: list[int], labels: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        matrix(prediction, labels, num_classes=3)


def test_negative_classes_and_other_shapes_are_refused() -> None:
    confusion = ConfusionMatrix(3)
    with pytest.raises(UserError, match="class -1"):
        confusion.update(np.array([-1]), np.array([0]))
    with pytest.raises(UserError, match="differ in shape"):
        confusion.update(np.zeros((2, 3), dtype=np.uint8), np.zeros((3, 2), dtype=np.uint8))
    assert confusion.counts.sum() == 0


def test_nothing_counted_is_nan() -> None:
    confusion = matrix([0, 1], [255, 255], num_classes=2)
    assert math.isnan(confusion.miou()) and math.isnan(confusion.pixel_accuracy())
    assert confusion.miou("zero") == 0.0


def test_agreement() -> None:
    first = np.array([[0, 1], [2, 255]], dtype=np.uint8)
    assert agreement(first, first) == 1.0
    assert agreement(first, np.array([[0, 1], [1, 1]], dtype=np.uint8)) == 0.5
    with pytest.raises(UserError, match=r"\(2, 2\) and \(1, 2\)"):
        agreement(first, first[:1])
