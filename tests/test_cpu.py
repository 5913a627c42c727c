"""The CPU engine gives the logits SGLang's own code gives, and stands aside where it must.

The comparison runs SGLang's model runner in processes of its own: one imports SGLang, and forks once for each model. No server, no mock.
"""

import inspect
import itertools
import os
import subprocess
import sys
import threading
from array import array
from pathlib import Path

import pytest
import torch

from csproto.engine import cpu

pytestmark = pytest.mark.long  # two minutes of SGLang start-ups

SHAPES = {  # heads of 16, of one whole block of 64 and of a block and a half; three heads, six and one that share a key
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 64, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama": ("Llama", {"head_dim": 96, "tie_word_embeddings": False, "num_key_value_heads": 6}),
}
TOLERANCE = {"bfloat16": 1e-2, "float32": 1e-4}
CASES = list(itertools.product(SHAPES, TOLERANCE))


def make_model(folder: Path, kind: str) -> Path:
    """A small model with random weights that bfloat16 holds exactly. Sizes are no multiples of a vector."""
    cpu.make_torchvision_importable()
    import transformers

    name, extra = SHAPES[kind]
    torch.manual_seed(0)
    shape = {
        "hidden_size": 96,
        "intermediate_size": 200,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "vocab_size": 500,
        "max_position_embeddings": 4096,
        "initializer_range": 0.05,
        **extra,
    }
    config = getattr(transformers, f"{name}Config")(**shape)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if key.endswith("bias"):
                weight.normal_(0, 0.3)
            elif "norm" in key:
                weight.add_(torch.randn_like(weight) * 0.2)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


# -- in the processes of their own


class Runner:
    """SGLang's model runner on one model, with three ways to compute: SGLang's, this package's in PyTorch, and its kernel."""

    def __init__(self, folder: Path, dtype: str) -> None:
        from sglang.benchmark import one_batch
        from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
        from sglang.srt.server_args import PortArgs, ServerArgs

        args = ServerArgs(
            model_path=str(folder), device="cpu", dtype=dtype, max_total_tokens=8192, skip_tokenizer_init=True
        )
        ranks = one_batch.SpawnRanks(world_rank=one_batch.spawn_world_rank(args, tp_rank=0, pp_rank=0), gpu_id=0)
        one_batch.publish(args, role="scheduler", ranks=ranks)
        one_batch._init_process_global_configs()
        one_batch.get_tokenizer = lambda *a, **k: None
        self.bench, _ = one_batch.load_model(args, PortArgs.init_new(args), 0, 0)
        self.runner = self.bench.torch_runner
        self.kernel, self.plain = self.runner.model.forward, self.runner.model.forward.__wrapped__
        self.batched, self.native = self.runner.attn_backend, TorchNativeAttnBackend(self.runner)

    def use(self, way: str) -> None:
        self.runner.attn_backend = self.native if way == "sglang" else self.batched
        self.runner.model.forward = self.kernel if way == "kernel" else self.plain
        self.bench.clear()

    def logits(self, way: str, prompts: list[list[int]], cuts: list[int], forced: torch.Tensor) -> torch.Tensor:
        """Logits after a first part of each prompt, after the rest on that cached prefix, and after each forced token."""
        self.use(way)
        requests = [
            request(number, prompt[:cut]) for number, (prompt, cut) in enumerate(zip(prompts, cuts, strict=True))
        ]
        rows = [self.bench.extend(requests)[1].float().clone()]
        for item, prompt, cut in zip(requests, prompts, cuts, strict=True):
            item.full_untruncated_fill_ids.extend(prompt[cut:])
            item.prefix_len, item.extend_end = cut, len(prompt)
        _, logits, batch = self.bench.extend(requests)
        rows.append(logits.float().clone())
        for tokens in forced:
            rows.append(self.bench.decode(tokens, batch)[1].float().clone())
        return torch.cat(rows)


def request(number: int, ids: list[int]):
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.sampling.sampling_params import SamplingParams

    made = Req(
        rid=str(number),
        origin_input_text="",
        origin_input_ids=array("q", ids),
        sampling_params=SamplingParams(temperature=0, max_new_tokens=8),
    )
    made.full_untruncated_fill_ids, made.logprob_start_len, made.extend_end = made.origin_input_ids, -1, len(ids)
    return made


def compare(folder: Path, dtype: str) -> dict[str, torch.Tensor]:
    """The logits of each way of computing."""
    runner = Runner(folder, dtype)
    random = torch.Generator().manual_seed(1)
    # one token after the prefix beside many: what SGLang makes of a mixed batch; longer than a pass of the kernel; a long context; and
    # more requests than the kernel puts side by side in a vector
    lengths = [8, 40, 300, 17, 150, 2600, *range(20, 34)]
    cuts = [7, 7, 7, 16, 149, 2000, *range(3, 17)]
    prompts = [torch.randint(0, 500, (length,), generator=random).tolist() for length in lengths]
    forced = torch.randint(0, 500, (20, len(prompts)), generator=random)
    found = {way: runner.logits(way, prompts, cuts, forced) for way in ("sglang", "torch", "kernel")}
    assert inspect.getclosurevars(runner.kernel).nonlocals["engine"], "the kernel was not used"
    return found


def main(folder: Path) -> None:
    """Compare every case in a fork of this process; one file of logits each."""
    cpu.make_torchvision_importable()
    from sglang.srt.plugins import load_plugins

    load_plugins()
    import sglang.benchmark.one_batch  # noqa: F401  (imported once, before the forks)

    for kind, dtype in CASES:
        child = os.fork()
        if not child:
            try:
                torch.save(compare(folder / kind, dtype), folder / f"{kind}-{dtype}.pt")
            finally:
                os._exit(0)
        os.waitpid(child, 0)


# -- the tests


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for kind in SHAPES:
        make_model(folder / kind, kind)
    return folder


@pytest.fixture(scope="module")
def logits(models: Path) -> dict[tuple[str, str], dict[str, torch.Tensor]]:
    ran = subprocess.run(
        [sys.executable, __file__, str(models)], capture_output=True, text=True, timeout=300, check=False
    )
    try:
        return {(kind, dtype): torch.load(models / f"{kind}-{dtype}.pt") for kind, dtype in CASES}
    except FileNotFoundError:
        pytest.fail(ran.stderr[-3000:])


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize(("kind", "dtype"), CASES)
@pytest.mark.parametrize("way", ["torch", "kernel"])
def test_logits_are_those_of_sglang(logits, kind: str, dtype: str, way: str) -> None:
    got, expected = logits[kind, dtype][way], logits[kind, dtype]["sglang"]
    assert distance(got, expected) <= TOLERANCE[dtype]
    # Random weights give flat logits: two that bfloat16 cannot tell apart (a step of it is 2^-7) are both a first choice.
    chosen, top = expected.gather(-1, got.argmax(-1, keepdim=True)).squeeze(-1), expected.max(-1).values
    assert (chosen >= top - (top.abs() * 2**-7 if dtype == "bfloat16" else 0)).float().mean() >= 0.99


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("way", ["torch", "kernel"])
def test_bfloat16_is_as_exact_as_in_sglang(logits, kind: str, way: str) -> None:
    """Against float32 on the same weights, the way two bfloat16 computations can be ranked."""
    exact, rounded = logits[kind, "float32"]["sglang"], logits[kind, "bfloat16"]
    assert distance(rounded[way], exact) <= 1.1 * distance(rounded["sglang"], exact)


def test_a_gpu_machine_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cpu.activate() is None
    cpu.register()  # would import SGLang and register hooks


def test_another_release_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("sglang.version.__version__", "0.5.99")
    cpu.warn_about_version()
    assert "0.5.99" in caplog.text


def test_without_a_compiler_pytorch_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog) -> None:
    from csproto.engine.cpu import native

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", str(tmp_path / "missing-compiler"))
    native.load.cache_clear()
    assert native.load(True) is None
    assert "could not be compiled" in caplog.text
    native.load.cache_clear()


def test_outputs_do_not_depend_on_company_or_on_cancelled_requests(endpoint_post) -> None:
    """Greedy text alone equals greedy text beside others, some of which go away in the middle."""
    prompts = [f"Order {number} has not arrived. " * (1 + number % 3) for number in range(8)]
    alone = [endpoint_post(prompt) for prompt in prompts]
    together: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda n=n: together.__setitem__(n, endpoint_post(prompts[n]))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
        endpoint_post("Please cancel this one, it is long. " * 4, give_up_after=0.05)
    for thread in threads:
        thread.join()
    same = sum(together[number] == alone[number] for number in range(8))
    assert same >= 7  # in bfloat16 a tie may fall the other way in another batch


@pytest.fixture(scope="module")
def endpoint_post(server):
    """Greedy text for a prompt; with give_up_after the connection is closed after so many seconds."""
    import urllib3

    url, key = server
    pool = urllib3.PoolManager(maxsize=16)

    def post(prompt: str, give_up_after: float | None = None) -> str:
        body = {"text": prompt, "sampling_params": {"temperature": 0, "max_new_tokens": 24, "ignore_eos": True}}
        try:
            answer = pool.request(
                "POST",
                url + "/generate",
                json=body,
                headers={"Authorization": f"Bearer {key}"},
                timeout=give_up_after or 60,
                retries=False,
            )
        except urllib3.exceptions.TimeoutError:
            return ""
        return answer.json()["text"]

    return post


if __name__ == "__main__":
    main(Path(sys.argv[1]))
