"""Measures the stages of a turn."""

import time
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from csproto.desk.steps import Steps

T = TypeVar("T")


def timed(stage: str) -> "Callable[[Callable[[Steps], T]], Callable[[Steps], T]]":
    """Keep the milliseconds that a step takes among the turn's times."""

    def decorator(step: "Callable[[Steps], T]") -> "Callable[[Steps], T]":
        @wraps(step)
        def measured(self: "Steps") -> T:
            began = time.perf_counter()
            try:
                return step(self)
            finally:
                self.turn.times[stage] = milliseconds_since(began)

        return measured

    return decorator


def milliseconds_since(began: float) -> float:
    """Return the time since a reading of `perf_counter`, with one decimal."""
    return round((time.perf_counter() - began) * 1000, 1)
