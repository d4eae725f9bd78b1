"""`raybatch demo-data`: a file of questions whose answers can be scored."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from raybatch.actors.result_file import write_whole
from raybatch.cli.show import stderr
from raybatch.config import PACKAGED_MODEL


def demo_data(
    out: Annotated[str, typer.Option("-o", "--out", help="The JSONL file to write; - for stdout.")],
    rows: Annotated[int, typer.Option(min=1, help="How many questions.")] = 512,
    model: Annotated[str, typer.Option(help="The model the requests name.")] = PACKAGED_MODEL.id,
    seed: Annotated[int, typer.Option(help="The same seed writes the same file.")] = 0,
) -> None:
    """Write ROWS chat requests in OpenAI's batch format, to try raybatch with."""
    from raybatch.cli.demo_questions import questions

    lines = (line + b"\n" for line in questions(rows, model, seed))
    if out == "-":
        sys.stdout.buffer.writelines(lines)
        return
    write_whole(Path(out), lines)
    stderr().print(f"{out}: {rows:,} requests", soft_wrap=True)
