"""Attention in plain PyTorch for a whole decode batch at once, used where the C kernel is not.

It replaces SGLang's `torch_native`
(sglang/srt/layers/attention/torch_native_backend.py, `_run_sdpa_forward_decode` and
`_run_sdpa_forward_extend`). That one loops over the requests in every layer. It also
computes the queries of a cached prefix again, and then drops the result.
"""

from typing import Any

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.radix_attention import AttentionType
from torch.nn.functional import scaled_dot_product_attention

from csproto.engine.cpu import ATTENTION


class BatchedAttnBackend(TorchNativeAttnBackend):
    """SGLang's PyTorch backend with less work per layer.

    Decode: one gather per step and one attention call per layer. Extend: only the
    queries of the new tokens. Whatever `_is_plain` excludes is left to SGLang's
    backend.
    """

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Forget the slots of the last step.

        They are looked up when a layer asks for them, because the C kernel never does.
        """
        super().init_forward_metadata(forward_batch)
        self._slots: torch.Tensor | None = None

    def forward_decode(
        self,
        q: Any,
        k: Any,
        v: Any,
        layer: Any,
        forward_batch: Any,
        save_kv_cache: bool = True,
    ) -> Any:
        """Attend with one token of every request.

        q and the result have the shape (requests, query heads * head dim).
        """
        if not _is_plain(layer, forward_batch):
            return super().forward_decode(q, k, v, layer, forward_batch, save_kv_cache)
        if save_kv_cache:
            self._save(layer, forward_batch, k, v)
        slots, mask = self._lookup(forward_batch)
        keys = self.token_to_kv_pool.get_key_buffer(layer.layer_id)[slots]
        values = self.token_to_kv_pool.get_value_buffer(layer.layer_id)[slots]
        # The query heads that share a key head take the place of the query tokens, so
        # that no key is copied for them.
        query = q.view(len(slots), layer.tp_k_head_num, -1, layer.qk_head_dim)
        out = scaled_dot_product_attention(
            query,
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=mask,
            scale=layer.scaling,
        )
        return out.reshape(len(slots), -1)

    def forward_extend(
        self,
        q: Any,
        k: Any,
        v: Any,
        layer: Any,
        forward_batch: Any,
        save_kv_cache: bool = True,
    ) -> Any:
        """Attend with new tokens of several requests, each after its prefix in the cache.

        q and the result have the shape (tokens, query heads * head dim), with the
        requests one after the other.
        """
        if not _is_plain(layer, forward_batch):
            return super().forward_extend(q, k, v, layer, forward_batch, save_kv_cache)
        if save_kv_cache:
            self._save(layer, forward_batch, k, v)
        keys = self.token_to_kv_pool.get_key_buffer(layer.layer_id)
        values = self.token_to_kv_pool.get_value_buffer(layer.layer_id)
        heads = q.view(-1, layer.tp_q_head_num, layer.qk_head_dim)
        rows = forward_batch.req_pool_indices.tolist()
        counts = forward_batch.extend_seq_lens.tolist()  # of the new tokens
        lengths = forward_batch.seq_lens.tolist()  # of prefix and new tokens

        start, parts = 0, []
        for row, count, length in zip(rows, counts, lengths, strict=True):
            slots = self.req_to_token_pool.req_to_token[row, :length]
            query = heads[start : start + count].transpose(0, 1)
            mask = torch.ones(count, length, dtype=torch.bool).tril(length - count)
            parts.append(
                scaled_dot_product_attention(
                    query[None],
                    keys[slots].transpose(0, 1)[None],
                    values[slots].transpose(0, 1)[None],
                    attn_mask=mask,
                    scale=layer.scaling,
                    enable_gqa=layer.tp_q_head_num != layer.tp_k_head_num,
                )[0].transpose(0, 1)
            )
            start += count
        return torch.cat(parts).reshape(q.shape)

    def _save(self, layer: Any, forward_batch: Any, k: Any, v: Any) -> None:
        """Write the keys and values of the new tokens into the KV pool."""
        from sglang.srt.mem_cache.memory_pool import KVWriteLoc

        location = KVWriteLoc(forward_batch.out_cache_loc, None)
        self.token_to_kv_pool.set_kv_buffer(layer, location, k, v)

    def _lookup(self, forward_batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the slots of every request's tokens, and a mask of those that count.

        The slots have the shape (requests, longest request). The mask is False after
        the end of a shorter request.
        """
        if self._slots is None:
            lengths = forward_batch.seq_lens
            longest = int(lengths.max())
            mask = torch.arange(longest) < lengths[:, None]
            requests = forward_batch.req_pool_indices
            slots = self.req_to_token_pool.req_to_token[requests, :longest]
            self._slots, self._mask = slots.masked_fill(~mask, 0), mask[:, None, None, :]
        return self._slots, self._mask


def _is_plain(layer: Any, forward_batch: Any) -> bool:
    """Return whether this is causal attention over the whole context and nothing else."""
    return (
        not layer.is_cross_attention
        and layer.attn_type == AttentionType.DECODER
        and forward_batch.encoder_lens is None
        and layer.qk_head_dim == layer.v_head_dim
        and (layer.sliding_window_size is None or layer.sliding_window_size < 0)
        and layer.logit_cap == 0
    )


def register() -> None:
    """Make the backend known to SGLang.

    sglang/srt/layers/attention/attention_registry.py, `register_attention_backend`.
    """
    from sglang.srt.arg_groups.choices import add_attention_backend_choices
    from sglang.srt.layers.attention.attention_registry import register_attention_backend

    add_attention_backend_choices([ATTENTION])
    register_attention_backend(ATTENTION)(BatchedAttnBackend)
