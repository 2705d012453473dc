"""The objective of a distillation: the terms of a recipe's methods, named, raw, and added by weight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast, get_args

import torch
from torch import Tensor, nn

from afdcd.config import Recipe, Resize
from afdcd.losses import METHODS
from afdcd.losses.method import Context, Method, ParamGroup, Target
from afdcd.losses.recipe import check_recipe, recipe_resize
from afdcd.losses.resize import teacher_to_student
from afdcd.models.output import SegOutput, Stop
from afdcd.plugins import resolve


class Objective(nn.Module):
    """Weighted terms of several methods.

    Attributes:
        methods: name -> Method, those with at least one weighted term.
        weights: term -> weight above 0.
        student_stop: how far the student must run for all methods; "features" where there is none.
        teacher_stop: the same for the teacher.
        resize: whether the teacher's maps are brought to the student's size before any method sees them.
    """

    def __init__(
        self, methods: Mapping[str, Method], weights: Mapping[str, float], *, resize: Resize = "none"
    ) -> None:
        """Join methods whose `active` terms are exactly the weighted ones.

        Raises:
            ValueError: a term belongs to two methods, or has no weight.
        """
        super().__init__()
        terms = [term for method in methods.values() for term in sorted(method.active)]
        if sorted(terms) != sorted(weights):
            raise ValueError(f"terms {terms} of the methods are not those with weights, {sorted(weights)}")
        self.methods = nn.ModuleDict(methods)
        self.weights = dict(weights)
        self.resize = resize
        self.student_stop = furthest(method.student_stop for method in methods.values())
        self.teacher_stop = furthest(method.teacher_stop for method in methods.values())

    def forward(self, student: SegOutput, teacher: SegOutput, target: Target) -> dict[str, Tensor]:
        """Raw values of all weighted terms, each a scalar."""
        terms: dict[str, Tensor] = {}
        teacher = self._fitted(student, teacher)
        for method in self._methods():
            terms |= method(student, teacher, target)
        return terms

    def side_losses(self, student: SegOutput, teacher: SegOutput, target: Target) -> dict[str, Tensor]:
        """Terms that train only what belongs to a method; they are added to the loss as they are."""
        terms: dict[str, Tensor] = {}
        teacher = self._fitted(student, teacher)
        for method in self._methods():
            terms |= method.side_losses(student, teacher, target)
        return terms

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of raw terms; a plain zero where no term has a weight."""
        return sum((self.weights[name] * value for name, value in terms.items()), torch.zeros(()))

    def param_groups(self) -> list[ParamGroup]:
        """Optimiser groups of all methods' own parameters."""
        return [group for method in self._methods() for group in method.param_groups()]

    def _fitted(self, student: SegOutput, teacher: SegOutput) -> SegOutput:
        return teacher if self.resize == "none" else teacher_to_student(student, teacher)

    def _methods(self) -> list[Method]:
        return [cast(Method, method) for method in self.methods.values()]


def build_objective(recipe: Recipe, context: Context, *, where: str = "recipe") -> Objective:
    """The objective of a recipe: method name -> {"weights": {term: weight}, **options}, and `resize`.

    A method without any weighted term is checked and then left out, so that no parameter stays
    without a gradient.

    Raises:
        UserError: an unknown method, term or option, a missing option or an impossible value.
    """
    methods: dict[str, Method] = {}
    weights: dict[str, float] = {}
    for name, checked in check_recipe(recipe, where).items():
        if not checked.weights:
            continue
        methods[name] = resolve(METHODS, name, "distillation method")(context, **checked.options)
        methods[name].activate(frozenset(checked.weights))
        weights |= checked.weights
    return Objective(methods, weights, resize=recipe_resize(recipe, where))


def furthest(stops: Iterable[Stop]) -> Stop:
    """The stop that includes all others; "features" for none."""
    order: tuple[Stop, ...] = get_args(Stop)
    return max(stops, key=order.index, default=order[0])
