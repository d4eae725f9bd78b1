"""A server that answers what a test has told it to, and the shapes raybatch's API answers in."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ADMIN_TOKEN = "the-admin-token"


@dataclass
class Asked:
    method: str
    path: str
    bearer: str
    body: bytes


@dataclass
class FakeServer:
    """Answers what a test has told it to: the next answer each time, the last one for ever."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answers: dict[tuple[str, str], list[Any]] = field(default_factory=dict)

    def answer(self, method: str, path: str, *answers: Any) -> None:
        """Each a JSON value, bytes, a (status, JSON value), or None to drop the connection halfway."""
        self.answers[method, path] = list(answers)

    def bodies(self, method: str, path: str) -> list[bytes]:
        return [asked.body for asked in self.asked if (asked.method, asked.path) == (method, path)]

    def take(self, asked: Asked) -> Any:
        self.asked.append(asked)
        waiting = self.answers.get((asked.method, asked.path))
        if waiting is None:
            return 404, {"error": {"message": f"the test set no answer for {asked.method} {asked.path}"}}
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]


@contextmanager
def serving() -> Iterator[FakeServer]:
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("GET")

        def do_POST(self) -> None:
            self._answer("POST")

        def _answer(self, method: str) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
            found = fake.take(Asked(method, self.path, bearer, body))
            status, value = found if isinstance(found, tuple) else (200, found)
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content) + (1000 if value is None else 0)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        fake.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield fake
        listening.shutdown()
        thread.join()


def batch_json(status: str = "completed", **changes: Any) -> dict[str, Any]:
    """A batch as the API shows it."""
    batch: dict[str, Any] = {
        "id": "batch_1",
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "model": "org/small",
        "errors": None,
        "input_file_id": "file-1",
        "completion_window": "24h",
        "status": status,
        "output_file_id": None,
        "error_file_id": None,
        "created_at": 1_000,
        "completed_at": 1_023 if status == "completed" else None,
        "request_counts": {"total": 4, "completed": 3, "failed": 1},
        "usage": {"output_tokens": 12_345},
        "metadata": None,
        "raybatch": {"rows_per_s": 2.0, "tokens_per_s": 250.0, "eta_s": 61.0},
    }
    return batch | changes


def engine_json(**changes: Any) -> dict[str, Any]:
    """An engine as the overview shows it."""
    engine: dict[str, Any] = {
        "engine_id": "org-small-0",
        "models": ["org/small"],
        "phase": "ready",
        "silent_s": 0.4,
        "lost": False,
        "pid": 77,
        "child_pids": [],
        "running": 31,
        "window": 64,
        "held_rows": 128,
        "rows_per_s": 12.5,
        "tokens_per_s": 980.0,
        "error": None,
    }
    return engine | changes


def overview_json(*engines: dict[str, Any]) -> dict[str, Any]:
    overview = {
        "version": "1",
        "pid": 76,
        "state": "serving",
        "up_s": 5.0,
        "commits": 3,
        "engines": list(engines),
        "batches": {"in_progress": 1, "completed": 2},
        "queued_rows": 1_500,
    }
    return {"overview": overview, "settings": {}}
