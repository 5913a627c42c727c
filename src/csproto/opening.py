"""Makes a desk from a model server, a database and a handbook."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from csproto import settings
from csproto.desk.handbook import Handbook, default_handbook
from csproto.desk.profile import Profile, profile_of
from csproto.engine.running import find, running_model
from csproto.engine.server import Progress, Server
from csproto.errors import CsprotoError
from csproto.shop.contract import OrderSystem
from csproto.shop.database import open_database
from csproto.shop.orders import Faults, OrderApi

if TYPE_CHECKING:
    from csproto.desk.assistant import Assistant, Keep, Similar
    from csproto.engine.endpoint import Endpoint


@contextmanager
def open_desk(
    base_url: str | None = None,
    *,
    model: str | None = None,
    database: str | None = None,
    shop: Handbook | None = None,
    faults: Faults | None = None,
    progress: Progress | None = None,
) -> "Iterator[Assistant]":
    """Open a desk that can answer, and close everything behind it afterwards.

    base_url: the model server to use. Unless given, the desk uses a server that is
        running, or starts one for `model`.
    model: the model to start. A server that is running must run this one.
    database: a SQLAlchemy URL; the demo database unless given.
    shop: the handbook; the demo shop's unless given.
    faults: faults of the order system to simulate.
    progress: called with a text about each step while a server starts.

    Raises CsprotoError.
    """
    engine = open_database(database)
    with connected(base_url, model, progress) as (url, key):
        from csproto.engine.endpoint import Endpoint  # imports sglang, which takes seconds

        endpoint = Endpoint(url, key)
        endpoint.named = bool(base_url or settings.base_url())
        profile = profile_of(str(endpoint.model_info["model_path"]))
        if progress and not profile.prompt:  # a long one is built, and reading it takes time
            progress("the model reads its instructions")
        yield desk_on(endpoint, OrderApi(engine, faults), shop=shop, profile=profile)


@contextmanager
def connected(
    base_url: str | None = None, model: str | None = None, progress: Progress | None = None
) -> Iterator[tuple[str, str | None]]:
    """Yield URL and key of a model server.

    If no server is running, one is started, and stopped at the end. Parameters as in
    `open_desk`.
    """
    if found := find(base_url):
        if model:
            _check_model(found[0], running_model(*found), model)
        yield found
        return
    if progress:
        progress("no server is running (`csproto serve` keeps one): starting one for this command")
    server = Server(model or settings.MINI_MODEL).start()
    try:
        server.wait_ready(progress=progress)
        yield server.base_url, server.api_key
    finally:
        server.stop()


def _check_model(url: str, running: Mapping[str, str], wanted: str) -> None:
    """Raise CsprotoError if a server runs another model than the one that is wanted."""
    path = running.get("model_path")
    if path is None:
        return  # the first call says what is wrong with this server
    if Path(path).is_dir() and Path(wanted).is_dir():
        same = Path(path).samefile(wanted)
    else:
        same = wanted in (path, running.get("served_model_name"))
    if not same:
        raise CsprotoError(
            f"The model {wanted} is asked for, and the server at {url} runs {path}. "
            "Stop that server (Ctrl-C where `csproto serve` runs), name "
            "another one with --base-url, or leave --model out to use it."
        )


def desk_on(
    endpoint: "Endpoint",
    orders: OrderSystem,
    *,
    keep: "Keep | None" = None,
    shop: Handbook | None = None,
    profile: Profile | None = None,
    clock: Callable[[], datetime] | None = None,
    messages_per_minute: int | None = settings.MESSAGES_PER_MINUTE,
    temperature: float | None = None,
) -> "Assistant":
    """Make a desk on a model server and an order system.

    keep: saves a conversation. An `OrderApi` has a database for it; any other order
        system needs a function here.
    shop: the handbook; the demo shop's unless given.
    profile: the settings for the model; those beside its weights unless given.
    clock: gives the present moment with its time zone; the real time unless given.
    messages_per_minute: the most messages of one customer; None for no limit.
    temperature: replaces the sampling of the profile, for tests and measurements.

    Raises ProfileError, and EngineError if the server does not read the prompt.
    """
    from csproto.desk.assistant import Assistant, all_intents
    from csproto.desk.guess import guesser, no_guess, shortlist
    from csproto.desk.prompt import prompt_messages
    from csproto.desk.reader import ModelReader, read_ahead

    handbook = shop or default_handbook()
    profile = profile or profile_of(str(endpoint.model_info["model_path"]))
    sampling: dict[str, float] = {str(name): value for name, value in profile.sampling.items()}
    if temperature is not None:
        sampling = {"temperature": temperature} | ({"top_p": settings.TOP_P} if temperature else {})
    guess = guesser(tuple(handbook.intents)) if profile.guess else no_guess
    least = profile.shortlist
    prompt = prompt_messages(profile, handbook, guess)
    if not profile.prompt:  # it is long
        read_ahead(endpoint, prompt)
    return Assistant(
        partial(ModelReader, endpoint, handbook.intents, sampling),
        orders,
        keep=keep or _keeper(orders),
        prompt=prompt,
        handbook=handbook,
        limits=profile.limits,
        guess=guess,
        similar=_similar(handbook, profile.similar),
        possible=partial(shortlist, handbook, least) if least else all_intents,
        clock=clock,
        messages_per_minute=messages_per_minute,
    )


@cache
def _similar(handbook: Handbook, count: int) -> "Similar":
    """Return the function that finds examples for a message. Made once: it takes seconds."""
    from csproto.desk.assistant import no_examples

    if not count:
        return no_examples
    from csproto.minimodel.similar import SimilarLines

    return SimilarLines(handbook, count)


def _keeper(orders: OrderSystem) -> "Keep":
    """Return the function that saves conversations in the database of an `OrderApi`."""
    if not isinstance(orders, OrderApi):
        raise CsprotoError("Say how conversations are saved: desk_on(..., keep=...).")
    engine = orders.engine
    return lambda conversation: conversation.save(engine)
