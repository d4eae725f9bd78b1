"""The figures where they are looked for: on Ray's ports, in a real Prometheus, on panels, in alerts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest

from jobs import gpu_scenes
from jobs.echo_cluster import EchoCluster, make_cluster, until
from jobs.nvml_standin import Scene, compile_standin, environment, write_scene
from jobs.trial import Trial, upload_of
from raybatch.actors.cluster_facts import read_facts
from raybatch.actors.metrics import METRICS, Kind
from raybatch.actors.ports import free_ports

pytestmark = pytest.mark.cluster

SEEN_MAX_S = 180.0
ROOT = Path(__file__).resolve().parents[2]
DASHBOARDS = ROOT / "raybatch" / "dashboards"
ROWS, FAILING = 40, 3
SECRET = "perspicacious"  #: a word of a tenant that nothing else would say
EXPOSED = {
    f"ray_{name}_count" if metric.kind is Kind.HISTOGRAM else f"ray_{name}": name
    for name, metric in METRICS.items()
}


def run_batch(cluster: EchoCluster) -> None:
    told = (f"[[status=400]] {SECRET}" if row < FAILING else f"{SECRET} {row}" for row in range(ROWS))
    trial = Trial(cluster, upload_of((f"{SECRET}-{row}", said) for row, said in enumerate(told)))
    assert trial.wait_ended()["request_counts"] == {
        "total": ROWS,
        "completed": ROWS - FAILING,
        "failed": FAILING,
    }


def discovery(cluster: EchoCluster) -> Path:
    """Where Ray says which ports are to be scraped."""
    facts = read_facts(cluster.home)
    assert facts is not None
    return Path(facts.ray_temp_dir) / "prom_metrics_service_discovery.json"


def exposition(cluster: EchoCluster) -> str:
    """What all ports of metrics answer, one text after the other."""
    targets = [target for group in json.loads(discovery(cluster).read_text()) for target in group["targets"]]
    return "\n".join(httpx.get(f"http://{target}/metrics", timeout=30.0).text for target in targets)


def samples(text: str) -> dict[str, list[tuple[str, float]]]:
    """Labels and value of every sample of ours, by name."""
    found: dict[str, list[tuple[str, float]]] = {}
    for name, labels, value in re.findall(r"^(ray_raybatch_\w+)\{(.*)\} (\S+)$", text, flags=re.M):
        found.setdefault(name, []).append((labels, float(value)))
    return found


def requests_by_series(text: str) -> dict[str, float]:
    return dict(samples(text).get("ray_raybatch_requests_total", []))


def batches_completed(text: str) -> set[float]:
    """Of each scheduler's life: a gauge set after the counters of its process; once it is true, they are."""
    kept = samples(text).get("ray_raybatch_batches", [])
    return {value for labels, value in kept if 'status="completed"' in labels}


def requests_since(before: dict[str, float], text: str) -> dict[str, float]:
    """By outcome. Series of processes that are gone leave the port at any time, and do not count."""
    grown = {labels: value - before.get(labels, 0.0) for labels, value in requests_by_series(text).items()}
    return {
        outcome: sum(value for labels, value in grown.items() if f'outcome="{outcome}"' in labels)
        for outcome in ("completed", "failed")
    }


# -- without a Prometheus ----------------------------------------------------------------------------------


def test_every_metric_is_on_rays_port_with_the_rows_that_were_run(shared: EchoCluster) -> None:
    text = ""

    def told(true: Callable[[], bool]) -> Callable[[], bool]:
        def look() -> bool:
            nonlocal text
            text = exposition(shared)
            return true()

        return look

    wanted = {exposed for exposed, name in EXPOSED.items() if not name.startswith("raybatch_gpu_")}
    run_batch(shared)  # so that there is a histogram to see
    until(told(lambda: wanted <= samples(text).keys()), SEEN_MAX_S, "not every metric is exposed")
    kinds = dict(re.findall(r"^# TYPE ray_(raybatch_\w+) (\w+)$", text, flags=re.M))
    assert kinds == {name: METRICS[name].kind.value for name in kinds}

    expected = {"completed": ROWS - FAILING, "failed": FAILING}
    ended = shared.admin("overview")["overview"]["batches"]["completed"]
    until(told(lambda: ended in batches_completed(text)), SEEN_MAX_S, "the batch that ended is not counted")
    before = requests_by_series(text)
    run_batch(shared)
    until(
        told(lambda: requests_since(before, text) == expected), SEEN_MAX_S, f"not {expected} after {before}"
    )
    assert SECRET not in text


# -- with one ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoCluster]:
    """With a GPU, of a kind, so that all figures are there."""
    directory = tmp_path_factory.mktemp("nvml")
    scene_path = directory / "scene"
    write_scene(scene_path, Scene((gpu_scenes.NORMAL,)))
    with patch.dict(os.environ, environment(compile_standin(directory), scene_path)):
        made = make_cluster("engine.gpus=1", "ray.dashboard=true", rows_per_s=500)
        try:
            made.up()
            yield made
        finally:
            made.close()


def binary(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"no '{name}' on PATH: it comes with the Debian package 'prometheus' (apt-get install)")
    return found


@contextmanager
def prometheus(cluster: EchoCluster, folder: Path) -> Iterator[httpx.Client]:
    """A Prometheus with the configuration of docs/metrics.md."""
    until(discovery(cluster).is_file, SEEN_MAX_S, "Ray has not said which ports are to be scraped")
    page = (ROOT / "docs" / "metrics.md").read_text()
    (config,) = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.M | re.S)
    config = config.replace("RAYBATCH_PACKAGE", str(ROOT / "raybatch"))
    config_path = folder / "prometheus.yml"
    config_path.write_text(config.replace("RAY_TEMP_DIR", str(discovery(cluster).parent)))
    subprocess.run([binary("promtool"), "check", "config", config_path], check=True, capture_output=True)
    address = f"127.0.0.1:{free_ports(1)[0]}"
    command = [binary("prometheus"), f"--config.file={config_path}", f"--web.listen-address={address}"]
    command += [f"--storage.tsdb.path={folder / 'tsdb'}", "--log.level=warn"]
    with subprocess.Popen(command) as process, httpx.Client(base_url=f"http://{address}") as client:
        try:
            yield client
        finally:
            process.terminate()


def asked(client: httpx.Client, path: str, **query: Any) -> Any:
    """None while it does not answer yet."""
    try:
        answer = client.get(f"/api/v1/{path}", params=query)
    except httpx.HTTPError:
        return None
    if answer.status_code == 503:
        return None
    told = answer.json()
    assert told["status"] == "success", (query, told)
    return told["data"]


def until_none(missing: Callable[[], set[str]], otherwise: str) -> None:
    try:
        until(lambda: not missing(), SEEN_MAX_S, otherwise)
    except TimeoutError:
        pytest.fail(f"{otherwise}: {sorted(missing())}")


@pytest.mark.long
def test_a_prometheus_finds_every_metric_and_fills_every_panel(watched: EchoCluster, tmp_path: Path) -> None:
    with prometheus(watched, tmp_path) as client:
        run_batch(watched)

        def missing() -> set[str]:
            return EXPOSED.keys() - set(asked(client, "label/__name__/values") or ())

        until_none(missing, "Prometheus lacks")
        panels = json.loads((DASHBOARDS / "raybatch_grafana_dashboard.json").read_text())["panels"]
        exprs = {target["expr"] for panel in panels for target in panel.get("targets", ())}

        def empty() -> set[str]:
            filled = {
                expr: expr.replace("$__rate_interval", "1m").replace("$session", ".*") for expr in exprs
            }
            return {
                expr
                for expr, query in filled.items()
                if not (asked(client, "query", query=query) or {}).get("result")
            }

        run_batch(watched)  # while it looks, so that rates have something to tell
        until_none(empty, "panels stay empty")
        groups = asked(client, "rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        until(
            lambda: all(
                rule["health"] == "ok"
                for group in asked(client, "rules")["groups"]
                for rule in group["rules"]
            ),
            SEEN_MAX_S,
            "some rules cannot be evaluated",
        )
        assert len(rules) > 10
        firing = {
            alert["labels"]["alertname"]
            for alert in asked(client, "alerts")["alerts"]
            if alert["state"] == "firing"
        }
        assert firing <= {"RaybatchDiskLow"}


RULES_TEST = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: 'ray_raybatch_closed{{SessionName="s"}}', values: '0x60'}}
      - {{series: 'ray_raybatch_queued_requests{{SessionName="s", model="stuck"}}', values: '7x60'}}
      - {{series: 'ray_raybatch_queued_requests{{SessionName="s", model="busy"}}', values: '7x60'}}
      - {{series: 'ray_raybatch_requests_total{{model="stuck", outcome="completed"}}', values: '5x60'}}
      - {{series: 'ray_raybatch_requests_total{{model="busy", outcome="completed"}}', values: '0+9x60'}}
      - {{series: 'ray_raybatch_requests_total{{model="busy", outcome="failed"}}', values: '0+1x60'}}
      - {{series: 'ray_raybatch_engine_restarts_total{{engine="e", reason="died"}}', values: '0 1 2 3 4x56'}}
      - {{series: 'ray_raybatch_engine_restarts_total{{engine="slot", reason="stopped"}}', values: '0+1x60'}}
    alert_rule_test:
      - eval_time: 45m
        alertname: RaybatchQueueStands
        exp_alerts: [{{exp_labels: {{severity: critical, model: stuck}}}}]
      - eval_time: 45m
        alertname: RaybatchManyFailures
        exp_alerts: [{{exp_labels: {{severity: warning, model: busy}}}}]
      - eval_time: 45m
        alertname: RaybatchEngineRestartsOften
        exp_alerts: [{{exp_labels: {{severity: warning, engine: e}}}}]
      - {{eval_time: 45m, alertname: RaybatchAbsent, exp_alerts: []}}
      - {{eval_time: 45m, alertname: RaybatchClosed, exp_alerts: []}}
  - interval: 1m
    input_series: [{{series: 'up', values: '1x20'}}]
    alert_rule_test:
      - eval_time: 10m
        alertname: RaybatchAbsent
        exp_alerts: [{{exp_labels: {{severity: critical}}}}]
"""


@pytest.mark.long
def test_alerts_fire_when_they_should_and_not_otherwise(tmp_path: Path) -> None:
    rules = tmp_path / "raybatch.rules.yml"  # annotations are prose; promtool would compare them word by word
    text = (DASHBOARDS / "raybatch.rules.yml").read_text()
    rules.write_text(re.sub(r"^        annotations:\n(          .*\n)+", "", text, flags=re.M))
    (tmp_path / "test.yml").write_text(RULES_TEST.format(rules=rules))
    for words in (["check", "rules", str(DASHBOARDS / "raybatch.rules.yml")], ["test", "rules", "test.yml"]):
        done = subprocess.run([binary("promtool"), *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
