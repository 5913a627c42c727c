"""A call and its answer for each route, as `/docs` and the OpenAPI document show them.

`python -m csproto.web.examples` records the answers anew, from the demo shop and the
model server that runs.
"""

import json
from pathlib import Path
from typing import Any

from fastapi import FastAPI

FILE = Path(__file__).with_name("examples.json")
SHIRT = {"input": "I want to return order 123456, it is too small"}
# In this sequence: the later ones are about the chat that the first ones begin.
CALLS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("POST", "/api/session", {"customer": "C001"}),
    ("POST", "/api/chat", SHIRT),
    ("POST", "/api/session/rate", {"id": "m1", "rating": 1}),
    ("GET", "/api/session", None),
    ("GET", "/api/orders", None),
    ("GET", "/api/conversations", None),
    ("GET", "/api/session/export", None),
    ("POST", "/api/session/stop", {}),
    ("POST", "/api/chat/stream", {"input": "yes"}),
    ("GET", "/api/tickets", None),
    ("POST", "/api/demo/reset", {}),
    ("GET", "/health", None),
    ("GET", "/readyz", None),
    ("GET", "/livez", None),
]


def record(client: Any) -> dict[str, Any]:
    """Make all calls, and return their answers by method and path. client: of httpx."""
    english = {"Accept-Language": "en"}
    answers: dict[str, Any] = {}
    for method, path, body in CALLS:
        answer = client.request(method, path, json=body, headers=english)
        kind = answer.headers["content-type"].partition(";")[0]
        content = answer.json() if kind == "application/json" else answer.text
        if "info" in content:  # not the whole list of demo customers
            content["info"]["customers"] = content["info"]["customers"][:2]
        answers[f"{method} {path}"] = {"type": kind, "body": body, "answer": content}
    return answers


def add_examples(app: FastAPI) -> None:
    """Add the calls and answers to the OpenAPI document."""
    examples = json.loads(FILE.read_text(encoding="utf-8"))
    generate = app.openapi

    def document() -> dict[str, Any]:
        # Afterwards, because FastAPI drops every null of its document.
        generated = generate()
        for path, methods in generated["paths"].items():
            for method, operation in methods.items():
                if example := examples.get(f"{method.upper()} {path}"):
                    _add_example(operation, example)
        return generated

    app.openapi = document  # type: ignore[method-assign]  # the way that FastAPI documents


def _add_example(operation: dict[str, Any], example: dict[str, Any]) -> None:
    content = operation["responses"]["200"]["content"]
    content.setdefault(example["type"], {})["example"] = example["answer"]
    if example["body"] is not None:
        body = operation.setdefault("requestBody", {"content": {"application/json": {}}})
        body["content"]["application/json"]["example"] = example["body"]


def main() -> None:
    """Record the answers into the file."""
    import tempfile

    from fastapi.testclient import TestClient

    from csproto.opening import open_desk
    from csproto.web.app import create_app

    with (
        tempfile.TemporaryDirectory() as folder,
        open_desk(database=f"sqlite:///{folder}/shop.db") as desk,
    ):
        answers = record(TestClient(create_app(desk)))
    FILE.write_text(json.dumps(answers, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
