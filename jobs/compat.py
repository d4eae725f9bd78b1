"""Real clients against a server, any server, and how many of their tests pass: ``python -m jobs.compat``.

The tests are tests/compat, so it works in a checkout alone. Without ``--url`` they start an echo cluster.
Exits with 1 when a test failed, or none ran.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import typer
from rich.console import Console
from rich.table import Table

Outcome = Literal["passed", "failed", "skipped"]
Counts = Mapping[str, Counter[Outcome]]

ROOT: Final = Path(__file__).resolve().parent.parent
SUITE: Final = "tests/compat"
#: a file of the suite speaks with one client; the first name that it begins with says which
CLIENTS: Final = {
    "test_openai_": "openai (Python)",
    "test_node": "openai (Node)",
    "test_litellm": "LiteLLM",
    "test_curl": "curl",
}


def main(
    url: Annotated[str | None, typer.Option(help="Of a running server; else one is started.")] = None,
) -> None:
    """Run the clients' suite and count for each client what passed."""
    with tempfile.TemporaryDirectory(prefix="raybatch-compat-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", SUITE, "--quiet", f"--junit-xml={report}"]
        command += [] if url is None else [f"--url={url}"]
        finished = subprocess.run(command, cwd=ROOT, check=False)
        counts = count(report) if report.exists() else {}
    Console().print(_table(counts, url))
    if finished.returncode != 0:
        raise typer.Exit(1)


def count(report: Path) -> Counts:
    """By client, of a report in JUnit's format."""
    counts: dict[str, Counter[Outcome]] = {client: Counter() for client in CLIENTS.values()}
    for case in ET.parse(report).getroot().iter("testcase"):
        counts.setdefault(_client(case), Counter())[_outcome(case)] += 1
    return counts


def _client(case: ET.Element) -> str:
    file = case.get("classname", "").rpartition(".")[2]
    return next((client for prefix, client in CLIENTS.items() if file.startswith(prefix)), file)


def _outcome(case: ET.Element) -> Outcome:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "passed" if case.find("skipped") is None else "skipped"


def _table(counts: Counts, url: str | None) -> Table:
    table = Table("client", title=f"clients of {url or 'an echo cluster'}")
    for name in ("passed", "failed", "skipped"):
        table.add_column(name, justify="right")
    for client, found in counts.items():
        table.add_row(client, *(str(found[name]) for name in ("passed", "failed", "skipped")))
    return table


if __name__ == "__main__":
    typer.run(main)
