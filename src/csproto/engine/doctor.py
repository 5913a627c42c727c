"""Checks what this machine has and what is missing, and names the command that repairs it."""

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import urllib3
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from csproto import settings
from csproto.engine.cpu.native import compiler_command
from csproto.engine.fit import CPU_SHARE, GPU_SHARE, LEAST_TOKENS, need_of
from csproto.engine.hardware import gpu_name, gpus, number, torch_cuda
from csproto.engine.running import MODEL_INFO, find, read_state
from csproto.engine.server import bearer
from csproto.errors import CsprotoError
from csproto.shop.database import DatabaseUnusable, url_without_password, usable
from csproto.shop.store import SCHEMA, open_engine, schema_of

CAPABILITY = 7.5  # the least that the CUDA packages of SGLang and torch are built for
CUDA = "13.0"  # what `make setup GPU=1` installs
DRIVERS = {12: 525, 13: 580}  # release of CUDA to the oldest driver it runs with


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


def checks(model: str | None = None) -> Iterator[Check]:
    """Yield the result of every check. None of them starts a server or imports torch.

    model: a model folder or hub id, to say whether it fits this machine.
    """
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
    yield from _accelerator()
    if model:
        yield _fits(model)

    yield _package("sglang", settings.SGLANG_VERSION)
    yield _package("torch")
    yield _torch_build()
    if not gpu_name():
        yield _compiler()
    has_xgrammar = importlib.util.find_spec("xgrammar") is not None
    yield Check("xgrammar", has_xgrammar, _version("xgrammar"), "make setup")

    yield _mini_model()
    yield _server()
    yield _database()
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


def _accelerator() -> Iterator[Check]:
    """Check the GPU and its driver, if there is one."""
    found = gpus()
    if not found:
        yield Check("accelerator", True, "no NVIDIA GPU: the CPU plug-in serves")
        return
    gpu = found[0]
    name = f"{gpu.name}, {gpu.memory / 1e9:.0f} GB, {gpu.free / 1e9:.0f} GB free"
    yield Check(
        "accelerator",
        gpu.capability >= CAPABILITY,
        f"{name}, compute capability {gpu.capability}",
        f"use a GPU of compute capability {CAPABILITY} or more (Turing or newer), or the CPU "
        "(`CUDA_VISIBLE_DEVICES=`)",
    )
    cuda = torch_cuda() or CUDA
    least = DRIVERS.get(int(number(cuda)), 0)
    yield Check(
        "driver",
        number(gpu.driver) >= least,
        f"{gpu.driver}; CUDA {cuda} needs {least} or newer",
        f"update the NVIDIA driver to {least} or newer; without it the CPU serves",
    )


def _fits(model: str) -> Check:
    """Say whether a model fits into the memory, with the arithmetic."""
    what, need = f"fit of {model}", need_of(model)
    if need is None:
        found = "its config.json cannot be read"
        return Check(what, False, found, "check the folder or the id, and the connection")
    if torch_cuda() and (found_gpus := gpus()):
        room, other = found_gpus[0].free * GPU_SHARE, "a smaller model, one with 4-bit weights"
        if len(found_gpus) > 1:
            other += f", or all GPUs (`csproto serve -- --tp {len(found_gpus)}`)"
    else:
        room, other = _memory() * 1e9 * CPU_SHARE, "a smaller model, or a machine with more memory"
    return Check(what, need.tokens_in(room) >= LEAST_TOKENS, need.arithmetic(room), f"use {other}")


def _compiler() -> Check:
    """Check the C compiler, which the CPU plug-in needs to be quick."""
    words = compiler_command()
    ok = bool(words) and all(shutil.which(word) for word in words if not word.startswith("-"))
    found = " ".join(words) if words else "none: PyTorch serves, at about half the speed"
    return Check(
        "C compiler",
        ok,
        found if ok or not words else f"{found}: not found",
        "install gcc or clang, or name one in CC",
    )


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
    """Say whether a server runs. It is no fault if none does, unless one is named."""
    if url := settings.base_url():
        return _named_server(url)
    if state := read_state():
        return Check("server", True, f"running at {state['base_url']}")
    return Check(
        "server", True, "none is running; commands start one, or keep one with `csproto serve`"
    )


def _named_server(url: str) -> Check:
    """Check that the server at `CSPROTO_BASE_URL` answers, takes the key and is SGLang."""
    what = f"server ({settings.BASE_URL.name})"
    try:
        _, key = find() or ("", None)
        for path in MODEL_INFO:
            answer = urllib3.request(
                "GET", f"{url}{path}", headers=bearer(key), timeout=3, retries=False
            )
            if answer.status != 404:
                break
    except (CsprotoError, urllib3.exceptions.HTTPError):
        return Check(
            what, False, f"nothing is ready at {url}", "csproto serve there, or another URL"
        )
    if answer.status in (401, 403):
        fix = f"set {settings.API_KEY.name} to the key it was started with"
        return Check(what, False, f"{url} does not accept the key", fix)
    try:
        return Check(what, True, f"{url} serves {answer.json()['model_path']}")
    except (ValueError, KeyError, TypeError):
        return Check(what, False, f"{url} is no SGLang server", f"correct {settings.BASE_URL.name}")


def _database() -> Check:
    """Check that the database can be opened and has this version's tables. Changes nothing."""
    url = settings.database_url()
    name, new = url_without_password(url), "new: the first command that answers fills it"
    try:
        file = make_url(url)
        path = file.database or "" if file.get_backend_name() == "sqlite" else ""
        if path and ":" not in path and not os.path.exists(path):  # opening would create it
            return Check("database", True, f"{name} is {new}")
        with usable(url):
            schema = schema_of(open_engine(url))
    except (DatabaseUnusable, ArgumentError) as error:
        return Check("database", False, str(error), f"correct {settings.DATABASE.name}")
    if schema not in ("", SCHEMA):
        found = f"{name} has schema {schema}, this version uses {SCHEMA}"
        return Check("database", False, found, "csproto db migrate")
    return Check("database", True, f"{name}, schema {schema}" if schema else f"{name} is {new}")
