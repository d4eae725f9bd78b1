"""F12, F15: the disk is full or fails, the clock jumps. Needs a cluster started under the shim."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from typing import Final

from jobs.echo_cluster import EchoCluster, until
from jobs.fault_case import MENDED_MAX_S, Outcome, Story, begun, overview, rows_back_s
from jobs.fault_shim import Shim
from jobs.trial import committed

FULL_S: Final = 60.0
SAID_S: Final = 30.0  #: at the latest, the health tells a full disk
JUMPS_S: Final = (7200.0, -7200.0, 50 * 365 * 86_400.0)
WRONG_CLOCK_S: Final = 4.0


def disk_full(cluster: EchoCluster, shim: Shim, rows: int, full_s: float = FULL_S) -> Iterator[Outcome]:
    """Nothing is acknowledged meanwhile, the health says why, and work goes on by itself."""
    story = Story(cluster, "F12", f"disk full for {full_s:.0f} s")
    trial = begun(cluster, rows)
    shim.fail_disk(write_errno=errno.ENOSPC)
    try:
        until(lambda: overview(cluster)["closed"] is not None, SAID_S, "nobody says that the disk is full")
        at_full = committed(trial.wait_committed(0))
        time.sleep(full_s)
        later = committed(trial.wait_committed(0))
        story.expect(later == at_full, f"{later - at_full} rows were committed on a full disk")
    finally:
        shim.fail_disk()
    story.expect(shim.refused > 0, "no write was refused: nothing was tried")
    yield story.outcome(trial, rows_back_s(trial, time.monotonic(), at_full))


def failed_fsync(cluster: EchoCluster, shim: Shim, rows: int) -> Iterator[Outcome]:
    """What an fsync failed to write is unknown: whoever met it gives up what it holds and reads again."""
    story = Story(cluster, "F12", "fsync fails with EIO until the scheduler gave up")
    trial = begun(cluster, rows)
    before = committed(trial.wait_committed(0))
    pids = cluster.pids("scheduler")
    shim.fail_disk(sync_errno=errno.EIO)
    try:
        until(lambda: cluster.pids("scheduler") != pids, MENDED_MAX_S, "the scheduler went on")
    finally:
        shim.fail_disk()
    yield story.outcome(trial, rows_back_s(trial, time.monotonic(), before))


def clock(cluster: EchoCluster, shim: Shim, rows: int) -> Iterator[Outcome]:
    """The wall clock of scheduler and engines jumps, and stands still: leases must not end early by it."""
    for offset_s in (*JUMPS_S, 0.0):
        what = f"jumps by {offset_s / 3600:+,.0f} h" if offset_s else "stands still"
        story = Story(cluster, "F15", f"the clock {what}")
        trial = begun(cluster, rows, share=0.1)
        pids = [*cluster.pids("scheduler"), *cluster.pids("engine")]
        shim.move_clock(pids, offset_s=offset_s, frozen_at=0.0 if offset_s else time.time())
        moved_mono = time.monotonic()
        try:
            recovery_s = rows_back_s(trial, moved_mono, committed(trial.wait_committed(0)))
            time.sleep(WRONG_CLOCK_S)
        finally:
            shim.move_clock(())
        yield story.outcome(trial, recovery_s, again=(0, 0))
