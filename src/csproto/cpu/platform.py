"""The platform SGLang asks about its device: a plain CPU, with no kernel library of SGLang's own."""

from typing import Any

from sglang.srt.platforms.cpu import CpuSRTPlatform
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import PlatformCapabilities


class AnyCpuPlatform(CpuSRTPlatform):
    """SGLang's own CPU platform, declared out of tree so that it looks for no AMX kernels (`SGLANG_USE_CPU_ENGINE` would)."""

    _enum = PlatformEnum.OOT
    device_name = "cpu"
    device_type = "cpu"
    capabilities = PlatformCapabilities()  # no triton, no graph capture: neither has a CPU wheel

    def is_out_of_tree(self) -> bool:
        """True: the in-tree CPU device needs kernels that no wheel carries (sglang/srt/platforms/device_mixin.py)."""
        return True

    def get_default_attention_backend(self) -> str:
        """Attention for whole batches in plain PyTorch; naming `torch_native` instead also turns the C kernel off."""
        from csproto.cpu.attention import NAME

        return NAME

    def apply_server_args_defaults(self, server_args: Any) -> None:
        """Sleep while idle: the scheduler otherwise keeps a core busy asking for requests (managers/scheduler.py, `init_idle_sleeper`)."""
        server_args.sleep_on_idle = True

    def post_load_model(self, model: Any) -> None:
        """Let the C kernel run the model (model_executor/model_runner.py, `load_model`)."""
        from sglang.srt.runtime_context import get_exec

        from csproto.cpu import attention, engine

        if get_exec().kernel.attention_backend == attention.NAME:
            engine.accelerate(model)
