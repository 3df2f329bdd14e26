"""The tables of what the heavy targets ran: tools/evidence.py."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))
import evidence

REPORT = '<testsuites><testsuite><testcase name="a"/><testcase name="b"/></testsuite></testsuites>'


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "FOLDER", tmp_path / "latest")
    monkeypatch.setattr(evidence, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(evidence, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(evidence, "FULL", False)
    monkeypatch.setattr(evidence, "_commit", lambda: "abc1234")
    evidence.PAGE.write_text("<!-- run: test-it -->\n<!-- end -->\n")


def run(*rows, chosen=(), full=False, end=True):
    evidence.FULL = full
    evidence.begin("test-it", chosen)
    for what, counts in rows:
        evidence.row("test-it", what, **counts)
    return evidence.end("test-it") if end else None


def kept():
    evidence.keep()
    rows = json.loads((evidence.KEPT / "test-it.json").read_text())["rows"]
    return {row["what"]: row["passed"] for row in rows}


@pytest.mark.parametrize(
    ("rows", "failed"),
    [
        ([("one", {"passed": 3}), ("two", {"skipped": 1})], 0),
        ([("one", {"passed": 3}), ("two", {"passed": 5, "failed": 1})], 1),
        ([("one", {"passed": 3}), ("two", {})], 1),
        ([("one", {"skipped": 3})], 1),
        ([], 1),
    ],
)
def test_a_target_fails_when_something_failed_or_nothing_was_run(rows, failed):
    assert run(*rows) == failed


@pytest.mark.parametrize(("status", "failed"), [(0, 0), (1, 1), (2, 1), (3, 1), (-9, 1), (139, 1)])
def test_a_run_of_pytest_that_did_not_come_to_its_end_has_failed(tmp_path, status, failed):
    (tmp_path / "report.xml").write_text(REPORT)
    run(end=False)
    evidence.pytest("test-it", "a suite", str(tmp_path / "report.xml"), status)
    assert evidence.end("test-it") == failed


def test_a_run_of_pytest_without_a_report_has_failed(tmp_path):
    run(end=False)
    evidence.pytest("test-it", "a suite", str(tmp_path / "no-report.xml"), 0)
    assert evidence.end("test-it") == 1


def test_the_latest_run_is_kept_and_put_into_the_page():
    run(("one", {"passed": 1}))
    assert kept() == {"one": 1}
    run(("two", {"passed": 2}))
    assert kept() == {"two": 2}
    assert "| two | 2 | 0 | 0 |" in evidence.PAGE.read_text()


def test_a_run_that_did_not_come_to_its_end_is_not_kept():
    run(("one", {"passed": 1}))
    assert kept() == {"one": 1}
    run(("two", {"passed": 2}), end=False)
    assert kept() == {"one": 1}


def test_a_short_run_does_not_replace_a_full_one():
    run(("one", {"passed": 1000}), full=True)
    assert kept() == {"one": 1000}
    run(("one", {"passed": 1}))
    assert kept() == {"one": 1000}


def test_a_run_of_a_part_adds_its_rows_to_those_of_the_whole():
    run(("one", {"passed": 1}), ("two", {"passed": 1}))
    assert kept() == {"one": 1, "two": 1}
    run(("two", {"passed": 5}), chosen=["two"])
    assert kept() == {"one": 1, "two": 5}


def test_the_page_says_of_which_commit_a_run_was(monkeypatch):
    run(("one", {"passed": 1}), ("two", {"passed": 1}), full=True)
    evidence.keep()
    assert re.search(r"`make test-it FULL=1`, \d{4}-\d\d-\d\d, abc1234, ", evidence.PAGE.read_text())
    monkeypatch.setattr(evidence, "_commit", lambda: "def5678-dirty")
    run(("two", {"passed": 5}), chosen=["two"], full=True)
    evidence.keep()
    page = evidence.PAGE.read_text()
    assert "`make test-it FULL=1`, in parts, " in page
    assert re.search(r"\| one \| 1 \|.*, abc1234 \|\n\| two \| 5 \|.*, def5678-dirty \|\n", page)


def test_the_page_says_what_was_chosen_where_there_was_no_whole_run():
    run(("one", {"passed": 1}), chosen=["one"])
    evidence.keep()
    run(("two", {"passed": 1}), chosen=["two"])
    assert kept() == {"one": 1, "two": 1}
    assert "`make test-it` of one, two, " in evidence.PAGE.read_text()
