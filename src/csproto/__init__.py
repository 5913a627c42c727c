"""A customer-service assistant on SGLang.

Importing this package is quick: SGLang and Jupyter are imported where they are used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from csproto.chat.widget import ChatPanel

__all__ = ["ChatPanel"]


def __getattr__(name: str) -> Any:
    if name == "ChatPanel":
        from csproto.chat.widget import ChatPanel

        return ChatPanel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
