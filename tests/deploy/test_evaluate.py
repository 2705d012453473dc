from __future__ import annotations

import numpy as np
import pytest

from afdcd.errors import UserError
from deploy.evaluate import Evaluation, Sample, evaluate


class Copies:
    """An engine whose class map is the red channel, so that a test paints the prediction."""

    def infer(self, images: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(images[..., 0])


def sample(name: str, prediction: list[list[int]], labels: list[list[int]]) -> Sample:
    red = np.array(prediction, dtype=np.uint8)
    return Sample(name, np.stack([red, red, red], axis=-1), np.array(labels, dtype=np.uint8))


def run(samples: list[Sample], **options: object) -> Evaluation:
    settings: dict[str, object] = {"size": (1, 4), "mode": "stretch", "ignore_index": 255} | options
    return evaluate(Copies(), samples, classes=["road", "sky", "car"], **settings)  # type: ignore[arg-type]


ONE = sample("one", [[0, 0, 1, 1]], [[0, 1, 1, 255]])


def test_hand_values() -> None:
    score = run([ONE]).score
    assert score.miou == pytest.approx(0.5)
    assert score.iou == {"road": 0.5, "sky": 0.5, "car": None}
    assert score.pixel_accuracy == pytest.approx(2 / 3)
    assert score.confusion == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert (score.images, score.agreement, score.engine) == (1, None, None)


def test_counts_run_over_the_whole_set_not_over_images() -> None:
    score = run([ONE, sample("two", [[2, 2, 2, 2]], [[2, 2, 2, 1]])]).score
    assert score.iou == {"road": 0.5, "sky": pytest.approx(1 / 3), "car": 0.75}


def test_labels_are_scored_at_their_own_size() -> None:
    wide = sample("wide", [[0, 0, 1, 1, 2, 2, 2, 2]], [[0, 0, 1, 1, 2, 2, 2, 255]])
    score = run([wide], size=(1, 8)).score
    assert score.miou == 1.0 and sum(map(sum, score.confusion)) == 7
    shrunk = run([sample("flat", [[1] * 12] * 6, [[1] * 12] * 6)], size=(3, 4))
    assert shrunk.score.confusion[1][1] == 72 and shrunk.maps["flat"].shape == (3, 4)


def test_agreement_counts_all_pixels_at_input_size() -> None:
    two = sample("two", [[2, 2, 2, 2]], [[2, 2, 2, 1]])
    reference = {"one": np.array([[0, 0, 1, 0]], dtype=np.uint8), "two": np.array([[2] * 4], dtype=np.uint8)}
    score = run([ONE, two], reference=reference).score
    assert (score.agreement, score.lowest_agreement) == (0.875, 0.75)
    with pytest.raises(UserError, match="lack the sample 'two'"):
        run([ONE, two], reference={"one": reference["one"]})


def test_the_gallery_keeps_the_first_maps() -> None:
    samples = [sample(str(index), [[0, 0, 1, 1]], [[0, 0, 1, 1]]) for index in range(6)]
    assert list(run(samples).maps) == ["0", "1", "2", "3"]
    assert list(run(samples, gallery=1).maps) == ["0"]
    assert np.array_equal(run(samples).maps["0"], [[0, 0, 1, 1]])


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(UserError, match="0 images"):
        run([])
    with pytest.raises(UserError, match="1 images without a labelled pixel"):
        run([sample("blank", [[0, 0, 0, 0]], [[255] * 4])])
    with pytest.raises(UserError, match="prediction holds class 7"):
        run([sample("odd", [[0, 7, 0, 0]], [[0, 0, 0, 0]])])
