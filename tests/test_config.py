"""Settings are assigned by name, refused by name, and read back as they were written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raybatch.config import PACKAGED_MODEL, PROFILES, Home, ModelSettings, Settings, assigned, make_settings
from raybatch.config_file import read_config
from raybatch.core.events import QuietMode
from raybatch.errors import OperatorError

#: how the page of engine settings says a value
SAID = {"the model's": "0", "by the above": "0", "1 GiB": str(1 << 30)}


@pytest.mark.parametrize("profile", PROFILES)
def test_settings_come_back_as_they_were_saved(profile: str, tmp_path: Path) -> None:
    models = (PACKAGED_MODEL, ModelSettings("Qwen/Qwen3-0.6B", aliases=("q", "модель")))
    assigned = ("api.key_sha256=ab12", "scheduler.lease_s=7", 'api.allowed_hosts=["a.example"]')
    settings = make_settings(profile, assigned, models=models)
    home = Home(tmp_path / "home")
    home.make()
    home.save(settings)
    assert home.load() == settings
    assert (settings.api.key_sha256, settings.scheduler.lease_s) == ("ab12", 7.0)
    assert settings.api.allowed_hosts == ("a.example",)
    assert home.settings_path.stat().st_mode & 0o077 == 0
    assert home.root.stat().st_mode & 0o077 == 0


def test_an_assignment_is_applied_after_the_profiles_own() -> None:
    assert make_settings("test").vllm.max_num_seqs == 32
    assert make_settings("test", ("vllm.max_num_seqs=8", "vllm.max_num_seqs=9")).vllm.max_num_seqs == 9


@pytest.mark.parametrize(
    ("assignment", "named"),
    [
        ("vllm.max_num_seq=8", "'vllm' has no setting 'max_num_seq': it has cpu_threads_bind, dtype"),
        ("vllm.max_num_seqs=many", "'vllm.max_num_seqs' takes a int such as 64, not 'many'"),
        ("vllm.max_num_seqs=1.5", "not '1.5'"),
        ("vllm.enforce_eager=1", "takes a bool such as false, not '1'"),
        ("vllm.max_num_seqs", "is not section.key=value"),
        ("max_num_seqs=8", "with a section of api, engine"),
        ("models.id=x", "is not section.key=value"),
        ("profile.x=x", "is not section.key=value"),
        ("", "is not section.key=value"),
        ("canonical.x=x", "is not section.key=value"),
        ("__class__.x=x", "is not section.key=value"),
        ("api.allowed_hosts=[1]", "not '[1]'"),
        ("vllm.extra=3", "takes a dict such as {}, not '3'"),
        ("engine.kind=tgi", "there is no engine 'tgi': choose vllm or echo"),
        ("quiet.mode=loud", "'quiet.mode' takes one of pause, gentle, not 'loud'"),
        ("quiet.hours=always", "quiet.hours is 'always'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_what_was_found_and_expected(
    assignment: str, named: str
) -> None:
    with pytest.raises(OperatorError) as refused:
        make_settings("desktop", (assignment,))
    assert named in refused.value.message


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(OperatorError, match="unknown profile 'gpu': choose one of desktop, cpu, datacenter"):
        make_settings("gpu")


def test_the_page_of_engine_settings_says_what_the_profiles_hold() -> None:
    page = (Path(__file__).parent.parent / "docs" / "performance.md").read_text()
    row = r"^\| `?(setting|(?:vllm|engine)\.\w+)`? \| (.*?) \| (.*?) \| (.*?) \|"
    (_, *profiles), *rows = re.findall(row, page, re.M)
    assert len(rows) > 5
    for name, *told in rows:
        section, _, key = name.partition(".")
        for profile, value in zip(profiles, told, strict=True):
            held = getattr(getattr(make_settings(profile.strip("`")), section), key)
            shown = f"{held:g}" if isinstance(held, float) else str(held).lower()
            said = SAID.get(value, value.replace(",", ""))
            assert said in (shown, "not used"), (profile, name)


def test_what_was_tuned_wins_over_the_profile_and_gives_way_to_what_is_said_by_hand() -> None:
    own = ModelSettings("own", vllm={"max_num_seqs": 7})
    tuned = {"max_num_seqs": 16, "max_num_batched_tokens": 4096}
    settings = make_settings(
        "test",
        ("vllm.window_ratio=2",),
        sections={"vllm": {"max_num_batched_tokens": 1024}},
        models=(own, ModelSettings("other"), ModelSettings("third")),
        tuned={"own": tuned, "other": tuned | {"window_ratio": 1.5}},
    )
    seen = [settings.vllm_of(model) for model in settings.models]
    assert [each.max_num_seqs for each in seen] == [7, 16, 32]
    assert {each.max_num_batched_tokens for each in seen} == {1024}
    assert {each.window_ratio for each in seen} == {2.0}
    later = assigned(settings, ("vllm.max_num_seqs=9",))
    assert later.vllm_of(later.models[1]).max_num_seqs == 9


def test_every_name_of_a_model_leads_to_its_id() -> None:
    settings = make_settings("test", models=(PACKAGED_MODEL, ModelSettings("m")))
    assert settings.canonical() == {
        PACKAGED_MODEL.id: PACKAGED_MODEL.id,
        "smollm2": PACKAGED_MODEL.id,
        "m": "m",
    }


def test_openais_limits_come_before_what_was_set_and_after_the_profile() -> None:
    usual = make_settings("test")
    assert (usual.scheduler.requests_max, usual.scheduler.batch_bytes_max) == (1_000_000, 0)
    assert (usual.scheduler.expire_unfinished, usual.scheduler.keep_files_days) == (False, 0.0)
    sections = {"scheduler": {"keep_files_days": 3.0}, "api": {"openai_limits": True}}
    limited = make_settings("test", ("scheduler.requests_max=7", "intake.strict=false"), sections=sections)
    assert (limited.scheduler.requests_max, limited.scheduler.keep_files_days) == (7, 3.0)
    assert (limited.scheduler.batch_bytes_max, limited.scheduler.embedding_inputs_max) == (200 << 20, 50_000)
    assert (limited.scheduler.expire_unfinished, limited.intake.strict) == (True, False)
    assert limited.vllm == usual.vllm
    off = make_settings("test", ("api.openai_limits=false",), sections=sections)
    assert (off.scheduler.requests_max, off.scheduler.expire_unfinished) == (1_000_000, False)


def test_completion_windows_are_durations() -> None:
    assert make_settings("test").api.windows_s == {"24h": 86_400.0}
    settings = make_settings("test", ('api.completion_windows=["30m", "24h", "7d"]',))
    assert settings.api.windows_s == {"30m": 1_800.0, "24h": 86_400.0, "7d": 604_800.0}
    for wrong in ("24", "h", "0h", "1w", "-1h", "24h ", ""):
        with pytest.raises(OperatorError, match=re.escape(f"such as 30m, 24h or 7d, not '{wrong}'")):
            make_settings("test", (f'api.completion_windows=["{wrong}"]',))
    with pytest.raises(OperatorError, match="is empty"):
        make_settings("test", ("api.completion_windows=[]",))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def settings_of(path: Path, *assignments: str) -> Settings:
    file = read_config(path)
    return make_settings(file.profile or "cpu", assignments, sections=file.sections, models=file.models)


def test_a_file_wins_over_the_profile_and_options_win_over_the_file(tmp_path: Path) -> None:
    text = 'profile = "test"\n[vllm]\nmax_num_seqs = 5\nmax_model_len = 6\n[quiet]\nmode = "gentle"\n'
    settings = settings_of(write(tmp_path / "c.toml", text), "vllm.max_model_len=7")
    vllm = settings.vllm
    assert (settings.profile, vllm.enforce_eager, vllm.max_num_batched_tokens) == ("test", True, 2048)
    assert (vllm.max_num_seqs, vllm.max_model_len) == (5, 7)
    assert settings.quiet.mode is QuietMode.GENTLE


def test_each_model_of_a_file_has_its_own_vllm_settings(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    text = """
        [vllm]
        max_num_seqs = 5
        extra = { quantization = "fp8", seed = 1 }
        [[models]]
        id = "a"
        source = "weights"
        aliases = ["b"]
        vllm = { max_num_seqs = 9, gpu_memory_utilization = 1, extra = { seed = 2 } }
        [[models]]
        id = "org/c"
        [[models]]
        id = "smollm2"
        aliases = ["small"]
        """
    settings = settings_of(write(tmp_path / "c.toml", text))
    a, c, packaged = settings.models
    assert (a.source, a.names, c.source) == (str(tmp_path / "weights"), ("a", "b"), "")
    assert (packaged.id, packaged.source) == (PACKAGED_MODEL.id, "packaged")
    assert packaged.names == (*PACKAGED_MODEL.names, "small")
    own = settings.vllm_of(a)
    assert (own.max_num_seqs, own.gpu_memory_utilization, own.max_model_len) == (9, 1.0, 2048)
    assert own.extra == {"quantization": "fp8", "seed": 2}
    assert settings.vllm_of(c) == settings.vllm
    home = Home(tmp_path / "home")
    home.make()
    home.save(settings)
    assert home.load() == settings


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[vllm", "is not TOML"),
        ("[vlm]\na = 1", "unknown section 'vlm': there are profile, models, api, engine, vllm"),
        ("engine = 3", "'engine' is a section: write [engine]"),
        ('profile = "laptop"', "unknown profile 'laptop': choose one of desktop, cpu, datacenter, test"),
        ("[engine]\nspeed = 9", "'engine' has no setting 'speed': it has drain_s"),
        ("[engine]\nreplicas = 1.5", "'engine.replicas' takes a int such as 1, not '1.5'"),
        ("[models]\nid = 'a'", "begin each model with a line [[models]]"),
        ("[[models]]\nsource = 'a'", "model 1 cannot be: Object missing required field `id`"),
        ("[[models]]\nid = 'a'\nsorce = 'b'", "model 1 ('a') has no setting 'sorce': it has id, source"),
        (
            "[[models]]\nid = 'a'\n[models.vllm]\nmax_seqs = 1",
            "model 1 ('a'): 'vllm' has no setting 'max_seqs': it has cpu_threads_bind",
        ),
        (
            "[[models]]\nid = 'a'\n[models.vllm]\nmax_num_seqs = 'x'",
            "model 1 ('a'): 'vllm.max_num_seqs' takes a int such as 64, not 'x'",
        ),
        ("[[models]]\nid = 'a'\n[[models]]\nid = 'a'", "two models answer to 'a'"),
        ("[[models]]\nid = 'a'\n[[models]]\nid = 'b'\naliases = ['a']", "two models answer to 'a': a and b"),
        ("[[models]]\nid = 'a'\naliases = ['']", "has an empty name"),
    ],
)
def test_a_file_that_cannot_be_is_refused_by_what_was_found_and_expected(
    text: str, named: str, tmp_path: Path
) -> None:
    with pytest.raises(OperatorError) as refused:
        settings_of(write(tmp_path / "c.toml", text))
    assert named in refused.value.message


def test_the_file_is_named_where_it_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    with pytest.raises(OperatorError, match=re.escape(f"{path}: cannot be read: No such file")):
        read_config(path)
    with pytest.raises(OperatorError, match=re.escape(f"{path}: unknown section 'x'")):
        read_config(write(path, "[x]\n"))
    with pytest.raises(OperatorError, match=re.escape(f"{path}: 'engine' has no setting 'x'")):
        read_config(write(path, "[engine]\nx = 1"))


def test_the_documented_file_is_what_it_says(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs/desktop.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    settings = settings_of(write(tmp_path / "c.toml", example))
    gemma, qwen = settings.models
    assert (settings.profile, gemma.id, settings.engine.slots) == ("desktop", "google/gemma-3-4b-it", 1)
    assert settings.vllm_of(gemma).gpu_memory_utilization == 0.85
    assert settings.vllm_of(qwen).max_num_seqs == 128
    assert settings.vllm_of(qwen).extra == {"enable_prefix_caching": True}
    assert (settings.gpu.temperature_max_c, settings.quiet.mode) == (83, QuietMode.GENTLE)


@pytest.mark.parametrize("written", [b"", b"{", b'{"engine": {"replicas": "two"}}', b"\xff"])
def test_settings_that_cannot_be_read_name_the_file(written: bytes, tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.settings_path.write_bytes(written)
    with pytest.raises(OperatorError, match=r"settings\.json cannot be read"):
        home.load()


def test_a_home_that_was_never_started_says_how_to_start_it(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="start one with `raybatch up`"):
        Home(tmp_path / "none").load()
