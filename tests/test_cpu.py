"""The CPU plug-in gives the same logits as SGLang's own code, and stays off where it must.

The comparison runs SGLang's model runner, without a server, in another process. That
process imports SGLang, and forks once for each model and data type.
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

# The kernel works on blocks of 64. Heads have 16 values, a whole block, and a block and
# a half. Three query heads, six and one share a key head.
SHAPES = {
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 64, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama": ("Llama", {"head_dim": 96, "tie_word_embeddings": False, "num_key_value_heads": 6}),
}
TOLERANCE = {"bfloat16": 1e-2, "float32": 1e-4}
CASES = list(itertools.product(SHAPES, TOLERANCE))


def make_model(folder: Path, kind: str) -> Path:
    """Save a small model with random weights, and return its folder.

    Bfloat16 can represent the weights exactly. Sizes are not multiples of a vector's.
    """
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


# The following run in the other process and its forks.


class Runner:
    """SGLang's model runner on one model, with three ways to compute.

    The ways are `sglang`, and of this package `torch` (its attention backend) and
    `kernel`.
    """

    def __init__(self, folder: Path, dtype: str) -> None:
        from sglang.benchmark import one_batch
        from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
        from sglang.srt.server_args import PortArgs, ServerArgs

        args = ServerArgs(
            model_path=str(folder),
            device="cpu",
            dtype=dtype,
            max_total_tokens=8192,
            skip_tokenizer_init=True,
        )
        world_rank = one_batch.spawn_world_rank(args, tp_rank=0, pp_rank=0)
        ranks = one_batch.SpawnRanks(world_rank=world_rank, gpu_id=0)
        one_batch.publish(args, role="scheduler", ranks=ranks)
        one_batch._init_process_global_configs()
        one_batch.get_tokenizer = lambda *a, **k: None
        self.bench, _ = one_batch.load_model(args, PortArgs.init_new(args), 0, 0)
        self.runner = self.bench.torch_runner
        self.kernel = self.runner.model.forward
        self.plain = self.kernel.__wrapped__
        self.batched = self.runner.attn_backend
        self.native = TorchNativeAttnBackend(self.runner)

    def use(self, way: str) -> None:
        self.runner.attn_backend = self.native if way == "sglang" else self.batched
        self.runner.model.forward = self.kernel if way == "kernel" else self.plain
        self.bench.clear()

    def logits(
        self, way: str, prompts: list[list[int]], cuts: list[int], forced: torch.Tensor
    ) -> torch.Tensor:
        """Return the logits of every step for every prompt.

        The steps: a first part of each prompt, of the length in `cuts`; the rest, with
        that part in the cache; then the tokens of each row of `forced`.
        """
        self.use(way)
        requests = [
            request(number, prompt[:cut])
            for number, (prompt, cut) in enumerate(zip(prompts, cuts, strict=True))
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
    made.full_untruncated_fill_ids = made.origin_input_ids
    made.logprob_start_len, made.extend_end = -1, len(ids)
    return made


def compare(folder: Path, dtype: str) -> dict[str, torch.Tensor]:
    """Return the logits of each way of computing."""
    runner = Runner(folder, dtype)
    random = torch.Generator().manual_seed(1)
    # The batch has requests with one token after the prefix beside others with many, as
    # SGLang makes a mixed batch; more tokens than one pass of the kernel takes; a long
    # context; and more requests than the kernel puts side by side in a vector.
    lengths = [8, 40, 300, 17, 150, 2600, *range(20, 34)]
    cuts = [7, 7, 7, 16, 149, 2000, *range(3, 17)]
    prompts = [torch.randint(0, 500, (length,), generator=random).tolist() for length in lengths]
    forced = torch.randint(0, 500, (20, len(prompts)), generator=random)
    found = {
        way: runner.logits(way, prompts, cuts, forced) for way in ("sglang", "torch", "kernel")
    }
    engine = inspect.getclosurevars(runner.kernel).nonlocals["engine"]
    assert engine, "the kernel was not used"
    return found


def main(folder: Path) -> None:
    """Run every case in a fork of this process, which saves a file with its logits."""
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


# The tests.


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for kind in SHAPES:
        make_model(folder / kind, kind)
    return folder


@pytest.fixture(scope="module")
def logits(models: Path) -> dict[tuple[str, str], dict[str, torch.Tensor]]:
    """The logits of each way, by kind of model and data type."""
    ran = subprocess.run(
        [sys.executable, __file__, str(models)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
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
    # Random weights give logits that are close to each other. If bfloat16 cannot
    # distinguish two (its step is 2^-7), each of them is right as a first choice.
    chosen = expected.gather(-1, got.argmax(-1, keepdim=True)).squeeze(-1)
    top = expected.max(-1).values
    step = top.abs() * 2**-7 if dtype == "bfloat16" else 0
    assert (chosen >= top - step).float().mean() >= 0.99


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("way", ["torch", "kernel"])
def test_bfloat16_is_as_exact_as_in_sglang(logits, kind: str, way: str) -> None:
    """Two computations in bfloat16 can be ranked by comparing them with one in float32."""
    exact, rounded = logits[kind, "float32"]["sglang"], logits[kind, "bfloat16"]
    assert distance(rounded[way], exact) <= 1.1 * distance(rounded["sglang"], exact)


def test_on_a_machine_with_a_gpu_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cpu.activate() is None
    cpu.register()  # would otherwise import SGLang and register hooks


def test_another_release_of_sglang_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sglang.version.__version__", "0.5.99")
    cpu.warn_about_version()
    assert "0.5.99" in caplog.text


def test_without_a_compiler_pytorch_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog
) -> None:
    from csproto.engine.cpu import native

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", str(tmp_path / "missing-compiler"))
    native.load.cache_clear()
    assert native.load(True) is None
    assert "could not be compiled" in caplog.text
    native.load.cache_clear()


def test_outputs_do_not_depend_on_other_requests(endpoint_post) -> None:
    """Greedy text is the same beside other requests, some of which are cancelled halfway."""
    prompts = [f"Order {number} has not arrived. " * (1 + number % 3) for number in range(8)]
    alone = [endpoint_post(prompt) for prompt in prompts]
    together: dict[int, str] = {}

    def ask(number: int) -> None:
        together[number] = endpoint_post(prompts[number])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
        endpoint_post("Please cancel this one, it is long. " * 4, give_up_after=0.05)
    for thread in threads:
        thread.join()
    same = sum(together[number] == alone[number] for number in range(8))
    assert same >= 7  # in another batch, a tie of two bfloat16 logits may be decided differently


@pytest.fixture(scope="module")
def endpoint_post(server):
    """Returns greedy text for a prompt.

    give_up_after: closes the connection after so many seconds.
    """
    import urllib3

    url, key = server
    pool = urllib3.PoolManager(maxsize=16)

    def post(prompt: str, give_up_after: float | None = None) -> str:
        sampling = {"temperature": 0, "max_new_tokens": 24, "ignore_eos": True}
        body = {"text": prompt, "sampling_params": sampling}
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
