"""A real server is killed; the one that runs afterwards has another address and key."""

import json
import os
import signal

import pytest
from talking import idle, say, states

from csproto.engine.endpoint import Endpoint
from csproto.engine.running import write_state
from csproto.engine.server import Server


@pytest.mark.timeout(900)
def test_the_server_is_killed_and_another_one_is_found(
    serve_page, new_page, engine, server, tmp_path, monkeypatch
) -> None:
    """The other one is the server of the test run, because starting a second takes long."""
    state = tmp_path / "server.json"
    monkeypatch.setenv("CSPROTO_STATE", str(state))
    with Server() as first:
        write_state(first)
        with serve_page(Endpoint(first.base_url, first.api_key), engine) as (url, _):
            page = new_page(locale="en-GB")
            page.goto(url)
            page.wait_for_selector(".csp-input")
            say(page, "你好")
            assert states(page) == ["done"]
            os.killpg(first.process.pid, signal.SIGKILL)
            first.process.wait(10)
            say(page, "转人工")
            assert states(page) == ["done", "failed"]
            page.wait_for_selector(".csp-down")
            assert server[0] != first.base_url
            state.write_text(
                json.dumps({"base_url": server[0], "api_key": server[1], "pid": os.getpid()})
            )
            page.wait_for_function(
                "() => !chat().querySelector('.csp').classList.contains('csp-down')"
            )
            page.click(".csp-do-retry")
            idle(page)
            assert states(page) == ["done", "done"]
