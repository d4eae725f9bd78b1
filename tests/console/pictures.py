"""Pictures of every page of the console, light, dark and on a phone: ``python -m tests.console.pictures``."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import httpx
from playwright.sync_api import Browser, Page

from raybatch.config import Home, ModelSettings, Settings
from tests.console.browsers import chromium
from tests.console.world import World, serving

OUT: Final = Path(__file__).resolve().parents[2] / "docs" / "pictures"
MODELS: Final = (ModelSettings("gemma-3-4b-it"), ModelSettings("qwen3-8b"))
SIZES: Final = {"wide": (1280, 860), "phone": (390, 844)}
LOOKS: Final[tuple[tuple[str, Literal["light", "dark"]], ...]] = (
    ("wide", "light"),
    ("wide", "dark"),
    ("phone", "light"),
)
BYTES_MAX: Final = 200_000
SUBJECTS: Final = ("the tides", "a rainy harbour", "bread", "long division", "the night train", "old maps")
FAILING: Final = ("[[status=400]] too long", "[[status=422]] no such tool")


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        home, settings = Home(Path(directory) / "home"), Settings(models=MODELS)
        with serving(home, settings, rows_a_step=60) as world, chromium() as browser:
            pages = scene(world)
            for name, act in pages.items():
                for size, scheme in LOOKS:
                    take(browser, world, name, act, size, scheme)


def scene(world: World) -> dict[str, tuple[str, Callable[[Page], None]]]:
    """Batches worth looking at; answers what to open, by the picture's name, and what to do there."""
    ended = [
        submit(world, "Support tickets, week 46", 600, 0),
        submit(world, "Support tickets, again", 600, 0, model=1),
    ]
    until_ended(world, ended[-1])
    running = submit(world, "Product descriptions", 20_000, 2)
    submit(world, "Evaluation set", 2_000, 3)
    time.sleep(3)
    return {
        "home": ("/", lambda page: page.wait_for_timeout(6000)),
        "batches": ("/batches", lambda page: None),
        "batch": (f"/batch/{running}", lambda page: page.wait_for_timeout(4000)),
        "row": (f"/batch/{ended[0]}", open_row),
        "dead-letters": (f"/batch/{ended[0]}/failed", lambda page: None),
        "compare": (f"/compare/{','.join(ended)}", score_answers),
        "runs": ("/compare", lambda page: None),
    }


def take(
    browser: Browser,
    world: World,
    name: str,
    place: tuple[str, Callable[[Page], None]],
    size: str,
    scheme: Literal["light", "dark"],
) -> None:
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, locale="en-GB"
    )
    page = context.new_page()
    path, act = place
    page.goto(f"{world.url}/#{path}")
    page.wait_for_selector("main .badge, main .card, main tbody td")
    page.wait_for_timeout(1500)
    act(page)
    file = OUT / f"{name}-{size if size == 'phone' else scheme}.png"
    page.screenshot(path=file)
    context.close()
    size_bytes = file.stat().st_size
    if size_bytes > BYTES_MAX:
        raise ValueError(f"{file.name} has {size_bytes:,} bytes; expected {BYTES_MAX:,} at most")
    print(f"{file.name}  {size_bytes:,} bytes")


def open_row(page: Page) -> None:
    page.locator("#row-3").click()
    page.wait_for_selector(".row-detail pre")


def score_answers(page: Page) -> None:
    page.get_by_text("Score the answers").click()
    page.get_by_label("Rule").select_option("contains")
    page.get_by_label("Text", exact=True).fill("fresh")
    page.get_by_role("button", name="Score").click()
    page.get_by_text("Rows 1 to 50 of 600").wait_for()
    page.get_by_label("Only rows that differ").check()
    page.get_by_text("Differing rows 1 to").wait_for()
    page.get_by_text("Score the answers").click()
    page.evaluate("scrollTo(0, 0)")


def submit(world: World, name: str, rows: int, seed: int, model: int = 0) -> str:
    chance = random.Random(seed)
    content = "".join(json.dumps(line(number, chance, model)) + "\n" for number in range(rows))
    form = {"metadata": json.dumps({"name": name})}
    answer = httpx.post(
        f"{world.url}/v1/batches", files={"file": ("in.jsonl", content)}, data=form, timeout=60
    )
    answer.raise_for_status()
    return str(answer.json()["id"])


def line(number: int, chance: random.Random, model: int) -> dict[str, object]:
    text = f"Write {chance.randint(2, 9)} sentences about {chance.choice(SUBJECTS)}."
    if chance.random() < 0.01:
        text = chance.choice(FAILING)
    body = {"model": MODELS[model].id, "messages": [{"role": "user", "content": text}], "max_tokens": 256}
    return {"custom_id": f"item-{number:05}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def until_ended(world: World, batch_id: str) -> None:
    while httpx.get(f"{world.url}/v1/batches/{batch_id}", timeout=60).json()["status"] != "completed":
        time.sleep(0.5)


if __name__ == "__main__":
    main()
