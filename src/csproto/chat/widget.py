"""`ChatPanel`: the chat inside JupyterLab or Voila, and without a browser as well."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import anywidget
import traitlets

from csproto.assistant import Assistant, Turn
from csproto.chat import records
from csproto.chat.engine import engine_state
from csproto.chat.export import FORMATS, exported, to_text
from csproto.chat.messages import Rating, snapshot
from csproto.chat.publisher import Publisher
from csproto.chat.session import ChatSession
from csproto.chat.words import FOLDER, words
from csproto.engine.endpoint import EngineError, StopSignal
from csproto.errors import CsprotoError

logger = logging.getLogger(__name__)

T = TypeVar("T")


class ChatPanel(anywidget.AnyWidget):
    """A chat with the assistant, the reasons for each answer under it.

    customer: who is signed in at first. language: `zh` or `en` for the words of the interface; empty takes the browser's.
    The same from code: `send`, `retry`, `undo`, `edit`, `stop`, `rate`, `new`, `export`; `repr` is the transcript.
    Raises CustomerUnknown. An engine that is down is no error here: the panel says so and goes on when it is back.
    """

    _esm = FOLDER / "chat.js"
    _css = FOLDER / "chat.css"

    messages: "traitlets.List[Any]" = traitlets.List(help="What was said, as JSON; complete messages only.").tag(
        sync=True
    )
    info: "traitlets.Dict[str, Any]" = traitlets.Dict(
        help="Customer, customers to choose from, engine, whether an answer is under way."
    ).tag(sync=True)
    words: "traitlets.Dict[str, Any]" = traitlets.Dict(help="The words of the interface by language.").tag(sync=True)
    language = traitlets.Unicode("").tag(sync=True)

    def __init__(self, assistant: Assistant, customer: str = "C001", *, language: str = "") -> None:
        self.chat = ChatSession(assistant, customer)
        super().__init__(words=words(), language=language)
        self._publisher = Publisher(self._tell)
        self._runner = ThreadPoolExecutor(1, thread_name_prefix="csproto-panel")
        self._lock = threading.Lock()
        self._stops: list[StopSignal] = []
        self._customers = records.customers(assistant.orders.engine)
        self._engine = engine_state(assistant)
        self.info = self._info()
        self.on_msg(self._on_message)
        self._runner.submit(self._warm)

    # -- from code; the buttons call the same

    def send(self, text: str) -> Turn:
        """Say something and wait for the answer. Raises what the assistant raises: MessageRefused, EngineError, Stopped."""
        return self._waited(self._saying(lambda: text))

    def retry(self) -> Turn:
        """Take the last message back and send the same text again. Writes that have happened are not made twice."""
        return self._waited(self._saying(self.chat.again))

    def edit(self, text: str) -> Turn:
        """Take the last message back and send another text in its place."""
        return self._waited(self._saying(lambda: self._replaced(text)))

    def undo(self) -> None:
        """Take the last message back. What it wrote to the order system stays; the panel says what that is."""
        self._waited(self._doing(self.chat.undo))

    def stop(self) -> None:
        """End the answer under way at once, before its first word too."""
        with self._lock:
            for signal in self._stops:
                signal.set()

    def rate(self, message_id: str, rating: Rating) -> None:
        """Thumbs up (1), down (-1) or neither (0) for one answer; kept in the audit table."""
        self._waited(self._doing(lambda: self.chat.rate(message_id, rating)))

    def new(self, customer: str | None = None) -> None:
        """Begin a new conversation, of another customer if one is named."""
        self._waited(self._doing(lambda: self._renewed(customer)))

    def export(self, form: str = "markdown", language: str = "") -> str:
        """The chat as `markdown` or `json`, with the words of the interface in its language unless another is named."""
        if form not in FORMATS:
            raise ValueError(f"{form!r} is no format: use {' or '.join(FORMATS)}")
        return exported(self.chat, form, language or self.language or "en")

    def close(self) -> None:
        """Stop, and end the panel's threads."""
        if hasattr(self, "_runner"):
            self.stop()
            self._runner.shutdown(wait=False, cancel_futures=True)
            self._publisher.close()
        super().close()

    def __repr__(self) -> str:
        chat = getattr(self, "chat", None)
        if chat is None or not chat.messages:
            return f"ChatPanel(customer={chat.customer_id!r}, no message yet)" if chat else "ChatPanel()"
        return to_text(chat.messages, self.language or "en")

    # -- on the runner's thread: one thing after the other

    def _saying(self, text_of: Callable[[], str]) -> "Future[Turn]":
        signal = StopSignal()
        with self._lock:
            self._stops.append(signal)
        return self._runner.submit(self._say, text_of, signal)

    def _say(self, text_of: Callable[[], str], signal: StopSignal) -> Turn:
        """Answer one message; each step goes to the publisher as it comes."""
        chat = self.chat
        try:
            text = text_of()
            self._commit()
            for step in chat.run(text, signal):
                self._publisher.step(step)
        finally:
            with self._lock:
                self._stops.remove(signal)
            self._note_engine(chat.last_error)
            self._commit()
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

    def _replaced(self, text: str) -> str:
        self.chat.undo()
        return text

    def _renewed(self, customer: str | None) -> None:
        self.chat.renew(customer)
        self._runner.submit(self._warm)

    def _warm(self) -> None:
        """Open the conversation ahead of the first message, so that it does not pay for the prompt."""
        try:
            self.chat.open()
        except EngineError as error:
            self._note_engine(error)
            self._commit()

    def _look(self) -> None:
        """Ask the engine how it is; one that has come back is warmed."""
        was = self._engine
        self._engine = engine_state(self.chat.assistant)
        if self._engine != was:
            if self._engine["ok"]:
                self._warm()
            self._commit()

    def _note_engine(self, error: BaseException | None) -> None:
        if error is None:
            self._engine = {"ok": True, "model": self.chat.assistant.endpoint.model_name}
        elif isinstance(error, CsprotoError):
            self._engine = engine_state(self.chat.assistant)

    # -- to the front end, by way of the publisher

    def _info(self) -> dict[str, Any]:
        busy = bool(self._stops)  # a message that still waits for its turn counts too
        return {"customer": self.chat.customer_id, "customers": self._customers, "engine": self._engine, "busy": busy}

    def _commit(self) -> None:
        """Hand the complete messages to the synced traits, which survive a reload of the page."""
        messages, info = [snapshot(message) for message in self.chat.messages], self._info()

        def job() -> None:
            with self.hold_sync():
                self.messages, self.info = messages, info
            if not info["busy"]:  # traits that are set to what they were send nothing
                self._tell({"type": "settled"})

        self._publisher.do(job)

    def _tell(self, content: dict[str, Any]) -> None:
        super().send(content)

    def _waited(self, future: "Future[T]") -> T:
        """The result, once the front end has been told all of it too; an interrupted cell stops the answer."""
        try:
            return future.result()
        except KeyboardInterrupt:
            self.stop()
            raise
        finally:
            self._publisher.flush()

    # -- from the front end; never waits, because Jupyter's own thread calls it

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
            case _:
                self._on_command(content)

    def _on_command(self, content: dict[str, Any]) -> None:
        text, name = str(content.get("text", "")), str(content.get("id", ""))
        match content.get("type"):
            case "send":
                self._watched(self._saying(lambda: text))
            case "edit":
                self._watched(self._saying(lambda: self._replaced(text)))
            case "retry":
                self._watched(self._saying(self.chat.again))
            case "undo":
                self._watched(self._doing(self.chat.undo))
            case "rate":
                rating: Rating = content["rating"] if content.get("rating") in (-1, 0, 1) else 0
                self._watched(self._doing(lambda: self.chat.rate(name, rating)))
            case "new":
                self._watched(self._doing(lambda: self._renewed(content.get("customer"))))
            case "export":
                self._watched(self._runner.submit(self._export_file, str(content.get("form")), content.get("language")))

    def _watched(self, future: "Future[Any]") -> None:
        """Nobody waits for what a button has started: its errors go to the front end, and to the log if they are not ours."""
        future.add_done_callback(self._report)

    def _report(self, future: "Future[Any]") -> None:
        error = None if future.cancelled() else future.exception()
        if error is None or error is self.chat.last_error:  # that one stands in its bubble
            return
        if not isinstance(error, CsprotoError):
            logger.error("a command of the panel failed", exc_info=error)
        problem = {"type": "problem", "code": type(error).__name__}
        self._publisher.do(lambda: self._tell(problem))

    def _export_file(self, form: str, language: Any) -> None:
        if form in FORMATS and language in {None, *words()}:
            name = f"chat.{'json' if form == 'json' else 'md'}"
            file = {"type": "file", "name": name, "mime": FORMATS[form], "text": self.export(form, language or "")}
            self._publisher.do(lambda: self._tell(file))
