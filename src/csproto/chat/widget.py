"""`ChatPanel`: the chat inside JupyterLab or Voila, and from code without a browser."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeVar, get_args

import anywidget
import traitlets

from csproto.chat import records
from csproto.chat.engine import endpoint_of, engine_state, shop_of
from csproto.chat.export import FORMATS, exported, to_text
from csproto.chat.messages import Rating, snapshot
from csproto.chat.order_list import order_list
from csproto.chat.publisher import Publisher
from csproto.chat.records import Why
from csproto.chat.session import ChatSession
from csproto.chat.words import FOLDER, front_end, interface
from csproto.desk.assistant import Assistant, Turn
from csproto.engine.endpoint import StopSignal
from csproto.errors import CsprotoError
from csproto.opening import open_desk
from csproto.shop.demo import is_demo

logger = logging.getLogger(__name__)

T = TypeVar("T")


class ChatPanel(anywidget.AnyWidget):
    """A chat with the desk, with the reasons under each answer.

    The methods `send`, `stop`, `rate`, `new` and `export` do what the buttons do, and
    `repr` is the transcript. If the engine is down, the panel says so and goes on when
    the engine is back.

    assistant: the desk. Without one, the panel opens a desk of the demo shop on the
        model server that is running, or starts a server, and closes it with the panel.
    customer: the customer who is signed in at first.
    conversation: the number of a conversation to take up again (`info` has it).
    language: `zh` or `en` for the words of the interface; the browser's if empty.

    Raises CustomerUnknown, ConversationUnknown and OrderSystemDown, and CsprotoError if
    no desk can be opened.
    """

    _esm = front_end()
    _css = (FOLDER / "chat.css").read_text(encoding="utf-8")

    messages: "traitlets.List[Any]" = traitlets.List(help="The complete messages, as JSON.").tag(
        sync=True
    )
    info: "traitlets.Dict[str, Any]" = traitlets.Dict(
        help="Customer, conversation, customers to choose from, engine, and whether it is busy."
    ).tag(sync=True)
    orders: "traitlets.List[Any]" = traitlets.List(help="The customer's orders.").tag(sync=True)
    words: "traitlets.Dict[str, Any]" = traitlets.Dict(
        help="The words of the interface by language."
    ).tag(sync=True)
    language = traitlets.Unicode("").tag(sync=True)

    def __init__(
        self,
        assistant: Assistant | None = None,
        customer: str = "C001",
        *,
        conversation: str = "",
        language: str = "",
    ) -> None:
        self._opened = ExitStack()
        if assistant is None:
            assistant = self._opened.enter_context(open_desk(progress=print))
        self.chat = ChatSession(assistant, customer, conversation_id=conversation)
        super().__init__(words=interface(assistant.handbook), language=language)
        self._publisher = Publisher(self._tell)
        self._runner = ThreadPoolExecutor(1, thread_name_prefix="csproto-panel")
        self._lock = threading.Lock()
        self._stops: list[StopSignal] = []
        self._customers = records.customers(shop_of(assistant).engine)
        self._demo = is_demo(shop_of(assistant).engine)
        self._engine = engine_state(assistant)
        self.info, self.messages = self._info(), [snapshot(m) for m in self.chat.messages]
        self._read_orders()
        self.on_msg(self._on_message)

    # -- from code; the buttons call the same

    def send(self, text: str) -> Turn:
        """Send a message, wait for the answer and return it.

        After an error, send the same text again: nothing is written twice. Raises the
        errors of `Assistant.stream`, and NoServer.
        """
        return self._waited(self._saying(text))

    def stop(self) -> None:
        """End the answer under way. From the first write on, a turn is completed."""
        with self._lock:
            for signal in self._stops:
                signal.set()

    def rate(self, message_id: str, rating: Rating, why: Why = "") -> None:
        """Rate an answer: thumbs up (1), down (-1) or neither (0), and say why."""
        self._waited(self._doing(lambda: self.chat.rate(message_id, rating, why)))

    def new(self, customer: str | None = None) -> None:
        """Begin a new conversation, of another customer if one is named."""
        self._waited(self._anew(lambda: self.chat.renew(customer)))

    def resume(self, conversation: str) -> None:
        """Take up an earlier conversation of the customer again."""
        self._waited(self._anew(lambda: self.chat.resume(conversation)))

    def reset_demo(self) -> None:
        """Bring the data of the demo shop back."""
        self._waited(self._anew(self.chat.reset_demo))

    def export(self, form: str = "markdown", language: str = "") -> str:
        """Return the chat as `markdown` or `json`.

        language: of the words in it; the interface's language unless given.
        """
        if form not in FORMATS:
            raise ValueError(f"{form!r} is no format: use {' or '.join(FORMATS)}")
        return exported(self.chat, form, language or self.language or "en")

    def close(self) -> None:
        """Stop, and end the panel's threads."""
        if hasattr(self, "_runner"):
            self.stop()
            self._runner.shutdown(wait=False, cancel_futures=True)
            self._publisher.close()
            self._opened.close()
        super().close()

    def __repr__(self) -> str:
        chat = getattr(self, "chat", None)
        if chat is None or not chat.messages:
            return (
                f"ChatPanel(customer={chat.customer_id!r}, no message yet)"
                if chat
                else "ChatPanel()"
            )
        return to_text(chat.messages, self.language or "en")

    # -- on the runner's thread: one thing after the other

    def _saying(self, text: str) -> "Future[Turn]":
        signal = StopSignal()
        with self._lock:
            self._stops.append(signal)
        return self._runner.submit(self._say, text, signal)

    def _say(self, text: str, signal: StopSignal) -> Turn:
        """Answer one message; each step goes to the publisher as it comes."""
        chat = self.chat
        self._commit()  # the front end learns at once that the panel is busy
        try:
            for step in chat.run(text, signal):
                self._publisher.step(step)
        finally:
            with self._lock:
                self._stops.remove(signal)
            self._note_engine(chat.last_error)
            self._commit()
        if chat.last_turn and any(decision.write for decision in chat.last_turn.decisions):
            self._read_orders()
        if chat.last_error:
            raise chat.last_error
        assert chat.last_turn is not None
        return chat.last_turn

    def _doing(self, action: Callable[[], T]) -> "Future[T]":
        def job() -> T:
            try:
                return action()
            finally:
                self._commit()

        return self._runner.submit(job)

    def _anew(self, action: Callable[[], T]) -> "Future[T]":
        """Change the conversation, and perhaps the customer."""

        def job() -> T:
            result = action()
            self._read_orders()
            return result

        return self._doing(job)

    def _read_orders(self) -> None:
        """Read the customer's orders. While the order system is down, the old ones stay."""
        try:
            orders = order_list(self.chat.assistant, self.chat.customer_id)
        except CsprotoError as error:
            logger.warning("the orders beside the chat may be out of date: %s", error)
        else:
            self._publisher.do(lambda: self.set_trait("orders", orders))

    def _look(self) -> None:
        """Ask whether the engine answers, and tell the front end if that has changed."""
        was, self._engine = self._engine, engine_state(self.chat.assistant)
        if self._engine != was:
            self._commit()

    def _note_engine(self, error: BaseException | None) -> None:
        if error is None:
            self._engine = {"ok": True, "model": endpoint_of(self.chat.assistant).model_name}
        elif isinstance(error, CsprotoError):
            self._engine = engine_state(self.chat.assistant)

    # -- to the front end, by way of the publisher

    def _info(self) -> dict[str, Any]:
        return {
            "customer": self.chat.customer_id,
            "conversation": self.chat.conversation_id,
            "customers": self._customers,
            "engine": self._engine,
            "busy": bool(self._stops),  # a message that waits for its turn counts too
            "demo": self._demo,
        }

    def _commit(self) -> None:
        """Set the synced traits to the complete messages: they survive a reload."""
        messages, info = [snapshot(message) for message in self.chat.messages], self._info()

        def job() -> None:
            with self.hold_sync():
                self.messages, self.info = messages, info
            if not info["busy"]:  # a trait that is set to the value it has sends nothing
                self._tell({"type": "settled"})

        self._publisher.do(job)

    def _tell(self, content: dict[str, Any]) -> None:
        super().send(content)

    def _waited(self, future: "Future[T]") -> T:
        """Return the result once the front end has been told all of it.

        An interrupted cell stops the answer.
        """
        try:
            return future.result()
        except KeyboardInterrupt:
            self.stop()
            raise
        finally:
            self._publisher.flush()

    # -- from the front end; Jupyter's own thread calls this, so nothing here waits

    def _on_message(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        match content.get("type"):
            case "ready":
                self._publisher.do(lambda: self._tell({"type": "alive"}))
                self._publisher.snapshot()
                self._watched(self._runner.submit(self._look))
            case "snapshot":
                self._publisher.snapshot()
            case "check":
                self._watched(self._runner.submit(self._look))
            case "stop":
                self.stop()
            case "send":
                self._watched(self._saying(str(content.get("text", ""))))
            case "rate":
                name = str(content.get("id", ""))
                rating: Rating = content["rating"] if content.get("rating") in (-1, 0, 1) else 0
                why: Why = content["why"] if content.get("why") in get_args(Why) else ""
                self._watched(self._doing(lambda: self.chat.rate(name, rating, why)))
            case "new":
                customer = content.get("customer")
                self._watched(self._anew(lambda: self.chat.renew(customer)))
            case "open":
                number = str(content.get("conversation", ""))
                self._watched(self._anew(lambda: self.chat.resume(number)))
            case "reset":
                self._watched(self._anew(self.chat.reset_demo))
            case "conversations":
                self._watched(self._runner.submit(self._list_conversations))
            case "export":
                form, language = str(content.get("form")), content.get("language")
                self._watched(self._runner.submit(self._export_file, form, language))

    def _watched(self, future: "Future[Any]") -> None:
        """Report the errors of something that a button started, as nobody waits for it."""
        future.add_done_callback(self._report)

    def _report(self, future: "Future[Any]") -> None:
        error = None if future.cancelled() else future.exception()
        if error is None or error is self.chat.last_error:  # the message itself shows that one
            return
        if not isinstance(error, CsprotoError):
            logger.error("a command of the panel failed", exc_info=error)
        problem = {"type": "problem", "code": type(error).__name__}
        self._publisher.do(lambda: self._tell(problem))

    def _list_conversations(self) -> None:
        found = {"type": "conversations", "conversations": self.chat.conversations()}
        self._publisher.do(lambda: self._tell(found))

    def _export_file(self, form: str, language: Any) -> None:
        if form in FORMATS and language in {None, *self.words}:
            name = f"chat.{'json' if form == 'json' else 'md'}"
            text = self.export(form, language or "")
            file = {"type": "file", "name": name, "mime": FORMATS[form], "text": text}
            self._publisher.do(lambda: self._tell(file))
