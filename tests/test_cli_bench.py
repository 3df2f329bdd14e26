"""`holdfast bench`: what is measured, and that a fast wrong answer does not win."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from conftest import tells_msvcrt_of_locks
from holdfast import JsonlFile
from holdfast._bench import contenders, jobs, plan, report
from holdfast._bench.contenders import BY_HAND, OURS, Appender, Contender, Lock, field
from holdfast._bench.crew import Crew, Failed
from holdfast._bench.plot import draw
from holdfast.cli import main
from support import PATIENCE

ROOT = Path(__file__).resolve().parents[1]
GLANCE = plan.Effort(1, 1, 0.001, 0.02, 0.1, 0.02, (1, 2), 2, (0, 1), (1, 2))


@pytest.fixture
def at_a_glance(monkeypatch):
    """Whatever is measured is measured only so long that there is something to check."""
    monkeypatch.setattr(plan, "QUICK", GLANCE)


@pytest.fixture(scope="module")
def crew():
    with Crew() as crew:
        yield crew


def bench(tmp_path, *words):
    """Run the command with files in a directory of its own. Returns the exit code."""
    (tmp_path / "disk").mkdir(exist_ok=True)
    return main(["bench", "--quick", *words, str(tmp_path / "disk")])


# ---------------------------------------------------------------------------------------------------------------------
# Those that get it wrong: they are found by their names in other processes


def loses_one(path):
    """Forgets every tenth event."""
    honest = contenders.holdfast_log(path)
    return honest._replace(append=lambda record: record["number"] % 10 and honest.append(record))


def doubles_one(path):
    honest = contenders.holdfast_log(path)

    def append(record):
        honest.append(record)
        if record["number"] == 3:
            honest.append(record)

    return honest._replace(append=append)


def tears_lines(path):
    """Writes only the beginning of each line."""
    file = open(path, "ab")  # noqa: SIM115
    return Appender(lambda record: file.write(json.dumps(record).encode()[:20]), close=file.close)


def cheats_by_batches(path):
    """Says that an event is written, and writes only some of them in the end."""
    events = []

    def finish():
        JsonlFile(path).extend(events[:-1])

    return Appender(events.append, finish)


def raises(path):
    raise RuntimeError("there is no such thing here")


def dies(path):
    os._exit(3)


def locks_nobody_out(path):
    return Lock(lambda: None, lambda: None)


WRONG = {"loses": loses_one, "doubles": doubles_one, "tears": tears_lines, "batches": cheats_by_batches}


# ---------------------------------------------------------------------------------------------------------------------
# Checking


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_who_loses_doubles_or_tears_events_gives_a_wrong_answer(make, tmp_path, crew):
    with pytest.raises(jobs.WrongAnswer, match="event"):
        jobs.rate_of_processes(crew, Contender(make), str(tmp_path / "events"), 2, 0.05)
    path = tmp_path / "large"
    path.write_bytes(b"{}\n")
    with pytest.raises(jobs.WrongAnswer, match="event"):
        jobs.cost_of_append(Contender(make), str(path), 0.01)


def test_events_of_one_writer_out_of_order_are_a_wrong_answer():
    def line(number):
        return json.dumps(contenders.event(0, number)).encode() + b"\n"

    jobs.check([line(0), line(1)], [2])
    with pytest.raises(jobs.WrongAnswer, match="event 0 is missing, doubled or damaged"):
        jobs.check([line(1), line(0)], [2])


def test_a_last_line_without_an_end_is_a_wrong_answer():
    with pytest.raises(jobs.WrongAnswer, match="no event that was written"):
        jobs.check([json.dumps(contenders.event(0, 0)).encode()], [1])


def test_a_lock_that_lets_two_in_is_a_wrong_answer(tmp_path, crew):
    with pytest.raises(jobs.WrongAnswer, match="the file says"):
        for _ in range(100):  # until two of them have met
            jobs.exclusion(crew, locks_nobody_out, str(tmp_path / "number"), 4, 0.1)


@tells_msvcrt_of_locks
@pytest.mark.parametrize("make", field(peers=False).locks.values(), ids=field(peers=False).locks)
def test_a_lock_that_keeps_others_out_is_none(make, tmp_path, crew):
    assert jobs.exclusion(crew, make, str(tmp_path / "number"), 4, 0.1) == []


def test_a_lock_that_is_given_before_it_is_released_is_a_wrong_answer(tmp_path, crew):
    with pytest.raises(jobs.WrongAnswer, match="while another held it"):
        jobs.hand_overs(crew, locks_nobody_out, str(tmp_path / "lock"), 0.05)


def test_a_file_that_was_large_is_left_as_it_was(tmp_path):
    path = tmp_path / "events"
    jobs.make_large(str(path), 5000)
    jobs.cost_of_append(field(peers=False).appenders[OURS], str(path), 0.001)
    assert path.stat().st_size == 5000


# ---------------------------------------------------------------------------------------------------------------------
# Processes


def test_an_error_in_a_process_is_told_and_the_next_job_is_done(tmp_path, crew):
    with pytest.raises(Failed, match="RuntimeError: there is no such thing here"):
        jobs.rate_of_processes(crew, Contender(raises), str(tmp_path / "events"), 2, 0.01)
    assert jobs.rate_of_processes(crew, Contender(contenders.holdfast_log), str(tmp_path / "events"), 2, 0.02)


def test_a_process_that_dies_is_noticed_and_the_next_job_is_done(tmp_path, crew):
    with pytest.raises(Failed, match="its process ended"):
        jobs.rate_of_processes(crew, Contender(dies), str(tmp_path / "events"), 2, 0.01)
    assert jobs.rate_of_processes(crew, Contender(contenders.holdfast_log), str(tmp_path / "events"), 2, 0.02)


def test_an_event_that_waits_for_the_one_before_is_late_from_when_it_was_due(tmp_path, crew):
    found = jobs.delays(crew, Contender(Sluggish(0.1), None), str(tmp_path / "events"), 1, 5 * jobs.PERIOD)
    late = [delay / 1e6 for delay in found]
    assert late == sorted(late)
    assert late[-1] > 5 * 0.1 - 4 * jobs.PERIOD


class Sluggish:
    """Takes so many seconds for an event."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __call__(self, path):
        import time

        return Appender(lambda record: time.sleep(self.seconds))


# ---------------------------------------------------------------------------------------------------------------------
# The command


@tells_msvcrt_of_locks
def test_everything_is_measured_and_the_files_are_gone_afterwards(tmp_path, at_a_glance, capsys):
    out = tmp_path / "out.json"
    assert bench(tmp_path, "--json", str(out)) == 0
    results = report.from_text(out.read_text(encoding="utf-8"))
    assert [*results["sections"]] == [*report.SECTIONS]
    shown = capsys.readouterr().out
    for name, figures in results["sections"].items():
        assert report.SECTIONS[name].title in shown
        for of_condition in figures.values():
            assert {OURS, BY_HAND} <= {*of_condition}
            assert all(figure["raw"] and figure["wrong"] is None for figure in of_condition.values())
    assert os.listdir(tmp_path / "disk") == []


@tells_msvcrt_of_locks
def test_other_packages_are_measured_with_peers_and_missing_ones_are_named(tmp_path, at_a_glance, monkeypatch, capsys):
    pytest.importorskip("_sqlite3")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name != "_sqlite3" else find(name))
    assert bench(tmp_path, "--peers") == 0
    shown = capsys.readouterr().out
    assert re.search(r"^sqlite3 +\d", shown, re.MULTILINE)
    missing = "filelock, portalocker, fasteners, concurrent-log-handler, loguru"
    assert f"not installed, and so not compared: {missing}" in shown


@pytest.mark.parametrize(
    "name", ["filelock", "portalocker", "fasteners", "concurrent-log-handler", "loguru", "sqlite3"]
)
def test_an_installed_package_gives_the_right_answer(name, tmp_path, crew):
    everybody = field(peers=True)
    if name in everybody.missing:
        pytest.skip(f"{name} is not installed")
    assert jobs.rate_of_processes(crew, everybody.appenders[name], str(tmp_path / "events"), 1, 0.05)


def test_the_json_says_on_what_it_was_measured(tmp_path, at_a_glance):
    out = tmp_path / "out.json"
    bench(tmp_path, "--json", str(out))
    found = json.loads(out.read_text(encoding="utf-8"))
    assert all(found["machine"][name] for name in ("date", "system", "kernel", "cpu", "file_system", "python"))
    assert found["machine"]["cpus"] >= found["machine"]["usable_cpus"] >= 1
    assert found["versions"][OURS]


def test_figures_are_not_lost_if_the_files_that_were_measured_cannot_be_removed(
    tmp_path, at_a_glance, monkeypatch, capsys
):
    monkeypatch.setattr("holdfast.cli.bench._ATTEMPTS", 1)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    out = tmp_path / "out.json"
    bench(tmp_path, "--json", str(out))
    assert json.loads(out.read_text(encoding="utf-8"))["sections"]
    (left,) = (tmp_path / "disk").iterdir()
    assert f"'{left}' could not be removed" in capsys.readouterr().err


@tells_msvcrt_of_locks
def test_a_wrong_answer_is_shown_as_such_has_no_figures_and_makes_the_exit_code_1(
    tmp_path, at_a_glance, monkeypatch, capsys
):
    honest = field(peers=False)
    cheats = {"cheat": Contender(loses_one), "broken": Contender(raises)}
    cheating = honest._replace(appenders={**honest.appenders, **cheats})
    monkeypatch.setattr("holdfast.cli.bench.field", lambda peers: cheating)
    plot = tmp_path / "plot.svg"
    assert bench(tmp_path, "--plot", str(plot)) == 1
    shown = capsys.readouterr()
    assert re.search(r"^cheat +WRONG +WRONG$", shown.out, re.MULTILINE)
    assert re.search(r"^cheat: WRONG: writer 0's event 0 is missing, doubled or damaged", shown.out, re.MULTILINE)
    assert re.search(r"^broken +FAILED +FAILED$", shown.out, re.MULTILINE)
    assert "broken: FAILED: RuntimeError: there is no such thing here" in shown.out
    assert "6 answers were wrong" in shown.err
    assert "cheat" not in plot.read_text(encoding="utf-8")


def test_a_directory_that_is_not_there_is_told_before_anything_is_measured(tmp_path, capsys):
    assert main(["bench", str(tmp_path / "nowhere")]) == 74
    assert main(["bench", "--json", str(tmp_path / "nowhere" / "out.json"), str(tmp_path)]) == 74
    assert capsys.readouterr().out == ""


@tells_msvcrt_of_locks
def test_it_runs_as_a_module_too(tmp_path):
    """Where processes are started by "spawn" they load the main module again."""
    code = f"""
import runpy, sys
from holdfast._bench import plan
plan.QUICK = plan.Effort(*{tuple(GLANCE)!r})
sys.argv[1:] = ["bench", "--quick", {str(tmp_path)!r}]
runpy.run_module("holdfast", run_name="__main__", alter_sys=True)
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert (result.returncode, result.stderr) == (0, "")


# ---------------------------------------------------------------------------------------------------------------------
# What is shown


def figures(**rates):
    """Events a second of contenders, one process at once."""
    return {"1": {name.replace("_", " "): {"raw": raw, "wrong": None} for name, raw in rates.items()}}


def test_the_fastest_round_counts_and_a_ratio_says_how_much_better_holdfast_is():
    shown = report.show("appends", figures(holdfast=[900, 1000], by_hand=[250, 100], sqlite3=[2000, 10]))
    assert shown.header == ["", "1 at once", "holdfast is"]
    assert shown.rows == [
        ["holdfast", "1,000", ""],
        ["by hand", "250", "4 times faster"],
        ["sqlite3", "2,000", "2 times slower"],
    ]


def test_of_latencies_all_count():
    raw = {OURS: [float(number) for number in range(1, 101)], BY_HAND: [3.0] * 98 + [198.0] * 2}
    shown = report.show("paced", {"": {name: {"raw": samples, "wrong": None} for name, samples in raw.items()}})
    assert shown.rows == [["holdfast", "50", "99", "100", ""], ["by hand", "3", "198", "198", "2 times sooner"]]


def test_a_run_is_read_as_it_was_written():
    text = (ROOT / "benchmarks/results.json").read_text(encoding="utf-8")
    assert report.as_text(report.from_text(text)) == text


def test_results_of_another_format_are_refused():
    with pytest.raises(ValueError, match="another format"):
        report.from_text('{"format": 0}')


@pytest.fixture(scope="module")
def results():
    """The benchmarks' own program that makes the page of results."""
    spec = importlib.util.spec_from_file_location("results", ROOT / "benchmarks/results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_results_is_what_is_made_of_the_committed_run(results):
    run = report.from_text((ROOT / "benchmarks/results.json").read_text(encoding="utf-8"))
    assert report.problems(run) == []
    for name, text in results.pages(run).items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text, "run `make results`"


def test_a_plot_is_valid_and_names_every_contender(results):
    run = report.from_text((ROOT / "benchmarks/results.json").read_text(encoding="utf-8"))
    plot = ElementTree.fromstring(draw(run))
    names = [text.text for text in plot.iter("{http://www.w3.org/2000/svg}text")]
    for section in "appends", "paced", "size":
        assert {name for row in run["sections"][section].values() for name in row} <= {*names}
    assert "prefers-color-scheme: dark" in draw(run)


@pytest.mark.parametrize("count", [0, 1, 20])
def test_a_plot_has_room_for_any_number_of_contenders(count):
    run = report.from_text((ROOT / "benchmarks/results.json").read_text(encoding="utf-8"))
    for name in run["sections"]:
        raw = {"raw": [0.0, 1e9], "wrong": None}
        run["sections"][name] = {"": {f"<contender {number}>": raw for number in range(count)}}
    ElementTree.fromstring(draw(run))
