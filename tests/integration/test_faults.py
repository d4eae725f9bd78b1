"""A handful of what ``make faults`` does, each on real processes, on one cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobs import fault_machine, fault_processes, fault_rows
from jobs.fault_crash import AHEAD, CREATE, FIRST_START, RUN, UPLOAD, Place, crash
from jobs.faults import Bench, bench
from raybatch.crash_points import fired

pytestmark = pytest.mark.cluster

ROWS = 1200


@pytest.fixture(scope="module")
def broken() -> Iterator[Bench]:
    with bench(ROWS) as made:
        assert fired(made.crash_points, FIRST_START), "the scheduler did not die as its journal began"
        yield made


@pytest.mark.long
def test_a_hang_is_found_by_progress(broken: Bench) -> None:
    (outcome,) = fault_processes.hang(broken.cluster, ROWS)
    assert outcome.wrong == ()


@pytest.mark.parametrize(
    "places",
    [
        ((UPLOAD, "upload.remembered"), (CREATE, "create.remembered")),
        ((CREATE, "intake.indexed"), (RUN, "part.kept")),
        ((AHEAD, "ahead.indexed"),),
        ((RUN, "journal.written"),),
        ((RUN, "file.synced"), (RUN, "turn.remembered")),
    ],
    ids=lambda places: "+".join(label for _, label in places),
)
def test_a_death_in_the_middle_of_a_write_changes_no_row(broken: Bench, places: tuple[Place, ...]) -> None:
    assert crash(broken.cluster, broken.crash_points, places, ROWS).wrong == ()


def test_what_an_engine_finished_after_its_lease_is_refused(broken: Bench) -> None:
    (outcome,) = fault_processes.zombie(broken.cluster, ROWS)
    assert outcome.wrong == ()


def test_one_poison_row_is_a_dead_letter_and_all_others_complete(broken: Bench) -> None:
    (outcome,) = fault_rows.one_poison(broken.cluster, ROWS)
    assert outcome.wrong == ()


def test_a_full_disk_pauses_the_work_and_no_more(broken: Bench) -> None:
    (outcome,) = fault_machine.disk_full(broken.cluster, broken.shim, ROWS, full_s=3.0)
    assert outcome.wrong == ()
