"""Results while a batch runs: in every format, of every kind, each row once."""

from __future__ import annotations

import csv
import io
import json

import duckdb
import httpx2
import pytest

from raybatch.actors.reads import BatchRows
from raybatch.config import Home
from raybatch.storage.compaction import compact
from raybatch.storage.parts import remove
from tests.serve_app.local_scheduler import LocalScheduler, blobs
from tests.serve_app.requests import jsonl, output_line, request

LINES = [request(f"r{i}", **({"fail": True} if i % 2 else {})) for i in range(40)]
EXPECTED = [output_line(i, line) for i, line in enumerate(LINES)]
PLAIN = {"Accept-Encoding": "identity"}


@pytest.fixture
async def url(http: httpx2.AsyncClient, scheduler: LocalScheduler) -> str:
    """Of the results of a batch that is about to run."""
    created = await http.post("/v1/batches", files={"file": ("in.jsonl", jsonl(*LINES))})
    return f"/v1/batches/{created.json()['id']}/results"


async def test_results_can_be_read_while_the_batch_runs(
    http: httpx2.AsyncClient, scheduler: LocalScheduler, url: str
) -> None:
    assert (await http.get(url)).content == b""

    scheduler.run_chores()
    scheduler.run_rows(16)
    answer = await http.get(url, headers=PLAIN)
    assert answer.content == b"".join(EXPECTED[:16:2])
    assert answer.headers["content-length"] == str(len(answer.content))
    assert (await http.get(url, params={"kind": "error"})).content == b"".join(EXPECTED[1:16:2])

    scheduler.run_rows(24)
    assert (await http.get(url, params={"kind": "all"})).content == b"".join(EXPECTED)


async def test_a_reader_that_passes_its_cursor_on_has_every_row_once(
    http: httpx2.AsyncClient, scheduler: LocalScheduler, url: str
) -> None:
    async def more(query: dict[str, str]) -> tuple[bytes, dict[str, str]]:
        answer = await http.get(url, params={"kind": "all"} | query)
        return answer.content, {"after": answer.headers["x-next-after"]}

    first, seen = await more({})
    scheduler.run_chores()
    scheduler.run_rows(16)
    second, seen = await more(seen)
    assert (first, second) == (b"", b"".join(EXPECTED[:16]))
    assert (await more(seen))[0] == b""

    scheduler.run_rows(24)
    outputs = await http.get(url, params=seen)
    assert outputs.content == b"".join(EXPECTED[16::2])
    assert outputs.headers["x-next-after"] == (await more(seen))[1]["after"]  # whatever kind was asked for
    third, seen = await more(seen)
    assert third == b"".join(EXPECTED[16:])

    await http.post(url.replace("results", "retry"), json={"custom_ids": ["r1", "r21"]})
    assert (await more(seen))[0] == b""
    scheduler.run_rows(2)
    assert (await more(seen))[0] == EXPECTED[1] + EXPECTED[21]  # they ran again
    for nothing in ("17", "AAAA", (await more({}))[1]["after"][:-2]):
        answer = await http.get(url, params={"after": nothing})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "after")


@pytest.mark.parametrize(("kind", "step"), [("all", slice(16, 40)), ("error", slice(17, 40, 2))])
async def test_tables_have_every_kind_and_go_on_after_a_cursor(
    http: httpx2.AsyncClient, scheduler: LocalScheduler, home: Home, url: str, kind: str, step: slice
) -> None:
    uploads = blobs(home)
    scheduler.run_chores()
    scheduler.run_rows(16)
    seen = (await http.head(url)).headers["x-next-after"]
    scheduler.run_rows(24)
    expected = list(range(40))[step]

    text = (await http.get(url, params={"format": "csv", "kind": kind, "after": seen})).text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [int(row["index"]) for row in rows] == expected
    assert {row["error_code"] for row in rows if int(row["index"]) % 2} == {"nope"}

    table = await http.get(url, params={"format": "parquet", "kind": kind, "after": seen})
    path = home.root / "downloaded.parquet"
    path.write_bytes(table.content)
    assert duckdb.sql(f"SELECT index FROM '{path}'").fetchall() == [(index,) for index in expected]
    assert blobs(home) == uploads  # the file it was sent from is gone


async def test_a_client_that_takes_gzip_gets_the_same_lines_in_fewer_bytes(
    http: httpx2.AsyncClient, scheduler: LocalScheduler, url: str
) -> None:
    scheduler.run_chores()
    scheduler.run_rows(40)
    async with http.stream("GET", url, params={"kind": "all"}, headers={"Accept-Encoding": "gzip"}) as answer:
        raw = b"".join([piece async for piece in answer.aiter_raw()])
    assert (answer.headers["content-encoding"], answer.headers["vary"]) == ("gzip", "Accept-Encoding")
    assert "content-length" not in answer.headers
    assert len(raw) < len(b"".join(EXPECTED)) / 4
    plain = await http.get(url, params={"format": "parquet"})
    assert "content-encoding" not in plain.headers


async def test_files_that_compaction_takes_away_meanwhile_are_no_error(
    http: httpx2.AsyncClient,
    scheduler: LocalScheduler,
    home: Home,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheduler.run_chores()
    for _ in range(2):
        scheduler.run_rows(20)
    read, looked = scheduler.read, []

    async def as_of_before(what: str, *args: str) -> object:
        found = await read(what, *args)
        if isinstance(found, BatchRows) and not looked:
            looked.append(found)
            parts = found.parts
            merged = compact(home.root, parts[0].path.split("=")[1].split("/")[0], "run-1", parts)
            for part in parts:
                remove(home.root, part)
                del scheduler._known.parts[found.batch.batch_id][part.part_id]
            scheduler._known.parts[found.batch.batch_id]["run-1"] = merged
        return found

    monkeypatch.setattr(scheduler, "read", as_of_before)
    assert (await http.get(url, params={"kind": "all"})).content == b"".join(EXPECTED)
    assert len(looked) == 1


async def test_a_damaged_part_is_an_error_and_never_a_short_answer(
    http: httpx2.AsyncClient, scheduler: LocalScheduler, home: Home, url: str
) -> None:
    scheduler.run_chores()
    scheduler.run_rows(40)
    (part,) = (home.root / "results").glob("*/*.parquet")
    part.write_bytes(part.read_bytes()[:-100])
    for query in ({}, {"format": "csv"}, {"format": "parquet"}):
        answer = await http.get(url, params=query)
        assert answer.status_code == 500
        assert str(home.root) not in answer.text
        assert answer.headers["x-request-id"] in json.loads(answer.text)["error"]["message"]
