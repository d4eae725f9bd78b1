"""`raybatch tune`: what it asks a trial for, what it keeps and for whom, how a trial ends. No engine runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from raybatch.actors import cluster
from raybatch.actors.cluster_facts import ClusterFacts, ProcessFacts
from raybatch.actors.reads import BatchRows
from raybatch.cli import tune as tune_module
from raybatch.cli import tuned as tuned_module
from raybatch.cli import up as up_module
from raybatch.cli.bench_rows import Shape
from raybatch.cli.tune_search import Failed, Run, Trial, Values
from raybatch.config import PACKAGED_MODEL, Home, ModelSettings, Settings, make_settings
from raybatch.core.model import Batch, ResultRow
from raybatch.storage.parts import write_part
from raybatch.tuned_file import Tuning, read_tunings, write_tuning
from tests.cli.conftest import Run as Command
from tests.cli.fake_server import ADMIN_TOKEN, FakeServer, batch_json, engine_json, overview_json
from tests.cli.test_demo import FakeCluster
from tests.cli.test_submit import FILE

HERE = "2 cores of Some CPU"
TUNED = {"max_num_seqs": 32}


class FakeTrials:
    """Speeds by ``max_num_seqs``; what was asked for."""

    def __init__(self) -> None:
        self.speeds = {16: 100.0, 32: 150.0, 64: 120.0, 128: 0.0}
        self.asked: list[Values] = []
        self.settings: Settings | None = None
        self.shape = Shape(0, 0, 0)

    def make(
        self, home: Home, settings: Settings, model: ModelSettings, shape: Shape, say: Callable[[str], None]
    ) -> Trial:
        self.settings, self.shape = settings, shape

        def trial(values: Values) -> Run | Failed:
            self.asked.append(values)
            speed = self.speeds[int(values["max_num_seqs"])]
            return Run(speed, 3 << 30) if speed else Failed("vLLM could not load m: out of memory")

        return trial


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: FakeServer) -> list[Settings]:
    """A machine without a GPU, on which nothing starts; what `raybatch up` would have started."""
    asked: list[Settings] = []

    def up(home: Home, settings: Settings, say: Callable[[str], None]) -> ClusterFacts:
        asked.append(settings)
        home.save(settings)
        return ClusterFacts(str(home.root), "c1", "ready", "", 1, server.url, None, "", "", 0.0)

    monkeypatch.setattr(cluster, "up", up)
    for module in (tune_module, up_module):
        monkeypatch.setattr(module, "has_gpu", lambda: False)
    for module in (tune_module, tuned_module):
        monkeypatch.setattr(module, "machine", lambda settings: HERE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return asked


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> FakeTrials:
    fake = FakeTrials()
    monkeypatch.setattr(tune_module, "_trial", fake.make)
    return fake


SEQS = ("--try", "vllm.max_num_seqs=16,32,128")


def test_what_is_faster_is_kept_for_the_next_start_and_can_be_undone(
    raybatch: Command, home: Home, trials: FakeTrials, started: list[Settings]
) -> None:
    result = raybatch("tune", *SEQS)

    assert result.exit_code == 0, result.output
    assert [values["max_num_seqs"] for values in trials.asked] == [64, 32, 128, 32, 64, 32, 16, 16, 32]
    assert "did not run: vLLM could not load m: out of memory" in result.stdout
    assert "Found: vllm.max_num_seqs=32: 1.250 times what there was." in result.stdout
    assert "--undo" in result.stdout
    tuning = read_tunings(home)[PACKAGED_MODEL.id]
    assert (tuning.vllm, tuning.machine, tuning.ratio) == (TUNED, HERE, 1.25)

    said = raybatch("up")
    assert "vllm.max_num_seqs=32 as tuned" in said.stderr
    assert started[-1].vllm_of(PACKAGED_MODEL).max_num_seqs == 32
    assert "is forgotten" in raybatch("tune", "--undo").stdout
    assert raybatch("up").exit_code == 0
    assert started[-1].vllm_of(PACKAGED_MODEL).max_num_seqs == 64
    assert "nothing was tuned" in raybatch("tune", "smollm2", "--undo").stdout


def test_a_dry_run_keeps_nothing_and_says_how_to_set_it_by_hand(
    raybatch: Command, home: Home, trials: FakeTrials
) -> None:
    result = raybatch("tune", *SEQS, "--dry-run")
    assert "raybatch up --set vllm.max_num_seqs=32" in result.stdout
    assert read_tunings(home) == {}


def test_the_present_setting_stays_where_nothing_is_faster(
    raybatch: Command, home: Home, trials: FakeTrials
) -> None:
    trials.speeds[32] = 121.0
    result = raybatch("tune", *SEQS)
    assert result.exit_code == 0
    assert "no difference beyond the rounds' own spread" in result.stdout
    assert "vllm.max_num_seqs=64 stays" in result.stdout
    assert read_tunings(home) == {}


def test_tuning_again_starts_from_what_was_tuned_and_adds_to_it(
    raybatch: Command, home: Home, trials: FakeTrials
) -> None:
    write_tuning(home, PACKAGED_MODEL.id, Tuning(HERE, "", {"max_num_seqs": 16, "window_ratio": 1.5}))
    write_tuning(home, "other", Tuning(HERE, "", TUNED))
    assert raybatch("tune", *SEQS).exit_code == 0
    assert trials.asked[0] == {"max_num_seqs": 16}
    assert read_tunings(home)[PACKAGED_MODEL.id].vllm == {"max_num_seqs": 32, "window_ratio": 1.5}
    assert read_tunings(home)["other"].vllm == TUNED


def test_what_is_set_by_hand_wins_and_is_not_tried(
    raybatch: Command, home: Home, trials: FakeTrials, started: list[Settings]
) -> None:
    write_tuning(home, PACKAGED_MODEL.id, Tuning(HERE, "", TUNED))
    said = raybatch("up", "--set", "vllm.max_num_seqs=16")
    assert "not vllm.max_num_seqs=32, which was set otherwise by hand" in said.stderr
    assert started[-1].vllm_of(PACKAGED_MODEL).max_num_seqs == 16
    assert raybatch("up").exit_code == 0  # as it last did
    assert started[-1].vllm_of(PACKAGED_MODEL).max_num_seqs == 16

    refused = raybatch("tune", *SEQS)
    assert refused.exit_code == 1
    assert "vllm.max_num_seqs is set by hand, to 16" in refused.stderr
    assert trials.asked == []


def test_the_usual_candidates_leave_out_what_is_set_by_hand(
    raybatch: Command, home: Home, trials: FakeTrials
) -> None:
    trials.speeds[64] = 150.0
    words = ("--set", "vllm.max_num_batched_tokens=1024", "--set", "vllm.enforce_eager=false")
    result = raybatch("tune", *words, "--rows", "100")
    assert result.exit_code == 0, result.output
    assert "vllm.max_num_batched_tokens=1024 is set by hand and stays" in result.stdout
    assert "vllm.max_num_seqs=64 and more are left out: they need 128 rows (--rows)" in result.stdout
    assert trials.asked == [{"max_num_seqs": seqs} for seqs in (64, 32, 32, 64)]


def test_what_was_tuned_elsewhere_does_not_count_and_is_said(
    raybatch: Command, home: Home, started: list[Settings]
) -> None:
    write_tuning(home, PACKAGED_MODEL.id, Tuning("1 x Some GPU, 16 GiB", "", TUNED))
    said = raybatch("up")
    assert f"tuned on another machine (1 x Some GPU, 16 GiB; this is {HERE})" in said.stderr
    assert started[-1].tuned == {}


def test_a_raybatch_that_runs_is_not_disturbed(
    raybatch: Command, home: Home, running: ClusterFacts, trials: FakeTrials
) -> None:
    result = raybatch("tune")
    assert result.exit_code == 1
    assert f"raybatch is running at {home.root} and holds the GPU: `raybatch down`" in result.stderr
    assert trials.asked == []
    write_tuning(home, PACKAGED_MODEL.id, Tuning(HERE, "", TUNED))
    assert "running already" in raybatch("up").stderr


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--try", "max_num_seqs=8"), "--try takes vllm.KEY=VALUE,VALUE"),
        (("--try", "vllm.extra=8"), "enforce_eager, gpu_memory_utilization"),
        (("--try", "vllm.max_num_seqs"), "--try takes"),
        (("--try", "vllm.max_num_seqs=many"), "takes a int such as 64, not 'many'"),
        (("--try", "vllm.max_num_seqs=64"), "nothing to try"),
        (("--set", "engine.kind=echo"), "runs the echo engine, which has nothing to tune"),
        (("--set", "engine.gpus=1"), "no NVIDIA driver"),
    ],
)
def test_what_cannot_be_tried_is_refused_by_what_was_found_and_expected(
    raybatch: Command, trials: FakeTrials, words: tuple[str, ...], named: str
) -> None:
    result = raybatch("tune", *words)
    assert result.exit_code == 1
    assert named in result.stderr
    assert trials.asked == []


def test_of_several_models_one_is_to_be_named(raybatch: Command, home: Home, trials: FakeTrials) -> None:
    models = (ModelSettings("a"), ModelSettings("b", "org/b", vllm={"max_model_len": 99}))
    home.save(make_settings("cpu", models=models))
    assert "name one: a, b" in raybatch("tune").stderr
    assert raybatch("tune", "b", *SEQS).exit_code == 0
    assert trials.settings is not None
    assert (trials.settings.engine.replicas, trials.settings.ray.dashboard) == (1, False)
    assert list(read_tunings(home)) == ["b"]


def test_on_a_gpu_the_usual_candidates_are_others(raybatch: Command, home: Home) -> None:
    from raybatch.cli import tune_ladders

    desktop = make_settings("desktop", models=(PACKAGED_MODEL,))
    assert tune_ladders.rows_for(desktop, PACKAGED_MODEL, ()) == 512
    ladders = tune_ladders.chosen(desktop, PACKAGED_MODEL, (), 512, print)
    assert [ladder.key for ladder in ladders] == ["max_num_seqs", "max_num_batched_tokens", "window_ratio"]
    assert ladders[0].rungs == (16, 32, 64, 128, 256)


@pytest.mark.parametrize("text", ["{", '{"m": {"vllm": {}}}', json.dumps({"m": ["x"]})])
def test_a_file_that_cannot_be_read_is_named(raybatch: Command, home: Home, text: str) -> None:
    (home.root / "tuned.json").write_text(text)
    result = raybatch("up")
    assert result.exit_code == 1
    assert f"{home.root}/tuned.json cannot be read" in result.stderr
    assert "remove the file" in result.stderr


def test_a_setting_of_the_file_that_no_engine_has_is_named(raybatch: Command, home: Home) -> None:
    write_tuning(home, PACKAGED_MODEL.id, Tuning(HERE, "", {"speed": 9}))
    result = raybatch("up")
    assert result.exit_code == 1
    assert "'vllm' has no setting 'speed'" in result.stderr


class Trialled:
    """A home for trials whose cluster is the fake server: a batch of eight rows is there at each start."""

    def __init__(self, home: Home, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.server, self.said = home, server, list[str]()
        self.cluster = FakeCluster(home, server)
        self.cluster.on_up = self._serve
        monkeypatch.setattr(cluster, "up", self.cluster.up)
        monkeypatch.setattr(cluster, "down", self.cluster.down)
        monkeypatch.setattr(
            "raybatch.actors.cluster_facts.running", lambda home: "up" in self.cluster.moves or None
        )
        seen = [ProcessFacts(1, "engine", 3 << 30, 0.0, ""), ProcessFacts(2, "replica", 1 << 30, 0.0, "")]
        monkeypatch.setattr("raybatch.actors.cluster_facts.processes", lambda home: seen)

    def run(self, shape: Shape, *overviews: object) -> Run | Failed:
        self.server.answer("GET", "/admin/overview", *(overviews or (overview_json(engine_json()),)))
        settings = make_settings("cpu", models=(PACKAGED_MODEL,))
        trial = tune_module._trial(self.home, settings, PACKAGED_MODEL, shape, self.said.append)
        return trial({"max_num_seqs": 8})

    def _serve(self) -> None:
        (self.home.run / "admin_token").write_text(ADMIN_TOKEN)
        self.server.answer("POST", "/v1/files", FILE)
        self.server.answer("POST", "/v1/batches", batch_json("validating"))
        self.server.answer("GET", "/v1/batches/batch_1", batch_json())
        named = [(index, index, str(index), 200, None, None, "m", "x", "stop", 5, 4) for index in range(8)]
        rows = [ResultRow(*row, 0, b"{}", 1, "e", 1_000.0, 1_001.0 + row[0]) for row in named]
        part = write_part(self.home.root, "batch_1", "part1", rows)
        batch = Batch("batch_1", "default", "file-1", "/v1/completions", "24h", 86_400.0, 1_000.0)
        self.server.answer("GET", "/admin/manifest", list(msgspec.to_builtins((BatchRows(batch, (part,)),))))
        self.server.answer("GET", "/admin/log", [])


@pytest.fixture
def trialled(home: Home, server: FakeServer, raybatch: Command, monkeypatch: pytest.MonkeyPatch) -> Trialled:
    return Trialled(home, server, monkeypatch)


def test_a_trial_starts_afresh_with_its_settings_and_is_stopped(trialled: Trialled) -> None:
    (trialled.home.files / "of-the-last-trial").write_text("")
    found = trialled.run(Shape(8, 5, 4))
    assert isinstance(found, Run)
    assert found.tokens_per_s > 0
    assert found.memory_bytes == 3 << 30  # the engine's alone
    assert trialled.cluster.moves == ["up", "down"]
    assert trialled.home.load().vllm_of(trialled.home.load().models[0]).max_num_seqs == 8
    assert list(trialled.home.files.iterdir()) == []
    assert "vllm.max_num_seqs=8: " in trialled.said[0]


@pytest.mark.parametrize(
    ("shape", "engine", "named"),
    [
        (Shape(9, 5, 4), {}, "8 of 9 rows were answered"),
        (Shape(8, 5, 4), {"phase": "failed", "error": "out of memory"}, "could not start: out of memory"),
    ],
)
def test_a_trial_that_does_not_come_to_its_end_says_why(
    trialled: Trialled, shape: Shape, engine: dict[str, object], named: str
) -> None:
    found = trialled.run(shape, overview_json(engine_json(**engine)))
    assert isinstance(found, Failed)
    assert named in found.reason
    assert trialled.cluster.moves == ["up", "down"]


def test_a_trial_ends_when_its_engine_is_started_again(trialled: Trialled) -> None:
    lives = [overview_json(engine_json(phase="loading", pid=pid)) for pid in (77, 77, 78)]
    found = trialled.run(Shape(8, 5, 4), *lives)
    assert isinstance(found, Failed)
    assert "died and was started again" in found.reason
