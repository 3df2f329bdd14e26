"""`holdfast doctor`: what a file system keeps of holdfast's promises, tried out, and what to do about the rest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from conftest import calls_back_as_it_forks, linux_only, posix_only, replaces_open_files
from holdfast._filesystem import FileSystem
from holdfast._trials import Trial, trials
from holdfast.cli.doctor import advise
from support import PATIENCE, WAITS_IN_KERNEL, Child


def doctor(*arguments):
    """What the command prints, and its exit code."""
    words = [sys.executable, "-m", "holdfast", "doctor", *map(str, arguments)]
    result = subprocess.run(words, capture_output=True, check=False, text=True, timeout=2 * PATIENCE, encoding="utf-8")
    return result.stdout + result.stderr, result.returncode


def found(folder):
    """What the command prints as JSON."""
    return json.loads(doctor(folder, "--json")[0])


def on_local_disk(**kinds):
    return FileSystem("ext4", "/dev/sda1", "/", ["rw"], network=False)._replace(**kinds)


def results(**failures):
    """What trials find on a good file system, but for those named, whose underscores are spaces."""
    return [
        Trial(name, True, failures.get(name.replace("locks: ", "").replace(" ", "_"), True), "", 0.001)
        for name in trials()
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Trying it out


@replaces_open_files
def test_a_directory_where_all_is_well(tmp_path):
    text, status = doctor(tmp_path)
    assert "All that holdfast promises is so" in text
    assert status == 0


def test_nothing_is_left_behind(tmp_path):
    doctor(tmp_path)
    assert os.listdir(tmp_path) == []


@replaces_open_files
def test_the_path_may_be_that_of_a_file(tmp_path):
    (tmp_path / "events.jsonl").write_text("{}\n", encoding="ascii")
    assert doctor(tmp_path / "events.jsonl")[1] == 0
    assert os.listdir(tmp_path) == ["events.jsonl"]


@replaces_open_files
def test_every_trial_is_in_the_json(tmp_path):
    answer = found(tmp_path)
    assert answer["well"]
    assert [trial["name"] for trial in answer["trials"]] == [*trials()]
    assert {trial["holds"] for trial in answer["trials"] if trial["promised"]} <= {True, None}
    assert answer["file_system"]["kind"] != ""


@linux_only
def test_the_file_system_is_named():
    if not os.path.ismount("/dev/shm"):
        pytest.skip("there is no /dev/shm here")
    answer = found("/dev/shm")
    assert (answer["file_system"]["kind"], answer["file_system"]["in_memory"]) == ("tmpfs", True)
    assert any("durable=True means nothing" in line for line in answer["advice"])


@linux_only
def test_it_tells_whether_who_waits_sleeps(tmp_path):
    waiting = {trial["name"]: trial for trial in found(tmp_path)["trials"]}["waiting in the kernel"]
    assert waiting["holds"] is WAITS_IN_KERNEL
    assert waiting["seconds"] >= 0


def test_a_path_that_does_not_exist_is_an_error(tmp_path):
    text, status = doctor(tmp_path / "missing")
    assert text.startswith(f"holdfast: {tmp_path / 'missing'}: ")
    assert len(text.splitlines()) == 1
    assert status == 74


@linux_only
@calls_back_as_it_forks
def test_where_the_system_refuses_all_locks_it_says_so_and_the_exit_code_is_1(tmp_path):
    code = """
        import errno
        from interposed import interposed
        from holdfast.cli import main
        os.chdir(args[0])
        with interposed(lambda name: errno.ENOLCK if name == "flock" else None):
            status = main(["doctor", "."])
        say(f"status {status}")
    """
    with Child(code, tmp_path) as child:
        lines = []
        while not lines or not lines[-1].startswith("status"):
            lines.append(child.hear())
            assert len(lines) < 50
        child.join()
    assert lines[-1] == "status 1"
    assert any(line.startswith("NO   locks: flock: the file system has no locks of this kind") for line in lines)
    assert any(line.startswith("Put lock files") for line in lines)


@posix_only
@calls_back_as_it_forks
def test_where_files_are_replaced_slowly_it_replaces_fewer(tmp_path):
    code = """
        import time
        from interposed import interposed
        from holdfast import _trials
        from holdfast.cli import main
        _trials._ENOUGH = 0.1
        renamed = 0
        def meddle(name):
            global renamed
            if name == "rename":
                renamed += 1
                time.sleep(0.02)
        with interposed(meddle):
            status = main(["doctor", args[0]])
        say(f"status {status}, {renamed} renamed")
    """
    with Child(code, tmp_path) as child:
        while not (line := child.hear()).startswith("status"):
            pass
        child.join()
    status, renamed = re.findall(r"\d+", line)
    assert status == "0"
    assert 0 < int(renamed) < 20


# ---------------------------------------------------------------------------------------------------------------------
# What it says


def test_where_all_is_well_there_is_nothing_else_to_say():
    assert advise(on_local_disk(), results()) == ["All that holdfast promises is so here."]


def test_it_names_what_is_not_so():
    assert "appending" in advise(on_local_disk(), results(appending=False))[0]


def test_where_there_are_no_kernel_locks_it_advises_soft_locks():
    assert any("Use SoftFileLock instead of FileLock" in line for line in advise(on_local_disk(), results(flock=False)))


def test_where_soft_locks_do_not_work_it_advises_kernel_locks():
    assert any("Use FileLock here, not SoftFileLock" in line for line in advise(on_local_disk(), results(soft=False)))


def test_where_no_lock_works_files_belong_elsewhere():
    assert any("another file system" in line for line in advise(on_local_disk(), results(flock=False, soft=False)))


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("nfs4", ["rw", "local_lock=none"], "Locks reach other machines that mount it over NFS"),
        ("nfs4", ["rw", "nosharecache"], "Mount it once"),
        ("nfs", ["rw", "nolock"], "because of the option nolock"),
        ("nfs", ["rw", "nosharecache", "nolock"], "because of the option nolock"),
        ("nfs", ["rw", "local_lock=all"], "because of the option local_lock=all"),
        ("cifs", ["rw"], "not programs on the server"),
        ("cifs", ["rw", "nobrl"], "because of the option nobrl"),
        ("fuse.sshfs", ["rw"], "sshfs keeps locks to this mount"),
        ("fuse", ["rw"], "only to this mount"),
        ("fuse.bindfs", ["rw"], "is so for those who use this mount."),
        ("lustre", ["rw"], "If its manual does not promise"),
        ("overlay", ["rw"], "on a volume"),
    ],
)
def test_it_says_how_far_locks_reach(kind, options, said):
    system = on_local_disk(kind=kind, options=options, network=kind not in ("overlay",))
    assert said in " ".join(advise(system, results()))


def test_in_memory_nothing_is_durable():
    assert any("durable=True means nothing" in line for line in advise(on_local_disk(kind="tmpfs"), results()))


@pytest.mark.parametrize(("seconds", "said"), [(0.02, "Syncs are slow (20.0 ms)"), (1e-6, "perhaps nothing is synced")])
def test_syncs_that_are_slow_or_too_fast(seconds, said):
    found = [trial._replace(seconds=seconds) for trial in results()]
    assert any(said in line for line in advise(on_local_disk(), found))


def test_names_that_differ_in_case_only():
    assert any("same file" in line for line in advise(on_local_disk(), results(upper_and_lower_case=False)))


def test_the_help_shows_an_example():
    text, status = doctor("--help")
    assert status == 0
    assert "holdfast doctor /mnt/share --json" in text
