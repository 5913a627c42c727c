"""Checks what this machine has and what is missing, and names the command that repairs it."""

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from csproto import settings
from csproto.engine.hardware import gpu_name, gpus, torch_cuda
from csproto.engine.running import read_state


@dataclass(frozen=True)
class Check:
    """The result of one check.

    what: what was looked at. found: what was found, for the user to read.
    fix: what to do if the check has failed.
    """

    what: str
    ok: bool
    found: str
    fix: str = ""


def checks() -> Iterator[Check]:
    """Yield the result of every check. None of them starts a server or imports torch."""
    supported = (3, 11) <= sys.version_info[:2] < (3, 13)
    yield Check(
        "Python",
        supported,
        sys.version.split()[0],
        "install Python 3.11 or 3.12 and run `make setup PYTHON=python3.12`",
    )
    yield Check(
        "machine",
        sys.platform == "linux" and os.uname().machine == "x86_64",
        f"{sys.platform} {os.uname().machine}, {os.cpu_count()} cores",
        "use Linux on x86-64, or WSL2 on Windows",
    )
    yield Check(
        "memory",
        _memory() >= 4,
        f"{_memory():.0f} GB",
        "at least 4 GB are needed for the server and the client",
    )
    gpu = gpu_name()
    yield Check("accelerator", True, gpu or "none: the CPU plug-in serves")

    yield _package("sglang", settings.SGLANG_VERSION)
    yield _package("torch")
    yield _torch_build()
    has_xgrammar = importlib.util.find_spec("xgrammar") is not None
    yield Check("xgrammar", has_xgrammar, _version("xgrammar"), "make setup")

    yield _mini_model()
    yield _server()
    free = shutil.disk_usage(settings.REPOSITORY).free / 1e9
    yield Check(
        "disk",
        free > 1,
        f"{free:.0f} GB free",
        "make room: the server writes logs and the tests scratch files",
    )


def _memory() -> float:
    """Return the machine's memory in GB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _package(name: str, wanted: str | None = None) -> Check:
    """Check that a package is installed, in the version `wanted` if one is given."""
    found = _version(name)
    ok = found != "not installed" and (wanted is None or found == wanted)
    note = f" (written for {wanted})" if wanted and found != wanted else ""
    return Check(name, ok, found + note, "make setup")


def _torch_build() -> Check:
    """Check that torch was built for the GPU, if there is one."""
    build = _version("torch")
    if gpus() and build != "not installed" and not torch_cuda():
        found = f"{build}, though there is a GPU ({gpus()[0].name})"
        return Check("torch build", False, found, "make -B setup GPU=1")
    return Check("torch build", True, "CPU" if "+cpu" in build else build)


def _mini_model() -> Check:
    folder = settings.MINI_MODEL
    try:
        json.loads((folder / "config.json").read_text())
        size = (folder / "model.safetensors").stat().st_size / 1e6
        return Check("mini model", True, f"{folder.name}, {size:.1f} MB")
    except (OSError, ValueError):
        return Check(
            "mini model",
            False,
            f"{folder} is missing or damaged",
            "git checkout -- data/mini-model, or csproto model build",
        )


def _server() -> Check:
    """Say whether a server runs. It is no fault if none does."""
    if state := read_state():
        return Check("server", True, f"running at {state['base_url']}")
    return Check(
        "server", True, "none is running; commands start one, or keep one with `csproto serve`"
    )
