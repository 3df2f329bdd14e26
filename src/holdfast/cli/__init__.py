"""The command `holdfast`: one module for each of its commands, of which only the one that is asked for is imported."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import warnings
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import NoReturn

COMMANDS = {
    "demo": "see it work: processes are killed at random, and nothing is lost",
    "run": "run a command while holding a lock",
    "append": "append the lines of the standard input to a log",
    "tail": "show the last records of a log, and those to come",
    "verify": "look for damage in logs",
    "repair": "move damaged lines out of a log, into a file beside it",
    "rotate": "move a log aside, so that the next record begins a new file",
    "state": "show and change a state, and who changed what",
    "locks": "list locks, who holds them and who waits",
    "doctor": "try out what a file system keeps of holdfast's promises",
    "bench": "measure what things cost on this machine, next to other packages",
}
"""The commands there are, each a module of this package, and what they do."""

DONE, NO, USAGE, IO_ERROR, TRY_LATER, INTERRUPTED, NO_READER = 0, 1, 2, 74, 75, 130, 141

_EXIT_CODES = """\
exit codes:
  0    done
  1    the answer is no: there is damage, a conflict, or nothing there
  2    the command is used wrongly
  74   the system refused: no permission, a full disk
  75   a lock was not acquired in time
  130  ended by Ctrl-C
  141  nobody reads the output any more
  `holdfast run` passes on that of its command: 128 + n if signal n ended it,
  126 if it cannot be run, 127 if it was not found."""


class _WrongUsage(Exception):
    """The arguments are not what the command takes."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise what main() shows."""
        raise _WrongUsage(f"{message}; see `{self.prog} --help`")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say, by default those of the process, and return the exit code.

    >>> from holdfast.cli import main
    >>> main(["state", "set", "state.json", "/theme", "dark"])
    saved as revision 1
    0
    """
    words = [*(sys.argv[1:] if arguments is None else arguments)]
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            _prepare_output()
            status = _dispatch(words)
            if sys.stdout is not None:  # it may have been closed by whoever started us
                sys.stdout.flush()
            return status
        except KeyboardInterrupt:
            return INTERRUPTED
        except (_WrongUsage, OSError, ValueError, ModuleNotFoundError) as error:
            if _nobody_reads(error):
                _forget_output()
                return NO_READER
            status = _status_of(error)
            _forget_output_if_it_fails()
            say(describe(error))
            return status


def say(message: str) -> None:
    """Tell the user something, in one line on stderr.

    >>> from holdfast.cli import say
    >>> say("the log is empty")
    """
    from holdfast._shown import harmless

    print("holdfast:", harmless(message.replace("\n", " ")), file=sys.stderr, flush=True)


def patience() -> float:
    """How many seconds to wait for a lock where the arguments do not say: for ever, or what HOLDFAST_TIMEOUT says.

    >>> from holdfast.cli import patience
    >>> patience()
    -1.0
    """
    from holdfast._base import default_timeout

    return default_timeout() if "HOLDFAST_TIMEOUT" in os.environ else -1.0


def describe(error: Exception) -> str:
    """What happened, to which path.

    >>> from holdfast.cli import describe
    >>> describe(FileNotFoundError(2, "No such file or directory", "events.jsonl"))
    'events.jsonl: No such file or directory'
    """
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    where = os.fsdecode(error.filename) if error.filename else "the input or the output of this command"
    return f"{where}: {error.strerror}"


def _nobody_reads(error: Exception) -> bool:
    """Whether it is the output that cannot be written any more. Windows says so in the vaguest way."""
    vague = os.name == "nt" and isinstance(error, OSError) and error.errno == errno.EINVAL and error.filename is None
    return vague or isinstance(error, BrokenPipeError)


def _status_of(error: Exception) -> int:
    from holdfast import DamagedState, Timeout

    if isinstance(error, OSError):
        return TRY_LATER if isinstance(error, Timeout) else IO_ERROR
    return NO if isinstance(error, DamagedState) else USAGE


def _dispatch(words: list[str]) -> int:
    name = words[0] if words else ""
    if name in COMMANDS:
        return _run(name, words[1:])
    if name in ("-h", "--help", "help"):
        print(_help())
    elif name in ("-V", "--version"):
        from holdfast import __version__

        print("holdfast", __version__)
    elif name:
        raise _WrongUsage(f"there is no command {name!r}{_similar(name)}; see `holdfast --help`")
    else:
        print(_help(), file=sys.stderr)
        return USAGE
    return DONE


def _run(name: str, words: list[str]) -> int:
    from importlib import import_module
    from textwrap import indent

    module: ModuleType = import_module(f"holdfast.cli.{name}")
    parser = Parser(
        prog=f"holdfast {name}",
        description=f"{COMMANDS[name].capitalize()}.",
        epilog=f"example:\n{indent(module.EXAMPLE.rstrip(), '  ')}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.arguments(parser)
    try:
        options = parser.parse_args(words)
    except SystemExit:  # help was asked for, and has been shown
        return DONE
    status: int = module.run(options)
    return status


def _help() -> str:
    commands = "\n".join(f"  {name:8} {what}" for name, what in COMMANDS.items())
    return (
        "usage: holdfast COMMAND ...\n\n"
        "Files that many processes write, and locks between them.\n\n"
        f"commands:\n{commands}\n\n"
        "`holdfast COMMAND --help` says more, with an example; `holdfast --version` which version this is.\n"
        "HOLDFAST_TIMEOUT is how many seconds to wait for locks where nothing else is said.\n\n"
        f"{_EXIT_CODES}"
    )


def _similar(name: str) -> str:
    from difflib import get_close_matches

    return "".join(f" (is it {match!r}?)" for match in get_close_matches(name, COMMANDS, 1))


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    say(str(message))


def _prepare_output() -> None:
    """Let file names that are no text come out as they are, and on a terminal what it cannot show in some form.

    On Windows a program or a file gets what it would get anywhere else: UTF-8, and lines that end with a newline only.
    """
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is None or sys.stdout.errors not in ("strict", "surrogateescape"):
        return  # somebody has said what is to come out; those two are the defaults, on Windows always the second
    if sys.stdout.isatty():
        reconfigure(errors="backslashreplace")
    elif os.name != "nt":
        reconfigure(errors="surrogateescape")
    else:
        reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")


def _forget_output_if_it_fails() -> None:
    """What is left in the buffer may be what could not be written: the interpreter would try again, and complain."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _forget_output()


def _forget_output() -> None:
    """Let what was not written go nowhere."""
    with suppress(OSError, ValueError):  # there is no file behind it, and so nothing to be written at the end
        descriptor = sys.stdout.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
