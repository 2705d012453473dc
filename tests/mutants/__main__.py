"""Plant faults in a copy of the code and show that the tests see each of them.

python tests/mutants                  all methods and shared parts
python tests/mutants kd cwd --jobs 4
python tests/mutants --every 5        a fifth of them
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Run as a folder, Python looks for modules in it and not beside it.
sys.path[0] = str(ROOT / "tests")
# A process is a job: torch's own threads would fight over the cores. It reads this when it is imported.
os.environ["OMP_NUM_THREADS"] = "1"

from mutants.tables import Table, TableError, planted, read_tables  # noqa: E402
from mutants.workshop import SECONDS, Job, Outcome, preload, run, snapshot  # noqa: E402


def main() -> int:
    """0 where every fault is caught, 1 where one is not or nothing can be said."""
    parser = argparse.ArgumentParser("mutants", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="methods or shared parts; all without any")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes at a time")
    parser.add_argument("--every", type=int, default=1, help="plant only each Nth fault of a table")
    parser.add_argument("--root", type=Path, default=ROOT, help="of the project")
    parser.add_argument("--reasons", action="store_true", help="print how the tests failed, too")
    options = parser.parse_args()
    root = options.root.resolve()
    begun = time.monotonic()
    # As Ctrl-C does, end the processes and remove the copies first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        tables = [table.thinned(options.every) for table in read_tables(root, options.names)]
        for table in tables:
            for fault in table.faults:
                planted(fault, root)
    except TableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if root == ROOT:  # another project may need none of it
        preload()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        sound = Path(folder) / "sound"
        sound.mkdir()
        snapshot(root, sound, tables)
        bad = examine(tables, sound, root, options.jobs, options.reasons)
    faults = sum(len(table.faults) for table in tables)
    print(f"{faults} faults in {len(tables)} tables, {bad} not caught, {time.monotonic() - begun:.0f} s")
    return int(bad > 0)


def examine(tables: list[Table], sound: Path, root: Path, jobs: int, reasons: bool) -> int:
    """Print a line for each fault; returns how many were not caught."""
    limits: dict[str, float] = {}
    for job, outcome in run([Job(t, None) for t in tables], sound=sound, root=root, processes=jobs):
        limits[job.table.name] = max(SECONDS, 10 * outcome.seconds)
        if outcome.verdict != "passed":
            print(f"{job.table.name}: the tests fail without any fault: {outcome.test} {outcome.reason}")
            return sum(len(table.faults) for table in tables)
    planned = [Job(table, fault, limits[table.name]) for table in tables for fault in table.faults]
    names, means = (
        max(map(len, texts)) for texts in ([t.name for t in tables], [_means(job) for job in planned])
    )
    bad: list[str] = []
    for job, outcome in run(planned, sound=sound, root=root, processes=jobs):
        word, seen = _judged(outcome)
        line = f"{job.table.name:{names}}  {word:8}  {_means(job):{means}}"
        if word != "caught":
            bad.append(line.rstrip())
        end = f"  [{outcome.reason}]" if reasons or word == "broken" else ""
        print(f"{line}  {seen}{end}".rstrip(), flush=True)
    for line in bad:
        print(f"NOT CAUGHT: {line}")
    return len(bad)


def _means(job: Job) -> str:
    return job.fault.means if job.fault else ""


def _judged(outcome: Outcome) -> tuple[str, str]:
    """What a fault's outcome is called, and who saw it."""
    word = {"failed": "caught", "passed": "SURVIVED"}.get(outcome.verdict, "broken")
    return word, outcome.test or ("" if word == "SURVIVED" else outcome.reason)


if __name__ == "__main__":
    sys.exit(main())
