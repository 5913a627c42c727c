"""Make the environment: the right torch first, then SGLang, then this package. Needs nothing but Python and a package index."""

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
PATIENCE = 5  # seconds for an index to show that it is there


def main() -> None:
    """Create or complete the environment; running it again is quick."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--venv", type=Path, default=HERE.parent / ".venv")
    arguments.add_argument("--gpu", action="store_true", help="the official CUDA packages of SGLang")
    arguments.add_argument("--vllm", action="store_true", help="vLLM for comparisons, in place of everything else")
    options = arguments.parse_args()
    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        sys.exit(
            f"This is Python {sys.version.split()[0]}; SGLang and this project need 3.11 or 3.12. Try: make setup PYTHON=python3.12"
        )
    if not options.gpu and gpu_is_there():
        print("An NVIDIA GPU is here: `make setup GPU=1` would use it. Going on with the CPU.", flush=True)
    if not (options.venv / "bin" / "pip").exists():
        venv.create(options.venv, with_pip=True)
    python = options.venv / "bin" / "python"
    if options.vllm:
        install_cpu_torch(python, "vllm.txt")
        pip(python, "install", "--no-deps", "-r", HERE / "vllm.txt")
        return
    if options.gpu:
        pip(python, "install", "-r", HERE / "gpu.txt")
    else:
        install_for_cpu(python)
    pip(python, "install", "-r", HERE / "dev.txt")
    pip(python, "install", "--no-deps", "--no-build-isolation", "-e", HERE.parent)


def install_for_cpu(python: Path) -> None:
    """Torch, then SGLang without the CUDA packages it asks for."""
    pins = install_cpu_torch(python, "cpu.txt")
    # Beside a CPU torch any build of torchvision will do: csproto.engine.cpu defines the two operators a CUDA build would bring.
    pip(python, "install", "--no-deps", f"torchvision=={pins['torchvision']}", "-r", HERE / "sglang.txt")
    pip(python, "install", "-r", HERE / "cpu.txt")


def install_cpu_torch(python: Path, name: str) -> dict[str, str]:
    """A CPU build of torch from wherever one can be reached, as pinned in a file here; returns the file's pins of torch and torchvision."""
    pins = dict(re.findall(r"^(torch|torchvision)==(\S+)", (HERE / name).read_text(), re.MULTILINE))
    torch = f"torch=={pins['torch']}"
    found = has_cpu_torch(python) or pip(python, "install", "--only-binary=:all:", f"{torch}+cpu", check=False) == 0
    if not found:
        if not answers(TORCH_CPU_INDEX):
            sys.exit(
                f"No CPU build of {torch} can be reached: {TORCH_CPU_INDEX} does not answer and no find-links folder has one.\nPut the wheel into a folder and set PIP_FIND_LINKS to it, or use `make setup GPU=1`."
            )
        pip(python, "install", f"{torch}+cpu", "--extra-index-url", TORCH_CPU_INDEX)
    return pins


def has_cpu_torch(python: Path) -> bool:
    """Whether a CPU build of torch is there already."""
    code = "from importlib.metadata import version; raise SystemExit('+cpu' not in version('torch'))"
    return subprocess.run([python, "-c", code], check=False, stderr=subprocess.DEVNULL).returncode == 0


def pip(python: Path, *words: object, check: bool = True) -> int:
    """Run pip; its failure ends the set-up."""
    command = [python, "-m", "pip", *words, "-qq", "--disable-pip-version-check", "--retries", "1"]
    print(
        "pip",
        *(w.relative_to(HERE.parent) if isinstance(w, Path) and w.is_relative_to(HERE.parent) else w for w in words),
        flush=True,
    )
    result = subprocess.run([str(word) for word in command], check=False, stderr=None if check else subprocess.DEVNULL)
    if check and result.returncode:
        sys.exit(
            "pip failed (above). Check the connection to the package index, then run the same command again: what is installed stays."
        )
    return result.returncode


def answers(url: str) -> bool:
    """Whether a package index can be reached at all, found out in seconds."""
    try:
        urllib.request.urlopen(url, timeout=PATIENCE)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def gpu_is_there() -> bool:
    """Whether the NVIDIA driver lists a GPU."""
    try:
        return subprocess.run(["nvidia-smi", "-L"], check=False, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


if __name__ == "__main__":
    main()
