"""The command `holdfast`, run as its users run it."""

from __future__ import annotations

import errno
import gzip
import importlib
import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import holdfast.cli
from conftest import linux_only, posix_only, replaces_open_files
from holdfast import JsonlFile, StateFile
from holdfast.cli import COMMANDS, main
from support import PATIENCE, eventually, held_elsewhere, is_free, until_it_waits

HOLDFAST = [sys.executable, "-W", "error", "-m", "holdfast"]
PYTHON = [sys.executable, "-c"]
THERE = sorted({module.name for module in pkgutil.iter_modules(holdfast.cli.__path__)} & set(COMMANDS))


def environment(**variables):
    return {**os.environ, "PYTHONIOENCODING": "utf-8", **{name: str(value) for name, value in variables.items()}}


def run(*words, text="", **variables):
    """Run the command until it ends."""
    return subprocess.run(
        [*HOLDFAST, *map(str, words)],
        input=text,
        capture_output=True,
        encoding="utf-8",
        env=environment(**variables),
        timeout=PATIENCE,
        check=False,
    )


@contextmanager
def running(*words, **settings):
    """The command while it runs, with pipes to talk with it."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(
        [*HOLDFAST, *map(str, words)], encoding="utf-8", env=environment(), **{**pipes, **settings}
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def complaint(result):
    """The one line on stderr."""
    (line,) = result.stderr.splitlines()
    assert line.startswith("holdfast: ")
    return line


def json_lines(text):
    return [*map(json.loads, text.splitlines())]


@pytest.fixture(autouse=True)
def ctrl_c_as_usual():
    """Shells have programs ignore Ctrl-C in the background, and the programs these start, too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def log(tmp_path):
    """The path of a log with a hundred records in three files, one of them compressed."""
    path = tmp_path / "events.jsonl"
    with JsonlFile(path) as file:
        for first in 0, 40, 80:
            file.extend({"number": first + number} for number in range(40 if first < 80 else 20))
            if first < 80:
                moved = Path(file.rotate())
            if first == 0:
                with gzip.open(f"{moved}.gz", "wb") as zipped:
                    zipped.write(moved.read_bytes())
                moved.unlink()
    return path


# ---------------------------------------------------------------------------------------------------------------------
# What all commands have in common


def test_the_help_lists_the_commands_and_the_exit_codes():
    result = run("--help")
    assert result.returncode == 0
    assert all(f"\n  {name} " in result.stdout for name in COMMANDS)
    assert all(f"\n  {code} " in result.stdout for code in (0, 1, 2, 74, 75, 130))


@pytest.mark.parametrize("name", THERE)
def test_the_help_of_a_command_shows_an_example(name):
    result = run(name, "--help")
    assert result.returncode == 0
    example = importlib.import_module(f"holdfast.cli.{name}").EXAMPLE
    assert [line.strip() for line in example.splitlines()] == [
        line.strip() for line in result.stdout.partition("example:\n")[2].splitlines()
    ]


def test_without_a_command_the_help_is_shown_as_an_error():
    result = run()
    assert (result.returncode, result.stdout) == (2, "")
    assert "usage: holdfast" in result.stderr


def test_the_version_is_that_of_the_package():
    assert run("--version").stdout == f"holdfast {holdfast.__version__}\n"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["tial"], "is it 'tail'?"),
        (["rotate"], "FILE"),
        (["rotate", "--nothing", "file"], "--nothing"),
        (["tail", "-n", "few", "file"], "'few'"),
        (["tail", "--where", "level", "file"], "KEY=VALUE"),
        (["tail", "--since", "nonsense", "file"], "checkpoint"),
        (["run", "the.lock"], "no command"),
        (["run", "--timeout", "nan", "the.lock", "--", "true"], "nan"),
        (["state", "get", "state.json", "no-slash"], "slash"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(words, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "state.json").write_text("{}")
    result = run(*words)
    assert result.returncode == 2
    assert what in complaint(result)


def test_only_the_module_of_the_chosen_command_is_imported(tmp_path):
    code = (
        "import sys; from holdfast.cli import main; main(['rotate', 'events.jsonl'])\n"
        "print(*(name for name in sys.modules if name.startswith('holdfast.cli.')))"
    )
    result = subprocess.run([*PYTHON, code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert {*result.stdout.split()} & {f"holdfast.cli.{name}" for name in COMMANDS} == {"holdfast.cli.rotate"}


def test_what_the_system_refuses_is_one_line_and_exit_code_74(tmp_path):
    result = run("append", tmp_path / "missing" / "events.jsonl", text="1\n")
    assert result.returncode == 74
    assert "missing" in complaint(result)
    assert "create it" in complaint(result)


def test_other_programs_get_utf8_and_newlines_on_every_system(tmp_path):
    JsonlFile(tmp_path / "events.jsonl").append("grüße")
    words = [*HOLDFAST, "tail", str(tmp_path / "events.jsonl")]
    assert subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout == '"grüße"\n'.encode()


def test_an_output_that_nobody_reads_ends_the_command_quietly(tmp_path):
    log = tmp_path / "events.jsonl"
    JsonlFile(log).extend(range(100_000))
    with running("tail", "-n", "all", log) as process:
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.wait(PATIENCE) == 141
        assert process.stderr.read() == ""
        process.stdout = None


@linux_only
def test_an_output_that_cannot_be_written_is_an_error(log):
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [*HOLDFAST, "tail", log], stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False
        )
    assert result.returncode == 74
    assert "output" in complaint(result)


@posix_only
def test_ctrl_c_ends_a_command_without_a_traceback(log):
    with running("tail", "-f", "-n", 1, log) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr.read() == ""


# ---------------------------------------------------------------------------------------------------------------------
# run


def test_run_passes_on_the_exit_status(path):
    assert run("run", path, "--", *PYTHON, "raise SystemExit(7)").returncode == 7


def test_run_passes_input_and_output_through(path):
    result = run("run", path, "--", *PYTHON, "print(input()[::-1])", text="olleh")
    assert (result.returncode, result.stdout, result.stderr) == (0, "hello\n", "")


def test_run_leaves_the_arguments_of_the_command_alone(path):
    show = "import sys; print(sys.argv[1:])"
    for separator in ["--"], []:
        result = run("run", path, *separator, *PYTHON, show, "--timeout", "--", "--help", "-x", "")
        assert result.stdout == "['--timeout', '--', '--help', '-x', '']\n"


def test_run_holds_the_lock_while_the_command_runs_and_not_afterwards(path):
    with running("run", path, "--", *PYTHON, "print('running', flush=True); input()") as process:
        assert process.stdout.readline() == "running\n"
        assert not is_free(path)
        assert is_free(f"{path}.other")
        process.communicate("\n", PATIENCE)
    assert is_free(path)


def test_run_creates_the_directory_of_the_lock(tmp_path):
    assert run("run", tmp_path / "new" / "the.lock", "--", *PYTHON, "").returncode == 0
    assert (tmp_path / "new" / "the.lock").exists()


def test_run_shared_shares_the_lock_with_its_like_only(path):
    with running("run", "--shared", path, "--", *PYTHON, "print('running', flush=True); input()") as process:
        process.stdout.readline()
        assert run("run", "--shared", "--no-wait", path, "--", *PYTHON, "").returncode == 0
        assert run("run", "--no-wait", path, "--", *PYTHON, "").returncode == 75


@pytest.mark.parametrize("how", ["--no-wait", "--timeout=0.05", "HOLDFAST_TIMEOUT"])
def test_run_gives_up_and_says_who_holds_the_lock(how, path):
    options, variables = ([], {how: 0.05}) if how.startswith("H") else ([how], {})
    with held_elsewhere(path) as child:
        result = run("run", *options, path, "--", *PYTHON, "print('in vain')", **variables)
    assert (result.returncode, result.stdout) == (75, "")
    assert path in complaint(result)
    if sys.platform == "linux":
        assert f"pid {child.pid}" in complaint(result)


def test_run_waits_until_the_lock_is_free(path):
    with held_elsewhere(path) as child, running("run", path, "--", *PYTHON, "print('mine')") as process:
        until_it_waits(process, path)
        child.tell()
        assert process.communicate(timeout=PATIENCE) == ("mine\n", "")


def test_run_says_which_command_it_cannot_find(path):
    result = run("run", path, "--", "there-is-no-such-command")
    assert result.returncode == 127
    assert "there-is-no-such-command" in complaint(result)


@posix_only
def test_run_says_which_command_cannot_be_run(path, tmp_path):
    (tmp_path / "notes.txt").write_text("no program")
    result = run("run", path, "--", tmp_path / "notes.txt")
    assert result.returncode == 126
    assert "notes.txt" in complaint(result)


@posix_only
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT] if os.name == "posix" else [])
def test_run_ends_with_128_and_the_number_of_the_signal_that_ended_the_command(number, path):
    assert run("run", path, "--", "sh", "-c", f"kill -{int(number)} $$").returncode == 128 + number


TELL_SIGNALS = """
import os, signal, time
over = False
def tell(number, frame):
    global over
    over |= number == signal.SIGUSR2  # first: the next signal comes in the middle of this as soon as it is told
    os.write(1, signal.Signals(number).name.encode() + b"\\n")
for number in (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM
):
    signal.signal(number, tell)
os.write(1, b"ready\\n")
while not over:
    time.sleep(0.01)  # and not pause(), which misses a signal that comes just before
"""


@posix_only
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGALRM"])
def test_run_forwards_signals_to_the_command_and_goes_on(name, path):
    with running("run", path, "--", *PYTHON, TELL_SIGNALS) as process:
        for line in "ready", name, "SIGUSR2":
            if line != "ready":
                process.send_signal(getattr(signal, line))
            assert process.stdout.readline() == f"{line}\n"
        assert process.wait(PATIENCE) == 0


# Starts a program in a session of its own, which has the terminal args[1].
IN_TERMINAL = """
import os, sys
os.setsid()
terminal = os.open(sys.argv[1], os.O_RDWR)
for descriptor in 0, 1, 2:
    os.dup2(terminal, descriptor)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@contextmanager
def in_terminal(*words):
    """The command while it runs, and the other side of its terminal."""
    other_side, terminal = os.openpty()
    process = subprocess.Popen([*PYTHON, IN_TERMINAL, os.ttyname(terminal), *HOLDFAST[1:], *map(str, words)])
    try:
        with os.fdopen(other_side, "r+b", buffering=0) as keyboard:
            yield process, keyboard
    finally:
        os.close(terminal)
        process.kill()
        process.wait(PATIENCE)


def shown(keyboard, expected):
    """What has come out of a terminal when it shows this."""
    text = b""
    while expected not in text:
        piece = os.read(keyboard.fileno(), 4096)
        assert piece
        text += piece
    return text.decode()


@linux_only
def test_ctrl_c_at_a_terminal_reaches_the_command_once(path):
    with in_terminal("run", path, "--", *PYTHON, TELL_SIGNALS) as (process, keyboard):
        shown(keyboard, b"ready")
        keyboard.write(b"\x03")
        text = shown(keyboard, b"SIGINT")
        process.send_signal(signal.SIGUSR2)
        text += shown(keyboard, b"USR2")
        assert text.count("SIGINT") == 1


@posix_only
def test_run_tells_a_terminal_for_whom_it_waits(path):
    with held_elsewhere(path) as child, in_terminal("run", path, "--", *PYTHON, "print('mi' + 'ne')") as (_, keyboard):
        told = shown(keyboard, b"\n")
        assert path in told
        if sys.platform == "linux":
            assert f"pid {child.pid}" in told
        child.tell()
        shown(keyboard, b"mine")


@posix_only
def test_what_the_command_leaves_behind_does_not_hold_the_lock(path):
    leave = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import sys; print('left', flush=True); sys.stdin.read()"])
"""
    with running("run", path, "--", *PYTHON, leave) as process:
        assert process.stdout.readline() == "left\n"
        assert process.wait(PATIENCE) == 0
        assert is_free(path)


@linux_only
def test_the_command_inherits_what_its_caller_gives_it_and_not_the_lock_file(path):
    show = (
        "import os; open_ones = [f'/dev/fd/{name}' for name in os.listdir('/dev/fd')]\n"
        "print(*(os.readlink(one) for one in open_ones if os.path.exists(one)))"
    )
    command = ["run", path, "--", *PYTHON, show]
    with open("/dev/zero", "rb") as given, running(*command, pass_fds=[given.fileno()]) as process:
        inherited = process.communicate(timeout=PATIENCE)[0]
    assert "/dev/zero" in inherited
    assert path not in inherited


@pytest.mark.skipif(shutil.which("flock") is None, reason="there is no flock(1)")
def test_run_and_flock_exclude_each_other(path):
    with running("run", path, "--", *PYTHON, "print('running', flush=True); input()") as process:
        process.stdout.readline()
        assert subprocess.run(["flock", "--nonblock", path, "true"], check=False).returncode == 1


# ---------------------------------------------------------------------------------------------------------------------
# append


def test_append_appends_each_line_and_says_how_many(tmp_path):
    result = run("append", tmp_path / "events.jsonl", text='{"a": 1}\n\n  {"a": "ü"}\r\n3')
    assert result.returncode == 0
    assert "3 records" in result.stdout
    assert [*JsonlFile(tmp_path / "events.jsonl")] == [{"a": 1}, {"a": "ü"}, 3]


def test_append_leaves_out_what_is_no_json_and_says_which_line(tmp_path):
    result = run("append", tmp_path / "events.jsonl", text="1\n\noops\nNaN\n2\n")
    assert result.returncode == 1
    assert [line.split(" of ")[0] for line in result.stderr.splitlines()] == ["holdfast: line 3", "holdfast: line 4"]
    assert [*JsonlFile(tmp_path / "events.jsonl")] == [1, 2]


def test_append_tells_of_many_wrong_lines_in_few_words(tmp_path):
    result = run("append", tmp_path / "events.jsonl", text="oops\n" * 1000)
    assert len(result.stderr.splitlines()) < 20
    assert "1,000" in result.stderr


def test_append_raw_takes_any_line_as_it_is(tmp_path):
    result = run("append", "--raw", tmp_path / "lines.txt", text=" not json \n\nat all")
    assert result.returncode == 0
    assert (tmp_path / "lines.txt").read_bytes() == b" not json \nat all\n"


@pytest.mark.parametrize("options", [[], ["--durable"]])
def test_append_has_a_line_in_the_log_before_the_next_one_comes(options, tmp_path):
    log = tmp_path / "events.jsonl"
    with running("append", *options, log) as process:
        for number in range(3):
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            eventually(lambda: log.exists() and [*JsonlFile(log)] == [*range(number + 1)])  # noqa: B023


def test_append_takes_lines_of_any_length(tmp_path):
    lines = [json.dumps("x" * length) for length in (1, 1_000_000, 10, 300_000)]
    assert run("append", tmp_path / "events.jsonl", text="\n".join(lines)).returncode == 0
    assert [len(record) for record in JsonlFile(tmp_path / "events.jsonl")] == [1, 1_000_000, 10, 300_000]


def test_several_append_at_once(tmp_path):
    log = tmp_path / "events.jsonl"
    text = "\n".join(map(str, range(5000)))
    with running("append", log) as one, running("append", log) as other:
        one.stdin.write(text)
        other.stdin.write(text)
        for process in one, other:
            process.communicate(timeout=PATIENCE)
    assert sorted(JsonlFile(log)) == sorted([*range(5000)] * 2)


@posix_only
def test_append_waits_for_input_also_where_reading_does_not(tmp_path):
    log = tmp_path / "events.jsonl"
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)  # it belongs to the pipe: any program that shares it may do that
    with running("append", log, stdin=ours) as process:
        for number in range(2):
            os.write(theirs, b"%d\n" % number)
            eventually(lambda: log.exists() and [*JsonlFile(log)] == [*range(number + 1)])  # noqa: B023
        os.close(theirs)
        assert process.wait(PATIENCE) == 0
    os.close(ours)


def test_append_says_that_its_input_cannot_be_read(tmp_path, monkeypatch, capsys):
    def fail(descriptor, size):
        raise OSError(errno.EINVAL, "Invalid argument")  # what Windows says of an output that nobody reads, too

    (tmp_path / "lines.txt").touch()
    with open(tmp_path / "lines.txt", encoding="ascii") as lines:
        monkeypatch.setattr(sys, "stdin", lines)
        monkeypatch.setattr(os, "read", fail)
        assert main(["append", str(tmp_path / "events.jsonl")]) == 74
        monkeypatch.undo()
    assert "the standard input: Invalid argument" in capsys.readouterr().err


def test_append_gives_up_when_the_log_stays_locked(tmp_path):
    log = tmp_path / "events.jsonl"
    if os.name == "nt":
        pytest.skip("there the lock of a log is not that of a FileLock on the same path")
    with held_elsewhere(log):
        result = run("append", log, text="1\n", HOLDFAST_TIMEOUT=0.05)
    assert result.returncode == 75
    assert "0 records" in result.stdout
    assert "dealt with: 0" in result.stdout
    assert str(log) in complaint(result)


# ---------------------------------------------------------------------------------------------------------------------
# tail


def numbers(result):
    return [record["number"] for record in json_lines(result.stdout)]


@pytest.mark.parametrize("number", [0, 1, 10, 20, 21, 61, 100, 1000, "all"])
def test_tail_shows_the_last_records_also_of_rotated_files(number, log):
    result = run("tail", "-n", number, log)
    assert (result.returncode, result.stderr) == (0, "")
    assert numbers(result) == [*range(100)][100 - min(100, 100 if number == "all" else number) :]


def test_tail_shows_ten_records_unless_told_otherwise(log):
    assert numbers(run("tail", log)) == [*range(90, 100)]


def test_tail_shows_records_as_they_are_in_the_file(tmp_path):
    (tmp_path / "events.jsonl").write_bytes('{ "name":"Zoë",  "a":1.50}\n'.encode())
    assert run("tail", tmp_path / "events.jsonl").stdout == '{ "name":"Zoë",  "a":1.50}\n'


@pytest.mark.parametrize("number", [1, 300, 70_000])
def test_tail_of_a_long_log_is_the_same_as_of_a_short_one(number, tmp_path):
    log = tmp_path / "events.jsonl"
    with JsonlFile(log, max_bytes="1 MB") as file:
        for first in range(0, 100_000, 1000):
            file.extend({"number": first + number, "text": "x" * (number % 50)} for number in range(1000))
    assert file.stats.rotations > 2
    assert numbers(run("tail", "-n", number, log)) == [*range(100_000 - number, 100_000)]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("level=error", [1, 3]),
        ("request.path=/a", [1]),
        ("request.path", None),
        ("ms=12", [1, 4]),
        ('ms="12"', [3]),
        ("ok=true", [2]),
        ("ok=1", [3]),
        ("ok=null", [1]),
        ("tags.0=x", [2]),
        ("tags=[]", [3]),
        ("a.b=1", [4]),
        ("none=1", []),
    ],
)
def test_tail_where_chooses_records(condition, expected, tmp_path):
    records = [
        {"id": 1, "level": "error", "request": {"path": "/a"}, "ms": 12, "ok": None},
        {"id": 2, "ok": True, "tags": ["x"]},
        {"id": 3, "level": "error", "ms": "12", "ok": 1, "tags": []},
        {"id": 4, "ms": 12.0, "a.b": 1},
        ["none"],
    ]
    JsonlFile(tmp_path / "events.jsonl").extend(records)
    result = run("tail", "--where", condition, tmp_path / "events.jsonl")
    if expected is None:
        assert result.returncode == 2
    else:
        assert [record["id"] for record in json_lines(result.stdout)] == expected


def test_several_conditions_must_all_be_true(tmp_path):
    JsonlFile(tmp_path / "events.jsonl").extend({"a": number % 2, "b": number % 3} for number in range(12))
    result = run("tail", "--where", "a=1", "--where", "b=2", tmp_path / "events.jsonl")
    assert json_lines(result.stdout) == [{"a": 1, "b": 2}] * 2


def test_tail_where_looks_for_the_last_ones_that_match(log):
    assert numbers(run("tail", "-n", 1, "--where", "number=3", log)) == [3]


def test_tail_since_goes_on_behind_a_checkpoint(log):
    records = JsonlFile(log).records()
    for _ in range(50):
        next(records)
    assert numbers(run("tail", "--since", records.checkpoint, log)) == [*range(50, 100)]
    assert numbers(run("tail", "--since", records.checkpoint, "-n", 3, log)) == [97, 98, 99]


def test_tail_tells_of_damaged_lines_and_shows_the_others(tmp_path):
    log = tmp_path / "events.jsonl"
    log.write_bytes(b'{"number": 1}\noops\n{"number": 2}\n')
    result = run("tail", log)
    assert result.returncode == 1
    assert numbers(result) == [1, 2]
    assert "byte 14" in complaint(result)
    assert "oops" in complaint(result)


def test_tail_tells_only_of_damage_among_what_it_shows(tmp_path):
    log = tmp_path / "events.jsonl"
    log.write_bytes(b'oops\n{"number": 1}\n{"number": 2}\n')
    assert (run("tail", "-n", 1, log).stderr, run("tail", "-n", 0, log).stderr) == ("", "")


def test_tail_of_nothing_is_exit_code_1(tmp_path):
    result = run("tail", tmp_path / "events.jsonl")
    assert result.returncode == 1
    assert "no such log" in complaint(result)


def test_tail_follows_across_rotations_and_filters(log):
    file = JsonlFile(log)
    with running("tail", "-f", "-n", 1, "--where", "number=5", log) as process:
        assert process.stdout.readline() == '{"number":5}\n'
        for _ in range(3):
            file.append({"number": 4})
            file.append({"number": 5})
            file.rotate()
            assert process.stdout.readline() == '{"number":5}\n'


def test_tail_follows_a_log_that_does_not_exist_yet(tmp_path):
    with running("tail", "-f", tmp_path / "events.jsonl") as process:
        JsonlFile(tmp_path / "events.jsonl").append({"number": 1})
        assert process.stdout.readline() == '{"number":1}\n'


@posix_only
def test_tail_that_follows_ends_when_nobody_reads_it_any_more_although_nothing_comes(log):
    with running("tail", "-f", "-n", 1, log) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE) == 141
        assert process.stderr.read() == ""
        process.stdout = None


# ---------------------------------------------------------------------------------------------------------------------
# verify, repair, rotate


@pytest.fixture
def damaged(tmp_path):
    path = tmp_path / "damaged.jsonl"
    path.write_bytes(b'{"number": 1}\noops\n{"number": 2}\n')
    return path


def test_verify_finds_no_damage(log):
    result = run("verify", log)
    assert (result.returncode, result.stderr) == (0, "")
    assert "3 files, 100 records" in result.stdout


def test_verify_finds_damage_in_any_of_several_logs(log, damaged):
    result = run("verify", damaged, log)
    assert result.returncode == 1
    assert "100 records" in result.stdout
    assert "byte 14" in result.stdout


def test_verify_reports_as_json(log, damaged):
    result = run("verify", "--json", damaged, log)
    assert result.returncode == 1
    bad, good = json.loads(result.stdout)
    assert (good["path"], good["ok"], good["records"], good["damages"]) == (str(log), True, 100, [])
    assert (bad["ok"], bad["damages"][0]["offset"], bad["damages"][0]["length"]) == (False, 14, 4)


def test_verify_of_nothing_is_exit_code_1_and_the_others_are_verified(log, tmp_path):
    result = run("verify", tmp_path / "none.jsonl", log)
    assert result.returncode == 1
    assert "100 records" in result.stdout
    assert "no such log" in complaint(result)
    assert json.loads(run("verify", "--json", tmp_path / "none.jsonl").stdout)[0]["ok"] is False


@posix_only
def test_verify_shows_its_progress_on_a_terminal(log):
    with in_terminal("verify", log) as (_, keyboard):
        text = shown(keyboard, b"no damage")
    assert f"{log.name} [####" in text  # the beginning of a long path gives way to the bar


@replaces_open_files
def test_repair_moves_damage_aside(damaged):
    result = run("repair", damaged)
    assert result.returncode == 0
    assert "damaged.jsonl.damaged" in result.stdout
    assert damaged.read_bytes() == b'{"number": 1}\n{"number": 2}\n'
    assert run("verify", damaged).returncode == 0


@replaces_open_files
def test_repair_reports_as_json(damaged):
    report = json.loads(run("repair", "--json", damaged).stdout)
    assert report["moved"] == 4
    assert report["side_files"] == [f"{damaged}.damaged"]


def test_rotate_prints_the_new_name(tmp_path):
    log = tmp_path / "events.jsonl"
    JsonlFile(log).append(1)
    result = run("rotate", log)
    assert (result.returncode, result.stdout) == (0, f"{tmp_path / 'events.00000001.jsonl'}\n")
    assert not log.exists()


@pytest.mark.parametrize("command", ["repair", "rotate"])
def test_what_is_not_there_is_exit_code_1(command, tmp_path):
    result = run(command, tmp_path / "events.jsonl")
    assert result.returncode == 1
    assert complaint(result)
    assert not any(tmp_path.glob("*.0*"))


# ---------------------------------------------------------------------------------------------------------------------
# state


@pytest.fixture
def state(tmp_path):
    path = tmp_path / "state.json"
    StateFile(path).save({"theme": "dark", "jobs": [{"name": "a"}, {"name": "b"}], "a/b": 1.5})
    return path


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        ("/theme", "dark"),
        ("/jobs/1/name", "b"),
        ("/jobs/1", '{"name":"b"}'),
        ("/a~1b", "1.5"),
        ("", '{"theme":"dark","jobs":[{"name":"a"},{"name":"b"}],"a/b":1.5}'),
    ],
)
def test_state_get_prints_texts_as_they_are_and_the_rest_as_json(pointer, expected, state):
    result = run("state", "get", state, pointer)
    assert result.returncode == 0
    assert "".join(result.stdout.split()) == expected


def test_state_get_json_quotes_texts_too(state):
    assert run("state", "get", "--json", state, "/theme").stdout == '"dark"\n'


@pytest.mark.parametrize("pointer", ["/none", "/jobs/2", "/jobs/-", "/theme/0", "/jobs/name"])
def test_state_get_of_what_is_not_there_is_exit_code_1(pointer, state):
    result = run("state", "get", state, pointer)
    assert result.returncode == 1
    assert pointer in complaint(result)


def test_a_state_that_is_not_there_or_damaged_is_exit_code_1(tmp_path):
    assert "no such state" in complaint(run("state", "get", tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text('{\n"a"')
    result = run("state", "get", tmp_path / "bad.json")
    assert result.returncode == 1
    assert "line 2" in complaint(result)


@pytest.mark.parametrize(
    ("pointer", "value", "expected"),
    [
        ("/theme", "light", {"theme": "light"}),
        ("/theme", '"12"', {"theme": "12"}),
        ("/theme", "12", {"theme": 12}),
        ("/theme", "-1", {"theme": -1}),
        ("/new", '{"a": [null]}', {"new": {"a": [None]}}),
        ("/jobs/0/name", "c", {"jobs": [{"name": "c"}, {"name": "b"}]}),
        ("/jobs/-", "3", {"jobs": [{"name": "a"}, {"name": "b"}, 3]}),
        ("/jobs/2", "3", {"jobs": [{"name": "a"}, {"name": "b"}, 3]}),
    ],
)
def test_state_set_changes_one_value(pointer, value, expected, state):
    before = StateFile(state).load().data
    result = run("state", "set", state, pointer, value)
    assert (result.returncode, result.stdout) == (0, "saved as revision 2\n")
    assert StateFile(state).load().data == {**before, **expected}


def test_state_set_of_the_whole_state(state):
    assert run("state", "set", state, "", '{"a": 1}').returncode == 0
    assert StateFile(state).load().data == {"a": 1}
    assert run("state", "set", state, "", "5").returncode == 2


@pytest.mark.parametrize("pointer", ["/none/a", "/jobs/7", "/jobs/x", "/theme/x"])
def test_state_set_where_there_is_no_place_changes_nothing(pointer, state):
    before = state.read_bytes()
    result = run("state", "set", state, pointer, "1")
    assert result.returncode == 1
    assert complaint(result)
    assert state.read_bytes() == before


def test_state_set_creates_a_state_without_a_history(tmp_path):
    assert run("state", "set", tmp_path / "new.json", "/a", "1").returncode == 0
    assert StateFile(tmp_path / "new.json").load().data == {"a": 1}
    assert not (tmp_path / "new.json.history.jsonl").exists()


def test_a_history_once_begun_goes_on(state):
    run("state", "set", "--history", state, "/theme", "light")
    run("state", "set", state, "/theme", "blue")
    result = run("state", "history", state)
    assert result.returncode == 0
    assert [line.split()[1] for line in result.stdout.splitlines() if line.startswith("revision")] == ["1", "2", "3"]
    assert "/theme: 'light' -> 'blue'" in result.stdout
    assert run("state", "get", "--revision", 2, state, "/theme").stdout == "light\n"
    (latest,) = json.loads(run("state", "history", "--json", "--limit", 1, state).stdout)
    assert latest["changes"] == [{"path": "/theme", "kind": "changed", "old": "light", "new": "blue"}]


def test_a_state_without_a_history_has_none_to_show(state):
    result = run("state", "history", state)
    assert result.returncode == 1
    assert "--history" in complaint(result)
    assert run("state", "get", "--revision", 1, state).returncode == 1


def test_state_set_keeps_comments(tmp_path):
    pytest.importorskip("ruamel.yaml")
    (tmp_path / "state.yaml").write_text("# ours\ntheme: dark # at night\n")
    run("state", "set", tmp_path / "state.yaml", "/theme", "light")
    assert (tmp_path / "state.yaml").read_text().startswith("# ours\ntheme: light # at night\n")


@pytest.fixture
def editor(tmp_path):
    """What makes an editor that runs a piece of Python on `path`."""

    def make(code, name="EDITOR"):
        program = tmp_path / "editor.py"
        program.write_text(
            f"import pathlib, sys\npath = pathlib.Path(sys.argv[1])\ntext = path.read_text('utf-8')\n{code}\n"
        )
        os.makedirs(tmp_path / "tmp", exist_ok=True)
        names = {"VISUAL": "", name: f'"{sys.executable}" "{program}"'}
        return {**names, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), tmp_path / "tmp")}

    return make


REPLACE = "path.write_text(text.replace('dark', 'light'), 'utf-8')"


def kept(tmp_path):
    """The copies that have not been removed."""
    return [*(tmp_path / "tmp").rglob("state.*")]


@pytest.mark.parametrize("name", ["EDITOR", "VISUAL"])
def test_state_edit_saves_what_the_editor_leaves(name, state, editor, tmp_path):
    result = run("state", "edit", state, **editor(REPLACE, name))
    assert (result.returncode, result.stdout) == (0, "saved as revision 2\n")
    assert StateFile(state).load().data["theme"] == "light"
    assert kept(tmp_path) == []


def test_state_edit_records_a_history_if_there_is_one(state, editor):
    run("state", "edit", "--history", state, **editor(REPLACE))
    assert StateFile(state).history()[-1].changes[0].new == "light"


def test_state_edit_keeps_the_comments_that_the_editor_wrote(tmp_path, editor):
    pytest.importorskip("ruamel.yaml")
    (tmp_path / "state.yaml").write_text("theme: dark # old\n")
    code = "path.write_text(text.replace('old', 'new').replace('dark', 'light'))"
    run("state", "edit", tmp_path / "state.yaml", **editor(code))
    assert (tmp_path / "state.yaml").read_text().startswith("theme: light # new\n")


def test_state_edit_creates_a_state(tmp_path, editor):
    code = """path.write_text('{"a": 1}')"""
    assert run("state", "edit", tmp_path / "state.json", **editor(code)).returncode == 0
    assert StateFile(tmp_path / "state.json").load().data == {"a": 1}


def test_state_edit_saves_nothing_when_nothing_was_changed(state, editor, tmp_path):
    before = state.read_bytes()
    result = run("state", "edit", state, **editor(""))
    assert result.returncode == 0
    assert state.read_bytes() == before
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    "code",
    [
        f"{REPLACE}; from holdfast import StateFile; StateFile({{path!r}}).save({{{{'theme': 'theirs'}}}})",
        "path.write_text('{oops')",
        f"{REPLACE}; raise SystemExit(3)",
    ],
    ids=["somebody else changed the state", "it is no state", "the editor failed"],
)
def test_state_edit_keeps_the_copy_when_it_cannot_be_saved(code, state, editor, tmp_path):
    before = state.read_bytes()
    result = run("state", "edit", state, **editor(code.format(path=str(state)) if "{path" in code else code))
    assert result.returncode == 1
    (copy,) = kept(tmp_path)
    assert str(copy) in result.stderr
    assert copy.read_bytes() != before
    assert "Traceback" not in result.stderr
    assert StateFile(state).load().data["theme"] in ("dark", "theirs")


def test_state_edit_says_when_there_is_no_such_editor(state, tmp_path):
    result = run("state", "edit", state, VISUAL="there-is-no-such-editor")
    assert result.returncode == 74
    assert "EDITOR" in complaint(result)


# ---------------------------------------------------------------------------------------------------------------------
# demo


def test_the_demo_kills_processes_and_loses_nothing(tmp_path):
    result = run("demo", "--seconds", 0.5, tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Nothing was lost" in result.stdout
    assert os.listdir(tmp_path) == []


def test_the_demo_notices_a_record_that_is_lost(tmp_path, monkeypatch, capsys):
    def losing(log, **settings):
        records = holdfast.Records(log.path, **settings)
        next(records)
        return records

    monkeypatch.setattr(JsonlFile, "records", losing)
    assert main(["demo", "--seconds", "0.1", str(tmp_path)]) == 1
    (folder,) = os.listdir(tmp_path)
    said = capsys.readouterr().err
    assert "1 records are missing" in said
    assert folder in said


def processes_with(text):
    """The numbers of the processes that have a text among their arguments."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if os.fsencode(text) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


@linux_only
def test_the_processes_of_a_demo_that_is_killed_end_too(tmp_path):
    with running("demo", "--seconds", 600, tmp_path) as process:
        eventually(lambda: len(processes_with(str(tmp_path / "holdfast-demo-"))) == 7)
        process.kill()
        process.wait(PATIENCE)
        eventually(lambda: not processes_with(str(tmp_path / "holdfast-demo-")))
