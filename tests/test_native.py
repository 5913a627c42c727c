"""The C kernel compiles for every machine on which it may run, not only for this one.

Which parts of it are compiled depends on the instruction set.
"""

import platform
import shutil
import subprocess

import pytest

from csproto.engine.cpu import native

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
MACHINES = ["native"]
if platform.machine() == "x86_64":
    MACHINES += ["x86-64", "x86-64-v3", "x86-64-v4"]


@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler; PyTorch serves")
@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("machine", MACHINES)
def test_the_kernel_compiles(machine: str, bfloat16: bool) -> None:
    flags = native.FLAGS.replace("-march=native", f"-march={machine}").split()
    command = [COMPILER, *flags, f"-DBF16={int(bfloat16)}", "-fsyntax-only", str(native.SOURCE)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
