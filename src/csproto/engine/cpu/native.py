"""Compiles and loads the C kernel.

It is compiled once for each machine, by any C compiler that is installed, kept in the
user's cache folder and loaded with ctypes. It is not built when the package is
installed: that would need a compiler there, and would fix the instruction set. Without
a compiler, SGLang's own model code runs on this package's attention backend, which is
slower and otherwise the same.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernel.c")
# The flags let the compiler reorder sums, which vector instructions need. None of them
# changes how the whole process treats numbers, as -ffast-math does.
FLAGS = (
    "-O3 -march=native -fno-math-errno -fno-trapping-math -fno-signed-zeros "
    "-fassociative-math -freciprocal-math -shared -fPIC -pthread"
)

Pointer = ctypes.c_void_p


class Layer(ctypes.Structure):
    """`layer_t` in kernel.c."""

    _fields_ = [
        (name, Pointer)
        for name in (
            "norm1 qkv qkv_bias q_norm k_norm o o_bias norm2 gate_up down keys values".split()
        )
    ]


class Model(ctypes.Structure):
    """`model_t` in kernel.c."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in "layers hidden heads kv_heads head_dim inter vocab max_context".split()
        ),
        *((name, ctypes.c_float) for name in ("eps", "scale")),
        *((name, Pointer) for name in ("embed", "final_norm", "head", "cos_sin", "layer")),
    ]


class Batch(ctypes.Structure):
    """`batch_t` in kernel.c."""

    _fields_ = [
        ("tokens", ctypes.c_int64),
        *((name, Pointer) for name in ("ids", "positions", "slots", "rows", "req_to_token")),
        ("row_stride", ctypes.c_int64),
        *((name, Pointer) for name in ("hidden", "logits")),
    ]


@cache
def load(bfloat16: bool) -> ctypes.CDLL | None:
    """Return the kernel for bfloat16 weights, or for float32 weights.

    Returns None if it cannot be compiled; the log says why.
    """
    try:
        library = ctypes.CDLL(str(_compiled(bfloat16)))
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or error
        logger.warning(
            "The CPU kernel could not be compiled; PyTorch serves, at about half the speed. %s",
            detail,
        )
        return None
    library.start_threads.argtypes = [ctypes.c_int]
    library.scratch_bytes.argtypes = [ctypes.POINTER(Model)]
    library.scratch_bytes.restype = ctypes.c_int64
    library.forward.argtypes = [ctypes.POINTER(Model), ctypes.POINTER(Batch), Pointer]
    library.forward.restype = None
    library.head.argtypes = [ctypes.POINTER(Model), Pointer, ctypes.c_int64, Pointer]
    library.head.restype = None
    return library


def compiler_command() -> list[str]:
    """Return the words that call the C compiler; none if there is no compiler.

    CC may hold more than one word, such as "ccache gcc".
    """
    if named := shlex.split(os.environ.get("CC", "")):
        return named
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    return [found] if found else []


def _compiled(bfloat16: bool) -> Path:
    """Return the compiled kernel in the cache. If it is not there yet, compile it (about 2 s)."""
    compiler = compiler_command()
    if not compiler:
        raise FileNotFoundError("There is no C compiler: install gcc or clang, or name one in CC.")
    flags = [*FLAGS.split(), f"-DBF16={int(bfloat16)}"]
    made_from = "\0".join([SOURCE.read_text(), *compiler, *flags, _instruction_set()])
    key = hashlib.sha256(made_from.encode()).hexdigest()
    cache_folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = cache_folder / "csproto" / f"kernel-{key[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = path.with_suffix(f".{os.getpid()}")
        command = [*compiler, *flags, str(SOURCE), "-o", str(partial)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        # In one step, so that a server that starts at the same time finds no
        # half-written file.
        partial.replace(path)
    return path


def _instruction_set() -> str:
    """Return what -march=native means here, since different machines may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return platform.machine() + platform.processor()
