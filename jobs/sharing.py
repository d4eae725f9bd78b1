"""Fair sharing: what a small batch pays for arriving during a large one, and what both together lose by it.

On the echo engine, whose steps take their time. Every answer is checked, so that sharing is seen to change
none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from jobs.echo_cluster import EchoCluster
from jobs.runs import Ratio
from jobs.trial import Trial, requests

ARRIVAL: Final = 0.1  #: of the large batch is committed when the small one comes

Say = Callable[[str], None]


@dataclass(frozen=True)
class Round:
    """Times from the creation of a batch to its completion."""

    number: int
    small_rows: int
    large_rows: int
    small_alone_s: float
    large_alone_s: float
    small_beside_s: float
    both_s: float  #: from the creation of the large one to the completion of the later one
    small_behind_s: float  #: as beside, first come first served
    fifo_s: float  #: as both, first come first served

    @property
    def slowdown(self) -> float:
        return self.small_beside_s / self.small_alone_s

    @property
    def fifo_slowdown(self) -> float:
        return self.small_behind_s / self.small_alone_s

    @property
    def total(self) -> float:
        """Rows a second of both together ÷ of the large one alone."""
        return (self.small_rows + self.large_rows) / self.both_s / (self.large_rows / self.large_alone_s)


def measure(cluster: EchoCluster, small_rows: int, large_rows: int, rounds: int, say: Say) -> list[Round]:
    """Every second round in reverse. Raises AssertionError when an answer is not what it must be."""
    _alone_s(cluster, small_rows)  # warms up
    done = []
    for number in range(rounds):
        times = _round_s(cluster, small_rows, large_rows, backwards=number % 2 == 1)
        done.append(Round(number, small_rows, large_rows, **times))
        say(f"round {number + 1}: slowdown {done[-1].slowdown:.2f}, total {done[-1].total:.3f}")
    return done


def report(rounds: list[Round], cluster: EchoCluster) -> dict[str, Any]:
    """As it is written to JSON."""
    return {
        "metric": "P8 fair sharing: time of a small batch beside a large one ÷ alone; rows/s of both ÷ large",
        "ratio": {
            "slowdown": Ratio.of([round_.slowdown for round_ in rounds]),
            "slowdown, first come first served": Ratio.of([round_.fifo_slowdown for round_ in rounds]),
            "total": Ratio.of([round_.total for round_ in rounds]),
        },
        "arms": {
            "small_alone_s": [round_.small_alone_s for round_ in rounds],
            "small_beside_s": [round_.small_beside_s for round_ in rounds],
            "large_alone_s": [round_.large_alone_s for round_ in rounds],
            "both_s": [round_.both_s for round_ in rounds],
            "small_behind_s": [round_.small_behind_s for round_ in rounds],
            "fifo_s": [round_.fifo_s for round_ in rounds],
        },
        "echo": cluster.settings.echo,
        "runs": [asdict(round_) | {"slowdown": round_.slowdown, "total": round_.total} for round_ in rounds],
    }


def _round_s(cluster: EchoCluster, small_rows: int, large_rows: int, *, backwards: bool) -> dict[str, float]:
    steps: list[Callable[[], dict[str, float]]] = [
        lambda: {"small_alone_s": _alone_s(cluster, small_rows)},
        lambda: {"large_alone_s": _alone_s(cluster, large_rows)},
        lambda: _beside_s(cluster, small_rows, large_rows),
        lambda: _behind_s(cluster, small_rows, large_rows),
    ]
    return {
        name: time_s for step in (reversed(steps) if backwards else steps) for name, time_s in step().items()
    }


def _alone_s(cluster: EchoCluster, rows: int) -> float:
    created_at, completed_at = _instants(cluster, Trial(cluster, requests(rows)))
    return completed_at - created_at


def _beside_s(cluster: EchoCluster, small_rows: int, large_rows: int) -> dict[str, float]:
    small_s, both_s = _together_s(cluster, small_rows, large_rows, 0)
    return {"small_beside_s": small_s, "both_s": both_s}


def _behind_s(cluster: EchoCluster, small_rows: int, large_rows: int) -> dict[str, float]:
    """First come first served: the large batch has a higher priority, so all of its rows go first."""
    small_s, both_s = _together_s(cluster, small_rows, large_rows, 1)
    return {"small_behind_s": small_s, "fifo_s": both_s}


def _together_s(cluster: EchoCluster, small_rows: int, large_rows: int, priority: int) -> tuple[float, float]:
    """The small one's time, and both's. ``priority``: of the large one."""
    large = Trial(cluster, requests(large_rows), priority)
    large.wait_committed(round(ARRIVAL * large_rows))
    small = Trial(cluster, requests(small_rows))
    small.wait_ended()
    large.wait_ended()
    (small_created_at, small_completed_at) = _instants(cluster, small)
    (large_created_at, large_completed_at) = _instants(cluster, large)
    if large_completed_at < small_created_at:
        raise AssertionError(f"the {large_rows} rows ended before the small batch came: make them more")
    both_s = max(small_completed_at, large_completed_at) - large_created_at
    return small_completed_at - small_created_at, both_s


def _instants(cluster: EchoCluster, trial: Trial) -> tuple[float, float]:
    """Of creation and completion, once every answer was checked."""
    if faults := trial.verdict().faults:
        raise AssertionError(f"{trial.batch_id} went wrong: {faults}")
    batch = cluster.batch(trial.batch_id)
    assert batch.completed_at is not None
    return batch.created_at, batch.completed_at
