"""Which values of which settings are worth a try on a machine, and those a user names with ``--try``.

None of them changes what a model answers: number formats and lengths are the user's to choose.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, get_type_hints

from raybatch.cli.tune_search import Ladder, Value
from raybatch.cli.tuned import shown_value
from raybatch.config import ModelSettings, Settings, VllmSettings, changed
from raybatch.errors import OperatorError

SEQS: Final = "max_num_seqs"
ON_CPU: Final = (
    Ladder(SEQS, (4, 8, 16, 32, 64, 128)),
    Ladder("max_num_batched_tokens", (512, 1024, 2048, 4096)),
    Ladder("enforce_eager", (True, False)),
)
ON_GPU: Final = (
    Ladder(SEQS, (16, 32, 64, 128, 256, 512, 1024)),
    Ladder("max_num_batched_tokens", (1024, 2048, 4096, 8192, 16384, 32768)),
    Ladder("window_ratio", (1.0, 1.125, 1.5)),
)
WAVES_MIN: Final = 2  #: of max_num_seqs rows: with fewer there is no steady middle


def usual(settings: Settings) -> tuple[Ladder, ...]:
    """Of the hardware that engines with these settings run on."""
    return ON_GPU if settings.engine.gpus else ON_CPU


def rows_for(settings: Settings, model: ModelSettings, asked: Iterable[str]) -> int:
    """Two waves of the largest ``max_num_seqs`` named, of the usual ones up to four times the present."""
    present = settings.vllm_of(model).max_num_seqs
    given = tuple(_parsed(settings, word) for word in asked)
    rungs = [int(rung) for ladder in given or usual(settings) if ladder.key == SEQS for rung in ladder.rungs]
    return WAVES_MIN * max(present, *(rung if given else min(rung, 4 * present) for rung in rungs), 2)


def chosen(
    settings: Settings, model: ModelSettings, asked: Iterable[str], rows: int, say: Callable[[str], None]
) -> tuple[Ladder, ...]:
    """``asked``: ``vllm.KEY=VALUE,VALUE``, instead of the usual ones. The present value is on each ladder.

    What is set by hand is left alone, for it wins over what is tuned. Raises OperatorError.
    """
    given = tuple(_parsed(settings, word) for word in asked)
    present = settings.vllm_of(model)
    by_hand = {*settings.vllm_by_hand, *model.vllm}
    ladders = []
    for ladder in given or tuple(_in_waves(usual(settings), rows, say)):
        value = getattr(present, ladder.key)
        if ladder.key in by_hand and given:
            raise OperatorError(
                f"vllm.{ladder.key} is set by hand, to {shown_value(value)}, which wins over what is tuned:"
                " leave it out of the config file and of the options, or out of --try"
            )
        if ladder.key in by_hand:
            say(f"vllm.{ladder.key}={shown_value(value)} is set by hand and stays")
        elif ladder.key == "window_ratio" and settings.engine.window_rows:
            say(f"engine.window_rows={settings.engine.window_rows} is set by hand and stays")
        else:
            ladders.append(_with(ladder, value))
    if not any(len(ladder.rungs) > 1 for ladder in ladders):
        raise OperatorError("nothing to try: name other values, --try vllm.max_num_seqs=16,32,64 for example")
    return tuple(ladders)


def _in_waves(ladders: Iterable[Ladder], rows: int, say: Callable[[str], None]) -> Iterator[Ladder]:
    for ladder in ladders:
        if ladder.key != SEQS:
            yield ladder
            continue
        fitting = tuple(rung for rung in ladder.rungs if WAVES_MIN * int(rung) <= rows)
        if left := ladder.rungs[len(fitting) :]:
            first = f"vllm.{ladder.key}={left[0]}"
            say(f"{first} and more are left out: they need {WAVES_MIN * int(left[0]):,} rows (--rows)")
        yield Ladder(ladder.key, fitting)


def _with(ladder: Ladder, value: Value) -> Ladder:
    rungs = (value, *(rung for rung in ladder.rungs if rung != value))
    ordered = all(isinstance(rung, int | float) and not isinstance(rung, bool) for rung in rungs)
    return Ladder(ladder.key, tuple(sorted(rungs, key=float)) if ordered else rungs)


def _parsed(settings: Settings, word: str) -> Ladder:
    path, _, text = word.partition("=")
    section, _, key = path.partition(".")
    kinds = {
        name: kind for name, kind in get_type_hints(VllmSettings).items() if kind in (int, float, bool, str)
    }
    if section != "vllm" or key not in kinds or not text:
        raise OperatorError(
            f"--try takes vllm.KEY=VALUE,VALUE with a key of {', '.join(sorted(kinds))}, not '{word}'"
        )
    return Ladder(key, tuple(_value(settings, key, one.strip()) for one in text.split(",")))


def _value(settings: Settings, key: str, text: str) -> Value:
    given: Any = text
    if not isinstance(getattr(settings.vllm, key), str):
        try:
            given = json.loads(text)
        except ValueError:
            given = text
    value: Value = getattr(changed(settings.vllm, "vllm", {key: given}), key)
    return value
