"""A large batch's results in a real browser: first rows, frames while scrolling, memory of the page.

``python -m tests.console.frames``: on a cluster of its own, on the echo engine, in headless Chromium.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any, Final

from playwright.sync_api import Page
from rich.console import Console
from rich.table import Table

from jobs.echo_cluster import echo_cluster
from jobs.trial import Trial, requests
from tests.console.browsers import chromium

ROWS: Final = 200_000
OPENED_TIMES: Final = 5
FRAMES: Final = 300
JUMPS: Final = 20
SMOOTH_MS: Final = 1000 / 30  #: a longer frame is seen as a stutter
WAIT_MS: Final = 60_000

#: when the first row of the table is on the screen, in ms since the navigation began
FIRST_ROW: Final = """
new MutationObserver((_, seen) => {
  if (!document.querySelector("#row-0:not(.waiting)")) return;
  seen.disconnect();
  requestAnimationFrame(() => setTimeout(() => { document.body.dataset.firstRowMs = performance.now(); }));
}).observe(document, { childList: true, subtree: true });
"""
#: [frame times in ms]: the table scrolls on by so many pixels in every frame
SCROLL: Final = """
([frames, px]) => new Promise((done) => {
  const view = document.querySelector(".vt-view");
  const times = [];
  let last = performance.now();
  requestAnimationFrame(function step(now) {
    times.push(now - last);
    last = now;
    view.scrollTop += px;
    if (times.length <= frames) requestAnimationFrame(step); else done(times.slice(1));
  });
})
"""
#: ms until rows are to be read after a jump to a share of the table
JUMP: Final = """
(share) => new Promise((done) => {
  const view = document.querySelector(".vt-view");
  const began = performance.now();
  view.scrollTop = share * (view.scrollHeight - view.clientHeight);
  requestAnimationFrame(function look() {
    const rows = [...view.querySelectorAll(".vt-rows .vt-row")];
    const there = rows.length && rows.every((row) => !row.classList.contains("waiting"));
    if (there && performance.now() > began + 20) done(performance.now() - began);
    else requestAnimationFrame(look);
  });
})
"""


def main() -> None:
    rows = _arguments().rows
    with echo_cluster() as cluster, chromium() as browser:
        trial = Trial(cluster, requests(rows))
        trial.wait_ended()
        firsts = []
        for _ in range(OPENED_TIMES):
            page = browser.new_page(viewport={"width": 1280, "height": 860})
            page.add_init_script(FIRST_ROW)
            page.goto(f"{cluster.url}/#/batch/{trial.batch_id}")
            page.wait_for_selector("[data-first-row-ms]", timeout=WAIT_MS)
            firsts.append(float(page.evaluate("document.body.dataset.firstRowMs")))
            if len(firsts) < OPENED_TIMES:
                page.close()
        began = heap_mib(page)
        slow, fast = (page.evaluate(SCROLL, [FRAMES, px]) for px in (32, 640))
        jumps = [page.evaluate(JUMP, number / JUMPS) for number in range(JUMPS)]
        Console().print(_table(rows, firsts, slow, fast, jumps, (began, heap_mib(page)), elements(page)))


def heap_mib(page: Page) -> float:
    """What the page's scripts hold once garbage is collected."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    used: Any = session.send("Runtime.getHeapUsage")["usedSize"]
    return float(used) / (1 << 20)


def elements(page: Page) -> int:
    return int(page.evaluate("document.querySelectorAll('*').length"))


def _table(
    rows: int,
    firsts: Sequence[float],
    slow: Sequence[float],
    fast: Sequence[float],
    jumps: Sequence[float],
    heap: tuple[float, float],
    nodes: int,
) -> Table:
    table = Table("", "median", "95 %", "most", title=f"the results of {rows:,} requests")
    table.add_row("first row on the screen, ms", f"{median(firsts):.0f}", "", f"{max(firsts):.0f}")
    for name, times in (("a row a frame", slow), ("20 rows a frame", fast)):
        late = sum(time > SMOOTH_MS for time in times)
        told = f"{median(times):.1f}", f"{quantiles(times, n=20)[-1]:.1f}", f"{max(times):.1f}"
        table.add_row(f"frame, ms, scrolling {name}; {late} of {len(times)} above 33", *told)
    told = f"{median(jumps):.0f}", f"{quantiles(jumps, n=20)[-1]:.0f}", f"{max(jumps):.0f}"
    table.add_row("rows after a jump, ms", *told)
    table.add_row("memory of the page's scripts, MiB: before, after", f"{heap[0]:.1f}", "", f"{heap[1]:.1f}")
    table.add_row("elements in the page", str(nodes), "", "")
    return table


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="how a large batch's results feel in a browser")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"of the batch ({ROWS:,})")
    return parser.parse_args()


if __name__ == "__main__":
    main()
