"""The platform that tells SGLang about its device: a CPU without SGLang's kernel library."""

from typing import Any

from sglang.srt.platforms.cpu import CpuSRTPlatform
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import PlatformCapabilities

from csproto.engine.cpu import ATTENTION


class AnyCpuPlatform(CpuSRTPlatform):
    """SGLang's own CPU platform, declared out of tree.

    Out of tree it does not look for AMX kernels, as it would with
    `SGLANG_USE_CPU_ENGINE`.
    """

    _enum = PlatformEnum.OOT
    device_name = "cpu"
    device_type = "cpu"
    capabilities = PlatformCapabilities()  # no triton and no graph capture: no CPU wheel has them

    def is_out_of_tree(self) -> bool:
        """Return True: the CPU device in the tree needs kernels that no wheel carries.

        sglang/srt/platforms/device_mixin.py.
        """
        return True

    def apply_server_args_defaults(self, server_args: Any) -> None:
        """Set what serves a CPU best. The paths are below sglang/srt.

        - attention_backend: when this is called, arg_groups/platform_hook.py,
          `handle_cpu_backends`, has already chosen AMX, which no wheel carries. If the
          command line names `torch_native`, that is kept, and the C kernel is not used.
        - enable_mixed_chunk: a new prompt goes through the model together with the next
          tokens of the other requests. Otherwise it would get a pass for itself, and
          the others would wait (managers/scheduler.py, `_get_new_batch_prefill_raw`).
        - disable_overlap_schedule: with overlap, `event_loop_overlap` in
          managers/scheduler.py handles the result of a step only after the next one,
          although a CPU has already finished it. First tokens would come later, and
          each request would end with a useless step.
        - sleep_on_idle: without it the scheduler keeps a core busy by asking for
          requests (`init_idle_sleeper`).
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
