"""`make` keeps the kind of environment that was asked for.

A script stands in for Python, and notes how `requirements/setup.py` is called.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support import ROOT

NOTES = """#!/bin/sh
echo "$@" >> calls
exit $(cat status)
"""


class Clone:
    """A copy of what `make setup` needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copy(ROOT / "Makefile", folder)
        shutil.copy(ROOT / "pyproject.toml", folder)
        shutil.copytree(ROOT / "requirements", folder / "requirements")
        (folder / "python").write_text(NOTES)
        (folder / "python").chmod(0o755)
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / ".venv" / "bin" / "csproto").symlink_to("/bin/true")
        (folder / "calls").touch()

    def make(self, *words: str, status: int = 0) -> list[str]:
        """Run make, and return how the set-up was called: "gpu" or "cpu" for each time."""
        (self.folder / "status").write_text(str(status))
        (self.folder / "calls").write_text("")
        command = ["make", "-C", str(self.folder), "PYTHON=./python", *words]
        environment = {k: v for k, v in os.environ.items() if k not in ("GPU", "MAKEFLAGS")}
        done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
        assert (done.returncode == 0) == (status == 0), done.stderr
        calls = (self.folder / "calls").read_text().splitlines()
        return ["gpu" if "--gpu" in call else "cpu" for call in calls]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_the_cuda_packages_stay_whatever_is_made_afterwards(clone: Clone) -> None:
    assert clone.make("setup", "GPU=1") == ["gpu"]
    assert clone.make("demo") == []
    assert clone.make("setup") == []
    (clone.folder / "requirements" / "dev.txt").touch()
    assert clone.make("demo") == ["gpu"]


def test_the_kind_can_be_changed_and_changed_back(clone: Clone) -> None:
    assert clone.make("setup") == ["cpu"]
    assert clone.make("setup", "GPU=1") == ["gpu"]
    assert clone.make("setup", "GPU=0") == ["cpu"]
    assert clone.make("demo") == []
    assert clone.make("setup", "GPU=1") == ["gpu"], "the first GPU set-up is gone"


def test_a_set_up_that_broke_off_goes_on_as_the_same_kind(clone: Clone) -> None:
    assert clone.make("setup", "GPU=1", status=1) == ["gpu"]
    assert clone.make("demo") == ["gpu"]


def test_the_repair_of_doctor_is_done_though_all_seems_up_to_date(clone: Clone) -> None:
    assert clone.make("setup", "GPU=1") == ["gpu"]
    assert clone.make("-B", "setup", "GPU=1") == ["gpu"]
