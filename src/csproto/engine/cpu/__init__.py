"""Runs SGLang on any CPU, through SGLang's own plug-in points.

The plug-in consists of a platform and of small adaptations. Each adaptation names the
line of SGLang that makes it necessary.

SGLang calls `activate` and `register` (entry points in pyproject.toml) in every one of
its processes. On a machine with a GPU, both do nothing.
"""

import logging
from functools import cache

from csproto.settings import SGLANG_VERSION

logger = logging.getLogger(__name__)

ATTENTION = "csproto_cpu"  # this package's attention backend, as `--attention-backend` names it


def activate() -> str | None:
    """Return the name of the platform class, or None if another accelerator serves.

    sglang/srt/platforms/__init__.py, `_resolve_platform`, calls it.
    """
    return "csproto.engine.cpu.platform.AnyCpuPlatform" if is_cpu_only() else None


def register() -> None:
    """Register the hooks. sglang/srt/plugins/__init__.py, `load_plugins`, calls it."""
    if not is_cpu_only():
        return
    warn_about_version()
    from csproto.engine.cpu import attention, hooks

    attention.register()
    hooks.register()


def warn_about_version() -> None:
    """Log a warning if the installed SGLang is not the release the plug-in was written for."""
    from sglang.version import __version__

    if __version__ != SGLANG_VERSION:
        logger.warning(
            "csproto's CPU plug-in was written for sglang %s and this is %s: expect surprises, "
            "or install the release it was written for.",
            SGLANG_VERSION,
            __version__,
        )


@cache
def make_torchvision_importable() -> None:
    """Define the two operators that torchvision expects from its own library.

    sglang/srt/multimodal/internvl_utils.py imports torchvision for every model,
    although text models never call it. A CUDA build of torchvision cannot load its
    library beside a CPU build of torch, and its import then fails for want of these
    operators.

    Does nothing with a CPU build of torchvision, and with a CUDA build of torch.
    """
    import torch

    if torch.version.cuda is not None or _torchvision_is_cpu_build():
        return
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    globals()["_torchvision_operators"] = library  # the definitions live as long as this object


def _torchvision_is_cpu_build() -> bool:
    """Return whether torchvision is a CPU build, or is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("torchvision").endswith("+cpu")
    except PackageNotFoundError:
        return True


def is_cpu_only() -> bool:
    """Return whether torch finds no accelerator, so that this plug-in serves."""
    import torch

    return not (
        torch.cuda.is_available() or torch.xpu.is_available() or torch.backends.mps.is_available()
    )
