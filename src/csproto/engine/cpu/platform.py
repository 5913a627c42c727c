"""The platform SGLang asks about its device: a plain CPU, with no kernel library of SGLang's own."""

from typing import Any

from sglang.srt.platforms.cpu import CpuSRTPlatform
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import PlatformCapabilities

from csproto.engine.cpu import ATTENTION


class AnyCpuPlatform(CpuSRTPlatform):
    """SGLang's own CPU platform, declared out of tree so that it looks for no AMX kernels (`SGLANG_USE_CPU_ENGINE` would)."""

    _enum = PlatformEnum.OOT
    device_name = "cpu"
    device_type = "cpu"
    capabilities = PlatformCapabilities()  # no triton, no graph capture: neither has a CPU wheel

    def is_out_of_tree(self) -> bool:
        """True: the in-tree CPU device needs kernels that no wheel carries (sglang/srt/platforms/device_mixin.py)."""
        return True

    def apply_server_args_defaults(self, server_args: Any) -> None:
        """What serves a CPU best.

        attention_backend: arg_groups/platform_hook.py, `handle_cpu_backends`, has asked for AMX by now, which no wheel brings. Naming `torch_native`
        on the command line keeps that, and turns the C kernel off. disable_overlap_schedule: managers/scheduler.py, `event_loop_overlap`, handles the
        result of a step only after the next one, which on a CPU is finished by then: later first tokens, and a step for nothing at the end of a request.
        sleep_on_idle: `init_idle_sleeper`; without it the scheduler keeps a core busy asking for requests. enable_mixed_chunk: a new prompt goes through the
        model together with the next tokens of the others, in place of a pass of its own that they wait for (`_get_new_batch_prefill_raw`).
        """
        if server_args.attention_backend in (None, "intel_amx"):
            server_args.attention_backend = ATTENTION
            server_args.enable_mixed_chunk = True
        server_args.disable_overlap_schedule = True
        server_args.sleep_on_idle = True

    def post_load_model(self, model: Any) -> None:
        """Let the C kernel run the model (model_executor/model_runner.py, `load_model`)."""
        from sglang.srt.runtime_context import get_exec

        from csproto.engine.cpu import engine

        if get_exec().kernel.attention_backend == ATTENTION:
            engine.accelerate(model)
