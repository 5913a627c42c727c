"""How everything is put together: a server, a database and a handbook become a desk that answers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from csproto import settings
from csproto.desk.handbook import Handbook, default_handbook
from csproto.desk.profile import Profile, profile_of
from csproto.orders import Faults, OrderApi
from csproto.server import Progress
from csproto.shop import connected, open_database

if TYPE_CHECKING:
    from csproto.desk.assistant import Assistant
    from csproto.endpoint import Endpoint


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
    """A desk ready to answer; everything behind it is closed afterwards.

    base_url: the server to use; without one a running server is found, or one is started for `model`.
    database: a SQLAlchemy URL. shop: another shop's handbook. Raises CsprotoError.
    """
    engine = open_database(database)
    with connected(base_url, model, progress) as (url, key):
        from csproto.endpoint import Endpoint  # imports sglang, which takes seconds

        yield desk_on(Endpoint(url, key), OrderApi(engine, faults), shop=shop)


def desk_on(
    endpoint: "Endpoint",
    orders: OrderApi,
    *,
    shop: Handbook | None = None,
    profile: Profile | None = None,
    clock: Callable[[], datetime] | None = None,
    messages_per_minute: int | None = settings.MESSAGES_PER_MINUTE,
    temperature: float | None = None,
) -> "Assistant":
    """A desk on a server and an order system.

    profile: what the model needs; by default the one beside its weights. temperature: in place of
    the profile's, for tests and measurements.
    """
    from csproto.desk.assistant import Assistant
    from csproto.desk.prompt import prompt_messages
    from csproto.desk.reader import ModelReader

    handbook = shop or default_handbook()
    profile = profile or profile_of(str(endpoint.model_info["model_path"]))
    sampling = dict(profile.sampling)
    if temperature is not None:
        sampling = {"temperature": temperature} | ({"top_p": settings.TOP_P} if temperature else {})
    return Assistant(
        partial(ModelReader, endpoint, handbook.intents, sampling),
        orders,
        keep=lambda conversation: conversation.save(orders.engine),
        prompt=prompt_messages(profile, handbook),
        handbook=handbook,
        threshold=profile.threshold,
        clock=clock,
        messages_per_minute=messages_per_minute,
    )
