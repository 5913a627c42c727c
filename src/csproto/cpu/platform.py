"""The platform SGLang asks about its device: a plain CPU, with no kernel library."""

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
        """Attention in plain PyTorch (sglang/srt/layers/attention/torch_native_backend.py)."""
        return "torch_native"
