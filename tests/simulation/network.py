"""What is said in the simulated world, and how it gets lost, repeated, reordered and cut off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raybatch.core import commands as cmd
from raybatch.core import events as e
from tests.simulation.judge import Stuck

if TYPE_CHECKING:
    from tests.simulation.world import World

TURNS_MAX: Final = 100_000  #: of one exchange of messages without a fault


class Network:
    def __init__(self, world: World) -> None:
        self._world = world
        self.to_scheduler: list[e.Event] = []
        self.echoes: list[e.Event] = []  #: messages that may arrive once more
        self.replies: list[cmd.Reply] = []
        self.cut_until_s: dict[str, float] = {}  #: by engine: while nothing gets through to it or from it

    def say(self, event: e.Event) -> None:
        """To the scheduler."""
        self.to_scheduler.append(event)

    def heal(self) -> None:
        """No cut any more, and nobody on the way who would pause anything."""
        self.cut_until_s.clear()
        self.to_scheduler = [event for event in self.to_scheduler if not isinstance(event, e.PauseAsked)]

    def deliver(self) -> None:
        """The next message to the scheduler, or a later one; perhaps never, perhaps again."""
        if not self.to_scheduler:
            return
        place = self._place(len(self.to_scheduler))
        event = self.to_scheduler.pop(place)
        if self._world.chance(0.1):
            self.echoes.append(event)
        if self.is_cut(sender_of(event)) or self._world.chance(0.1):
            self._world.tell(f"lost: {type(event).__name__} of {sender_of(event)}")
        else:
            self._world.happen(event)

    def deliver_again(self) -> None:
        """Something said long ago."""
        if self.echoes:
            event = self._world.rng.choice(self.echoes)
            if not (isinstance(event, e.BatchAsked) and event.batch_id in self._world.deleted):
                self._world.tell("once more, what was said before:")
                self._world.happen(event)  # nobody deletes a batch while asking for it

    def deliver_reply(self) -> None:
        if not self.replies:
            return
        place = self._place(len(self.replies))
        reply = self.replies[place]
        if not self._world.chance(0.1):
            del self.replies[place]
        if not self._world.chance(0.1):
            self._hear(reply)

    def drain(self) -> None:
        for _ in range(TURNS_MAX):
            if not self.to_scheduler and not self.replies:
                return
            while self.replies:
                self._hear(self.replies.pop(0))
            if self.to_scheduler:
                self._world.happen(self.to_scheduler.pop(0))
        raise Stuck(f"{TURNS_MAX} messages without a fault, and still more: {self.to_scheduler[:1]}")

    def _hear(self, reply: cmd.Reply) -> None:
        kind, _, rest = reply.reply_to.partition("/")
        for engine in (*self._world.engines, *self._world.zombies):
            if self.is_cut(engine.engine_id):
                continue
            if kind == "engine" and isinstance(reply.value, cmd.EngineOrders):
                if rest.startswith(f"{engine.engine_id}/{engine.incarnation}/"):
                    engine.obey(reply.value, self._world.clock_s, self._world.models[0])
            elif kind == "part" and isinstance(reply.value, tuple):
                engine.learn(rest.partition("/")[2], reply.value)

    def is_cut_somewhere(self) -> None:
        """Between one engine and the scheduler, both ways."""
        engine, for_s = self._world.any_engine(), self._world.rng.choice((2.0, 9.0, 30.0))
        self.cut_until_s[engine.engine_id] = self._world.clock_s + for_s
        self._world.tell(f"{engine.engine_id} is cut off for {for_s:.0f} s")

    def is_cut(self, engine_id: str) -> bool:
        return self._world.clock_s < self.cut_until_s.get(engine_id, 0.0)

    def _place(self, length: int) -> int:
        return self._world.rng.randrange(length) if self._world.chance(0.3) else 0


def sender_of(event: e.Event) -> str:
    """The engine that says so, or else what does."""
    match event:
        case e.EngineReport():
            return event.engine_id
        case e.PartWritten() if event.reply_to.startswith("part/"):
            return event.reply_to.split("/")[1]
        case e.PartWritten() | e.IntakeEnded() | e.PartsCompacted() | e.ChoreBroke():
            return "a chore"
        case _:
            return "a client"
