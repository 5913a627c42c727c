"""Adaptations that need one of SGLang's own hook points, each with the line it answers."""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from sglang.srt.plugins.hook_registry import HookRegistry, HookType


def register() -> None:
    """Register every hook below (sglang/srt/plugins/hook_registry.py)."""
    HookRegistry.register("sglang.srt.entrypoints.engine._set_envs_and_config", start_children_by_fork, HookType.AFTER)
    agree = "sglang.srt.layers.sampler.Sampler._sync_token_ids_across_tp"
    HookRegistry.register(agree, agree_only_with_others, HookType.AROUND)


def start_children_by_fork(result: Any, *args: Any, **kwargs: Any) -> None:
    """Let the scheduler and the detokenizer inherit the imports of the launcher.

    sglang/srt/entrypoints/engine.py, `_set_envs_and_config`, sets the start method "spawn", which CUDA needs: each child then imports torch and
    sglang again, 10 s of the start-up and several hundred megabytes. On a CPU a fork is safe at that point: no thread pool has been used yet.
    """
    multiprocessing.set_start_method("fork", force=True)


def agree_only_with_others(original: Callable[..., None], sampler: Any, *args: Any) -> None:
    """Leave out an exchange of tokens between ranks where there is one rank.

    sglang/srt/layers/sampler.py, `_sync_token_ids_across_tp`, calls gloo for every step with a grammar: 2 % of a step of sixteen conversations.
    """
    if dist.get_world_size(sampler.tp_sync_group) > 1:
        original(sampler, *args)
