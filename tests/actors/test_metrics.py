"""What is counted, decision by decision; and that code, dashboard, alerts and page name the same metrics."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raybatch.actors.metrics import METRICS, Counts, Gauges, Kind, figures, observe, queue_figures, starts
from raybatch.actors.reads import Overview
from raybatch.config import Home
from raybatch.core import changes as c
from raybatch.core.commands import Rejection, Reply, Verdict
from raybatch.core.decision import Decision
from raybatch.core.events import EnginePhase, EngineReport, PartWritten, Tick
from raybatch.core.model import Batch, BatchStatus, ModelSpan, PartFile, PartSlice, Tally, Usage
from raybatch.core.policy import Policy
from raybatch.errors import Refused
from tests.actors.local import batch_asked, create, ended, engine_running, scheduling, store, upload_of
from tests.cli.fake_server import engine_json, gpu_json, overview_json

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "raybatch" / "dashboards" / "raybatch_grafana_dashboard.json"
RULES = ROOT / "raybatch" / "dashboards" / "raybatch.rules.yml"
PAGE = ROOT / "docs" / "metrics.md"
NAME = re.compile(r"\b(?:ray_)?(raybatch_[a-z0-9_]+)\b")
PART = PartFile("part-1", "results/part-1.parquet", 1, 3, "crc32c:0")
REPORT = EngineReport(
    reply_to="r",
    engine_id="engine-0-0",
    incarnation=1.0,
    seq=1,
    models=("m",),
    phase=EnginePhase.READY,
    held=(),
    wants_rows=0,
    window=1,
    running=0,
    rows_per_s=0.0,
    tokens_per_s=0.0,
    pid=1,
    child_pids=(),
)
BATCH = Batch(
    "batch_1", "tenant", "file", "/v1/chat/completions", "24h", 86_400.0, 100.0, model="m", total=10
)


class Shown:
    """A registry that writes down what it is told."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}
        self.name = ""

    def metric(self, name: str) -> Any:
        self.name = name
        return self

    def inc(self, value: float, tags: dict[str, str]) -> None:
        key = self._key(tags)
        self.values[key] = self.values.get(key, 0.0) + value

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.values[self._key(tags)] = value

    def begin(self, tags: dict[str, str]) -> None:
        assert self._key(tags) not in self.values
        self.values[self._key(tags)] = 0.0

    def observe(self, value: float) -> None:
        self.values[(self.name,)] = self.values.get((self.name,), 0.0) + 1

    def _key(self, tags: dict[str, str]) -> tuple[str, ...]:
        """Raises KeyError for a label too few or a metric that the table does not have."""
        assert tags.keys() == set(METRICS[self.name].labels)
        return (self.name.removeprefix("raybatch_"), *(tags[label] for label in METRICS[self.name].labels))


def counted(*steps: tuple[Any, Decision], batch: Batch | None = BATCH) -> dict[tuple[str, ...], float]:
    shown = Shown()
    counts = Counts(shown, lambda _: batch)  # type: ignore[arg-type]
    for event, decision in steps:
        counts.decided(event, decision)
    return shown.values


def overview(*engines: dict[str, Any], **changes: Any) -> Overview:
    return msgspec.convert(overview_json(*engines, **changes)["overview"], Overview)


# -- counters ----------------------------------------------------------------------------------------------


async def test_a_batch_is_counted_once_by_outcome_with_its_tokens(tmp_path: Path) -> None:
    home, shown = Home(tmp_path), Shown()

    def said(row: int) -> str:
        return "[[status=400]]" if row % 10 == 0 else f"row {row}"

    async with scheduling(home) as (scheduler, gateway):
        scheduler.witness = Counts(shown, scheduler.known_batch)  # type: ignore[arg-type]
        async with engine_running(home, gateway):
            batch = await create(scheduler, await store(home, scheduler, upload_of(50, said)))
            done = await ended(scheduler, batch.batch_id)
    assert shown.values["requests_total", "echo", "completed"] == done.tally.completed == 45
    assert shown.values["requests_total", "echo", "failed"] == done.tally.failed == 5
    usage = done.tally.usage
    assert shown.values["tokens_total", "echo", "prompt"] == usage.prompt_tokens > 0
    assert shown.values["tokens_total", "echo", "completion"] == usage.completion_tokens > 0
    assert shown.values[("raybatch_ledger_commit_duration_seconds",)] > 0
    assert not {name for name, *_ in shown.values} & {"stale_commits_total", "lease_expiries_total"}


async def test_a_refusal_is_counted_by_its_reason(tmp_path: Path) -> None:
    home, shown = Home(tmp_path), Shown()
    async with scheduling(home, Policy(active_batches_max=1)) as (scheduler, _):
        scheduler.witness = Counts(shown, scheduler.known_batch)  # type: ignore[arg-type]
        file = await store(home, scheduler, upload_of(5))
        await create(scheduler, file)
        with pytest.raises(Refused):
            await create(scheduler, file)
    assert shown.values == {("admission_refusals_total", "too_many_batches"): 1.0} | {
        key: value for key, value in shown.values.items() if "ledger" in key[0]
    }


def test_a_reason_nobody_listed_is_other_and_never_a_label_of_its_own() -> None:
    asked = batch_asked("file")
    refused = Decision((), (Reply("r", Rejection("Busy", "words of a tenant", code="words_of_a_tenant")),))
    assert counted((asked, refused)) == {("admission_refusals_total", "other"): 1.0}


def test_rows_of_a_mixed_batch_count_for_the_model_they_name() -> None:
    spans = (ModelSpan("a", 0, 4, 40), ModelSpan("b", 4, 6, 60))
    slices = (
        PartSlice(1, 1, 0, 0b1111, Tally(3, 1, usage=Usage(30, 9, 5))),
        PartSlice(2, 2, 4, 0b11, Tally(2, 0, usage=Usage(20, 4, 0))),
    )
    written = PartWritten("r", "engine-0-0", "batch_1", PART, slices)
    verdicts = Reply("r", (Verdict.ACCEPTED, Verdict.ACCEPTED))
    decision = Decision((c.PartCommitted("batch_1", PART, slices),), (verdicts,))
    found = counted((written, decision), batch=replace(BATCH, model=None, spans=spans))
    assert found == {
        ("requests_total", "a", "completed"): 3,
        ("requests_total", "a", "failed"): 1,
        ("requests_total", "b", "completed"): 2,
        ("tokens_total", "a", "prompt"): 30,
        ("tokens_total", "a", "cached"): 5,
        ("tokens_total", "a", "completion"): 9,
        ("tokens_total", "b", "prompt"): 20,
        ("tokens_total", "b", "completion"): 4,
    }


def test_stale_slices_and_leases_nobody_renewed_are_counted() -> None:
    written = PartWritten("r", "engine-0-0", "batch_1", PART, ())
    verdicts = Reply("r", (Verdict.STALE, Verdict.ALREADY, Verdict.STALE))
    tick = Decision((c.LeaseReleased(1, 1), c.LeaseReleased(2, 2)))
    found = counted((written, Decision((), (verdicts,))), (Tick(), tick), (REPORT, tick))
    assert found == {
        ("stale_commits_total",): 2.0,
        ("lease_expiries_total",): 2.0,
    }  # given back is not expired


def test_a_restart_is_counted_with_what_the_life_before_came_to() -> None:
    lives = (
        REPORT,
        replace(REPORT, seq=2),
        replace(REPORT, incarnation=2.0),
        replace(REPORT, incarnation=2.0, phase=EnginePhase.DIED),
        replace(REPORT, incarnation=3.0, phase=EnginePhase.STOPPED),
        replace(REPORT, incarnation=4.0, phase=EnginePhase.FAILED),
        replace(REPORT, incarnation=5.0),
        replace(REPORT, engine_id="engine-0-1", incarnation=9.0),
    )
    found = counted(*((report, Decision((c.EngineSeen(report, 0.0, ()),))) for report in lives))
    assert found == {
        ("engine_restarts_total", "engine-0-0", reason): 1.0
        for reason in ("killed", "died", "stopped", "failed")
    }


def test_whatever_is_wrong_with_counting_work_goes_on() -> None:
    broken = PartSlice(1, 1, 99, 1, Tally(1))  # beyond the batch's end
    written = PartWritten("r", "engine-0-0", "batch_1", PART, (broken,))
    assert (
        counted((written, Decision((c.PartCommitted("batch_1", PART, (broken,)),), (Reply("r", ()),)))) == {}
    )


def test_counters_begin_at_0_once() -> None:
    shown = Shown()
    counts = Counts(shown, lambda _: None)  # type: ignore[arg-type]
    for _ in range(2):
        counts.begin(overview(engine_json()))
    assert set(shown.values.values()) == {0.0}
    counters = {name for name, metric in METRICS.items() if metric.kind is Kind.COUNTER}
    assert {f"raybatch_{name}" for name, *_ in shown.values} == counters
    assert {name for name, _ in starts(overview(engine_json()))} == counters


def test_outside_ray_nothing_is_observed() -> None:
    observe("raybatch_flush_duration_seconds", 1.0, engine="engine-0-0")


# -- gauges ------------------------------------------------------------------------------------------------


def test_every_gauge_has_a_figure_and_what_has_gone_is_0() -> None:
    shown = Shown()
    gauges = Gauges(shown)  # type: ignore[arg-type]
    gauges.show([*figures(overview(engine_json(gpus=[gpu_json()]))), *queue_figures(["m"], [], 0.0)])
    known = {name for name, metric in METRICS.items() if metric.kind is Kind.GAUGE}
    assert {f"raybatch_{name}" for name, *_ in shown.values} == known
    assert shown.values["gpu_temperature_celsius", "org-small-0", "GPU-1"] == 82
    assert shown.values["queued_requests", "org/small"] == 1_500
    gauges.show(figures(overview()))
    assert shown.values["gpu_temperature_celsius", "org-small-0", "GPU-1"] == 0
    assert shown.values["engine_up", "org-small-0"] == 0


def test_the_oldest_work_and_the_dead_letters_are_told_by_model() -> None:
    running = replace(BATCH, status=BatchStatus.IN_PROGRESS)
    spans = (ModelSpan("m", 0, 4, 40, finished=4), ModelSpan("other", 4, 6, 60))
    batches = (
        replace(running, created_at=100.0, tally=Tally(3, 2)),
        replace(running, created_at=50.0, model=None, spans=spans, tally=Tally(4, 1)),
        replace(running, created_at=1.0, tally=Tally(10)),
        replace(running, created_at=1.0, status=BatchStatus.COMPLETED, tally=Tally(0, 10)),
    )
    shown = Shown()
    Gauges(shown).show(queue_figures(["m", "idle"], batches, 160.0))  # type: ignore[arg-type]
    assert shown.values == {
        ("queue_oldest_age_seconds", "m"): 60.0,
        ("queue_oldest_age_seconds", "idle"): 0.0,
        ("queue_oldest_age_seconds", "other"): 110.0,
        ("dead_letters", "m"): 12,
        ("dead_letters", "idle"): 0,
        ("dead_letters", "several"): 1,
    }


# -- names -------------------------------------------------------------------------------------------------


def test_names_say_unit_and_kind_and_labels_are_few_and_bounded() -> None:
    for name, metric in METRICS.items():
        assert name.endswith("_total") == (metric.kind is Kind.COUNTER), name
        assert metric.kind is not Kind.HISTOGRAM or name.endswith("_seconds"), name
        assert set(metric.labels) <= {"engine", "gpu", "kind", "model", "outcome", "reason", "status"}, name
        assert metric.words.endswith("."), name


def test_dashboard_and_alerts_together_use_every_metric_and_no_other() -> None:
    panels = [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]
    shown = {name for panel in panels for target in panel["targets"] for name in _names(target["expr"])}
    rules = "\n".join(line for line in RULES.read_text().splitlines() if "raybatch_" in line)
    assert shown | _names(rules) == METRICS.keys()
    assert _names(rules) <= shown, "an alert that the dashboard does not show"


def test_the_page_has_every_metric_with_its_type_and_labels() -> None:
    rows = re.findall(r"^\| `(raybatch_\w+)` \| (\w+) \| (.*?) \|", PAGE.read_text(), flags=re.M)
    told = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert told == {name: (metric.kind.value, metric.labels) for name, metric in METRICS.items()}
    assert _names(PAGE.read_text()) - {"raybatch_grafana_dashboard"} == METRICS.keys()


def test_every_alert_is_on_the_page() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    assert set(re.findall(r"^\| `(Raybatch\w+)`", PAGE.read_text(), flags=re.M)) == set(alerts)


def _names(text: str) -> set[str]:
    names = set(NAME.findall(text))
    return {re.sub(r"(_seconds)_(bucket|sum|count)$", r"\1", name) for name in names}
