"""SGLang on any CPU, through its own plug-in points: the platform, and small adaptations that each name the line they answer.

SGLang calls `activate` and `register` (entry points in pyproject.toml) in every one of its processes. Where a GPU is there, both step aside.
"""

import logging
from functools import cache

from csproto.settings import SGLANG_VERSION

logger = logging.getLogger(__name__)

ATTENTION = "csproto_cpu"  # the attention backend of this package, as `--attention-backend` names it


def activate() -> str | None:
    """Name the platform class, or None where another accelerator serves (sglang/srt/platforms/__init__.py, `_resolve_platform`)."""
    return "csproto.engine.cpu.platform.AnyCpuPlatform" if _is_cpu_only() else None


def register() -> None:
    """Register the hooks (sglang/srt/plugins/__init__.py, `load_plugins`)."""
    if not _is_cpu_only():
        return
    warn_about_version()
    from csproto.engine.cpu import attention, hooks

    attention.register()
    hooks.register()


def warn_about_version() -> None:
    """The adaptations were written against one release; say so when another one is installed."""
    from sglang.version import __version__

    if __version__ != SGLANG_VERSION:
        logger.warning(
            "csproto's CPU plug-in was written for sglang %s and this is %s: expect surprises, or install the release it was written for.",
            SGLANG_VERSION,
            __version__,
        )


@cache
def make_torchvision_importable() -> None:
    """Define the two operators torchvision expects from its own library, which a CUDA build cannot load beside a CPU torch.

    sglang/srt/multimodal/internvl_utils.py imports torchvision for every model; text models never call it. With a CPU build of
    torchvision, and where CUDA is there, nothing is done.
    """
    import torch

    if torch.version.cuda is not None or _torchvision_is_cpu_build():
        return
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    globals()["_torchvision_operators"] = library  # the definitions live as long as this object


def _torchvision_is_cpu_build() -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("torchvision").endswith("+cpu")
    except PackageNotFoundError:
        return True


def _is_cpu_only() -> bool:
    import torch

    return not (torch.cuda.is_available() or torch.xpu.is_available() or torch.backends.mps.is_available())
