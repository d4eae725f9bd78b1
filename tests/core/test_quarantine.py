"""Who is to blame for a dead engine: the guilty row is found in few deaths, and nobody else is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from raybatch.core.commands import Lease, StartClosing
from raybatch.core.events import EnginePhase, PartWritten, RowsInFlight
from raybatch.core.model import BatchStatus, ChunkState
from raybatch.core.rows import bitmap_of, offsets_of
from tests.core.scene import Scene, part_of, slice_of

WINDOW = 128
Kills = Callable[[set[int]], bool]  #: of the positions in flight


@dataclass
class Engine:
    """Runs a window of rows at a time, all of them at once; dies when what is in flight kills it."""

    scene: Scene
    kills: Kills
    window: int = WINDOW
    engine_id: str = "e1"
    outside: bool = False  #: its deaths are somebody else's doing
    life: float = 1.0
    deaths: int = 0
    alone: int = 0  #: deaths with one row in flight
    ran: list[set[int]] = field(default_factory=list)
    _parts: int = 0

    def live(self) -> None:
        """Ask for rows and run them; die or finish them all."""
        leases = self.scene.report(
            self.engine_id, wants_rows=2 * self.window, window=self.window, incarnation=self.life
        ).leases
        left = [(lease, offset) for lease in leases for offset in offsets_of(lease.rows)]
        while left:
            running, left = left[: self.window], left[self.window :]
            positions = {lease.first + offset for lease, offset in running}
            self.ran.append(positions)
            if self.kills(positions):
                return self._die(running)
            self._commit(running)
        self.scene.wait(1.0)
        self._bury()
        return None

    def _die(self, running: list[tuple[Lease, int]]) -> None:
        self.deaths += 1
        self.alone += len(running) == 1
        leases = dict.fromkeys(lease for lease, _ in running)
        in_flight = tuple(
            RowsInFlight(
                lease.chunk_id, lease.token, bitmap_of(offset for one, offset in running if one == lease)
            )
            for lease in leases
        )
        self.scene.report(
            self.engine_id,
            phase=EnginePhase.DIED,
            incarnation=self.life,
            in_flight=() if self.outside else in_flight,
        )
        self.life += 1.0
        self.scene.wait(1.0)
        self._bury()

    def _commit(self, rows: list[tuple[Lease, int]]) -> None:
        for lease in dict.fromkeys(lease for lease, _ in rows):
            self._parts += 1
            bitmap = bitmap_of(offset for one, offset in rows if one == lease)
            part_id = f"{self.engine_id}-{self._parts}"
            verdicts = self.scene.write(part_id, slice_of(lease, bitmap), batch_id=lease.batch_id)
            assert set(verdicts) == {"accepted"}

    def _bury(self) -> None:
        for command in self.scene.commands:
            if isinstance(command, StartClosing):
                assert command.code == "engine_crash"
                (lease,) = command.leases
                piece = slice_of(lease, failed=1)
                part = part_of(f"burial-{lease.token}", piece)
                self.scene.say(PartWritten("r", command.chore, command.batch_id, part, (piece,)))


def run(scene: Scene, engine: Engine, turns_max: int = 500) -> None:
    for _ in range(turns_max):
        if scene.batch().status is BatchStatus.COMPLETED:
            return
        engine.live()
    raise AssertionError(f"not completed after {engine.deaths} deaths: {scene.batch().tally}")


def test_one_poison_among_five_thousand_costs_one_dead_letter_and_six_deaths() -> None:
    scene = Scene()
    scene.accept(5_000)
    engine = Engine(scene, lambda running: 1_234 in running)
    run(scene, engine)
    assert (scene.batch().tally.completed, scene.batch().tally.failed) == (4_999, 1)
    assert engine.deaths == 6
    assert engine.alone == 2


def test_three_poisons_one_of_them_flaky_all_others_complete() -> None:
    flaky = iter([True, False] * 100)
    scene = Scene()
    scene.accept(2_000)
    engine = Engine(scene, lambda running: bool(running & {10, 1_500}) or (700 in running and next(flaky)))
    run(scene, engine)
    assert scene.batch().tally.completed >= 1_997
    assert scene.batch().tally.completed + scene.batch().tally.failed == 2_000
    assert 2 <= scene.batch().tally.failed <= 3


def test_two_rows_that_kill_only_together_both_complete() -> None:
    scene = Scene()
    scene.accept(1_000)
    run(scene, Engine(scene, lambda running: {100, 103} <= running))
    assert (scene.batch().tally.completed, scene.batch().tally.failed) == (1_000, 0)


def test_five_kills_from_outside_blame_nobody() -> None:
    kills = iter([True] * 5)
    scene = Scene()
    scene.accept(1_000)
    engine = Engine(scene, lambda running: next(kills, False), outside=True)
    run(scene, engine)
    assert (engine.deaths, scene.batch().tally.failed) == (5, 0)
    assert not any(entry.kind == "suspected" for entry in scene.state.log.values())
    assert len(engine.ran) <= 5 + 1_000 // WINDOW + 1  # nobody ran in a small group


def test_a_single_death_makes_nobody_a_suspect() -> None:
    once = iter([True])
    scene = Scene()
    scene.accept(300)
    engine = Engine(scene, lambda running: next(once, False))
    engine.live()
    assert not any(chunk.suspect for chunk in scene.state.chunks.values())
    run(scene, engine)
    assert scene.batch().tally.completed == 300


def test_ordinary_rows_get_their_turn_while_suspects_are_narrowed_down() -> None:
    scene = Scene()
    scene.accept(200)
    engine = Engine(scene, lambda running: 7 in running)
    while not any(chunk.suspect for chunk in scene.state.chunks.values()):
        engine.live()
    scene.accept(50_000, "batch_2")
    began = scene.batch("batch_2").finished_rows
    for _ in range(40):
        scene.wait(20.0)
        engine.live()
    assert scene.batch("batch_2").finished_rows > began
    assert scene.batch().status is BatchStatus.COMPLETED
    assert (scene.batch().tally.completed, scene.batch().tally.failed) == (199, 1)


def test_only_one_engine_takes_suspects_and_the_other_goes_on() -> None:
    scene = Scene()
    scene.accept(2_000)
    first = Engine(scene, lambda running: 3 in running)
    while not any(chunk.suspect for chunk in scene.state.chunks.values()):
        first.live()
    lane = scene.report("e1", wants_rows=256, window=WINDOW, incarnation=first.life).leases
    other = scene.report("e2", wants_rows=256, window=WINDOW).leases
    assert [scene.state.chunks[lease.chunk_id].suspect for lease in lane] == [True]
    assert other
    assert not any(scene.state.chunks[lease.chunk_id].suspect for lease in other)


def test_a_death_told_twice_or_late_counts_once() -> None:
    scene = Scene()
    scene.accept(8)
    (lease,) = scene.report(wants_rows=8).leases
    in_flight = (RowsInFlight(lease.chunk_id, lease.token, lease.rows),)
    scene.report(phase=EnginePhase.DIED, in_flight=in_flight)
    again = scene.report(wants_rows=8, incarnation=2.0).leases
    scene.report(phase=EnginePhase.DIED, incarnation=2.0, in_flight=in_flight, held=again)  # an old token
    (chunk,) = scene.state.chunks.values()
    assert (chunk.state, chunk.suspect) == (ChunkState.LEASED, False)


def test_a_cancel_in_the_middle_ends_the_batch_suspects_included() -> None:
    scene = Scene()
    scene.accept(64)
    engine = Engine(scene, lambda running: 5 in running)
    while not any(chunk.suspect for chunk in scene.state.chunks.values()):
        engine.live()
    scene.cancel()
    scene.wait(1.0)
    (closing,) = scene.commands
    assert isinstance(closing, StartClosing)
    assert closing.code == "batch_cancelled"
    pieces = tuple(slice_of(lease, failed=lease.rows.bit_count()) for lease in closing.leases)
    scene.say(PartWritten("r", closing.chore, "batch_1", part_of("closing", *pieces), pieces))
    assert scene.batch().status is BatchStatus.CANCELLED
    assert not scene.state.chunks
