"""Intake, closing and compaction in the simulated world: processes that end, break, vanish or run twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raybatch.core import commands as cmd
from raybatch.core import events as e
from raybatch.core.model import LineError, PartFile
from raybatch.core.rows import offsets_of
from tests.simulation.engine import DiskRow, Finished, part_of
from tests.simulation.judge import rows_of
from tests.simulation.models import spans_of

if TYPE_CHECKING:
    from tests.simulation.world import World


class Chores:
    def __init__(self, world: World) -> None:
        self._world = world
        self.waiting: list[cmd.Command] = []

    def run_one(self) -> None:
        """To its verdict, or not: it may break, vanish, or run twice."""
        if not self.waiting:
            return
        command = self._world.rng.choice(self.waiting)
        if not self._world.chance(0.1):
            self.waiting.remove(command)
        fate = self._world.rng.random() if self._world.faults else 1.0
        if fate < 0.1:
            return
        verdict: e.Event | None
        match command:
            case cmd.StartIntake(batch_id):
                chore, verdict = f"intake:{batch_id}", self._take_in(batch_id)
            case cmd.StartClosing(batch_id):
                chore, verdict = f"closing:{batch_id}", self._close(command, broken=fate < 0.2)
            case cmd.StartCompaction(batch_id):
                chore, verdict = f"compaction:{batch_id}", self._compact(command)
            case _:
                raise AssertionError(command)
        broke = e.ChoreBroke(chore, "it broke")
        self._world.network.say(broke if verdict is None or fate < 0.2 else verdict)

    def _take_in(self, batch_id: str) -> e.IntakeEnded:
        if batch_id in self._world.deleted:  # and its upload may be, too
            return e.IntakeEnded(batch_id, 0, None, 0, (LineError("invalid_request", "gone", None, 1),))
        file_id = self._world.state.batches[batch_id].input_file_id
        assert file_id not in self._world.removed_blobs
        total, sound = self._world.uploads[file_id]
        if not sound:
            return e.IntakeEnded(batch_id, 0, None, 0, (LineError("invalid_json", "no", None, 1),))
        spans = spans_of(self._world.models, total)
        several = spans if len(spans) > 1 else ()
        return e.IntakeEnded(batch_id, total, None if several else spans[0].model, 10 * total, (), several)

    def _close(self, command: cmd.StartClosing, *, broken: bool) -> e.PartWritten:
        leases = command.leases[: len(command.leases) // 2] if broken else command.leases
        rows = [
            Finished(lease.batch_id, lease.chunk_id, lease.token, lease.first, row)
            for lease in leases
            for offset in offsets_of(lease.rows)
            for row in (DiskRow(lease.first + offset, False, 7),)
        ]
        written = part_of(command.batch_id, f"closing-{self._world.draw()}", rows, "closing/")
        self._world.disk[written.part.path] = [one.row for one in rows]
        return written

    def _compact(self, command: cmd.StartCompaction) -> e.PartsCompacted | None:
        """The same parts make the same file, whoever merges them and how often."""
        if any(part.path not in self._world.disk for part in command.parts):
            return None
        part_id = "+".join(sorted(part.part_id for part in command.parts))
        rows = [row for part in command.parts for row in rows_of(part, self._world.disk)]
        level = 1 + max(part.level for part in command.parts)
        path = f"results/{command.batch_id}/{part_id}.parquet"
        self._world.disk[path] = rows
        part = PartFile(part_id, path, 1, len(rows), "crc32c:0", level)
        return e.PartsCompacted(command.batch_id, part, tuple(part.part_id for part in command.parts))
