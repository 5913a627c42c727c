"""The C kernel compiles for every machine on which it may run, not only for this one.

Which parts of it are compiled depends on the instruction set.
"""

import platform
import subprocess

import pytest

from csproto.engine.cpu import native

COMPILER = next(iter(native.compiler_command()), None)
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


@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler; PyTorch serves")
def test_a_compiler_of_several_words_is_called(monkeypatch, tmp_path) -> None:
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\ntouch {tmp_path}/called\nexec "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CC", f"{wrapper} {COMPILER}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native._compiled(bfloat16=True).is_file()
    assert (tmp_path / "called").exists()
