"""The queue in front of the engine: fair by customer, with a bound, and told its place."""

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from test_web import HUMAN, events, limited, slot_held, tickets  # noqa: F401
from test_web_operator import configured, open_socket  # noqa: F401

from csproto.web.limits import Limits, Refused
from csproto.web.queue import Place, Queue


def inside(function: Any) -> Any:
    """Run a test on an event loop, as the page does."""

    async def run() -> Any:
        return function()

    return asyncio.run(run())


def served(queue: Queue, places: dict[str, Place]) -> list[str]:
    """In which sequence the places get a slot, when each answer ends at once."""
    order: list[str] = []
    while left := [name for name, p in places.items() if p.has_slot and name not in order]:
        order += left
        for name in left:
            places[name].leave()
    return order


def test_customers_take_turns_however_much_one_of_them_sends() -> None:
    def check() -> None:
        queue = Queue(Limits(running=1, waiting=100))
        places = {f"a{n}": queue.join("A") for n in range(5)}
        places |= {"b0": queue.join("B"), "c0": queue.join("C"), "b1": queue.join("B")}
        assert {name: place.number() for name, place in places.items()} == {
            "a0": 0,  # it has the slot
            **{"a1": 1, "b0": 2, "c0": 3},
            **{"a2": 4, "b1": 5, "a3": 6, "a4": 7},
        }
        assert served(queue, places) == ["a0", "a1", "b0", "c0", "a2", "b1", "a3", "a4"]
        assert len(queue) == 0
        assert queue.join("D").has_slot

    inside(check)


def test_a_full_queue_has_room_for_whoever_has_least_in_it() -> None:
    def check() -> None:
        queue = Queue(Limits(running=1, waiting=4))
        flood = [queue.join("A") for _ in range(5)]  # one has the slot
        with pytest.raises(Refused) as refused:
            queue.join("A")
        assert (refused.value.status, refused.value.code) == (503, "EngineBusy")
        assert refused.value.retry_after >= 1
        other = queue.join("B")
        assert [place.refused for place in flood] == [False] * 4 + [True]
        assert other.number() == 2
        queue.join("B")  # two each now
        with pytest.raises(Refused):
            queue.join("B")
        queue.join("C")
        assert len(queue) == 4

    inside(check)


def test_who_leaves_makes_room_and_none_gets_two_slots() -> None:
    def check() -> None:
        queue = Queue(Limits(running=2, waiting=10))
        places = [queue.join(name) for name in "ABCDE"]
        places[2].leave()
        places[2].leave()
        assert [place.has_slot for place in places] == [True, True, False, False, False]
        places[0].leave()
        places[0].leave()
        assert [place.has_slot for place in places] == [True, True, False, True, False]
        assert queue.retry_after() >= 1

    inside(check)


def test_the_queue_holds_under_many_threads() -> None:
    """Whatever happens at the same time, there are never more slots than there may be."""
    queue, most, lock, seen = Queue(Limits(running=3, waiting=50)), 3, threading.Lock(), [0, 0]

    async def one(customer: str) -> bool:
        try:
            place = queue.join(customer)
        except Refused:
            return False
        while not place.has_slot and not place.refused:
            await place.change(0.05)
        if place.has_slot:
            with lock:
                seen[0] += 1
                seen[1] = max(seen)
            await asyncio.sleep(0.002)
            with lock:
                seen[0] -= 1
        place.leave()
        return place.has_slot

    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(lambda n: asyncio.run(one(f"C{n % 5}")), range(200)))
    assert seen[1] <= most
    assert sum(done) > 100
    assert (len(queue), queue._running) == (0, 0)


# -- on the page


def test_a_message_that_waits_is_told_its_place_and_then_answered(limited, engine) -> None:  # noqa: F811
    client = limited(running=1)
    with ThreadPoolExecutor(1) as pool:
        with slot_held(client):
            sent = pool.submit(client.post, "/api/chat/stream", json={"input": HUMAN})
            while not len(client.app.state.site.answers.queue):
                time.sleep(0.02)
            time.sleep(0.5)
        told = events(sent.result(60).text)
    assert told[0] == ("waiting", {"place": 1})
    assert told[-1][0] == "done"
    assert tickets(engine) == ["handoff"]


def test_who_waits_too_long_is_told_when_to_come_back(limited, engine) -> None:  # noqa: F811
    client = limited(running=1, wait_seconds=0.5)
    with slot_held(client):
        answer = client.post("/api/chat", json={"input": HUMAN})
        stream = client.post("/api/chat/stream", json={"input": HUMAN})
    assert (answer.status_code, answer.json()["error"]) == (503, "EngineBusy")
    assert int(answer.headers["retry-after"]) > 0
    assert events(stream.text)[-1][1]["error"] == "EngineBusy"
    assert tickets(engine) == []
    assert client.post("/api/chat", json={"input": HUMAN}).status_code == 200, "the chat is free"


def test_a_client_that_does_not_read_is_dropped(configured) -> None:  # noqa: F811
    """It asks for one file after the other, and takes nothing of them."""
    url = configured(LIMIT_BODY_SECONDS="1")
    ask = b"GET /static/chat.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with open_socket(url, ask) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(30)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            flood(deaf, ask)


def flood(connection: socket.socket, ask: bytes) -> None:
    for _ in range(20_000):
        connection.sendall(ask)
        time.sleep(0.001)
