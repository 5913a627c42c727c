"""Adaptations through SGLang's hooks. Each names the line that makes it necessary."""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from sglang.srt.plugins.hook_registry import HookRegistry, HookType


def register() -> None:
    """Register every hook below (sglang/srt/plugins/hook_registry.py)."""
    start = "sglang.srt.entrypoints.engine._set_envs_and_config"
    HookRegistry.register(start, start_children_by_fork, HookType.AFTER)
    agree = "sglang.srt.layers.sampler.Sampler._sync_token_ids_across_tp"
    HookRegistry.register(agree, agree_only_with_others, HookType.AROUND)


def start_children_by_fork(result: Any, *args: Any, **kwargs: Any) -> None:
    """Let the scheduler and the detokenizer inherit the imports of the launcher.

    sglang/srt/entrypoints/engine.py, `_set_envs_and_config`, sets the start method
    "spawn", which CUDA needs. Each child then imports torch and sglang again, which
    takes 10 s of the start and several hundred megabytes. On a CPU a fork is safe at
    that point, because no thread pool has been used yet.
    """
    multiprocessing.set_start_method("fork", force=True)


def agree_only_with_others(original: Callable[..., None], sampler: Any, *args: Any) -> None:
    """Leave out an exchange of tokens between ranks if there is only one rank.

    sglang/srt/layers/sampler.py, `_sync_token_ids_across_tp`, calls gloo in every step
    that has a grammar. That is 2 % of a step with sixteen conversations.
    """
    if dist.get_world_size(sampler.tp_sync_group) > 1:
        original(sampler, *args)
