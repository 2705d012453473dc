"""From the results of a run to what the page shows; every sentence follows from a number."""

from __future__ import annotations

from typing import Any

from deploy.gates import Judgement
from pipeline.reporting import engines, precisions, sections
from pipeline.reporting.names import Names
from pipeline.results import Results


def page(results: Results, judgement: Judgement) -> dict[str, Any]:
    """Everything that the template asks for, by name."""
    names = Names(results)
    return {
        **engines.headline(results, judgement, names),
        **engines.engines(results, names),
        **precisions.precisions(results, names),
        **sections.gates(judgement, names),
        **sections.classes(results, names),
        **sections.gallery(results, names),
        **sections.training(results, names),
        **sections.provenance(results),
    }
