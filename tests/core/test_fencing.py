"""A file on disk is never a result: which slices of a part count."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raybatch.core.changes import LeaseGranted, PartCommitted
from raybatch.core.commands import Lease, RemoveParts, Verdict
from raybatch.core.events import ChoreBroke, PartsCompacted
from raybatch.core.model import PartFile, Tally
from raybatch.errors import IllegalMove
from tests.core.scene import Scene, part_of, slice_of

ACCEPTED, ALREADY, STALE = Verdict.ACCEPTED, Verdict.ALREADY, Verdict.STALE


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.accept(100)
    return scene


@pytest.fixture
def lease(scene: Scene) -> Lease:
    (lease,) = scene.report("e1", wants_rows=16).leases
    return lease


def lease_again(scene: Scene) -> Lease:
    scene.report("e1", held=())
    return scene.report("e2", wants_rows=16).leases[0]


def test_a_stale_token_is_refused_and_nothing_is_counted(scene: Scene, lease: Lease) -> None:
    newer = lease_again(scene)
    assert newer.chunk_id == lease.chunk_id
    assert scene.write("p1", slice_of(lease)) == (STALE,)
    assert scene.batch().finished_rows == 0
    assert scene.write("p2", slice_of(newer)) == (ACCEPTED,)


def test_a_part_sent_again_is_already_there_and_counts_once(scene: Scene, lease: Lease) -> None:
    piece = slice_of(lease, failed=3)
    assert scene.write("p1", piece) == (ACCEPTED,)
    assert scene.write("p1", piece) == (ALREADY,)
    assert scene.batch().tally == Tally(13, 3, 130, 30, piece.tally.usage)


def test_rows_that_are_covered_are_not_covered_again_by_another_part(scene: Scene, lease: Lease) -> None:
    assert scene.write("p1", slice_of(lease, 0b0111)) == (ACCEPTED,)
    assert scene.write("p2", slice_of(lease, 0b1110)) == (ALREADY,)
    assert scene.write("p3", slice_of(lease, 0b1000)) == (ACCEPTED,)
    assert scene.batch().finished_rows == 4


def test_the_refused_rows_of_a_part_are_masked_at_their_positions(scene: Scene, lease: Lease) -> None:
    scene.report("e1", held=())
    (again, second) = scene.report("e2", wants_rows=32).leases[:2]
    verdicts = scene.write("p1", slice_of(lease, 0b101), slice_of(second, 0b110))
    assert verdicts == (STALE, ACCEPTED)
    part = scene.state.parts["batch_1"]["p1"]
    assert (part.rows, part.masked) == (4, (lease.first, lease.first + 2))
    assert again.chunk_id == lease.chunk_id


def test_a_row_that_lies_in_a_part_twice_is_refused_both_times(scene: Scene, lease: Lease) -> None:
    newer = lease_again(scene)
    assert scene.write("p1", slice_of(lease, 0b11), slice_of(newer, 0b10)) == (STALE, STALE)
    piece = slice_of(newer, 0b10)
    assert scene.write("p2", piece, piece) == (STALE, STALE)
    assert scene.write("p3", slice_of(newer, 0b01), slice_of(newer, 0b10)) == (ACCEPTED, ACCEPTED)


def test_a_slice_that_does_not_fit_its_lease_is_refused(scene: Scene, lease: Lease) -> None:
    good = slice_of(lease)
    assert scene.write("p1", replace(good, first=good.first + 1)) == (STALE,)
    assert scene.write("p2", slice_of(lease, 1 << lease.count)) == (STALE,)
    assert scene.write("p3", replace(good, tally=Tally(completed=15))) == (STALE,)
    assert scene.write("p4", replace(good, chunk_id=99)) == (STALE,)
    assert scene.state.parts == {}


def test_a_part_counts_for_the_batch_of_its_chunks_alone(scene: Scene, lease: Lease) -> None:
    scene.accept(100, "batch_2")
    assert scene.write("p1", slice_of(lease), batch_id="batch_2") == (STALE,)
    assert scene.write("p1", slice_of(lease), batch_id="batch_unknown") == (STALE,)
    assert scene.write("p1", slice_of(lease)) == (ACCEPTED,)


def test_the_state_itself_refuses_what_a_wrong_decision_would_commit(scene: Scene, lease: Lease) -> None:
    stale = replace(slice_of(lease), token=lease.token + 1)
    with pytest.raises(IllegalMove, match="is not leased under token 2"):
        scene.state.apply(PartCommitted("batch_1", part_of("p1", stale), (stale,)))
    with pytest.raises(IllegalMove, match="out of turn: the next one is 2"):
        scene.state.apply(LeaseGranted(2, "batch_1", 16, 16, 7, "e1"))
    with pytest.raises(IllegalMove, match="expected up to 84 from 16"):
        scene.state.apply(LeaseGranted(2, "batch_1", 20, 16, 2, "e1"))


# -- compaction --------------------------------------------------------------------------------------------


def compacted(scene: Scene, lease: Lease) -> PartsCompacted:
    for number in range(3):
        scene.write(f"p{number}", slice_of(lease, 1 << number))
    merged = PartFile("merged", "results/merged.parquet", 1, 3, "crc32c:0", level=1)
    return PartsCompacted("batch_1", merged, ("p0", "p1", "p2"))


def test_a_compacted_part_takes_the_place_of_its_sources(scene: Scene, lease: Lease) -> None:
    event = compacted(scene, lease)
    scene.say(event)
    assert list(scene.state.parts["batch_1"]) == ["merged"]
    assert scene.commands == [RemoveParts("batch_1", tuple(f"results/p{n}.parquet" for n in range(3)))]


def test_a_compaction_told_twice_keeps_the_file_it_made(scene: Scene, lease: Lease) -> None:
    event = compacted(scene, lease)
    scene.say(event)
    scene.say(event)
    assert scene.commands == []
    assert list(scene.state.parts["batch_1"]) == ["merged"]


def test_a_compaction_of_parts_that_are_gone_removes_only_its_own_file(scene: Scene, lease: Lease) -> None:
    event = compacted(scene, lease)
    scene.say(event)
    scene.say(replace(event, part=replace(event.part, part_id="late", path="results/late.parquet")))
    assert scene.commands == [RemoveParts("batch_1", ("results/late.parquet",))]


def test_a_part_told_again_after_it_was_compacted_away_counts_for_nothing(scene: Scene, lease: Lease) -> None:
    scene.say(compacted(scene, lease))
    assert scene.write("p1", slice_of(lease, 0b10)) == (ALREADY,)
    assert scene.batch().finished_rows == 3
    scene.say(ChoreBroke("compaction:batch_1", "killed"))
