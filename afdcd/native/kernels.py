"""The kernels as a library: built once per source, compiler and processor, and kept in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor

from afdcd.errors import UserError
from afdcd.files import atomic_file

_log = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_FLAGS = (
    *("-std=gnu11", "-O3", "-march=native", "-Wno-psabi", "-fno-math-errno", "-fno-trapping-math"),
    *("-fopenmp", "-shared", "-fPIC"),
)
_SUFFIX = {
    **{torch.float32: "float", torch.float64: "double", torch.bfloat16: "bfloat16"},
    **{torch.uint8: "uint8"},
}
_TYPES = {
    torch.float32: frozenset({torch.float32, torch.int64}),
    torch.float64: frozenset({torch.float64, torch.int64}),
    torch.bfloat16: frozenset({torch.bfloat16, torch.float32, torch.int64}),
    torch.uint8: frozenset({torch.uint8, torch.float32, torch.int64}),
}
"""Of the tensors that a kernel may take, by its precision."""
_LANES = {torch.float32: 32, torch.float64: 16}
_FAILURES = {
    1: RuntimeError("not enough memory for a kernel"),
    2: IndexError("a label is no class of the logits"),
}


class Library(NamedTuple):
    """What was built, or why nothing was."""

    functions: ctypes.CDLL | None
    reason: str


def has_kernels() -> bool:
    """Whether the kernels can run here; the first call of a machine builds them, in seconds."""
    return loaded().functions is not None


@cache
def loaded() -> Library:
    """The kernels of this machine."""
    try:
        found = ctypes.CDLL(str(_built()))
    except (UserError, OSError) as error:
        _log.info("kernels in C are not used: %s", error)
        return Library(None, str(error))
    return Library(found, "")


@cache
def prefers_product() -> bool:
    """Whether the kernel `product` is faster than torch's products on this processor."""
    functions = loaded().functions
    return functions is not None and bool(functions.prefers_product())


@contextmanager
def idle(threads: int) -> Iterator[None]:
    """While this thread waits, kernels that others call run on as many as `threads`.

    How many they run on changes no result.
    """
    functions = loaded().functions
    assert functions is not None
    functions.rest(threads)
    try:
        yield
    finally:
        functions.rise()


def call(name: str, like: Tensor, *arguments: Tensor | int | float | None) -> None:
    """Run a kernel in the precision of `like`.

    Tensors are dense (NCHW or NHWC) and on the CPU; those of floats are of the type of `like`, or float32
    where it is bfloat16 or uint8. Of numbers, a kernel's first call says which are floats.

    Raises:
        RuntimeError: the kernel got no memory.
        IndexError: a label is no class.
    """
    functions = loaded().functions
    assert functions is not None, "the kernels are asked for only where they can run"
    # As an attribute, a function is looked up once.
    dtype = like.dtype
    function = getattr(functions, f"{name}_{_SUFFIX[dtype]}")
    if function.argtypes is None:
        function.argtypes = [_kind(each) for each in arguments]
    types = _TYPES[dtype]
    if failed := function(*[_address(a, types) if isinstance(a, Tensor) else a for a in arguments]):
        raise _FAILURES[failed]


def step_of(like: Tensor) -> int:
    """What padded sizes are multiples of: two vectors."""
    return _LANES[like.dtype]


def _address(tensor: Tensor, types: frozenset[torch.dtype]) -> int:
    assert tensor.dtype in types, f"{tensor.dtype} is none of {types}"
    assert tensor.is_cpu
    assert tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor.data_ptr()


def _kind(argument: Tensor | int | float | None) -> type:
    """What stands in this place of a kernel's arguments at each call."""
    if argument is None or isinstance(argument, Tensor):
        return ctypes.c_void_p
    return ctypes.c_long if isinstance(argument, int) else ctypes.c_double


def _built() -> Path:
    """The library's file, built unless it is there.

    Raises:
        UserError: there is no compiler, it fails, or the cache cannot be written.
    """
    compiler = _compiler()
    source = b"".join(path.read_bytes() for path in sorted(_HERE.glob("*.[ch]")))
    # What the compiler knows about itself and, by -march=native, about the processor.
    known = _ran([compiler, "-march=native", "-dM", "-E", "-x", "c", os.devnull])
    digest = hashlib.sha256(b"\0".join([source, " ".join(_FLAGS).encode(), known.encode()])).hexdigest()
    path = _cache() / f"kernels-{digest[:20]}.so"
    if not path.exists():
        with atomic_file(path) as temporary:
            # Built apart: hosts that share the cache may have processes of one number.
            with TemporaryDirectory() as folder:
                made = Path(folder) / path.name
                _ran([compiler, *_FLAGS, str(_HERE / "kernels.c"), "-o", str(made), "-lm"])
                shutil.copyfile(made, temporary)
    return path


def _compiler() -> str:
    wanted = (os.environ.get("CC"), "cc", "gcc", "clang")
    for name in wanted:
        if name and (found := shutil.which(name)):
            return found
    raise UserError("no C compiler (cc, gcc or clang) is installed")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "afdcd"


def _ran(command: Sequence[str]) -> str:
    """What a command prints.

    Raises:
        UserError: it fails.
    """
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise UserError(f"{command[0]} fails: {lines[0] if lines else f'exit status {done.returncode}'}")
    return done.stdout
