"""Hundreds of histories, and the proof that the checkers can fail: known mistakes are put back in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from raybatch.core import asked
from raybatch.core import commands as cmd
from raybatch.core import decide as deciding
from raybatch.core.changes import ClockRead, LeaseReleased
from raybatch.core.decision import Decision
from raybatch.core.ending import ended
from raybatch.core.leasing import grant
from raybatch.core.model import BatchStatus
from tests.simulation.world import MODELS, World, live


@pytest.mark.parametrize("first_seed", range(0, 300, 50))
def test_every_row_ends_up_committed_once_and_every_batch_ends(first_seed: int) -> None:
    _live_all(range(first_seed, first_seed + 50))


def _live_all(seeds: Iterable[int]) -> list[World]:
    return [live(seed) for seed in seeds]


def test_the_histories_are_rich() -> None:
    worlds = _live_all(range(40))
    batches = [batch for world in worlds for batch in world.state.batches.values()]
    statuses = {batch.status for batch in batches}
    parts = [part for world in worlds for held in world.state.parts.values() for part in held.values()]
    assert {BatchStatus.COMPLETED, BatchStatus.CANCELLED, BatchStatus.FAILED, BatchStatus.EXPIRED} <= statuses
    for status in (BatchStatus.CANCELLED, BatchStatus.EXPIRED):
        assert any(batch.status is status and batch.tally.completed for batch in batches)
    mixed = [batch for batch in batches if batch.spans]
    assert {BatchStatus.COMPLETED, BatchStatus.CANCELLED} <= {batch.status for batch in mixed}
    assert any(batch.round > 1 for batch in mixed)
    assert any(part.level > 0 for part in parts)
    assert any(world.boot_s for world in worlds)
    assert any(world.deleted for world in worlds)
    assert any(change.part.masked for change in _committed_parts(worlds))


def _committed_parts(worlds: list[World]) -> list[Any]:
    changes = [change for world in worlds for changes, _ in world.history for change in changes]
    return [change for change in changes if hasattr(change, "slices")]


def _no_token_check(state: Any, written: Any, piece: Any) -> cmd.Verdict:
    return cmd.Verdict.ACCEPTED if piece.chunk_id in state.chunks else cmd.Verdict.STALE


def _unmasked(part: Any, slices: Any, verdicts: Any, round_: int) -> Any:
    return replace(part, round=round_)


def _roundless(part: Any, slices: Any, verdicts: Any, round_: int, real: Any = deciding._manifest_row) -> Any:
    return real(part, slices, verdicts, 1)


def _wrongly_masked(
    part: Any, slices: Any, verdicts: Any, round_: int, real: Any = deciding._manifest_row
) -> Any:
    masked = real(part, slices, verdicts, round_)
    return replace(masked, masked=tuple(position + 1 for position in masked.masked))


def _removes_twice(state: Any, compacted: Any, real: Any = deciding._replace_parts) -> Decision:
    if compacted.part.part_id in state.parts.get(compacted.batch_id, {}):
        return Decision((), (cmd.RemoveParts(compacted.batch_id, (compacted.part.path,)),))
    decision: Decision = real(state, compacted)
    return decision


def _forgets_repeats(*_: Any) -> None:
    return None


def _never_expires(state: Any, now: Any, policy: Any, real: Any = deciding._tick) -> Decision:
    decision: Decision = real(state, now, policy)
    kept = tuple(change for change in decision.changes if not isinstance(change, LeaseReleased))
    return Decision(kept, decision.commands)


def _believes_the_wall_clock(state: Any, now: Any, real: Any = deciding.jumped) -> tuple[Any, ...]:
    return tuple(change for change in real(state, now) if isinstance(change, ClockRead))


def _takes_the_upload_along(state: Any, batches: Any, files: Any, real: Any = asked.gone) -> Decision:
    decision: Decision = real(state, batches, files)
    inputs = tuple(cmd.RemoveBlob(batch.input_file_id) for batch in batches)
    return Decision(decision.changes, (*decision.commands, *inputs))


def _ends_without_files(batch: Any, tally: Any, now: Any, real: Any = ended) -> Any:
    return real(batch, tally, now)[-1:]


def _whatever_the_model(state: Any, report: Any, freed: Any, real: Any = grant) -> Any:
    return real(state, replace(report, models=MODELS), freed)


def _across_models(spans: Any, batch: Any) -> Any:
    return spans


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("_verdict", _no_token_check),
        ("_manifest_row", _unmasked),
        ("_manifest_row", _wrongly_masked),
        ("_manifest_row", _roundless),
        ("_replace_parts", _removes_twice),
        ("asked._same_request", _forgets_repeats),
        ("_tick", _never_expires),
        ("jumped", _believes_the_wall_clock),
        ("asked.gone", _takes_the_upload_along),
        ("ended", _ends_without_files),
        ("grant", _whatever_the_model),
        ("asked.split", _across_models),
    ],
)
def test_the_world_notices(name: str, mistake: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"raybatch.core.decide.{name}", mistake)
    with pytest.raises(AssertionError, match="seed "):
        _live_all(range(300))  # until the first that notices
