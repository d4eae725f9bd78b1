"""A server that answers what a test has told it to, and the shapes raybatch's API answers in."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from raybatch.actors.reads import Overview
from serve_app.health import health

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

        def do_DELETE(self) -> None:
            self._answer("DELETE")

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
        "raybatch": {
            "round": 1,
            "paused": False,
            "rows_per_s": 2.0,
            "tokens_per_s": 250.0,
            "eta": {"p50_s": 61.0, "p90_s": 75.4, "p50_at": 1_061, "p90_at": 1_075},
            "eta_s": 61.0,
        },
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
        "slot": False,
        "batches": ["batch_1"],
        "kv_cache_usage": 0.5,
        "gpus": [],
        "verdict": {"fitness": "fit", "window_share": 1.0, "reasons": [], "pasts": []},
    }
    return engine | changes


def gpu_json(**changes: Any) -> dict[str, Any]:
    """A reading of a GPU."""
    gpu: dict[str, Any] = {
        "index": 0,
        "uuid": "GPU-1",
        "name": "RTX 4080",
        "memory_total_bytes": 16 << 30,
        "memory_used_bytes": 14 << 30,
        "memory_others_bytes": 1 << 30,
        "temperature_c": 82,
        "power_w": 250.0,
        "power_limit_w": 320.0,
        "utilization": 0.97,
        "throttle_reasons": [],
        "ecc_uncorrected": 0,
        "lost": None,
    }
    return gpu | changes


def model_json(**changes: Any) -> dict[str, Any]:
    """A model as the overview shows it."""
    rate = {
        "model": "org/small",
        "tokens_per_s": 950.0,
        "deviation": 0.1,
        "rows_per_s": 12.0,
        "measured_at": 1_000.0,
    }
    model: dict[str, Any] = {
        "model": "org/small",
        "state": "ready",
        "engines": ["org-small-0"],
        "queued_rows": 1_500,
        "rate": rate,
        "error": None,
    }
    return model | changes


def overview_json(*engines: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What /admin/overview answers, with the verdict the server itself would give."""
    overview: dict[str, Any] = {
        "version": "1",
        "pid": 76,
        "state": "serving",
        "up_s": 5.0,
        "commits": 3,
        "engines": list(engines),
        "batches": {"in_progress": 1, "completed": 2},
        "queued_rows": 1_500,
        "closed": None,
        "quiet": None,
        "disk_free_bytes": 3 << 30,
        "models": [model_json()],
    }
    overview |= changes
    return {"overview": overview, "health": health(msgspec.convert(overview, Overview)), "settings": {}}
