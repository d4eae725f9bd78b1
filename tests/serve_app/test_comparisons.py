"""Batches side by side: what they add up to, what differs, what is scored, as pages and as files."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import httpx2
import pytest

from tests.serve_app.local_scheduler import LocalScheduler
from tests.serve_app.requests import jsonl, request

ROWS = 30


def lines(**of_row: Any) -> list[dict[str, Any]]:
    """``of_row``: ``r3="text"`` has row 3 answered so."""
    return [saying(f"r{i}", of_row.get(f"r{i}", f"answer {i}")) for i in range(ROWS)]


def saying(custom_id: str, text: str) -> dict[str, Any]:
    return request(custom_id, messages=[{"role": "user", "content": f"say {text}"}])


async def run(
    http: httpx2.AsyncClient, scheduler: LocalScheduler, *wanted: dict[str, Any], rows: int = ROWS
) -> str:
    """A batch of these lines, ``rows`` of them finished."""
    created = await http.post("/v1/batches", files={"file": ("in.jsonl", jsonl(*wanted))})
    scheduler.run_chores()
    for done in range(0, rows, 16):
        scheduler.run_rows(min(16, rows - done))
    return str(created.json()["id"])


async def sheet(http: httpx2.AsyncClient, *rows: Any) -> str:
    content = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    answer = await http.post("/v1/files", files={"file": ("sheet.jsonl", content)}, data={"purpose": "batch"})
    return str(answer.json()["id"])


async def got(http: httpx2.AsyncClient, path: str, batches: list[str], **query: Any) -> Any:
    answer = await http.get(f"/v1/comparisons{path}", params={"batch_id": batches, **query})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
async def pair(http: httpx2.AsyncClient, scheduler: LocalScheduler) -> list[str]:
    """Two batches of which the second answers rows 3 and 20 otherwise, and fails row 7."""
    first = await run(http, scheduler, *lines())
    other = lines(r3="Another", r20="Another yet")
    other[7]["body"]["fail"] = True
    return [first, await run(http, scheduler, *other)]


async def test_each_side_is_added_up_and_what_differs_is_counted(
    http: httpx2.AsyncClient, pair: list[str]
) -> None:
    found = await got(http, "", pair)
    assert (found["rows"], found["differing"]) == (ROWS, 3)
    left, right = found["sides"]
    assert [side["batch_id"] for side in (left, right)] == pair
    assert (left["completed"], left["failed"], left["errors"]) == (ROWS, 0, {})
    assert (right["completed"], right["failed"], right["errors"]) == (ROWS - 1, 1, {"nope": 1})
    assert left["completion_tokens"] == 2 * ROWS
    assert left["completion_tokens_mean"] == 2
    assert left["text_characters_mean"] == sum(len(f"answer {i}") for i in range(ROWS)) / ROWS
    assert left["latency_ms"] == {"p50": 1000.0, "p90": 1000.0, "p99": 1000.0}
    assert (left["finish_reasons"], right["finish_reasons"]) == ({"stop": ROWS}, {"stop": ROWS - 1})
    assert (left["score"], left["scored"]) == (None, 0)


async def test_pages_are_in_input_order_and_of_those_that_differ_when_asked(
    http: httpx2.AsyncClient, pair: list[str]
) -> None:
    page = await got(http, "/rows", pair, offset=5, limit=4)
    assert [row["index"] for row in page["data"]] == [5, 6, 7, 8]
    assert (page["total"], page["has_more"]) == (ROWS, True)
    assert [row["differs"] for row in page["data"]] == [False, False, True, False]
    failed = page["data"][2]
    assert failed["custom_id"] == "r7"
    assert [side["status_code"] for side in failed["sides"]] == [200, 400]
    assert [side["text"] for side in page["data"][0]["sides"]] == ["answer 5"] * 2

    differing = await got(http, "/rows", pair, only="differing", offset=1)
    assert [row["index"] for row in differing["data"]] == [7, 20]
    assert (differing["total"], differing["has_more"]) == (3, False)
    assert (await got(http, "/rows", pair, offset=10**18))["data"] == []


async def test_a_row_that_one_side_has_not_finished_is_there_and_differs_from_nothing(
    http: httpx2.AsyncClient, scheduler: LocalScheduler
) -> None:
    whole = await run(http, scheduler, *lines())
    begun = await run(http, scheduler, *lines(), rows=16)
    none = await run(http, scheduler, *lines(), rows=0)
    page = await got(http, "/rows", [begun, whole, none], offset=14, limit=4)
    assert [[side and side["text"] for side in row["sides"]] for row in page["data"]] == [
        ["answer 14", "answer 14", None],
        ["answer 15", "answer 15", None],
        [None, "answer 16", None],
        [None, "answer 17", None],
    ]
    assert not any(row["differs"] for row in page["data"])
    found = await got(http, "", [begun, whole, none])
    assert (found["rows"], found["differing"]) == (ROWS, 0)
    assert found["sides"][2]["latency_ms"] is None


@pytest.mark.parametrize(
    ("query", "of_rows", "means"),
    [
        ({"score": "exact", "expected": " ANSWER 3 "}, [0, 1, 0], [1 / ROWS, 0]),
        ({"score": "contains", "expected": "Answer"}, [1, 1, 1], [1, (ROWS - 3) / ROWS]),
        ({"score": "regex", "expected": r"^answer [34]$"}, [0, 1, 1], [2 / ROWS, 1 / ROWS]),
    ],
)
async def test_a_rule_scores_every_answer_and_a_failed_row_has_none_right(
    http: httpx2.AsyncClient, pair: list[str], query: dict[str, str], of_rows: list[float], means: list[float]
) -> None:
    page = await got(http, "/rows", pair, offset=2, limit=3, **query)
    assert [row["sides"][0]["score"] for row in page["data"]] == of_rows
    found = await got(http, "", pair, **query)
    assert [side["score"] for side in found["sides"]] == pytest.approx(means)
    assert [side["scored"] for side in found["sides"]] == [ROWS, ROWS]
    failed = await got(http, "/rows", pair, offset=7, limit=1, **query)
    assert failed["data"][0]["sides"][1]["score"] == 0


async def test_a_sheet_says_what_each_row_should_say_and_the_others_have_no_score(
    http: httpx2.AsyncClient, pair: list[str]
) -> None:
    file = await sheet(
        http,
        {"custom_id": "r3", "expected": "answer 3"},
        {"custom_id": "r4", "expected": "other"},
        {"custom_id": "r4", "expected": "answer 4", "of": pair[0]},
        {"custom_id": "r3", "expected": "a second line for it"},
        {"custom_id": "nobody", "expected": "x"},
    )
    query = {"score": "exact", "sheet_file_id": file}
    page = await got(http, "/rows", pair, offset=2, limit=3, **query)
    assert [[side["score"] for side in row["sides"]] for row in page["data"]] == [
        [None, None],
        [1, 0],
        [1, 0],
    ]
    found = await got(http, "", pair, **query)
    assert [(side["scored"], side["score"]) for side in found["sides"]] == [(2, 1), (2, 0)]


async def test_given_scores_are_taken_as_they_are_by_batch_or_model(
    http: httpx2.AsyncClient, pair: list[str]
) -> None:
    file = await sheet(
        http,
        {"custom_id": "r0", "score": 0.25, "of": "org/small"},
        {"custom_id": "r0", "score": 0.75, "of": pair[1]},
        {"custom_id": "r1", "score": 3},
    )
    found = await got(http, "", pair, score="given", sheet_file_id=file)
    assert [side["score"] for side in found["sides"]] == [(0.25 + 3) / 2, (0.75 + 3) / 2]


async def test_a_member_of_a_json_answer_is_judged(
    http: httpx2.AsyncClient, scheduler: LocalScheduler
) -> None:
    said = [
        '{"label": "Spam", "why": "ham"}',
        '{"label": 7}',
        '["Spam"]',
        "spam",
        '{"why": "spam"}',
        "[" * 3000,
    ]
    wanted = [saying(f"r{i}", text) for i, text in enumerate(said)]
    batches = [await run(http, scheduler, *wanted, rows=len(said)) for _ in range(2)]
    page = await got(http, "/rows", batches, score="exact", expected="spam", json_member="label")
    assert [row["sides"][0]["score"] for row in page["data"]] == [1, 0, 0, 0, 0, 0]
    file = await sheet(http, {"custom_id": "r1", "expected": 7})
    found = await got(http, "", batches, score="exact", sheet_file_id=file, json_member="label")
    assert (found["sides"][0]["score"], found["sides"][0]["scored"]) == (1, 1)


async def test_the_comparison_is_a_file_in_input_order_with_whole_texts(
    http: httpx2.AsyncClient, scheduler: LocalScheduler
) -> None:
    long = 'comma, "quote"\nand a line ' * 40
    pair = [await run(http, scheduler, *lines()), await run(http, scheduler, *lines(r9=long), rows=16)]
    query = {"batch_id": pair, "score": "contains", "expected": "answer 1"}
    answer = await http.get("/v1/comparisons/results", params=query)
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [row["index"] for row in rows] == list(range(ROWS))
    assert (rows[9]["differs"], rows[9]["sides"][1]["text"]) == (True, long)
    assert [side["batch_id"] for side in rows[9]["sides"]] == pair
    assert rows[20]["sides"][1] is None
    assert [rows[i]["sides"][0]["score"] for i in (0, 1, 11)] == [0, 1, 1]

    answer = await http.get("/v1/comparisons/results", params=query | {"format": "csv", "only": "differing"})
    assert answer.headers["content-disposition"] == 'attachment; filename="comparison.csv"'
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert (row["index"], row["custom_id"], row["differs"]) == ("9", "r9", "true")
    assert (row["batch_id_2"], row["text_2"]) == (pair[1], long)
    assert (row["text_1"], row["score_1"]) == ("answer 9", "0.0")

    same = [await run(http, scheduler, *lines(), rows=0) for _ in range(2)]
    answer = await http.get("/v1/comparisons/results", params={"batch_id": same, "format": "csv"})
    assert answer.text.startswith("index,custom_id,differs,batch_id_1,")
    assert answer.text.count("\n") == 1


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"score": "exact"}, "expected"),
        ({"score": "given", "expected": "x"}, "sheet_file_id"),
        ({"score": "regex", "expected": "(?=lookahead)"}, "expected"),
        ({"score": "regex", "expected": "["}, "expected"),
        ({"score": "regex", "expected": "(a" + "{1000}" * 3 + ")"}, "expected"),
        ({"score": "best", "expected": "x"}, "score"),
        ({"score": "exact", "expected": "x" * 1001}, "expected"),
        ({"expected": "x"}, "expected"),
        ({"sheet_file_id": "file-x"}, "sheet_file_id"),
        ({"json_member": "x"}, "json_member"),
        ({"score": "exact", "sheet_file_id": "../../etc/passwd"}, "id"),
    ],
)
async def test_a_rule_that_cannot_be_is_refused_by_name(
    http: httpx2.AsyncClient, pair: list[str], query: dict[str, str], param: str
) -> None:
    answer = await http.get("/v1/comparisons", params={"batch_id": pair, **query})
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "bad",
    [
        {"custom_id": "r1"},
        {"custom_id": "r1", "expected": "x", "score": 1},
        {"custom_id": 7, "expected": "x"},
        {"custom_id": "r1", "score": "high"},
        [1],
    ],
)
async def test_a_sheet_that_is_none_is_refused_with_its_line(
    http: httpx2.AsyncClient, pair: list[str], bad: Any
) -> None:
    file = await sheet(http, {"custom_id": "r0", "expected": "x"}, bad)
    for path in ("", "/rows", "/results"):
        query = {"batch_id": pair, "score": "exact", "sheet_file_id": file}
        answer = await http.get(f"/v1/comparisons{path}", params=query)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "sheet_file_id"
        assert "Line 2 " in answer.json()["error"]["message"]


async def test_two_to_four_batches_that_are_known_are_compared(
    http: httpx2.AsyncClient, pair: list[str]
) -> None:
    for wrong, status in (
        (pair[:1], 400),
        ([pair[0], pair[0]], 400),
        ([f"batch_{n}" for n in range(5)], 400),
        ([pair[0], "batch_none"], 404),
    ):
        for path in ("", "/rows", "/results"):
            answer = await http.get(f"/v1/comparisons{path}", params={"batch_id": wrong})
            assert answer.status_code == status, answer.text


async def test_an_output_file_is_no_sheet(http: httpx2.AsyncClient, pair: list[str]) -> None:
    output = (await http.get(f"/v1/batches/{pair[0]}")).json()["output_file_id"]
    query = {"batch_id": pair, "score": "given", "sheet_file_id": output}
    answer = await http.get("/v1/comparisons", params=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "sheet_file_id")
