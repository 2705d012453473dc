"""Compose the presets of conf/ into params.yaml, the file that everything else reads.

For instance `python -m pipeline.configure dataset=camvid schedule=smoke`. Every command stands alone: what it
does not name is the default. Hand edits in params.yaml are never dropped silently: pass them along
(`teacher.seed=3`), or drop them with `--force`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from afdcd.errors import UserError
from afdcd.files import write_text
from pipeline import cli, params, paths, strict_yaml

CONF = Path("conf")
COMMAND = "python -m pipeline.configure"
USAGE = f"usage: {COMMAND} [--force | --check | --list] [group=preset ...] [key=value ...]"

_WRITTEN_BY = "# Composed by: "
_DIGEST = "# Digest of what it composed: "


class Composed(NamedTuple):
    """A composition: params.yaml below its header, and the overrides that made it."""

    overrides: list[str]
    body: str

    @property
    def text(self) -> str:
        """The whole file."""
        command = shlex.join([*COMMAND.split(), *self.overrides])
        return (
            f"{_WRITTEN_BY}{command}\n"
            "# Edit it freely, or compose another; the command refuses to drop edits unless told --force.\n"
            f"{_DIGEST}{digest(self.body)}\n\n{self.body}"
        )


def digest(body: str) -> str:
    """What tells a hand-edited body from a composed one."""
    return hashlib.sha256(body.strip().encode()).hexdigest()[:16]


def compose(overrides: list[str], conf: Path = CONF) -> Composed:
    """Presets and values by Hydra's compose, checked as params.

    Raises:
        UserError: no such preset or key, or a value that params refuse.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException

    OmegaConf.register_new_resolver("all_models", _all_models, replace=True)
    OmegaConf.register_new_resolver("last_recipe", _last_recipe, replace=True)
    try:
        with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
            config = hydra_compose("config", overrides)
        values = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(
            f"{' '.join(overrides)}: {_one_line(error)} ({COMMAND} --list shows the presets)"
        ) from error
    assert isinstance(values, dict)
    resize = values.pop("preset")["resize"]
    if resize != "none":
        for recipe in values["distill"]["recipes"].values():
            recipe.setdefault("resize", resize)
    checked = params.parse(yaml.safe_dump(values, sort_keys=False), "the composed params")
    return Composed(overrides, _dump(checked.model_dump(mode="json")))


def _all_models(*, _root_: Any) -> list[str]:
    """The teacher and every student alone and by every recipe, for every seed."""
    ways = ["alone", *_root_.distill.run]
    return ["teacher"] + [
        paths.model_id(student, way, seed)
        for student in _root_.train.students
        for way in ways
        for seed in _root_.train.seeds
    ]


def _last_recipe(*, _root_: Any) -> list[str]:
    """The students of the last recipe, first seed."""
    recipe, seed = _root_.distill.run[-1], _root_.train.seeds[0]
    return [paths.model_id(student, recipe, seed) for student in _root_.train.students]


def _dump(values: dict[str, Any]) -> str:
    """Block-style YAML, a line about each section above it."""
    sections = []
    for key, value in values.items():
        field = params.Params.model_fields.get(key)
        about = (getattr(field.annotation, "__doc__", None) if field else None) or ""
        comment = _ABOUT.get(key) or about.strip().split("\n")[0].removesuffix(".")
        sections.append(f"# {comment}\n{yaml.safe_dump({key: value}, sort_keys=False, width=100)}")
    return "\n".join(sections)


_ABOUT = {"students": "Networks that may be trained; train.students names those that are"}


def _one_line(error: Exception) -> str:
    """What Hydra says, without its search path."""
    return " ".join(str(error).partition("Config search path")[0].split()).rstrip(".")


def split(text: str) -> tuple[list[str], str, str] | None:
    """Overrides, digest and body of a params.yaml that this command wrote; None for any other file."""
    head, _, body = text.partition("\n\n")
    lines = head.splitlines()
    command = next((line.removeprefix(_WRITTEN_BY) for line in lines if line.startswith(_WRITTEN_BY)), None)
    recorded = next((line.removeprefix(_DIGEST) for line in lines if line.startswith(_DIGEST)), None)
    if command is None or recorded is None:
        return None
    return shlex.split(command)[len(COMMAND.split()) :], recorded, body


def write(overrides: list[str], path: Path, conf: Path = CONF, *, force: bool = False) -> None:
    """Compose into `path`.

    Raises:
        UserError: the composition is impossible, or would drop hand edits and `force` is not given.
    """
    composed = compose(overrides, conf)
    if path.exists() and not force:
        _refuse_to_drop(path, composed, conf)
    write_text(path, composed.text)


def _refuse_to_drop(path: Path, composed: Composed, conf: Path) -> None:
    parts = split(path.read_text(encoding="utf-8"))
    if parts is None:
        raise UserError(f"{path} was not written by this command; --force replaces it")
    old, recorded, body = parts
    if digest(body) == recorded:
        return
    origin = compose(old, conf)
    edits, kept = _edits(origin.body, body), _edits(origin.body, composed.body)
    lost = [edit for edit in edits if edit not in kept]
    if edits and not lost:
        return
    raise UserError(
        f"{path} was edited by hand, and these edits would be lost:\n{_diff(origin.body, body)}\n"
        + (f"add them to the command ({' '.join(map(shlex.quote, lost))}), or " if lost else "")
        + "drop them with --force"
    )


def check(path: Path, conf: Path = CONF) -> None:
    """Whether `path` is what its own header's command composes today.

    Raises:
        UserError: it is not; the message holds the difference. Or there is no such file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is missing in {Path.cwd()}; write one with {COMMAND}") from None
    parts = split(text)
    if parts is None:
        raise UserError(f"{path} was not written by {COMMAND}")
    expected = compose(parts[0], conf).text
    if text != expected:
        raise UserError(f"{path} is not what its header's command composes:\n{_diff(expected, text)}")


def _diff(before: str, after: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), "composed", "params.yaml", "", "", 2, ""
    )
    return "\n".join(lines)


def _edits(before: str, after: str) -> list[str]:
    """The overrides that lead from one body to another."""
    old = dict(_flat(strict_yaml.parse(before, "the composed params")))
    new = dict(_flat(strict_yaml.parse(after, "params.yaml")))
    changed = [(key, value) for key, value in new.items() if key not in old or old[key] != value]
    return [f"{'' if key in old else '+'}{key}={_override(value)}" for key, value in changed] + [
        f"~{key}" for key in old if not any(kept == key or kept.startswith(f"{key}.") for kept in new)
    ]


def _flat(values: dict[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def _override(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if isinstance(value, list):
        return f"[{','.join(map(_override, value))}]"
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w./:-]+", value) else "'" + value.replace("'", "\\'") + "'"
    return json.dumps(value)


def presets(conf: Path = CONF) -> Iterator[tuple[str, str, str]]:
    """(group, preset, one line about it)."""
    for path in sorted(conf.glob("*/*.yaml")):
        if path.parent.name not in ("special", "study"):
            lines = path.read_text(encoding="utf-8").splitlines()
            yield path.parent.name, path.stem, lines[1].removeprefix("# ")


def main(given: list[str]) -> None:
    """Compose, check or list, as the command line says."""
    flags = {argument for argument in given if argument.startswith("-")}
    overrides = [argument for argument in given if argument not in flags]
    if flags - {"--force", "--check", "--list"} or len(flags) > 1 or (overrides and flags - {"--force"}):
        raise UserError(USAGE)
    if flags == {"--list"}:
        for group, name, about in presets():
            print(f"{f'{group}={name}':26} {about}")
    elif flags == {"--check"}:
        check(paths.PARAMS)
        print(f"{paths.PARAMS} is what its header says")
    else:
        write(overrides, paths.PARAMS, force="--force" in flags)
        print(f"wrote {paths.PARAMS}; dvc repro runs what it changes")


if __name__ == "__main__":
    cli.run(main)
