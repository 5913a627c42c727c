"""Runs the forward pass of a Llama-shaped model (Llama, Qwen2, Qwen3) as one call of the C kernel.

The kernel takes the place of SGLang's model code. It is installed on the model through
the platform's `post_load_model`. What it does not do (quantised weights, LoRA, sliding
windows, embeddings as input, several ranks) is left to SGLang's code on this package's
attention backend. If that is so for the whole model, the log says it once.
"""

import ctypes
import functools
import logging
from typing import Any

import torch

from csproto.engine.cpu import native

logger = logging.getLogger(__name__)

MODELS = ("Qwen2ForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM")


def accelerate(model: torch.nn.Module) -> None:
    """Let the kernel run `model.forward` where it can.

    sglang/srt/model_executor/runner/eager_runner.py, `_execute_decode` and
    `_execute_extend`, call `model.forward`. The KV pool does not exist yet when the
    model has been loaded, so the kernel is bound at the first batch.
    """
    original, engine = model.forward, None

    @functools.wraps(original)
    def forward(
        input_ids: Any, positions: Any, forward_batch: Any, *args: Any, **kwargs: Any
    ) -> Any:
        nonlocal engine
        if engine is None or not engine.is_current():
            engine = bind(model)
            if engine is None:
                model.forward = original
        has_more = args or any(
            value is not None and value is not False for value in kwargs.values()
        )
        if engine is None or has_more:
            return original(input_ids, positions, forward_batch, *args, **kwargs)
        if not can_run(forward_batch):
            return original(input_ids, positions, forward_batch)
        return engine.forward(input_ids, positions, forward_batch)

    model.forward = forward


def bind(model: Any) -> "Engine | None":
    """Return the engine for this model and the KV pool in use.

    Returns None if the kernel cannot run the model; the log says why.
    """
    from sglang.srt.model_executor.forward_context import get_attn_backend

    if reason := obstacle(model, get_attn_backend()):
        logger.warning(
            "The CPU kernel does not serve %s: %s. PyTorch serves it.",
            type(model).__name__,
            reason,
        )
        return None
    library = native.load(model.model.norm.weight.dtype == torch.bfloat16)
    return Engine(model, get_attn_backend(), library) if library else None


def obstacle(model: Any, backend: Any) -> str:
    """Return why the kernel cannot run this model; empty if it can."""
    from sglang.srt.layers.rotary_embedding.base import RotaryEmbedding
    from sglang.srt.runtime_context import get_parallel

    if type(model).__name__ not in MODELS:
        return f"only {', '.join(MODELS)} have the shape it knows"
    parallel = get_parallel()
    if parallel.tp_size * parallel.pp_size != 1:
        return "it runs on one rank"

    inner = model.model
    first, rotary = inner.layers[0].self_attn, inner.layers[0].self_attn.rotary_emb
    keys = backend.token_to_kv_pool.get_key_buffer(0)
    dtypes = {parameter.dtype for parameter in model.parameters()} | {keys.dtype}
    if len(dtypes) != 1 or not dtypes <= {torch.bfloat16, torch.float32}:
        return (
            "weights and KV cache must be all bfloat16 or all float32, and are "
            f"{', '.join(map(str, dtypes))}"
        )
    if keys.shape[1:] != (first.num_kv_heads, first.head_dim) or not keys.is_contiguous():
        return f"the KV cache has an unknown layout, {tuple(keys.shape)}"

    known_rotary = type(rotary).forward_native is RotaryEmbedding.forward_native
    if not known_rotary or hasattr(rotary, "sin_cos_cache"):
        return f"unknown rotary embedding {type(rotary).__name__}"
    if not rotary.is_neox_style or rotary.rotary_dim != first.head_dim:
        return "the rotary embedding is not over whole heads"
    if any(layer.self_attn.attn.sliding_window_size > -1 for layer in inner.layers):
        return "it has a sliding window"

    if any(
        parameter.shape != shape or not parameter.is_contiguous()
        for layer in inner.layers
        for parameter, shape in _shapes(inner.config, layer)
    ):
        return "its weights are packed or quantised"
    if any(
        hasattr(inner.config, name) for name in ("scale_emb", "residual_multiplier", "logit_scale")
    ):
        return "its config scales embeddings or residuals"
    return ""


def _shapes(config: Any, layer: Any) -> list[tuple[torch.Tensor, tuple[int, ...]]]:
    """Return the weights of a layer's four products, each with the shape the kernel expects."""
    attention, hidden, inter = layer.self_attn, config.hidden_size, config.intermediate_size
    return [
        (attention.qkv_proj.weight, (attention.q_size + 2 * attention.kv_size, hidden)),
        (attention.o_proj.weight, (hidden, attention.q_size)),
        (layer.mlp.gate_up_proj.weight, (2 * inter, hidden)),
        (layer.mlp.down_proj.weight, (hidden, inter)),
    ]


def can_run(batch: Any) -> bool:
    """Return whether the kernel can do everything that this batch asks for."""
    mode = batch.forward_mode
    return (
        (mode.is_decode() or mode.is_extend_without_speculative())
        and batch.input_embeds is None
        and batch.replace_embeds is None
        and batch.encoder_lens is None
        and not any(batch.lora_ids or ())
    )


class Engine:
    """A model that is bound to the kernel.

    It holds the addresses of the weights and of the KV pool, and scratch memory.
    """

    def __init__(self, model: Any, backend: Any, library: ctypes.CDLL) -> None:
        self.model, self.library = model, library
        self.kv_pool = backend.token_to_kv_pool
        self.req_to_token = backend.req_to_token_pool.req_to_token
        inner, attention = model.model, model.model.layers[0].self_attn
        self.dtype = inner.norm.weight.dtype
        self.cos_sin = attention.rotary_emb.cos_sin_cache.float().contiguous()
        layers = [self._layer(layer) for layer in inner.layers]
        self.layers = (native.Layer * len(layers))(*layers)
        config = inner.config
        self.shape = native.Model(
            len(inner.layers),
            config.hidden_size,
            attention.num_heads,
            attention.num_kv_heads,
            attention.head_dim,
            config.intermediate_size,
            config.vocab_size,
            self.req_to_token.shape[1],
            inner.norm.variance_epsilon,
            attention.attn.scaling,
            _address(inner.embed_tokens.weight),
            _address(inner.norm.weight),
            _address(model.lm_head.weight),
            _address(self.cos_sin),
            ctypes.addressof(self.layers),
        )
        self.watched = [
            inner.norm.weight,
            inner.embed_tokens.weight,
            self.kv_pool.get_key_buffer(0),
        ]
        self.addresses = [tensor.data_ptr() for tensor in self.watched]
        library.start_threads(torch.get_num_threads())
        # Little is left to PyTorch, and with a second OpenMP thread its argmax gets
        # slower.
        torch.set_num_threads(1)
        scratch_bytes = library.scratch_bytes(ctypes.byref(self.shape))
        self.scratch = torch.empty(scratch_bytes, dtype=torch.uint8)
        self.plain_logits = _are_plain(model.logits_processor)

    def _layer(self, layer: Any) -> native.Layer:
        """Return the addresses of one layer."""
        attention, mlp, number = layer.self_attn, layer.mlp, layer.self_attn.attn.layer_id
        return native.Layer(
            _address(layer.input_layernorm.weight),
            _address(attention.qkv_proj.weight),
            _address(attention.qkv_proj.bias),
            _address(attention.q_norm.weight if hasattr(attention, "q_norm") else None),
            _address(attention.k_norm.weight if hasattr(attention, "k_norm") else None),
            _address(attention.o_proj.weight),
            _address(attention.o_proj.bias),
            _address(layer.post_attention_layernorm.weight),
            _address(mlp.gate_up_proj.weight),
            _address(mlp.down_proj.weight),
            _address(self.kv_pool.get_key_buffer(number)),
            _address(self.kv_pool.get_value_buffer(number)),
        )

    def is_current(self) -> bool:
        """Return whether weights and KV pool are still where they were when they were bound."""
        return [tensor.data_ptr() for tensor in self.watched] == self.addresses

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, batch: Any) -> Any:
        """Return the logits for sampling, as `model.forward` does.

        ids, positions: one entry for each token of the batch.

        Where only logits are asked for, they have the shape (requests, vocabulary).
        Otherwise SGLang's own logits processor makes its result from the hidden states.
        """
        from sglang.srt.layers.logits_processor import LogitsProcessorOutput

        decode, requests = batch.forward_mode.is_decode(), batch.req_pool_indices
        only_logits = (
            self.plain_logits
            and not batch.return_logprob
            and not batch.capture_hidden_mode.need_capture()
        )
        if decode:
            rows = requests
        else:
            rows = torch.repeat_interleave(requests, batch.extend_seq_lens.to(torch.int64))

        if decode and only_logits:
            logits = torch.empty(len(ids), self.shape.vocab)
            self._run(ids, positions, rows, batch.out_cache_loc, None, logits)
            return LogitsProcessorOutput(next_token_logits=logits)

        hidden = torch.empty(len(ids), self.shape.hidden, dtype=self.dtype)
        self._run(ids, positions, rows, batch.out_cache_loc, hidden, None)
        if not only_logits:
            return self.model.logits_processor(ids, hidden, self.model.lm_head, batch)

        last = hidden[torch.cumsum(batch.extend_seq_lens, 0) - 1]
        logits = torch.empty(len(last), self.shape.vocab)
        self.library.head(ctypes.byref(self.shape), last.data_ptr(), len(last), logits.data_ptr())
        return LogitsProcessorOutput(next_token_logits=logits)

    def _run(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        rows: torch.Tensor,
        slots: torch.Tensor,
        hidden: torch.Tensor | None,
        logits: torch.Tensor | None,
    ) -> None:
        """Call the kernel, which fills `hidden` and `logits` where they are given.

        The other tensors have one entry for each token. rows: the row of the token's
        request in `req_to_token`. slots: where its key and value go.
        """
        inputs = [tensor.to(torch.int64).contiguous() for tensor in (ids, positions, slots, rows)]
        batch = native.Batch(
            len(ids),
            *map(_address, inputs),
            self.req_to_token.data_ptr(),
            self.req_to_token.stride(0),
            _address(hidden),
            _address(logits),
        )
        self.library.forward(ctypes.byref(self.shape), ctypes.byref(batch), self.scratch.data_ptr())


def _address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _are_plain(processor: Any) -> bool:
    """Return whether logits are nothing but a product with the output embedding.

    sglang/srt/layers/logits_processor.py, `_get_logits`.
    """
    return (
        not processor.logit_scale
        and not processor.final_logit_softcapping
        and not processor.use_fp32_lm_head
        and processor.expected_aux_hidden_states is None
    )
