"""Where every stage's files lie, relative to the project root (where dvc runs the stages)."""

from __future__ import annotations

from pathlib import Path

PARAMS = Path("params.yaml")
PREPARED = Path("data/prepared")
FINGERPRINTS = Path("fingerprints")
HARDWARE = Path("reports/hardware.json")
COMPLEXITY = Path("reports/complexity.json")
GATES = Path("reports/gates.json")
METRICS = Path("reports/metrics.json")
REPORT = Path("reports/report.html")
PLOTS = Path("reports/plots")
VERDICT = Path("reports/verdict.json")
RELEASE = Path("models/release")
KITS = Path("kits")
MEASUREMENTS = Path("measurements")
RUNS = Path(".runs")
CHECKED = RUNS / "prepare.sqlite"
DECODED = Path(".decoded")


def model_id(student: str, recipe: str, seed: int) -> str:
    """The id of a student network; the control's recipe is `alone`."""
    return f"{student}_{recipe}_{seed}"


def trained(model: str) -> Path:
    """Weights and card of a trained network."""
    return Path("models/trained") / model


def adapted(recipe: str) -> Path:
    """What a recipe's first phase left."""
    return Path("models/adapted") / recipe


def curve(model: str) -> Path:
    """The training curve of a network, CSV."""
    return Path("reports/curves") / f"{model}.csv"


def exported(model: str) -> Path:
    """ExportedProgram, ONNX graphs and contract of a network."""
    return Path("models/exported") / model


def typed(target: str, model: str) -> Path:
    """The graph in a target's precision."""
    return Path("models/typed") / target / model


def engine(target: str, model: str) -> Path:
    """The engine bundle of a model for a target."""
    return Path("models/engines") / target / model


def reference(model: str) -> Path:
    """PyTorch's predictions and score on the test split."""
    return Path("reports/reference") / model


def evaluation(target: str, model: str) -> Path:
    """An engine's score on the test split."""
    return Path("reports/evaluation") / target / model


def protocol(target: str, model: str) -> Path:
    """An engine's score by a protocol of papers."""
    return Path("reports/protocols") / target / f"{model}.json"


def benchmark(target: str) -> Path:
    """Latency of all models of a target."""
    return Path("reports/benchmark") / f"{target}.json"


def kit(device: str) -> Path:
    """What goes to a device that measures targets elsewhere."""
    return KITS / device


def measurement(device: str) -> Path:
    """What comes back from it."""
    return MEASUREMENTS / f"{device}.json"
