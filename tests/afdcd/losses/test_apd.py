from __future__ import annotations

from typing import Any, ClassVar

import torch
from contracts.method import CLASSES, STUDENT, TEACHER, MethodContract, output, target

from afdcd.losses.apd import APD, adaptive_perspective
from afdcd.losses.method import Context

OPTIONS: dict[str, Any] = {
    "temperature": 0.1,
    "prototypes": "batch",
    "adapter_lr_factor": 10.0,
    "teacher_adapter_lr": 1e-5,
}


class TestContract(MethodContract):
    name: ClassVar[str] = "apd"
    options: ClassVar[dict[str, Any]] = OPTIONS
    falling: ClassVar[tuple[str, ...]] = ("perspective_local", "perspective_align")
    additive: ClassVar[bool] = False
    label_free: ClassVar[bool] = False

    def test_equals_its_functions_on_adapted_features(self) -> None:
        torch.manual_seed(0)
        method = APD(Context(STUDENT, TEACHER, 1, None), **{**self.options, "temperature": 0.3})
        student, teacher, here = output(STUDENT, 1), output(TEACHER, 2), target()
        here = here._replace(labels=here.labels.masked_fill(here.labels == 255, 0))
        terms = method(student, teacher, here) | method.side_losses(student, teacher, here)
        expected = adaptive_perspective(
            method.student_adapter(student.head_features),
            method.teacher_adapter(teacher.head_features),
            here.labels,
            temperature=0.3,
            ignore_index=1,
            num_classes=CLASSES,
            prototypes=self.options["prototypes"],
        )
        names = ("perspective_local", "perspective_teacher", "perspective_align")
        torch.testing.assert_close([terms[name] for name in names], list(expected))

    def test_adapters_are_two_layers_with_a_relu_between(self) -> None:
        method, features = self.build().methods["apd"], output(STUDENT, 1).head_features
        assert features is not None
        first, _, second = method.student_adapter
        hidden = torch.einsum("dc,bchw->bdhw", first.weight[..., 0, 0], features) + first.bias[:, None, None]
        hidden = hidden * (hidden > 0)
        wanted = torch.einsum("dc,bchw->bdhw", second.weight[..., 0, 0], hidden) + second.bias[:, None, None]
        torch.testing.assert_close(method.student_adapter(features), wanted)

    def test_each_adapter_is_trained_by_its_own_loss(self) -> None:
        objective, student, teacher = self.build(), output(STUDENT, 1), output(TEACHER, 2)
        method = objective.methods["apd"]
        sides = objective.side_losses(student, teacher, target())
        sides["perspective_teacher"].backward()
        assert all(p.grad is None for p in method.student_adapter.parameters())
        assert all(p.grad is not None and p.grad.any() for p in method.teacher_adapter.parameters())
        objective.zero_grad()
        objective.total(objective(student, teacher, target())).backward()
        assert all(p.grad is not None for p in method.student_adapter.parameters())
        assert all(p.grad is None for p in method.teacher_adapter.parameters())

    def test_groups_hold_the_released_rates(self) -> None:
        ours, theirs = self.build().param_groups()
        assert (ours.lr_factor, ours.adam) == (10, None)
        assert theirs.adam == (1e-5, (0.9, 0.99)) and not theirs.clip


class TestImageContract(TestContract):
    options: ClassVar[dict[str, Any]] = {**OPTIONS, "prototypes": "image"}
    additive: ClassVar[bool] = True
