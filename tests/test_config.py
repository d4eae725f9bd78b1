"""Settings are assigned by name, refused by name, and read back as they were written."""

from __future__ import annotations

from pathlib import Path

import pytest

from raybatch.config import PACKAGED_MODEL, PROFILES, Home, ModelSettings, make_settings
from raybatch.errors import OperatorError


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
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_what_was_found_and_expected(
    assignment: str, named: str
) -> None:
    with pytest.raises(OperatorError) as refused:
        make_settings("desktop", (assignment,))
    assert named in refused.value.message


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(OperatorError, match="unknown profile 'gpu': choose one of desktop, cpu, test"):
        make_settings("gpu")


def test_every_name_of_a_model_leads_to_its_id() -> None:
    settings = make_settings("test", models=(PACKAGED_MODEL, ModelSettings("m")))
    assert settings.canonical() == {
        PACKAGED_MODEL.id: PACKAGED_MODEL.id,
        "smollm2": PACKAGED_MODEL.id,
        "m": "m",
    }


@pytest.mark.parametrize("written", [b"", b"{", b'{"engine": {"replicas": "two"}}', b"\xff"])
def test_settings_that_cannot_be_read_name_the_file(written: bytes, tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.settings_path.write_bytes(written)
    with pytest.raises(OperatorError, match=r"settings\.json cannot be read"):
        home.load()


def test_a_home_that_was_never_started_says_how_to_start_it(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="start one with `raybatch up`"):
        Home(tmp_path / "none").load()
