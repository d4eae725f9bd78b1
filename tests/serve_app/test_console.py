"""The console's own files: whole, strict about what a page may do, open to who has yet to give the key."""

from __future__ import annotations

import re

import httpx2
import pytest

from serve_app.console import DIRECTORY
from tests.serve_app.conftest import MakeHttp

FILES = sorted(path.name for path in DIRECTORY.iterdir())
MARKUP = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser")
ELSEWHERE = re.compile(r"https?://(?!www\.w3\.org/2000/svg)")


async def test_the_front_page_and_all_that_it_loads_are_served(http: httpx2.AsyncClient) -> None:
    page = await http.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    loaded = re.findall(r'(?:src|href)="(/console/[^"]+)"', page.text)
    scripts = [name for name in loaded if name.endswith(".js")]
    while scripts:
        text = (await http.get(scripts.pop())).text
        more = [f"/console/{name}" for name in re.findall(r'from "\./([^"]+)"', text)]
        scripts += [name for name in more if name not in loaded]
        loaded += more
    assert {name.removeprefix("/console/") for name in loaded} == set(FILES) - {"index.html"}  # none is dead
    for name in loaded:
        assert (await http.get(name)).status_code == 200, name


@pytest.mark.parametrize("name", ["", *(f"console/{name}" for name in FILES)])
async def test_every_file_forbids_what_is_inline_and_what_is_elsewhere(
    http: httpx2.AsyncClient, name: str
) -> None:
    answer = await http.get(f"/{name}")
    policy = dict(part.partition(" ")[::2] for part in answer.headers["content-security-policy"].split("; "))
    assert policy.pop("require-trusted-types-for") == "'script'"
    assert policy["default-src"] == "'none'"
    assert set(policy.values()) == {"'none'", "'self'"}
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("name", FILES)
def test_text_enters_a_page_as_text_and_from_nowhere_else(name: str) -> None:
    text = (DIRECTORY / name).read_text()
    assert not MARKUP.search(text)
    assert not ELSEWHERE.search(text)
    assert not re.search(r"""<[^>]*\s(style|on\w+)=""", text)


async def test_a_copy_is_kept_until_it_changes(http: httpx2.AsyncClient) -> None:
    first = await http.get("/console/style.css")
    again = await http.get("/console/style.css", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["cache-control"] == "no-cache"
    head = await http.head("/")
    assert (head.content, int(head.headers["content-length"])) == (b"", len((await http.get("/")).content))


async def test_the_console_is_served_without_the_key_and_nothing_else_is(make_http: MakeHttp) -> None:
    http = make_http(key_sha256="0" * 64)
    for name in ("/", "/console/main.js"):
        assert (await http.get(name)).status_code == 200
    for name in ("/v1/batches", "/health", "/console/", "/console/none.js", "/console/../console.py"):
        assert (await http.get(name)).status_code == 401, name


async def test_a_path_out_of_the_console_is_no_file(http: httpx2.AsyncClient) -> None:
    for name in ("/console/..%2fapp.py", "/console/index.html/..", "/console/%2e%2e/app.py", "/console"):
        assert (await http.get(name)).status_code == 404, name
