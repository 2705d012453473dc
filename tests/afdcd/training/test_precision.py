from __future__ import annotations

import pytest
import tiny
import torch

from afdcd.training import precision
from afdcd.training.precision import Precision, multiplies_bf16, settled


@pytest.mark.parametrize(("hardware", "meant"), [(True, "bf16"), (False, "fp32")])
def test_auto_means_what_the_device_is_fast_in(
    hardware: bool, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(precision, "multiplies_bf16", lambda device: asked.append(device) or hardware)
    found = settled(tiny.practice(precision="auto", teacher_precision="auto"), "cpu")
    assert (found.precision, found.teacher_precision, asked) == (meant, meant, ["cpu"])


def test_what_is_named_stays() -> None:
    given = tiny.practice(precision="fp32", teacher_precision="bf16")
    assert settled(given, "cpu") == given


@pytest.mark.parametrize(
    ("flags", "fast"), [((False, False), False), ((True, False), True), ((False, True), True)]
)
def test_a_cpu_is_fast_with_either_instruction_set(
    flags: tuple[bool, bool], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zip(("_is_avx512_bf16_supported", "_is_amx_tile_supported"), flags, strict=True):
        monkeypatch.setattr(torch.cpu, name, lambda value=value: value)
    assert multiplies_bf16("cpu") is fast


def test_an_emulating_gpu_is_not_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not multiplies_bf16("cuda")


def test_the_context_computes_products_in_it() -> None:
    one = torch.ones(2, 2)
    with Precision("cpu", bf16=True).context():
        assert (one @ one).dtype == torch.bfloat16
    with Precision("cpu", bf16=False).context():
        assert (one @ one).dtype == torch.float32
