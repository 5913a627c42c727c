"""Make the environment: the right torch first, then SGLang, then this package.

Needs nothing but Python and a package index.
"""

import argparse
import re
import subprocess
import sys
import urllib.error
import urllib.request
import venv
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
        venv.create(options.venv, with_pip=True)
    python = options.venv / "bin" / "python"
    if options.vllm:
        install_cpu_torch(python, "vllm.txt")
        pip(python, "install", "--no-deps", "-r", HERE / "vllm.txt")
        return
    if options.gpu:
        if has_cpu_torch(python):  # pip would take it for the release that SGLang asks for
            pip(python, "uninstall", "--yes", "torch", "torchvision")
        pip(python, "install", "-r", HERE / "gpu.txt")
    else:
        install_for_cpu(python)
    pip(python, "install", "-r", HERE / "dev.txt")
    pip(python, "install", "--no-deps", "--no-build-isolation", "-e", HERE.parent)


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
    pip(python, "install", "--no-deps", torchvision, "-r", HERE / "sglang.txt")
    pip(python, "install", "-r", HERE / "cpu.txt")


def install_cpu_torch(python: Path, name: str) -> dict[str, str]:
    """Install a CPU build of torch from wherever one can be reached.

    name: the file in this folder that pins the versions.

    Returns the file's pins of torch and torchvision.
    """
    pins = dict(re.findall(r"^(torch|torchvision)==(\S+)", (HERE / name).read_text(), re.MULTILINE))
    torch = f"torch=={pins['torch']}"
    wheel = ("--only-binary=:all:", f"{torch}+cpu")
    if not has_cpu_torch(python) and pip(python, "install", *wheel, check=False) != 0:
        if not answers(TORCH_CPU_INDEX):
            sys.exit(
                f"No CPU build of {torch} can be reached: {TORCH_CPU_INDEX} does not answer and no "
                "find-links folder has one.\n"
                "Put the wheel into a folder and set PIP_FIND_LINKS to it, or use "
                "`make setup GPU=1`."
            )
        pip(python, "install", f"{torch}+cpu", "--extra-index-url", TORCH_CPU_INDEX)
    return pins


def has_cpu_torch(python: Path) -> bool:
    """Return whether the environment has a CPU build of torch already."""
    code = (
        "from importlib.metadata import version; raise SystemExit('+cpu' not in version('torch'))"
    )
    done = subprocess.run([python, "-c", code], check=False, stderr=subprocess.DEVNULL)
    return done.returncode == 0


def pip(python: Path, *words: object, check: bool = True) -> int:
    """Run pip and return its exit status.

    check: whether a failure ends the set-up; without it, pip's errors are not shown.
    """
    print("pip", *map(_shown, words), flush=True)
    command = [python, "-m", "pip", *words, "-qq", "--disable-pip-version-check", "--retries", "1"]
    errors = None if check else subprocess.DEVNULL
    result = subprocess.run([str(word) for word in command], check=False, stderr=errors)
    if check and result.returncode:
        sys.exit(
            "pip failed (above). Check the connection to the package index, then run the same "
            "command again: what is installed stays."
        )
    return result.returncode


def _shown(word: object) -> object:
    """Return a word of a command for display: a path in the repository relative to it."""
    if isinstance(word, Path) and word.is_relative_to(HERE.parent):
        return word.relative_to(HERE.parent)
    return word


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
