"""`csproto doctor` says whether GPU, driver and memory fit a model, with the arithmetic."""

import json
import os
from pathlib import Path

import pytest

from csproto.engine import doctor, fit, hardware
from csproto.engine.fit import need_of

# The shape of Qwen2.5-7B-Instruct.
QWEN = {
    "num_hidden_layers": 28,
    "hidden_size": 3584,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub that has the config of one model and no list of its weights."""
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    kept = {("Qwen/7B", "config.json"): tmp_path / "config.json"}
    monkeypatch.setattr(fit, "from_hub", lambda model, name: kept.get((model, name)))
    return tmp_path


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Puts a driver into the path that lists one GPU, or more."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def put(gib: float, driver: str = "580.65.06", capability: str = "8.6", count: int = 1) -> None:
        mib = int(gib * 1024)
        line = f"GPU-1, NVIDIA A10, {mib}, {mib}, {driver}, {capability}"
        script = "".join(f"echo '{n}, {line}'\n" for n in range(count))
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}")
        (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        for place in (hardware, doctor):
            monkeypatch.setattr(place, "torch_cuda", lambda: "13.0")

    return put


def found(what: str, model: str | None = None) -> doctor.Check:
    return next(check for check in doctor.checks(model) if check.what == what)


def test_the_need_of_a_model_by_its_shape(hub: Path) -> None:
    need = need_of("Qwen/7B")
    assert need.token == 57_344  # keys and values of 28 layers, 4 heads of 128, 2 bytes each
    assert need.weights == pytest.approx(15.2e9, rel=0.01)  # 7.6 billion parameters
    assert need_of("Qwen/unknown") is None


def test_the_need_of_a_model_by_its_files(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    for n in (1, 2):
        (tmp_path / f"model-{n}.safetensors").write_bytes(bytes(1000))
    assert need_of(str(tmp_path)).weights == 2000
    index = tmp_path / "index.json"
    index.write_text('{"metadata": {"total_size": 4711}}')
    monkeypatch.setattr(
        fit, "from_hub", lambda _, name: index if "index" in name else tmp_path / "config.json"
    )
    assert need_of("Qwen/7B").weights == 4711


@pytest.mark.parametrize(("gib", "fits"), [(22.5, True), (16, False), (10, False)])
def test_a_gpu_fits_a_model_or_not(hub: Path, gpu, gib: float, fits: bool) -> None:
    gpu(gib)
    check = found("fit of Qwen/7B", "Qwen/7B")
    assert check.ok is fits
    assert "15.2 GB of weights + 57 KB a token" in check.found
    room = gib * 2**30 * 0.85
    assert f"hold {need_of('Qwen/7B').tokens_in(room):,} tokens" in check.found


def test_several_gpus_are_named_as_a_way_out(hub: Path, gpu) -> None:
    gpu(10, count=2)
    assert "--tp 2" in found("fit of Qwen/7B", "Qwen/7B").fix


def test_without_a_gpu_it_is_the_machines_memory(hub: Path, gpu, monkeypatch) -> None:
    gpu(100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(doctor, "_memory", lambda: 8.0)
    assert found("fit of Qwen/7B", "Qwen/7B").ok is False


def test_a_model_that_nobody_knows_is_said_so(hub: Path) -> None:
    check = found("fit of Qwen/unknown", "Qwen/unknown")
    assert not check.ok
    assert "config.json" in check.found


@pytest.mark.parametrize(("driver", "ok"), [("580.65.06", True), ("570.124.06", False)])
def test_the_driver_must_be_new_enough_for_the_cuda_packages(gpu, driver: str, ok: bool) -> None:
    gpu(24, driver)
    check = found("driver")
    assert check.ok is ok
    assert "CUDA 13.0 needs 580" in check.found


def test_a_gpu_that_is_too_old_is_named(gpu) -> None:
    gpu(16, capability="7.0")
    assert not found("accelerator").ok


def test_a_cpu_build_of_torch_beside_a_gpu_has_a_repair_that_does_something(
    gpu, monkeypatch
) -> None:
    gpu(24)
    monkeypatch.setattr(doctor, "torch_cuda", lambda: None)
    check = found("torch build")
    assert not check.ok
    assert "NVIDIA A10" in check.found
    assert check.fix == "make -B setup GPU=1"


@pytest.mark.parametrize(("compiler", "ok"), [("sh -c", True), ("no-such-cc -O2", False)])
def test_the_compiler_is_looked_at(monkeypatch, compiler: str, ok: bool) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    check = found("C compiler")
    assert check.ok is ok
    assert compiler in check.found
