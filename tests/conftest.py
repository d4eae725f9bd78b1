"""What all tests share: no deadlines on a busy machine, skips that cannot hide, and one cluster."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import settings

settings.register_profile("raybatch", deadline=None)
settings.load_profile("raybatch")

if TYPE_CHECKING:
    from jobs.echo_cluster import EchoCluster

SKIPS_FORBIDDEN = os.environ.get("RAYBATCH_FORBID_SKIPS", "0") not in ("", "0")


Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def pytest_addoption(parser: pytest.Parser) -> None:
    given = os.environ.get("RAYBATCH_COMPAT_URL") or None
    parser.addoption("--url", default=given, help="the running server that tests/compat speaks to")


@pytest.fixture(scope="session")
def shared() -> Iterator[EchoCluster]:
    """A real cluster for every test that leaves it whole: one engine, as fast as a small model, the dashboard
    as on a desktop.
    """
    from jobs.echo_cluster import echo_cluster  # Ray takes seconds, which only these tests should pay

    with echo_cluster("ray.dashboard=true", rows_per_s=1000) as cluster:
        yield cluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _never_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _never_skipped((yield))


def _never_skipped(report: Report) -> Report:
    """With RAYBATCH_FORBID_SKIPS a test that did not run has failed; an expected failure has run."""
    if SKIPS_FORBIDDEN and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"RAYBATCH_FORBID_SKIPS is set, and this did not run: {report.longreprtext}"
    return report
