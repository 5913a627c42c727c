"""Make the environment: the right torch first, then SGLang, then this package.

Needs nothing but Python and a package index.
"""

import argparse
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PATIENCE = 5  # seconds for a package index to answer


def main() -> None:
    """Create or complete the environment. Running it again is quick."""
    options = parse_options()
    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        sys.exit(
            f"This is Python {sys.version.split()[0]}; SGLang and this project need 3.11 or 3.12. "
            "Try: make setup PYTHON=python3.12"
        )
    if not options.gpu and gpu_is_there():
        print(
            "An NVIDIA GPU is here: `make setup GPU=1` would use it. Going on with the CPU.",
            flush=True,
        )
    if not (options.venv / "bin" / "pip").exists():
        with step("an empty environment"):
            venv.create(options.venv, with_pip=True)
    python = options.venv / "bin" / "python"
    if options.vllm:
        install_cpu_torch(python, "vllm.txt")
        with step("vLLM for the CPU"):
            install(python, "--no-deps", "-r", HERE / "vllm.txt")
        return
    if options.gpu:
        if has_cpu_torch(python):  # pip would take it for the release that SGLang asks for
            with step("remove the CPU build of torch"):
                pip(python, "uninstall", "--yes", "torch", "torchvision")
        with step("SGLang with torch for CUDA"):
            install(python, "-r", HERE / "gpu.txt")
    else:
        install_for_cpu(python)
    with step("what notebooks and tests need"):
        install(python, "-r", HERE / "dev.txt")
    with step("csproto itself"):
        install(python, "--no-deps", "--no-build-isolation", "-e", HERE.parent)


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--venv", type=Path, default=HERE.parent / ".venv")
    arguments.add_argument(
        "--gpu", action="store_true", help="the official CUDA packages of SGLang"
    )
    arguments.add_argument(
        "--vllm", action="store_true", help="vLLM for comparisons, in place of everything else"
    )
    return arguments.parse_args()


def install_for_cpu(python: Path) -> None:
    """Install torch, then SGLang without the CUDA packages it asks for."""
    pins = install_cpu_torch(python, "cpu.txt")
    # Any build of torchvision will do beside a CPU build of torch: csproto.engine.cpu
    # defines the two operators that a CUDA build cannot load there.
    torchvision = f"torchvision=={pins['torchvision']}"
    with step("SGLang"):
        install(python, "--no-deps", torchvision, "-r", HERE / "sglang.txt")
    with step("what SGLang imports on a CPU"):
        install(python, "-r", HERE / "cpu.txt")


def install_cpu_torch(python: Path, name: str) -> dict[str, str]:
    """Install a CPU build of torch from wherever one can be reached.

    name: the file in this folder that pins the versions.

    Returns the file's pins of torch and torchvision.
    """
    pins = dict(re.findall(r"^(torch|torchvision)==(\S+)", (HERE / name).read_text(), re.MULTILINE))
    if not has_cpu_torch(python):
        with step(f"torch {pins['torch']} for the CPU"):
            download_cpu_torch(python, f"torch=={pins['torch']}")
    return pins


def download_cpu_torch(python: Path, torch: str) -> None:
    """Install a CPU build from the package index or a find-links folder, or from PyTorch's own.

    torch: the requirement.
    """
    if pip(python, "install", "--only-binary=:all:", f"{torch}+cpu", check=False) == 0:
        return
    if not answers(TORCH_CPU_INDEX):
        sys.exit(
            f"No CPU build of {torch} can be reached: {TORCH_CPU_INDEX} does not answer and no "
            "find-links folder has one.\n"
            "Put the wheel into a folder and set PIP_FIND_LINKS to it, or use "
            "`make setup GPU=1`."
        )
    install(python, f"{torch}+cpu", "--extra-index-url", TORCH_CPU_INDEX)


def has_cpu_torch(python: Path) -> bool:
    """Return whether the environment has a CPU build of torch already."""
    code = (
        "from importlib.metadata import version; raise SystemExit('+cpu' not in version('torch'))"
    )
    done = subprocess.run([python, "-c", code], check=False, stderr=subprocess.DEVNULL)
    return done.returncode == 0


@contextmanager
def step(what: str) -> Iterator[None]:
    """Print one line about a step: what it does, and at its end how long it took."""
    print(f"{what:32}", end="", flush=True)
    began = time.monotonic()
    try:
        yield
    except BaseException:
        print(flush=True)
        raise
    print(f"{time.monotonic() - began:5.0f} s", flush=True)


def install(python: Path, *words: object) -> None:
    """Install packages with pip. It does not list what SGLang would need on a GPU.

    SGLang asks for packages of CUDA that a CPU has no use for, and for versions beside
    those that are pinned and tested here.
    """
    pip(python, "install", "--no-warn-conflicts", *words)


def pip(python: Path, *words: object, check: bool = True) -> int:
    """Run pip and return its exit status.

    check: whether a failure ends the set-up, and pip's errors are shown.
    """
    command = [python, "-m", "pip", *words, "-qq", "--disable-pip-version-check", "--retries", "1"]
    result = subprocess.run(
        [str(word) for word in command], check=False, capture_output=True, text=True
    )
    if check and result.returncode:
        shown = " ".join(str(word) for word in words)
        sys.exit(
            f"\n{result.stdout}{result.stderr}\n"
            f"`pip {shown}` failed. Check the connection to the package index, then run the same "
            "command again: what is installed stays."
        )
    return result.returncode


def answers(url: str) -> bool:
    """Return whether a package index can be reached at all. Takes a few seconds."""
    try:
        urllib.request.urlopen(url, timeout=PATIENCE)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def gpu_is_there() -> bool:
    """Return whether the NVIDIA driver lists a GPU."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], check=False, capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


if __name__ == "__main__":
    main()
