"""What a checkpoint of another project is, and the settings with which it becomes the teacher.

`python -m pipeline.import_teacher FILE FORMAT` reads the file without running code of it, builds the network
that it describes, fills it, and prints the command that writes these settings. It changes nothing.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from afdcd.config import Config, ModelConfig
from afdcd.errors import UserError
from afdcd.models.formats import FORMATS
from pipeline import cli
from pipeline.configure import COMMAND
from pipeline.params import load

OWN = "afdcd"


def main(given: list[str]) -> None:
    """Print what the file is and the command.

    Raises:
        UserError: the file cannot be read, is of another format, or does not fill the network it describes.
    """
    file, form = cli.arguments(given, "FILE", "FORMAT")
    if form == OWN:
        others = ", ".join(name for name in FORMATS if name != OWN)
        raise UserError(
            f"format {OWN} needs no settings of its own: set teacher.checkpoint to the path; the others "
            f"are {others}"
        )
    for line in lines(Path(file), form, load().teacher.model):
        print(line)


def lines(path: Path, form: str, config: ModelConfig) -> list[str]:
    """What the file is, and the command that makes it the teacher; `config` gives what no file tells.

    Raises:
        UserError: see `main`.
    """
    from afdcd.models.formats.reading import read_foreign
    from afdcd.models.store import import_checkpoint

    foreign = read_foreign(path, form)
    told = foreign.settings
    rates = {"atrous_rates": (12, 24, 36)} if told["head"] == "deeplabv3" else {}
    fitting = config.model_copy(update={**told, **rates, "pretrained": "none"})
    classes = [str(number) for number in range(foreign.num_classes)]
    network = import_checkpoint(path, fitting, classes, form)
    parameters = sum(parameter.numel() for parameter in network.deployed().parameters())
    chosen = {f"teacher.model.{key}": value for key, value in {**told, **rates, "pretrained": "none"}.items()}
    options = chosen.pop("teacher.model.backbone_options")
    # A mapping would be merged with the preset's: it is taken out first.
    words = ["~teacher.model.backbone_options", f"+teacher.model.backbone_options={_grammar(options)}"]
    words += [f"{key}={_grammar(value)}" for key, value in chosen.items()]
    words += [f"teacher.checkpoint={path}", f"teacher.format={form}"]
    return [
        f"{path}: {fitting.head} on {fitting.backbone}, {foreign.num_classes} classes, {parameters} weights",
        f"{COMMAND} dataset=... pair=... " + " ".join(shlex.quote(word) for word in words),
    ]


def _grammar(value: Any) -> str:
    """A value in Hydra's override grammar."""
    plain = value.model_dump(mode="json") if isinstance(value, Config) else value
    if isinstance(plain, dict):
        return "{" + ",".join(f"{key}:{_grammar(item)}" for key, item in plain.items()) + "}"
    if isinstance(plain, list | tuple):
        return "[" + ",".join(map(_grammar, plain)) + "]"
    return plain if isinstance(plain, str) else json.dumps(plain)


if __name__ == "__main__":
    cli.run(main)
