from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from little_net import picture

from afdcd.errors import UserError
from deploy.evaluate import Sample
from deploy.export import Exported
from deploy.probes import IMAGES, POINTS, Logits, probe, relative_error
from deploy.quantize import Typed
from deploy.sessions import Session, open_backend

SIZE = (96, 192)


class Scales:
    """An engine of two classes: red and its negative, times a factor."""

    def __init__(self, factor: float = 1.0, offset: float = 0.0) -> None:
        self.factor, self.offset = factor, offset

    def logits(self, images: np.ndarray) -> Logits:
        red = images[..., 0].astype(np.float32) * self.factor + self.offset
        return np.stack([red, -red], axis=1)


def samples(count: int, size: tuple[int, int] = SIZE) -> list[Sample]:
    random = np.random.default_rng(0)
    made = []
    for number in range(count):
        image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        image[0, 0] = 255  # the largest logit is known, and on the grid
        made.append(Sample(str(number), image, np.zeros(size, np.uint8)))
    return made


def error_of(engine: Scales, given: list[Sample] | None = None) -> float:
    wanted = probe(Scales(), samples(6), size=SIZE, mode="stretch")
    return relative_error(engine, given or samples(6), wanted, size=SIZE, mode="stretch")


def test_the_first_images_are_kept_on_a_grid() -> None:
    found = probe(Scales(), samples(6), size=SIZE, mode="stretch")
    assert list(found) == [str(number) for number in range(IMAGES)]
    assert {value.shape for value in found.values()} == {(1, 2, 32, 64)} and 32 * 64 <= POINTS
    np.testing.assert_array_equal(found["2"][0, 0], samples(6)[2].image[::3, ::3, 0])
    few = probe(Scales(), samples(2, (31, 57)), size=(31, 57), mode="stretch")
    assert list(few) == ["0", "1"] and few["0"].shape == (1, 2, 31, 57)


def test_the_error_counts_from_the_largest_logit() -> None:
    assert error_of(Scales()) == 0.0
    assert error_of(Scales(factor=1.01)) == pytest.approx(0.01, rel=1e-4)
    assert error_of(Scales(offset=5.1)) == pytest.approx(0.02, rel=1e-4)


def test_logits_of_other_images_or_classes_are_refused() -> None:
    named = [sample._replace(name="other") for sample in samples(1)]
    with pytest.raises(UserError, match=r"not of the sample 'other' at this size and of these classes"):
        error_of(Scales(), named)
    wanted = {"0": np.zeros((1, 3, 32, 64), np.float32)}
    with pytest.raises(UserError, match="make the reference anew"):
        relative_error(Scales(), samples(1), wanted, size=SIZE, mode="stretch")


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match="not finite"):
        error_of(Scales(factor=float("nan")))


@pytest.mark.xdist_group("little")
def test_engines_in_float32_give_pytorchs_logits_and_int8_does_not(
    exported: Exported, quantised: Callable[[str], Typed]
) -> None:
    contract = exported.contract
    given, geometry = [picture(number) for number in range(3)], contract.geometry

    def opened(backend: str, files: dict[str, bytes]) -> Session:
        return open_backend(backend, contract, files.__getitem__, threads=1)

    with opened("pytorch", exported.files) as reference:
        wanted = probe(reference, given, size=geometry.size, mode=geometry.fit)

    def error(backend: str, files: dict[str, bytes]) -> float:
        with opened(backend, files) as engine:
            return relative_error(engine, given, wanted, size=geometry.size, mode=geometry.fit)

    assert error("pytorch", exported.files) == 0.0
    for backend in ("onnxruntime", "openvino"):
        assert 0.0 < error(backend, exported.files) < 1e-4
    assert error("onnxruntime", quantised("onnxruntime").files) > 1e-3
