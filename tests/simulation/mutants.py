"""Known bugs, put into the production code one at a time: each must be noticed.

``python -m tests.simulation.mutants`` prints what noticed each, and after how many histories; it ends with 1
when one lives. A mutant is a few functions of ``bugs`` in the place of real ones while its block lasts.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from tests.simulation import bugs
from tests.simulation.histories import live
from tests.simulation.power import live_through_cuts

SEEDS_MAX: Final = 300
ROOT: Final = Path(__file__).parents[2]

#: by the world whose histories a mutant is hunted in
PLAYED: Final[dict[str, Callable[[int], object]]] = {
    "leases": live,
    "slot": lambda seed: live(seed, slots=1),
    "power": live_through_cuts,
}


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    bug: str
    patches: dict[str, Any]  #: by dotted name: what stands there instead
    world: str = "leases"

    @contextmanager
    def planted(self) -> Iterator[None]:
        with ExitStack() as stack:
            for place, instead in self.patches.items():
                stack.enter_context(patch(f"raybatch.{place}", instead))
            yield


@dataclass(frozen=True, slots=True)
class Catch:
    seeds: int  #: histories until one failed, that one included
    check: str  #: where it failed
    message: str


def hunt(mutant: Mutant, seeds_max: int = SEEDS_MAX) -> Catch | None:
    """The first history in which it is noticed; None when it lives through all."""
    with mutant.planted():
        for seed in range(seeds_max):
            try:
                PLAYED[mutant.world](seed)
            except AssertionError as failure:
                return Catch(seed + 1, place_of(failure), str(failure))
    return None


def place_of(failure: AssertionError) -> str:
    """The function, of those of this repository, in which a history failed; bugs do not count."""
    error = failure.__cause__ or failure
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _ours(frame.filename)]
    return f"{Path(frames[-1].filename).stem}.{frames[-1].name}"


def _ours(filename: str) -> bool:
    path = Path(filename)
    return path.is_relative_to(ROOT) and ".venv" not in path.parts and path.stem != "bugs"


DECIDE: Final = "core.decide."
MUTANTS: Final = (
    Mutant(
        "no_token_check", "a part counts whatever token it names", {f"{DECIDE}_verdict": bugs.no_token_check}
    ),
    Mutant(
        "same_token_again",
        "a chunk is leased again under its old token",
        {
            f"{DECIDE}grant": bugs.grant_under_the_old_token,
            "core.state.State._grant": bugs.take_any_token,
        },
    ),
    Mutant(
        "tokens_anew", "a restart counts tokens from 1", {"core.state.State.load": bugs.load_without_counters}
    ),
    Mutant(
        "bitmap_forgotten",
        "a chunk leased again has all its rows run, not those that are missing",
        {f"{DECIDE}lease_of": bugs.lease_whole_chunks},
    ),
    Mutant(
        "wall_clock_lease",
        "leases end by the wall clock",
        {
            f"{DECIDE}_tick": bugs.tick_on_the_wall_clock,
            f"{DECIDE}_answer_engine": bugs.answer_on_the_wall_clock,
        },
    ),
    Mutant("endless_lease", "time ends no lease", {f"{DECIDE}_tick": bugs.tick_that_ends_no_lease}),
    Mutant(
        "predecessor_believed",
        "an engine's old process is served beside the new one",
        {f"{DECIDE}_answer_engine": bugs.believe_predecessors},
    ),
    Mutant(
        "any_model",
        "an engine is given rows of a model it does not have",
        {f"{DECIDE}grant": bugs.grant_any_model},
    ),
    Mutant("cursor_stays", "rows are cut into chunks twice", {"core.state.cut": bugs.cut_without_the_cursor}),
    Mutant("unmasked", "refused rows of a part are served", {f"{DECIDE}_manifest_row": bugs.unmasked}),
    Mutant(
        "masked_beside",
        "the row behind a refused one is hidden",
        {f"{DECIDE}_manifest_row": bugs.masked_beside},
    ),
    Mutant(
        "round_forgotten", "a part counts for the first round", {f"{DECIDE}_manifest_row": bugs.without_round}
    ),
    Mutant(
        "rounds_mixed",
        "parts of two rounds are compacted into one",
        {"core.chores.next_compaction": bugs.compact_across_rounds},
    ),
    Mutant(
        "replaced_twice",
        "a repeated compaction removes its file",
        {f"{DECIDE}_replace_parts": bugs.replace_twice},
    ),
    Mutant(
        "retry_counted_twice",
        "a retry leaves failed rows in the counts",
        {"core.state.reopened": bugs.reopen_with_the_old_tally},
    ),
    Mutant(
        "retry_unsplit", "a chunk to run again spans two models", {"core.asked.split": bugs.split_nothing}
    ),
    Mutant(
        "repeat_creates",
        "a repeated create makes a second batch",
        {"core.asked._same_request": bugs.forget_requests},
    ),
    Mutant(
        "finalized_early",
        "a batch ends with its last chunk, though rows were never leased",
        {f"{DECIDE}_commit_part": bugs.end_early, "core.state.at_end": bugs.at_end_whatever_is_missing},
    ),
    Mutant(
        "ended_without_files",
        "a batch ends without its file objects",
        {f"{DECIDE}ended": bugs.end_without_files},
    ),
    Mutant(
        "closed_under_engines",
        "a cancelled batch is closed while engines hold rows",
        {f"{DECIDE}due_closing": bugs.close_under_engines},
    ),
    Mutant(
        "chore_never_again",
        "a chore that vanished is never started again",
        {"core.chores._under_way": bugs.under_way_for_ever},
    ),
    Mutant(
        "jump_believed",
        "a clock that is set ahead ends completion windows",
        {f"{DECIDE}jumped": bugs.jump_unnoticed},
    ),
    Mutant(
        "upload_goes_along",
        "a deleted batch takes an upload that others need",
        {"core.asked.gone": bugs.gone_with_the_upload},
    ),
    Mutant(
        "never_swapped",
        "a model keeps its slot while it has work",
        {"core.placement._turn_is_over": bugs.never_over},
        "slot",
    ),
    Mutant(
        "always_swapped",
        "a model loses its slot at every report",
        {"core.placement._turn_is_over": bugs.always_over},
        "slot",
    ),
    Mutant(
        "swapped_for_nothing",
        "a model without work is loaded",
        {"core.placement._backlogs": bugs.work_everywhere},
        "slot",
    ),
    Mutant(
        "answer_first",
        "the answer leaves before the journal has it",
        {"actors.scheduler.Scheduler._decide": bugs.speak_first},
        "power",
    ),
    Mutant(
        "no_fsync",
        "the journal is written and not fsynced",
        {"ledger.journal.Journal._write": bugs.write_without_fsync},
        "power",
    ),
    Mutant(
        "ledger_first",
        "the ledger commits before the journal has the record",
        {"ledger.durable.DurableMemory.remember": bugs.ledger_before_journal},
        "power",
    ),
    Mutant(
        "checksum_unread",
        "a torn record is believed",
        {"ledger.segment._checked": bugs.record_unchecked},
        "power",
    ),
    Mutant(
        "tail_not_cut",
        "records are appended behind a torn one",
        {"ledger.journal.FileIO": bugs.Untruncated},
        "power",
    ),
    Mutant(
        "last_record_unsynced",
        "a start trusts a record that may be in memory alone",
        {"ledger.journal.Journal._write_last_again": bugs.not_written_again},
        "power",
    ),
    Mutant(
        "upload_unsynced",
        "an upload gets its name before its bytes are durable",
        {"storage.blobs.publish": bugs.publish_unsynced},
        "power",
    ),
    Mutant(
        "name_unsynced",
        "an upload's name is not durable",
        {"storage.atomic.fsync_dir": bugs.name_unsynced},
        "power",
    ),
    Mutant(
        "no_sweep", "what nobody knows is never removed", {"actors.sweep.orphans": bugs.no_orphans}, "power"
    ),
    Mutant(
        "sweep_of_young", "a sweep removes what is on its way", {"actors.sweep.ORPHAN_AGE_S": 0.0}, "power"
    ),
    Mutant(
        "sweep_of_needed",
        "a sweep removes a deleted upload that a batch needs",
        {"actors.sweep.kept": bugs.keep_what_is_shown},
        "power",
    ),
)
BY_NAME: Final = {mutant.name: mutant for mutant in MUTANTS}


def main() -> int:
    parser = argparse.ArgumentParser(description="put each known bug into the code and see it noticed")
    parser.add_argument("--seeds", type=int, default=SEEDS_MAX, help="histories to look for each in")
    parser.add_argument("--only", choices=BY_NAME, nargs="+", default=list(BY_NAME))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    asked = parser.parse_args()
    chosen = [BY_NAME[name] for name in asked.only]
    caught = 0
    print("| mutant | the bug | noticed by | histories |\n|---|---|---|---|", flush=True)
    with multiprocessing.get_context("spawn").Pool(asked.processes, quiet) as pool:
        hunts = [pool.apply_async(_hunt, (mutant.name, asked.seeds)) for mutant in chosen]
        for mutant, hunted in zip(chosen, hunts, strict=True):
            catch = hunted.get()
            caught += catch is not None
            shown = f"`{catch.check}` | {catch.seeds}" if catch else f"**nothing** | {asked.seeds}"
            print(f"| {mutant.name} | {mutant.bug} | {shown} |", flush=True)
    print(f"\n{caught} of {len(chosen)} caught")
    return 0 if caught == len(chosen) else 1


def _hunt(name: str, seeds: int) -> Catch | None:
    return hunt(BY_NAME[name], seeds)


def quiet() -> None:
    """What the code under test logs of its troubles is not the output."""
    logging.disable(logging.CRITICAL)


if __name__ == "__main__":
    sys.exit(main())
