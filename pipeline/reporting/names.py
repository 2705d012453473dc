"""What the report calls a model and in which colour it draws it."""

from __future__ import annotations

from pipeline.reporting.style import recipe_colours
from pipeline.results import ALONE, TEACHER, Network, Results


class Names:
    """Labels and colours of a run's networks.

    Attributes:
        labels: model id -> the name shown.
        panels: model id -> the same without the seed.
    """

    def __init__(self, results: Results) -> None:
        """Seed and student are named only where a run has several."""
        train = results.params.train
        self._networks = results.networks
        self._colours = recipe_colours(results.params.distill.run)
        seeds, students = len(train.seeds) > 1, len(train.students) > 1
        named = results.networks.items()
        self.labels = {m: label(n, several_seeds=seeds, several_students=students) for m, n in named}
        self.panels = {m: label(n, several_seeds=False, several_students=students) for m, n in named}

    def colour(self, model: str) -> str:
        """The colour of a model's role."""
        return self._colours[self._networks[model].recipe]


def label(network: Network, *, several_seeds: bool, several_students: bool) -> str:
    """A network's short name: its role, and student and seed where asked for."""
    if network.recipe == TEACHER:
        return "teacher"
    name = "student alone" if network.recipe == ALONE else f"distilled: {network.recipe}"
    if several_students:
        name += f" ({network.student})"
    return f"{name}, seed {network.seed}" if several_seeds else name
