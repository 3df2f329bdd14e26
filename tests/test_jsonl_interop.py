"""Other programs read what JsonlFile writes: all files of a log at once, in order, by one pattern."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from conftest import replaces_open_files
from holdfast import JsonlFile
from support import PATIENCE

pytestmark = replaces_open_files

RECORDS = [{"number": number, "name": "Jürgen", "nested": {"list": [number, None]}} for number in range(100)]


@pytest.fixture
def folder(tmp_path):
    """A folder with a log of several files, the first of which had a damaged line that was repaired."""
    log = JsonlFile(tmp_path / "events.jsonl", max_bytes=2000)
    (tmp_path / "events.jsonl").write_bytes(b'{"number":-1,"name":"to\n')
    log.extend(RECORDS[:10])
    for record in RECORDS[10:]:
        log.append(record)
    assert log.repair().moved == 23
    assert log.stats.rotations > 2
    return tmp_path


def test_jq_reads_the_files(folder):
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    read = subprocess.run(
        ["jq", "-c", ".", *sorted(folder.glob("events*.jsonl"))], capture_output=True, check=True, timeout=PATIENCE
    )
    assert [json.loads(line) for line in read.stdout.splitlines()] == RECORDS


def test_duckdb_reads_the_files(folder):
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    rows = duckdb.sql(f"select number, name from read_json('{folder}/events*.jsonl') order by number").fetchall()
    assert rows == [(record["number"], record["name"]) for record in RECORDS]


def test_polars_reads_the_files(folder):
    polars = pytest.importorskip("polars", reason="polars is not installed")
    table = polars.scan_ndjson(sorted(folder.glob("events*.jsonl"))).collect()
    assert table.to_dicts() == RECORDS
