"""The console as its user has it: in a real Chromium, against a real cluster on the echo engine."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from jobs.echo_cluster import EchoCluster
from raybatch.config import ApiSettings, Home, ModelSettings, Settings
from tests.console.browsers import AXE
from tests.console.conftest import MODEL, OTHER, OpenPage
from tests.console.world import World, serving

SCRIPT = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
#: what can be scrolled sideways
TOO_WIDE = """() => [...document.querySelectorAll("html, .scroll, .vt-view")]
  .filter((element) => element.scrollWidth > element.clientWidth)
  .map((element) => `${element.className} ${element.scrollWidth} ${element.clientWidth}`)"""


def lines(*texts: str, model: str = MODEL) -> bytes:
    """An input file with one request for each text."""
    return b"".join(
        json.dumps(
            {
                "custom_id": f"q-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": model, "messages": [{"role": "user", "content": text}]},
            }
        ).encode()
        + b"\n"
        for number, text in enumerate(texts)
    )


def submit(page: Page, name: str, content: bytes) -> None:
    page.get_by_role("link", name="Batches", exact=True).first.click()
    page.set_input_files("#file", {"name": f"{name}.jsonl", "mimeType": "text/plain", "buffer": content})
    page.get_by_role("button", name="Submit").click()


def ended(page: Page, title: str = "completed") -> None:
    expect(page.locator(".batch-head .badge")).to_have_text(title)


@pytest.mark.cluster
def test_the_same_on_a_real_cluster(shared: EchoCluster, open_page: OpenPage, faults: list[str]) -> None:
    page = open_page(shared.url)
    expect(page.get_by_role("heading", level=1)).to_have_text("Everything works")
    submit(page, "real", lines(*(f"question number {n}" for n in range(2000))))
    expect(page.locator(".batch-head + div .bar")).to_have_attribute("aria-label", re.compile(r"^[1-9]"))
    ended(page)
    expect(page.get_by_role("grid", name="Results").locator("#row-0")).to_contain_text("question number 0")
    assert faults == []


def test_a_file_is_submitted_followed_to_its_end_and_read(console: Page) -> None:
    count = 600
    expect(console.get_by_role("heading", level=1)).to_have_text("Everything works")
    submit(console, "evening", lines(*(f"question number {n}" for n in range(count))))

    expect(console.get_by_role("heading", level=1)).to_contain_text("evening")
    progress = console.locator(".batch-head + div .bar")
    expect(progress).to_have_attribute("aria-label", re.compile(r"[1-9]\d* of 600"))  # while it runs
    ended(console)
    expect(progress).to_have_attribute("aria-label", "600 of 600 requests, 0 failed")

    table = console.get_by_role("grid", name="Results")
    expect(table).to_have_attribute("aria-rowcount", "601")
    expect(table.get_by_role("row").nth(1)).to_contain_text("question number 0")
    table.focus()
    table.press("End")
    expect(table.locator("#row-599")).to_contain_text("question number 599")
    assert table.get_by_role("row").count() < 80  # what is in sight, and not six hundred

    console.get_by_label("Search rows").fill("number 418")
    expect(table).to_have_attribute("aria-rowcount", "2")
    table.focus()
    table.press("Enter")
    detail = console.get_by_label("One row")
    expect(detail.locator("pre").first).to_contain_text('"content": "question number 418"')
    expect(detail.locator("pre").last).to_contain_text("echo: question number 418")
    console.keyboard.press("Escape")
    expect(detail).to_be_hidden()

    console.get_by_label("Search rows").fill("")
    expect(table).to_have_attribute("aria-rowcount", "601")
    console.get_by_label("How answers end").select_option("length")
    expect(table).to_have_attribute("aria-rowcount", "1")
    console.get_by_label("How answers end").select_option("stop")
    console.get_by_label("Tokens, at most").fill("3")
    expect(table).to_have_attribute("aria-rowcount", "1")
    console.get_by_label("Tokens, at least").fill("4")
    console.get_by_label("Tokens, at most").fill("4")
    expect(table).to_have_attribute("aria-rowcount", "601")

    console.get_by_role("tab", name="Log").click()
    expect(console.locator(".log")).to_contain_text("every row is committed")
    console.get_by_role("tab", name="Details").click()
    with console.expect_download() as got:
        console.get_by_role("button", name="JSONL", exact=True).click()
    assert Path(got.value.path()).read_bytes().count(b"\n") == count


@pytest.mark.parametrize("cut", [False, True])
def test_a_page_opened_shortly_before_the_end_has_every_row(
    world: World, open_page: OpenPage, faults: list[str], cut: bool
) -> None:
    """``cut``: nobody answers the look at the rows that the end sets off."""
    world.rows_a_step = 1
    sent = {"file": ("late.jsonl", lines(*(f"question number {n}" for n in range(300))))}
    created = httpx.post(f"{world.url}/v1/batches", files=sent, data={"endpoint": "/v1/chat/completions"})
    page = open_page(f"{world.url}/#/batch/{created.json()['id']}/results")
    table = page.get_by_role("grid", name="Results")
    expect(table).to_have_attribute("data-loaded", "yes")
    if cut:
        page.route("**/rows?*", lambda route: route.abort())
    world.rows_a_step = 300
    asking = page.expect_event("requestfailed", lambda request: "/rows?" in request.url)
    with asking if cut else nullcontext():
        ended(page)
    page.unroute_all()
    expect(table).to_have_attribute("aria-rowcount", "301")
    assert faults == [] or cut


def test_dead_letters_are_grouped_and_run_again(console: Page) -> None:
    texts = ["fine"] * 20 + [f"[[status=400 times=1]] once {n}" for n in range(5)] + ["[[status=422]] never"]
    submit(console, "ragged", lines(*texts))
    ended(console)
    console.get_by_role("tab", name="Dead letters").click()
    expect(console.locator(".group")).to_have_count(2)
    expect(console.locator(".group summary").first).to_contain_text("5")

    console.get_by_label("Select row 20").check()
    console.get_by_role("button", name="Retry selected (1)").click()
    expect(console.get_by_role("button", name="Retry all (5)")).to_be_enabled()
    console.get_by_role("button", name="Retry all (5)").click()
    expect(console.get_by_role("button", name="Retry all (1)")).to_be_enabled()
    expect(console.locator(".group")).to_have_count(1)
    expect(console.locator(".group")).to_contain_text("q-25")


def test_a_refused_file_shows_each_bad_line(console: Page) -> None:
    content = lines("good", "good") + b'{"custom_id": "torn"\n' + lines("again")
    submit(console, "bad", content)
    faults = console.locator(".faults li")
    expect(faults).to_have_count(2)
    expect(faults.first).to_contain_text("Line 3")
    expect(faults.first.locator("pre")).to_have_text('{"custom_id": "torn"')
    expect(faults.last).to_contain_text("duplicate")


def test_a_result_that_is_markup_stays_text(console: Page) -> None:
    submit(console, SCRIPT[:30], lines(SCRIPT))
    ended(console)
    row = console.get_by_role("grid", name="Results").locator("#row-0")
    expect(row).to_contain_text(SCRIPT)
    row.click()
    expect(console.get_by_label("One row").locator(".answer")).to_contain_text(SCRIPT)
    assert console.locator("#content img, #content script").count() == 0
    assert "owned" not in console.title()


def test_a_batch_is_paused_resumed_cancelled_and_cloned(console: Page) -> None:
    submit(console, "long", lines(*(f"slow {n}" for n in range(1500))))
    console.get_by_role("button", name="Pause").click()
    ended(console, "paused")
    console.get_by_role("button", name="Resume").click()
    ended(console, "running")
    console.get_by_role("button", name="Cancel").click()
    console.get_by_role("button", name="Cancel the batch").click()
    ended(console, "cancelled")
    console.get_by_role("button", name="Clone").click()
    expect(console.get_by_role("heading", level=1)).to_contain_text("long (again)")
    console.get_by_role("button", name="Cancel").click()
    console.get_by_role("button", name="Cancel the batch").click()
    ended(console, "cancelled")

    console.get_by_role("link", name="Compare").click()
    for name in ("long", "long (again)"):
        console.locator("label", has=console.get_by_text(name, exact=True)).get_by_role("checkbox").check()
    console.get_by_role("button", name="Compare").click()
    expect(console.get_by_role("heading", level=1)).to_have_text("2 batches side by side")
    expect(console.locator("table.compare tbody tr").first).to_contain_text("q-0")


def test_two_models_are_compared_over_the_same_questions_and_scored(
    console: Page, faults: list[str], tmp_path: Path
) -> None:
    texts = [f"a word about {'bread' if n % 60 == 7 else 'tides'}, number {n}" for n in range(130)]
    for model in (MODEL, OTHER):
        submit(console, f"asked {model}", lines(*texts, model=model))
        ended(console)
    submit(console, "something else", lines("alone"))
    ended(console)

    console.get_by_role("link", name="Compare").click()
    groups = console.locator("fieldset.set")
    expect(groups).to_have_count(2)
    expect(groups.first.get_by_role("checkbox")).to_have_count(2)
    for box in groups.first.get_by_role("checkbox").all():
        box.check()
    console.get_by_role("button", name="Compare").click()
    expect(console.locator("caption")).to_have_text("3 of 130 rows differ")
    expect(console.locator("table.compare tbody tr")).to_have_count(50)
    expect(console.locator("table.compare tr.differs")).to_have_count(1)
    expect(console.locator("table.compare mark")).to_contain_text("fresh")

    console.get_by_role("button", name="Next").click()
    expect(console.get_by_text("Rows 51 to 100 of 130")).to_be_visible()
    console.get_by_label("Only rows that differ").check()
    expect(console.get_by_text("Differing rows 1 to 3 of 3")).to_be_visible()
    expect(console.locator("table.compare tbody th")).to_have_text(["q-7", "q-67", "q-127"])

    console.get_by_text("Score the answers").click()
    console.get_by_label("Rule").select_option("contains")
    console.get_by_role("button", name="Score").click()
    expect(console.get_by_role("alert")).to_contain_text("needs expected or sheet_file_id")
    assert [told for told in faults if "400" not in told] == []
    faults.clear()
    console.get_by_label("Text", exact=True).fill("FRESH")
    console.get_by_role("button", name="Score").click()
    score = console.locator("table.summary tr", has=console.get_by_role("rowheader", name="Score"))
    named = console.locator("table.summary thead th")
    expect(score.get_by_role("cell")).to_have_count(2)
    newest_first = [OTHER in title for title in named.all_text_contents()]
    expect(score.get_by_role("cell").nth(newest_first.index(True))).to_contain_text("0.023")
    expect(score.get_by_role("cell").nth(newest_first.index(False))).to_contain_text("0.000")

    sheet = tmp_path / "sheet.csv"
    sheet.write_text('\ufeffcustom_id,of,expected\r\n"q-7",,"bread, number 7"\nq-8,,nothing of it\n\n')
    console.get_by_label("Text", exact=True).fill("")
    console.get_by_label("Or a file").set_input_files(sheet)
    console.get_by_role("button", name="Score").click()
    expect(score.get_by_role("cell").first).to_have_text("0.500over 2 rows")
    with console.expect_download() as got:
        console.get_by_role("button", name="Download JSONL").click()
    rows = [json.loads(line) for line in Path(got.value.path()).read_text().splitlines()]
    assert [row["custom_id"] for row in rows] == ["q-7", "q-67", "q-127"]
    assert [[side["score"] for side in row["sides"]] for row in rows] == [[1, 1], [None, None], [None, None]]

    sheet.write_text('custom_id,expected\nq-7,"never closed\n')
    console.get_by_label("Or a file").set_input_files(sheet)
    console.get_by_role("button", name="Score").click()
    expect(console.get_by_role("alert")).to_contain_text("a quote is not closed")


def test_a_server_with_a_key_asks_for_it_once_and_again_when_it_is_wrong(
    tmp_path: Path, open_page: OpenPage, faults: list[str]
) -> None:
    known = ApiSettings(key_sha256=hashlib.sha256(b"the key").hexdigest())
    with serving(Home(tmp_path / "home"), Settings(models=(ModelSettings(MODEL),), api=known)) as world:
        page = open_page(f"{world.url}/#/batches")
        for given in ("another key", "the key"):
            dialog = page.get_by_role("dialog", name="API key")
            expect(dialog).to_have_count(1)
            expect(dialog).to_contain_text("Try again" if given == "the key" else "Give the API key once")
            dialog.get_by_label("API key").fill(given)
            page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_have_count(0)
        submit(page, "locked", lines("who may read this?"))
        ended(page)
        expect(page.get_by_role("grid", name="Results").locator("#row-0")).to_contain_text(
            "who may read this?"
        )
        page.reload()
        expect(page.locator(".batch-head .badge")).to_have_text("completed")
        expect(page.get_by_role("dialog")).to_have_count(0)
    assert {told for told in faults if "401" not in told} == set()


def test_it_says_when_the_server_is_gone_and_goes_on_by_itself(world: World, open_page: OpenPage) -> None:
    page = open_page(world.url)
    expect(page.get_by_role("heading", level=1)).to_have_text("Everything works")
    page.context.set_offline(True)
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached")
    expect(page.locator("#link-state")).to_have_text("Not connected")
    page.context.set_offline(False)
    expect(page.locator("#link-state")).to_have_text("Live")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_on_a_phone_no_page_and_no_list_scrolls_sideways(world: World, console: Page) -> None:
    console.set_viewport_size({"width": 390, "height": 844})
    batches = []
    for model in (MODEL, OTHER):
        submit(console, f"a name of some length, {model}", lines("one", "[[status=400]] two", model=model))
        ended(console)
        batches.append(console.url.split("#")[1].split("/")[2])
    for page, shown in {
        "/": "table",
        "/batches": "table.batches",
        f"/batch/{batches[0]}/results": "#row-0",
        f"/batch/{batches[0]}/failed": ".group table",
        f"/batch/{batches[0]}/log": ".log",
        f"/batch/{batches[0]}/files": ".details",
        "/compare": ".set",
        f"/compare/{','.join(batches)}": "table.compare",
    }.items():
        console.goto("about:blank")
        console.goto(f"{world.url}/#{page}")
        expect(console.locator(shown).first).to_be_visible()
        assert console.evaluate(TOO_WIDE) == [], page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_breaks_a_rule_of_accessibility(world: World, console: Page, scheme: Any) -> None:
    console.emulate_media(color_scheme=scheme)
    batches = []
    for _ in range(2):
        submit(console, "rules", lines("one", "[[status=400]] two"))
        ended(console)
        batches.append(console.url.split("#")[1].split("/")[2])
    batch = batches[0]
    for page in (
        "/",
        "/batches",
        *(f"/batch/{batch}/{tab}" for tab in ("results", "failed", "log", "files")),
        "/compare",
        f"/compare/{','.join(batches)}",
    ):
        console.goto("about:blank")
        console.goto(f"{world.url}/#{page}")
        expect(console.get_by_role("heading", level=1)).to_be_visible()
        console.wait_for_load_state("networkidle") if not page.startswith("/batch/") else None
        assert broken_rules(console) == [], page


def broken_rules(page: Page) -> list[str]:
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")
    return [
        f"{rule['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]
