"""The connection is lost after the server has answered: the page sends the message again."""

from typing import Any

from talking import idle, say, turns

CANCEL = "取消订单789012"


def test_a_yes_whose_answer_was_lost_counts_once(customers_page, site) -> None:
    page = customers_page
    say(page, CANCEL)
    names: list[str] = []

    def lose(route: Any) -> None:
        """Let the server answer all of it, and the page hear nothing."""
        names.append(route.request.post_data_json["id"])
        route.fetch()
        route.abort()

    page.route("**/api/chat/stream", lose)
    page.click(".csp-choices .csp-chip >> nth=0")
    page.wait_for_selector(".csp-turn[data-state='failed'] .csp-do-retry")
    page.unroute("**/api/chat/stream")
    with page.expect_request("**/api/chat/stream") as again:
        page.click(".csp-turn[data-state='failed'] .csp-do-retry")
    assert [again.value.post_data_json["id"]] == names
    page.wait_for_selector(".csp-turn[data-state='failed']", state="detached")
    idle(page)
    assert [state for _, state in turns(page)] == ["done", "done"]
    with page.expect_request("**/api/chat/stream") as other:
        say(page, "你好")
    assert other.value.post_data_json["id"] not in names
