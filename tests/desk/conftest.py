"""The customers of the demo shop, for dialogues without a model."""

from collections.abc import Callable
from datetime import datetime

import pytest
from rehearsed import Rehearsed
from support import NOW

from csproto.desk.handbook import Handbook, default_handbook
from csproto.shop.orders import OrderApi


@pytest.fixture(scope="session")
def handbook() -> Handbook:
    return default_handbook()


@pytest.fixture
def customer(engine, handbook: Handbook) -> Callable[..., Rehearsed]:
    def make(customer_id: str, threshold: float = 0.0, now: datetime = NOW) -> Rehearsed:
        rehearsed = Rehearsed(OrderApi(engine), customer_id, handbook, threshold)
        rehearsed.now = now
        return rehearsed

    return make
