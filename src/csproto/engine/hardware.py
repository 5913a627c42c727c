"""Which NVIDIA GPU a server that is started here would use.

Everything is found out without importing torch, which takes seconds. The server itself
asks torch (`csproto.engine.cpu.is_cpu_only`), and is right where the two differ.
"""

import importlib.util
import os
import re
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FIELDS = "index,uuid,name,memory.total,memory.free,driver_version,compute_cap"
# In torch/version.py: "cuda: str = '13.0'" matches, "cuda: Optional[str] = None" does not.
CUDA = re.compile(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)['\"]", re.MULTILINE)
# A number at the front of a text: "580" in "580.65.06".
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Gpu:
    """One GPU, as its driver describes it.

    memory, free: bytes.
    driver: the driver's version. capability: the compute capability; 0 if unknown.
    """

    index: int
    uuid: str
    name: str
    memory: int
    free: int
    driver: str
    capability: float


def gpus() -> list[Gpu]:
    """Return the GPUs that the driver lists and CUDA_VISIBLE_DEVICES does not hide."""
    with suppress(OSError, subprocess.SubprocessError):
        out = subprocess.run(
            ["nvidia-smi", f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
        return _visible([_gpu(line) for line in out.splitlines() if line.count(",") == 6])
    return []


def gpu_name() -> str | None:
    """Return the name of the GPU that a server would use; None if the CPU serves."""
    found = gpus() if torch_cuda() else []
    return found[0].name if found else None


def torch_cuda() -> str | None:
    """Return the release of CUDA that torch was built for; None for a CPU build or no torch."""
    with suppress(ImportError, ValueError, OSError):
        spec = importlib.util.find_spec("torch")
        if spec and spec.origin:
            found = CUDA.search((Path(spec.origin).parent / "version.py").read_text())
            return found[1] if found else None
    return None


def number(text: str) -> float:
    """Return the number at the front of a text, such as 580.65 for "580.65.06"; else 0."""
    found = NUMBER.match(text.strip())
    return float(found[0]) if found else 0.0


def _gpu(line: str) -> Gpu:
    """Return the GPU of one line of `nvidia-smi`."""
    index, uuid, name, memory, free, driver, capability = (word.strip() for word in line.split(","))
    mib = 2**20
    return Gpu(
        int(number(index)),
        uuid,
        name,
        int(number(memory) * mib),
        int(number(free) * mib),
        driver,
        number(capability),
    )


def _visible(found: list[Gpu]) -> list[Gpu]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES names, in its order; all if it is not set.

    As in CUDA, the first word that names no GPU ends the list.
    """
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return found
    visible: list[Gpu] = []
    for word in (word.strip() for word in wanted.split(",")):
        named = [g for g in found if word and (word == str(g.index) or g.uuid.startswith(word))]
        if not named:
            break
        visible += named
    return visible
