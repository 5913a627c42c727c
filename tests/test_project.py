"""The project's own files agree with each other."""

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from csproto import settings

ROOT = Path(__file__).resolve().parents[1]


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return {
        m[1].lower(): m[2]
        for line in lines
        if (m := re.match(r"([A-Za-z0-9_.-]+)(?:\[\w+\])?==(\S+)$", line))
    }


def test_sglang_is_one_release_everywhere() -> None:
    assert pins("sglang.txt")["sglang"] == pins("gpu.txt")["sglang"] == settings.SGLANG_VERSION


def test_every_requirement_is_pinned() -> None:
    for name in ("cpu.txt", "gpu.txt", "sglang.txt", "dev.txt"):
        lines = [
            line
            for line in (ROOT / "requirements" / name).read_text().splitlines()
            if line and line[0] != "#"
        ]
        assert len(lines) == len(pins(name)), name


def test_no_cuda_package_comes_with_the_cpu_set_up() -> None:
    assert not [
        name
        for name in (*pins("cpu.txt"), *pins("dev.txt"))
        if name.startswith(("nvidia", "cuda", "flashinfer", "sgl")) and name != "sglang-router"
    ]


def test_the_packages_dependencies_are_met_by_the_pins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    available = pins("cpu.txt") | pins("dev.txt")
    for requirement in project["dependencies"]:
        name, least = re.match(r"([\w-]+)>=([\d.]+)", requirement).groups()
        assert name.lower() in available
        assert tuple(map(int, re.findall(r"\d+", available[name.lower()])))[:2] >= tuple(
            map(int, least.split("."))
        )


def test_conda_users_get_the_same_pins() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(d for d in environment["dependencies"] if str(d).startswith("python="))
    low, high = re.findall(
        r"3\.(\d+)",
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"],
    )
    assert int(low) <= int(python.split(".")[-1]) < int(high)
    *tools, packages = environment["dependencies"][1:]
    assert tools == ["make", "pip"]
    files = [line.removeprefix("-r ") for line in packages["pip"] if line.startswith("-r ")]
    assert files == ["requirements/gpu.txt", "requirements/dev.txt"]
    named = {line for line in packages["pip"] if not line.startswith("-")}
    assert named <= pins("gpu.txt").keys() | pins("dev.txt").keys(), "the versions stand there"
    assert "-e ." in packages["pip"]


def test_what_sglang_asks_for_agrees_with_our_pins() -> None:
    """Both are installed in one go on a machine with a GPU."""
    ours = {canonicalize_name(name): version for name, version in pins("dev.txt").items()}
    asked = [Requirement(line) for line in requires("sglang") or []]
    assert len(asked) > 30
    assert not [
        str(requirement)
        for requirement in asked
        if (not requirement.marker or requirement.marker.evaluate({"extra": ""}))
        and (pin := ours.get(canonicalize_name(requirement.name)))
        and not requirement.specifier.contains(pin)
    ]


@pytest.mark.parametrize(
    "path",
    sorted(p for p in (ROOT / "src").rglob("*.py")),
    ids=lambda p: str(p.relative_to(ROOT / "src")),
)
def test_every_module_says_why_it_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith('"""'), "a module opens with a docstring"
    assert text.count("\n") <= 400, "two rooms would be easier to find things in"
