"""`holdfast run`: a command that runs while a lock is held, as with flock(1)."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from subprocess import Popen

from holdfast import FileLock, Timeout
from holdfast.cli import patience, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

EXAMPLE = """\
holdfast run --timeout 30 /var/lib/app/deploy.lock -- ./deploy.sh --verbose

The lock is released when the command has ended. The command inherits neither the lock nor its
file, so processes that it leaves behind do not keep the lock. It is a FileLock, and flock(1)'s.
"""

_PATIENCE = 1.0  # seconds after which a person wants to know what is going on

NOT_FOUND, NOT_RUNNABLE = 127, 126


def arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.usage = "%(prog)s [--shared] [--timeout S | --no-wait] LOCK -- COMMAND..."
    parser.add_argument("--shared", action="store_true", help="share the lock with others that do, too")
    waiting = parser.add_mutually_exclusive_group()
    waiting.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help="give up after so many seconds; by default HOLDFAST_TIMEOUT, and for ever without that",
    )
    waiting.add_argument("--no-wait", action="store_true", help="give up at once if the lock is held")
    parser.add_argument("lock", metavar="LOCK", help="the lock file; it is created, with its directory, and stays")
    parser.add_argument("command", nargs="...", metavar="COMMAND", help="what to run, and its arguments")


def run(options: argparse.Namespace) -> int:
    """Run the command, and return its status."""
    command: list[str] = options.command
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        raise ValueError("there is no command to run; name one, as in `holdfast run app.lock -- make install`")
    lock = FileLock(options.lock, shared=options.shared)
    _acquire(lock, _timeout(options))
    try:
        return _run(command)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        what = "was not found" if missing else f"cannot be run ({error.strerror})"
        say(f"the command {command[0]!r} {what}; give its path, or look at its permissions and its first line")
        return NOT_FOUND if missing else NOT_RUNNABLE
    finally:
        lock.release()


def _timeout(options: argparse.Namespace) -> float:
    if options.no_wait:
        return 0.0
    if options.timeout is not None:
        return float(options.timeout)
    return patience()


def _acquire(lock: FileLock, timeout: float) -> None:
    """Acquire the lock. Whoever sits at the terminal is told for whom we wait."""
    if not (timeout < 0 or timeout > _PATIENCE) or sys.stderr is None or not sys.stderr.isatty():
        lock.acquire(timeout=timeout)
        return
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout as error:
        who = " and ".join(map(str, error.holders)) or "somebody who cannot be seen from here"
        say(f"waiting for the lock {lock.lock_file!r}, which is held by {who}")
        try:
            lock.acquire(timeout=timeout - _PATIENCE if timeout > 0 else -1)
        except Timeout as late:
            raise late._within(timeout) from None


if sys.platform == "win32":

    def _run(command: list[str]) -> int:
        from shutil import which

        process = Popen([which(command[0]) or command[0], *command[1:]])
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # Ctrl-C reaches every process of the console: the command decides what that means

else:
    _FORWARDED = {
        signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
        signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGXCPU,
    }  # fmt: skip
    _OF_TERMINALS = {signal.SIGINT, signal.SIGQUIT}  # which a terminal sends to the command as well

    def _run(command: list[str]) -> int:
        # Signals are taken one by one, and not by handlers: so none is lost before there is a process to forward it to,
        # and the system says who sent it. Some systems report SIGCHLD only when there is a handler.
        handler = signal.signal(signal.SIGCHLD, _do_nothing)
        awaited = {*_FORWARDED, signal.SIGCHLD}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
        try:
            with Popen(
                command,
                close_fds=False,  # what our caller has opened for the command; ours are closed anyway
                preexec_fn=partial(signal.pthread_sigmask, signal.SIG_SETMASK, before),  # noqa: PLW1509 - no threads
            ) as process:
                while (code := process.poll()) is None:
                    _forward(_next_signal(awaited), process)
                return code if code >= 0 else 128 - code
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            signal.signal(signal.SIGCHLD, handler)

    def _do_nothing(number: int, frame: object) -> None:
        del number, frame

    def _forward(number: int, process: Popen[bytes]) -> None:
        if number in _FORWARDED:
            try:
                process.send_signal(number)
            except PermissionError:
                say(f"signal {number} cannot be passed on: the command runs as another user")

    def _next_signal(awaited: set[signal.Signals]) -> int:
        """The next signal that came for us; 0 for one that a terminal has sent to the command, too."""
        if hasattr(signal, "sigwaitinfo"):
            info = signal.sigwaitinfo(awaited)
            number, from_terminal = info.si_signo, info.si_code > 0
        else:
            number = signal.sigwait(awaited)
            from_terminal = _is_in_foreground()
        return 0 if number in _OF_TERMINALS and from_terminal else number

    def _is_in_foreground() -> bool:
        """Whether Ctrl-C at the terminal is for us: the best guess where the system does not say who sent a signal."""
        try:
            terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
        except OSError:
            return False  # there is none
        try:
            return os.tcgetpgrp(terminal) == os.getpgrp()
        finally:
            os.close(terminal)
