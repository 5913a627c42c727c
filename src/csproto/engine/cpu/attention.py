"""Attention in plain PyTorch for a whole decode batch at once: what serves wherever the C kernel does not.

SGLang's `torch_native` (sglang/srt/layers/attention/torch_native_backend.py, `_run_sdpa_forward_decode` and `_run_sdpa_forward_extend`) loops over the
requests in every layer, and computes the queries of a cached prefix again only to throw them away.
"""

from typing import Any

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.radix_attention import AttentionType
from torch.nn.functional import scaled_dot_product_attention

from csproto.engine.cpu import ATTENTION


class BatchedAttnBackend(TorchNativeAttnBackend):
    """One gather per step and one attention call per layer when decoding; only the new tokens' queries when extending."""

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Forget the last step's slots. They are looked up when a layer asks: the C kernel never does."""
        super().init_forward_metadata(forward_batch)
        self._slots: torch.Tensor | None = None

    def forward_decode(self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, save_kv_cache: bool = True) -> Any:
        """One token of every request: q is (requests, heads * head_dim)."""
        if not _is_plain(layer, forward_batch):
            return super().forward_decode(q, k, v, layer, forward_batch, save_kv_cache)
        if save_kv_cache:
            self._save(layer, forward_batch, k, v)
        slots, mask = self._lookup(forward_batch)
        keys = self.token_to_kv_pool.get_key_buffer(layer.layer_id)[slots]
        values = self.token_to_kv_pool.get_value_buffer(layer.layer_id)[slots]
        # The query heads of one key head stand where the query tokens would: no key is copied for them.
        query = q.view(len(slots), layer.tp_k_head_num, -1, layer.qk_head_dim)
        out = scaled_dot_product_attention(
            query, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask, scale=layer.scaling
        )
        return out.reshape(len(slots), -1)

    def forward_extend(self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, save_kv_cache: bool = True) -> Any:
        """New tokens of several requests, one after the other in q, each after the prefix it has in the cache."""
        if not _is_plain(layer, forward_batch):
            return super().forward_extend(q, k, v, layer, forward_batch, save_kv_cache)
        if save_kv_cache:
            self._save(layer, forward_batch, k, v)
        keys = self.token_to_kv_pool.get_key_buffer(layer.layer_id)
        values = self.token_to_kv_pool.get_value_buffer(layer.layer_id)
        heads, start, parts = q.view(-1, layer.tp_q_head_num, layer.qk_head_dim), 0, []
        rows, new, all_ = (
            tensor.tolist()
            for tensor in (forward_batch.req_pool_indices, forward_batch.extend_seq_lens, forward_batch.seq_lens)
        )
        for row, count, length in zip(rows, new, all_, strict=True):
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
        from sglang.srt.mem_cache.memory_pool import KVWriteLoc

        self.token_to_kv_pool.set_kv_buffer(layer, KVWriteLoc(forward_batch.out_cache_loc, None), k, v)

    def _lookup(self, forward_batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Slots (requests, longest) and which of them are a request's own."""
        if self._slots is None:
            lengths = forward_batch.seq_lens
            longest = int(lengths.max())
            mask = torch.arange(longest) < lengths[:, None]
            slots = self.req_to_token_pool.req_to_token[forward_batch.req_pool_indices, :longest]
            self._slots, self._mask = slots.masked_fill(~mask, 0), mask[:, None, None, :]
        return self._slots, self._mask


def _is_plain(layer: Any, forward_batch: Any) -> bool:
    """Causal attention over the whole context, nothing else."""
    return (
        not layer.is_cross_attention
        and layer.attn_type == AttentionType.DECODER
        and forward_batch.encoder_lens is None
        and layer.qk_head_dim == layer.v_head_dim
        and (layer.sliding_window_size is None or layer.sliding_window_size < 0)
        and layer.logit_cap == 0
    )


def register() -> None:
    """Make the backend known (sglang/srt/layers/attention/attention_registry.py, `register_attention_backend`)."""
    from sglang.srt.arg_groups.choices import add_attention_backend_choices
    from sglang.srt.layers.attention.attention_registry import register_attention_backend

    add_attention_backend_choices([ATTENTION])
    register_attention_backend(ATTENTION)(BatchedAttnBackend)
