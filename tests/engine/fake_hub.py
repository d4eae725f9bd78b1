"""A model hub on localhost that speaks enough of the hub's HTTP for its real client."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_of_an_account_that_accepted_the_terms"
STRANGERS_TOKEN = "hf_of_another_account"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    files: dict[str, bytes]
    gated: bool = False
    sizes: dict[str, int] = field(default_factory=dict)  #: where it claims another one than the bytes have


@dataclass
class FakeHub:
    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    silent: bool = False  #: takes connections and never answers
    release: threading.Event = field(default_factory=threading.Event)
    tokens_seen: set[str] = field(default_factory=set)

    def answer(self, path: str, token: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body, as the real hub gives them."""
        self.tokens_seen.add(token)
        if token not in ("", TOKEN, STRANGERS_TOKEN):
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b""
        words = path.partition("?")[0].strip("/").split("/")
        about = words[:2] == ["api", "models"]
        model_id, rest = "/".join(words[2:4] if about else words[:2]), words[4:] if about else words[2:]
        repository = self.repositories.get(model_id)
        if repository is None:
            code = {"X-Error-Code": "RepoNotFound"} if token else {}
            return 404 if token else 401, code, b"{}"
        if about:
            return (
                200,
                {"Content-Type": "application/json"},
                json.dumps(_about(model_id, repository)).encode(),
            )
        if repository.gated and token != TOKEN:
            return 403 if token else 401, {"X-Error-Code": "GatedRepo", "X-Repo-Commit": COMMIT}, b""
        name = "/".join(rest[2:])  # resolve/main/...
        if name not in repository.files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        content = repository.files[name]
        return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{_blob(content)}"'}, content


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            if hub.silent:
                hub.release.wait()
                return
            token = self.headers.get("authorization", "").removeprefix("Bearer ")
            status, headers, body = hub.answer(self.path, token)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        hub.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            hub.release.set()
            listening.shutdown()
            thread.join()


def _about(model_id: str, repository: Repository) -> dict[str, object]:
    siblings = [
        {
            "rfilename": name,
            "size": repository.sizes.get(name, len(content)),
            "blobId": _blob(content),
        }
        for name, content in repository.files.items()
    ]
    return {
        "id": model_id,
        "modelId": model_id,
        "sha": COMMIT,
        "gated": repository.gated,
        "siblings": siblings,
    }


def _blob(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
