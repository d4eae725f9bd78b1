"""A table of some thousand rows holds what is in sight and a little around it, however far one scrolls."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.console.frames import SCROLL, elements, heap_mib
from tests.console.test_browser import ended, lines, submit
from tests.console.world import World

ROWS = 5_000
ROW_PX = 32
ROWS_A_FRAME = 10
GROWTH_MAX_MIB = 0.4  #: half of the rows hold 0.9 when none is let go
WORDS = "a longer answer " * 30


def test_memory_and_elements_of_the_page_stay_while_the_rows_go_by(world: World, console: Page) -> None:
    world.rows_a_step = 1_000
    submit(console, "large", lines(*(f"{n} {WORDS}" for n in range(ROWS))))
    ended(console)
    table = console.get_by_role("grid", name="Results")
    expect(table).to_have_attribute("aria-rowcount", str(ROWS + 1))
    console.wait_for_load_state("networkidle")
    seen = [held(console, 0)] + [held(console, ROWS // 2) for _ in range(2)]
    expect(table.locator(f"#row-{ROWS - 1}")).to_contain_text(f"echo: {ROWS - 1} a longer")
    assert max(count for count, _ in seen) < 500
    assert seen[2][1] - seen[1][1] < GROWTH_MAX_MIB, seen


def held(page: Page, rows: int) -> tuple[int, float]:
    """Elements in the page and MiB its scripts hold, once so many rows more have gone by and are there."""
    page.evaluate(SCROLL, [rows // ROWS_A_FRAME, ROWS_A_FRAME * ROW_PX])
    expect(page.locator(".vt-row.waiting")).to_have_count(0)
    return elements(page), heap_mib(page)
