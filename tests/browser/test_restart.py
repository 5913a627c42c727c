"""A real server, killed under the page and started again at another address with another key."""

import os
import signal

import pytest
from talking import idle, say, states

from csproto.endpoint import Endpoint
from csproto.server import Server, write_state


@pytest.mark.timeout(900)
def test_the_server_is_killed_and_started_again(serve_page, new_page, engine, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CSPROTO_STATE", str(tmp_path / "server.json"))
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
            with Server() as second:
                assert (second.base_url, second.api_key) != (first.base_url, first.api_key)
                write_state(second)
                page.wait_for_function("() => !document.querySelector('.csp').classList.contains('csp-down')")
                page.click(".csp-do-retry")
                idle(page)
                assert states(page) == ["done", "done"]
