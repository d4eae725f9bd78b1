"""What all tests share: no deadlines on a busy machine, and skips that cannot hide."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TypeVar

import pytest
from hypothesis import settings

settings.register_profile("raybatch", deadline=None)
settings.load_profile("raybatch")

SKIPS_FORBIDDEN = os.environ.get("RAYBATCH_FORBID_SKIPS", "0") not in ("", "0")


Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


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
