"""A built engine's score on the test split by a protocol of papers; outside the graph, and read by no gate.

For instance `python -m pipeline.protocol ort_cpu_fp32 teacher --view slide --flip`. Options are those of
`python -m deploy evaluate`. Writes reports/protocols/TARGET/MODEL.json and a line a class beside it.
"""

from __future__ import annotations

import argparse

from afdcd.data.manifest import Manifest
from afdcd.files import sha256, write_json
from deploy import protocol_command
from deploy.bundle import MANIFEST, read_manifest
from deploy.progress import track
from deploy.sessions import open_session
from pipeline import paths
from pipeline.cli import run
from pipeline.scoring import SPLIT, require_classes, samples


def main(given: list[str]) -> None:
    """Score and write.

    Raises:
        UserError: the bundle is missing or altered, knows other classes, or cannot follow the protocol.
    """
    options = _parser().parse_args(given)
    options.view = options.view or ("slide" if options.crop or options.stride else "whole")
    protocol = protocol_command.chosen(options)
    assert protocol is not None
    bundle, name = paths.engine(options.target, options.model), f"{options.model} on {options.target}"
    record = read_manifest(bundle)
    manifest = Manifest.load(paths.PREPARED)
    require_classes(manifest, record.contract, name)
    with open_session(bundle, threads=record.threads) as session:
        tests = track(samples(manifest), name, len(manifest.split(SPLIT)))
        found = protocol_command.score(session, tests, options, protocol, sha256(bundle / MANIFEST))
    path = paths.protocol(options.target, options.model)
    write_json(path, found.model_dump(mode="json"))
    protocol_command.write_csv(options.csv or path.with_suffix(".csv"), found)
    print(f"{name}: mIoU {100 * found.miou:.2f} by {found.protocol.view}, not what gates judge; see {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.protocol", description=__doc__)
    parser.add_argument("target")
    parser.add_argument("model")
    protocol_command.add_options(parser)
    return parser


if __name__ == "__main__":
    run(main)
