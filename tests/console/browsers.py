"""A real Chromium: the one that `make browser` unpacks, or the machine's own. No download here, no skip."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

UNPACKED = Path(__file__).resolve().parents[2] / ".cache" / "browser"
AXE = UNPACKED / "node_modules" / "axe-core" / "axe.min.js"
INSTALLED = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Raises FileNotFoundError saying what to install."""
    own = UNPACKED / "chromium"
    found = str(own) if own.is_file() else next(filter(None, map(shutil.which, INSTALLED)), None)
    if found is None:
        raise FileNotFoundError("no Chromium: run `make browser`, or install the Debian package chromium")
    libraries = {"LD_LIBRARY_PATH": str(UNPACKED / "al2023" / "lib")} if own.is_file() else {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox"], env={**os.environ, **libraries}
        )
        try:
            yield browser
        finally:
            browser.close()
