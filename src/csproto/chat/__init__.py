"""The chat panel of the notebook. Its session and its front end (`chat.js`, `chat.css`, `words.json`) also serve the web page."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from csproto.chat.widget import ChatPanel

__all__ = ["ChatPanel"]


def __getattr__(name: str) -> Any:
    """The widget needs Jupyter's packages, the page does not: it is imported when it is asked for."""
    if name == "ChatPanel":
        from csproto.chat.widget import ChatPanel

        return ChatPanel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
