"""What clients ask of the simulated world: create, cancel, retry, pause, delete, at any moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raybatch.core import events as e
from raybatch.core.model import File, RowSpan
from raybatch.core.rows import bitmap_of
from tests.simulation.engine import tally_of
from tests.simulation.judge import served_rows

if TYPE_CHECKING:
    from tests.simulation.world import World


SIZES: Final = (1, 17, 90, 300, 301)  #: rows of an upload


class Clients:
    def __init__(self, world: World) -> None:
        self._world = world

    def creates(self) -> None:
        world = self._world
        if len(world.uploads) >= 4 and world.chance(0.9):
            return
        number = world.draw()
        file_id = f"file-{number}"
        if world.uploads and world.chance(0.3):
            file_id = world.rng.choice(list(world.uploads))
        else:
            world.uploads[file_id] = (world.rng.choice(SIZES), not world.chance(0.1))
            world.happen(e.FileStored("client", File(file_id, "t", "batch", "in.jsonl", 1, world.clock_s)))
        world.network.say(
            e.BatchAsked(
                reply_to="client",
                batch_id=f"batch-{number}",
                tenant="t",
                input_file_id=file_id,
                output_file_id=f"out-{number}",
                error_file_id=f"err-{number}",
                endpoint="/v1/chat/completions",
                completion_window="24h",
                completion_window_s=world.rng.choice((86_400.0, 86_400.0, 60.0)),
                metadata=world.rng.choice((None, {}, {"ключ": "значение"})),
                priority=world.rng.choice((0, 0, 5)),
                request_key=file_id,
                idempotency_key=world.rng.choice((None, f"key-{number}")),
                is_retry=False,
            )
        )

    def cancels(self) -> None:
        world = self._world
        if world.state.batches and world.chance(0.5):
            batch_id = world.rng.choice(list(world.state.batches))
            world.network.say(e.CancelAsked("client", "t", batch_id))

    def retries(self) -> None:
        world = self._world
        ended = [batch for batch in world.state.batches.values() if batch.tally.failed and not batch.active]
        if not ended:
            return
        batch = world.rng.choice(ended)
        failed = [row for row in served_rows(world, batch.batch_id, batch.round) if not row.ok]
        again = world.rng.sample(failed, world.rng.randint(1, len(failed)))
        width = world.rng.choice((1, 7, 64))
        stretches: dict[int, list[int]] = {}
        for position in sorted(row.position for row in again):
            stretches.setdefault(position // width, []).append(position)
        spans = tuple(
            RowSpan(run[0], bitmap_of(position - run[0] for position in run), world.rng.randint(1, 3))
            for run in stretches.values()
        )
        number = world.draw()
        names = f"out-{number}", f"err-{number}"
        world.network.say(
            e.RetryAsked("client", "t", batch.batch_id, batch.round, spans, tally_of(again), *names)
        )

    def pauses(self) -> None:
        world = self._world
        batch_id = world.rng.choice([None, *world.state.batches])
        world.network.say(e.PauseAsked("client", "t", batch_id, world.rng.random() < 0.5))

    def deletes_a_file(self) -> None:
        world = self._world
        if world.state.files:
            file_id = world.rng.choice(list(world.state.files))
            world.network.say(e.FileDeletionAsked("client", "t", file_id))

    def deletes_a_batch(self) -> None:
        """Or cancels it, while it is active."""
        world = self._world
        if world.state.batches and world.chance(0.5):
            batch_id = world.rng.choice(list(world.state.batches))
            world.network.say(e.BatchDeletionAsked("client", "t", batch_id))
