from __future__ import annotations

from pathlib import Path

from jobs.compat import count

REPORT = """<testsuites><testsuite>
<testcase classname="tests.compat.test_openai_files" name="a" />
<testcase classname="tests.compat.test_openai_batches" name="b"><failure message="m" /></testcase>
<testcase classname="tests.compat.test_openai_batches" name="c"><error message="m" /></testcase>
<testcase classname="tests.compat.test_node" name="d[x]" />
<testcase classname="tests.compat.test_curl" name="e"><skipped message="m" /></testcase>
<testcase classname="tests.compat.test_new" name="f" />
</testsuite></testsuites>"""


def test_what_passed_is_counted_by_client(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    assert count(report) == {
        "openai (Python)": {"passed": 1, "failed": 2},
        "openai (Node)": {"passed": 1},
        "LiteLLM": {},
        "curl": {"skipped": 1},
        "test_new": {"passed": 1},
    }
