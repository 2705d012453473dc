"""One process of several: bound to its launcher before anything slow is imported, then the stage itself.

Usage, by `pipeline.launch`: `python -m pipeline.worker LAUNCHER_PID MODULE ARGUMENTS`.
"""

from __future__ import annotations

import runpy
import sys

from pipeline.parent import end_with_parent

if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
