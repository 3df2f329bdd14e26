"""JsonlFile: appending records, one a line, from any number of threads and processes."""

from __future__ import annotations

import copy
import json
import os
import pickle
import signal
import stat
import sys
import threading
from pathlib import Path

import pytest

from conftest import frees_names_of_open_files, posix_only
from holdfast import FileLock, JsonlFile, Timeout
from support import ALARMS, PATIENCE, Child, eventually, held_elsewhere

# Counts the syncs of files, and lets them fail from then on when asked to.
COUNT_SYNCS = """
    import errno
    from holdfast import JsonlFile
    from holdfast._native import ffi, lib
    real = ffi.cast("int (*)(int)", lib.hf_sys_get(b"fdatasync"))
    syncs, failing = [], []
    @ffi.callback("int(int)")
    def fdatasync(fd):
        syncs.append(fd)
        if failing:
            ffi.errno = errno.EIO
            return -1
        return real(fd)
    lib.hf_sys_set(b"fdatasync", ffi.cast("void *", fdatasync))
"""


@pytest.fixture
def path(tmp_path):
    """The path of a log that does not exist yet."""
    return tmp_path / "events.jsonl"


def lines(path):
    return Path(path).read_bytes().splitlines(keepends=True)


def names(path):
    return sorted(os.listdir(path.parent))


# ---------------------------------------------------------------------------------------------------------------------
# What is appended


def test_a_record_becomes_a_line(path):
    JsonlFile(path).append({"event": "started", "pid": 1})
    assert lines(path) == [b'{"event":"started","pid":1}\n']


def test_records_follow_each_other(path):
    log = JsonlFile(path)
    for number in range(3):
        log.append({"number": number})
    assert [json.loads(line)["number"] for line in lines(path)] == [0, 1, 2]
    assert [record["number"] for record in log] == [0, 1, 2]


def test_text_is_kept_as_it_is_in_utf_8(path):
    JsonlFile(path).append({"name": "Jürgen", "sign": "漢\u2028"})
    assert lines(path) == ['{"name":"Jürgen","sign":"漢\u2028"}\n'.encode()]


def test_what_was_there_stays(path):
    path.write_bytes(b'{"old":1}\n')
    JsonlFile(path).append({"new": 2})
    assert lines(path) == [b'{"old":1}\n', b'{"new":2}\n']


def test_a_line_that_somebody_could_not_finish_is_ended_first(path):
    path.write_bytes(b'{"old":1}\n{"torn":')
    log = JsonlFile(path)
    log.append({"new": 2})
    assert lines(path) == [b'{"old":1}\n', b'{"torn":\n', b'{"new":2}\n']
    assert log.stats.repairs == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), object(), {1, 2}, "\ud800", {"deep": [b"bytes"]}])
def test_what_cannot_be_encoded_raises_and_writes_nothing(path, bad):
    log = JsonlFile(path)
    log.append(1)
    with pytest.raises((ValueError, TypeError)):
        log.append({"bad": bad})
    with pytest.raises((ValueError, TypeError)):
        log.extend([2, {"bad": bad}, 3])
    assert lines(path) == [b"1\n"]


def test_a_batch_is_written_as_a_whole(path):
    log = JsonlFile(path)
    assert log.extend({"number": number} for number in range(1000)) == 1000
    assert [record["number"] for record in log] == list(range(1000))
    assert log.stats.appends == 1000


def test_an_empty_batch_writes_nothing(path):
    assert JsonlFile(path).extend([]) == 0
    assert not path.exists()


def test_an_encoded_line_is_written_with_its_newline_or_without(path):
    log = JsonlFile(path)
    log.append_bytes(b'{"a":1}')
    log.append_bytes(b'{"a":2}\n')
    log.append_bytes(bytearray(b'{"a":3}'))
    assert lines(path) == [b'{"a":1}\n', b'{"a":2}\n', b'{"a":3}\n']


@pytest.mark.parametrize("line", [b"", b"\n", b"  \n", b"1\n2", b"1\n\n", b"\n1"])
def test_what_is_not_one_line_is_refused(path, line):
    log = JsonlFile(path)
    with pytest.raises(ValueError, match="encoded record"):
        log.append_bytes(line)
    encoded = JsonlFile(path, encode=lambda record: line)
    with pytest.raises(ValueError, match="encoded record"):
        encoded.append({})
    with pytest.raises(ValueError, match="encoded record"):
        encoded.extend([{}, {}])
    assert not path.exists()


def test_text_is_no_line_of_bytes(path):
    with pytest.raises(TypeError, match="bytes"):
        JsonlFile(path).append_bytes('{"a":1}')


@pytest.mark.parametrize(
    "encode",
    [
        json.dumps,
        lambda record: json.dumps(record) + "\n",
        lambda record: json.dumps(record).encode(),
        lambda record: json.dumps(record).encode() + b"\n",
        lambda record: bytearray(json.dumps(record).encode()),
    ],
)
def test_any_function_can_encode(path, encode):
    log = JsonlFile(path, encode=encode)
    log.append({"a": 1})
    assert log.extend([{"a": 2}, {"a": 3}]) == 2
    assert [record["a"] for record in log] == [1, 2, 3]


def test_any_function_can_decode(path):
    log = JsonlFile(path, encode=lambda record: f"<{record}>", decode=lambda line: int(line[1:-1]))
    log.extend(range(5))
    assert list(log) == [0, 1, 2, 3, 4]


def test_an_encoder_that_gives_something_else_is_refused(path):
    with pytest.raises(TypeError, match="int"):
        JsonlFile(path, encode=lambda record: 7).append({})


# ---------------------------------------------------------------------------------------------------------------------
# The object


def test_a_relative_path_means_the_same_file_after_a_change_of_directory(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    log = JsonlFile("events.jsonl")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    log.append(1)
    assert lines(path) == [b"1\n"]
    assert log.path == str(path)


def test_a_closed_log_can_be_read_but_not_appended_to(path):
    with JsonlFile(path) as log:
        log.append(1)
    with pytest.raises(ValueError, match="closed"):
        log.append(2)
    with pytest.raises(ValueError, match="closed"):
        log.rotate()
    log.close()
    assert list(log) == [1]


def test_a_copy_is_another_writer_of_the_same_file(path):
    log = JsonlFile(path, max_bytes="1 MB", timeout=3)
    for twin in (copy.copy(log), pickle.loads(pickle.dumps(log))):
        twin.append(1)
        assert twin.path == log.path
        assert twin._settings == log._settings
    assert "events.jsonl" in repr(log)


def test_the_counts_say_what_was_done(path):
    log = JsonlFile(path, durable=True)
    log.append({"a": 1})
    log.extend([{"a": 2}, {"a": 3}])
    log.rotate()
    stats = log.stats
    assert (stats.appends, stats.bytes, stats.rotations, stats.waits, stats.repairs) == (3, 24, 1, 0, 0)
    assert stats.syncs == 2


@pytest.mark.parametrize(
    "setting",
    [
        {"durable": -1},
        {"durable": 0},
        {"durable": float("nan")},
        {"timeout": float("nan")},
        {"max_bytes": 0},
        {"max_bytes": "many"},
        {"max_bytes": "10 parsecs"},
        {"max_age": 0},
        {"backups": -1},
        {"backups": "0 MB"},
        {"mode": 0o100},
    ],
)
def test_values_that_mean_nothing_are_refused(path, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        JsonlFile(path, **setting)


@pytest.mark.parametrize(
    "setting",
    [{"durable": "yes"}, {"max_bytes": 1.5}, {"max_bytes": True}, {"max_age": "1"}, {"backups": 1.5}, {"compress": 1}],
)
def test_values_of_other_types_are_refused(path, setting):
    with pytest.raises(TypeError, match=next(iter(setting))):
        JsonlFile(path, **setting)


@pytest.mark.parametrize("bad", ["", "a\0b"])
def test_a_path_that_cannot_be_one_is_refused(bad):
    with pytest.raises(ValueError, match="path"):
        JsonlFile(bad)


@posix_only
def test_a_new_file_gets_the_mode(path):
    before = os.umask(0o022)
    try:
        JsonlFile(path).append(1)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        path.unlink()
        JsonlFile(path, mode=0o666).append(1)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
    finally:
        os.umask(before)


# ---------------------------------------------------------------------------------------------------------------------
# Waiting


@posix_only
def test_a_log_that_is_locked_is_waited_for(path):
    log = JsonlFile(path, timeout=0.01)
    log.append(1)
    with held_elsewhere(path) as holder:
        with pytest.raises(Timeout):
            log.append(0)
        assert lines(path) == [b"1\n"]
        assert log.stats.waits == 1
        assert 0.01 <= log.stats.wait_seconds == log.stats.longest_wait
        appended = threading.Thread(target=JsonlFile(path).append, args=(2,))
        appended.start()
        holder.tell()
        appended.join(PATIENCE)
    assert lines(path) == [b"1\n", b"2\n"]


@posix_only
@pytest.mark.parametrize("timeout", [0, 0.05])
def test_a_wait_that_takes_too_long_raises_and_writes_nothing(path, timeout):
    log = JsonlFile(path, timeout=timeout)
    log.append(1)
    with held_elsewhere(path) as holder:
        with pytest.raises(Timeout) as caught:
            log.append(2)
        assert caught.value.lock_file == str(path)
        assert not caught.value.holders or caught.value.holders[0].pid == holder.pid
    assert lines(path) == [b"1\n"]
    log.append(3)
    assert lines(path) == [b"1\n", b"3\n"]


@posix_only
def test_a_thread_that_would_wait_for_itself_is_told(path):
    log = JsonlFile(path, timeout=-1)
    with FileLock(path), pytest.raises(RuntimeError, match="never end"):
        log.append(1)


def test_the_environment_says_how_long_to_wait(path):
    code = """
        from holdfast import JsonlFile
        try:
            say(JsonlFile(args[0])._timeout)
        except ValueError as error:
            say(error)
    """
    with Child(code, path, env={**os.environ, "HOLDFAST_TIMEOUT": "2.5"}) as child:
        child.expect("2.5")
    with Child(code, path, env={**os.environ, "HOLDFAST_TIMEOUT": "soon"}) as child:
        assert "HOLDFAST_TIMEOUT" in child.hear()


@posix_only
def test_ctrl_c_ends_a_wait(path):
    with (
        held_elsewhere(path),
        Child(
            """
            from holdfast import JsonlFile
            say("waiting")
            try:
                JsonlFile(args[0], timeout=-1).append(1)
            except KeyboardInterrupt:
                say("interrupted")
            """,
            path,
        ) as child,
    ):
        child.expect("waiting")
        while child.process.poll() is None:
            child.process.send_signal(signal.SIGINT)
            if child.hear() == "interrupted":
                break
    assert lines(path) == []


@posix_only
@pytest.mark.skipif(sys.implementation.name == "pypy", reason="PyPy may run a handler just before an unlocking")
def test_a_handler_that_raises_at_any_moment_never_leaves_the_log_locked(path):
    with Child(
        ALARMS
        + """
from holdfast import JsonlFile
log = JsonlFile(args[0], max_bytes=2000)
other = JsonlFile(args[0], timeout=0)
log.append("first"), log.rotate()  # an exception in the middle of an import breaks the module, which is Python's affair
for number in range(1000):
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, 1e-6 + number % 200 * 1e-6)
        for _ in range(20):
            log.append({"number": number})
        armed = False
    except Alarm:
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    other.append("free")
report = log.verify()
say(report.ok)
""",
        path,
    ) as child:
        child.expect("True")
        child.join()


@posix_only
def test_a_signal_handler_may_append_to_the_log_that_was_interrupted(path):
    with Child(
        """
        import signal
        from holdfast import JsonlFile
        log = JsonlFile(args[0], timeout=1)
        handled = 0
        def handle(*_):
            global handled
            log.append("handler")
            handled += 1
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        for number in range(20000):
            log.append("main")
        signal.setitimer(signal.ITIMER_REAL, 0)
        records = list(log)
        say(records.count("main") == 20000 and records.count("handler") == handled > 0)
        """,
        path,
    ) as child:
        child.expect("True")


# ---------------------------------------------------------------------------------------------------------------------
# Threads, fork, exit


def test_threads_share_a_log(path):
    log = JsonlFile(path, max_bytes=20_000)

    def write(writer):
        for number in range(300):
            log.append({"writer": writer, "number": number})

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    records = list(log)
    for writer in range(8):
        assert [record["number"] for record in records if record["writer"] == writer] == list(range(300))
    assert len(records) == log.stats.appends == 2400


@posix_only
def test_a_forked_child_opens_the_file_for_itself(path):
    with Child(
        """
        from holdfast import JsonlFile
        log = JsonlFile(args[0], timeout=5, durable=True)
        def write(name, times):
            for _ in range(times):
                log.append(name)
        threads = [threading.Thread(target=write, args=("parent", 300)) for _ in range(4)]
        for thread in threads: thread.start()
        children = []
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                try:
                    write("child", 20)
                    os._exit(0)
                finally:
                    os._exit(1)
            children.append(pid)
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0
        for thread in threads: thread.join()
        records = list(log)
        say(f"{records.count('parent')} {records.count('child')} {len(records)}")
        """,
        path,
    ) as child:
        child.expect("1200 200 1400")


def test_what_was_appended_last_is_there_when_the_process_ends(path):
    for how in ("pass", "os._exit(0)", "sys.exit()"):
        code = f"from holdfast import JsonlFile\nlog = JsonlFile(args[0], durable=30)\nlog.append(1)\n{how}"
        with Child(code, path) as child:
            child.join()
    assert lines(path) == [b"1\n"] * 3


@posix_only
def test_another_process_is_not_kept_waiting_by_a_killed_one(path):
    code = """
        from holdfast import JsonlFile
        log = JsonlFile(args[0])
        say("ready")
        while True:
            log.append({"text": "x" * 50})
    """
    log = JsonlFile(path)
    for _ in range(5):
        with Child(code, path) as child:
            child.expect("ready")
            child.kill()
            log.append("mine")
    assert list(log.records(errors="skip")).count("mine") == 5


# ---------------------------------------------------------------------------------------------------------------------
# Durability


@posix_only
def test_each_append_is_synced_before_it_returns(path):
    with Child(
        COUNT_SYNCS
        + """
    log = JsonlFile(args[0], durable=True)
    for number in range(5):
        log.append(number)
        assert len(syncs) == number + 1
    log.extend([5, 6])
    assert len(syncs) == 6 == log.stats.syncs
    log.sync()
    assert len(syncs) == 6
    log = JsonlFile(args[0])
    log.append(7)
    assert len(syncs) == 6
    log.sync()
    assert len(syncs) == 7
    say("done")
    """,
        path,
    ) as child:
        child.expect("done")


@posix_only
def test_records_are_synced_within_the_time_and_at_the_end(path):
    with Child(
        COUNT_SYNCS
        + """
    import atexit
    log = JsonlFile(args[0], durable=0.01)
    log.append(1)
    while not syncs: time.sleep(0.001)
    while log._synced_by: time.sleep(0.001)
    log.append(2)
    while len(syncs) < 2: time.sleep(0.001)
    slow = JsonlFile(args[0], durable=1000)
    slow.append(3)
    assert not slow.stats.syncs
    import holdfast._syncing
    atexit.unregister(holdfast._syncing._sync_all)
    atexit.register(lambda: say(slow.stats.syncs))
    atexit.register(holdfast._syncing._sync_all)
    """,
        path,
    ) as child:
        child.expect("1")
        child.join()


@posix_only
def test_after_a_failed_sync_the_log_refuses_for_good(path):
    with Child(
        COUNT_SYNCS
        + """
    log = JsonlFile(args[0], durable=True)
    log.append(1)
    failing.append(True)
    texts = []
    def write():
        try: log.append(2)
        except OSError as error: texts.append(str(error))
    threads = [threading.Thread(target=write) for _ in range(5)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert len(texts) == 5 and all("brought to the disk" in text for text in texts), texts
    failing.clear()
    for call in (lambda: log.append(3), lambda: log.extend([3]), log.sync, log.rotate, lambda: log.close()):
        try: call()
        except OSError as error: assert error.errno == errno.EIO
        else: raise AssertionError(call)
    JsonlFile(args[0], durable=True).append(4)
    records = list(JsonlFile(args[0]))
    assert records[0] == 1 and records[-1] == 4 and 3 not in records
    say("done")
    """,
        path,
    ) as child:
        child.expect("done")


@posix_only
def test_what_was_rotated_away_is_synced_before_it_is_given_up(path):
    with Child(
        COUNT_SYNCS
        + """
    log = JsonlFile(args[0], durable=1000)
    log.append(1)
    os.rename(args[0], args[0] + ".1")
    assert not syncs
    log.append(2)
    assert len(syncs) == 1
    say(open(args[0]).read().strip())
    """,
        path,
    ) as child:
        child.expect("2")


# ---------------------------------------------------------------------------------------------------------------------
# Rotation


def test_a_file_is_rotated_before_it_grows_too_large(path):
    log = JsonlFile(path, max_bytes=100)
    for number in range(25):
        log.append({"number": number})
    assert names(path)[-1] == "events.jsonl"
    assert names(path)[:-1] == [f"events.{number:08}.jsonl" for number in range(1, len(names(path)))]
    assert all(60 < (path.parent / name).stat().st_size <= 100 for name in names(path)[:-1])
    assert [record["number"] for record in log] == list(range(25))


def test_a_record_that_is_too_large_gets_a_file_of_its_own(path):
    log = JsonlFile(path, max_bytes=10)
    for text in ("x" * 50, "y" * 60, "z"):
        log.append(text)
    assert [len(lines(path.parent / name)) for name in names(path)] == [1, 1, 1]


def test_a_file_is_rotated_when_it_is_too_old(path):
    log = JsonlFile(path, max_age=0.02)
    log.append(0)
    eventually(lambda: log.append(1) or len(names(path)) > 1)
    assert next(iter(log)) == 0


def test_a_file_that_is_young_stays(path):
    log = JsonlFile(path, max_age=1000)
    log.extend([1, 2])
    JsonlFile(path, max_age=1000).append(3)
    assert names(path) == ["events.jsonl"]


@pytest.mark.parametrize(("backups", "left"), [(0, 0), (2, 2), ("250 B", 2), ("1 KB", 6)])
def test_no_more_old_files_are_kept_than_asked_for(path, backups, left):
    log = JsonlFile(path, max_bytes=100, backups=backups)
    for number in range(7):
        log.append_bytes(b"%d" % number * 90)
    assert len(names(path)) == left + 1
    assert path.exists()


@frees_names_of_open_files
def test_old_files_are_compressed(path):
    log = JsonlFile(path, max_bytes=200, compress=True)
    for number in range(30):
        log.append({"number": number, "text": "x" * 20})
    log.rotate()
    eventually(lambda: all(name.endswith(".gz") for name in names(path)))
    assert [record["number"] for record in log] == list(range(30))


def test_rotate_returns_what_the_file_is_called_now(path):
    log = JsonlFile(path)
    assert log.rotate() is None
    log.append(1)
    moved = log.rotate()
    assert moved == str(path.with_name("events.00000001.jsonl"))
    assert log.rotate() is None
    log.append(2)
    assert lines(moved) == [b"1\n"]
    assert lines(path) == [b"2\n"]


def test_a_number_is_not_used_twice(path):
    path.with_name("events.00000041.jsonl.gz").touch()
    log = JsonlFile(path)
    log.append(1)
    assert log.rotate() == str(path.with_name("events.00000042.jsonl"))


@frees_names_of_open_files
def test_rotation_by_others_is_noticed(path):
    log = JsonlFile(path)
    log.append(1)
    path.rename(path.with_name("events.jsonl.1"))
    log.append(2)
    assert lines(path) == [b"2\n"]
    path.unlink()
    log.append(3)
    assert lines(path) == [b"3\n"]
    os.truncate(path, 0)
    log.append(4)
    assert lines(path) == [b"4\n"]


@pytest.mark.parametrize("how", ["create", "copytruncate"])
def test_logrotate_and_we_get_along(path, how):
    import shutil
    import subprocess

    logrotate = shutil.which("logrotate") or shutil.which("logrotate", path="/usr/sbin")
    if logrotate is None:
        pytest.skip("logrotate is not installed")
    settings = path.with_name("settings")
    settings.write_text(f"{path} {{\n  rotate 100\n  {how}\n}}\n")
    settings.chmod(0o644)
    log = JsonlFile(path)
    for number in range(30):
        log.append({"number": number})
        if number % 10 == 5:
            subprocess.run([logrotate, "-f", "-s", path.with_name("state"), settings], check=True, timeout=PATIENCE)
    found = [
        json.loads(line)["number"]
        for place in ("events.jsonl.3", "events.jsonl.2", "events.jsonl.1", "events.jsonl")
        for line in lines(path.with_name(place))
    ]
    assert found == list(range(30))
