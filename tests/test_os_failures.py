"""Calls to the system that Python makes itself: what a failure, or half of a success, of one of them does.

tests/faults/ lets each call of each operation fail in each way. Here are the lessons from that, one by one.
"""

from __future__ import annotations

import errno
import os

import pytest

from conftest import posix_only
from holdfast import DocumentStore, JsonlFile, StateFile, write_text


def failing(monkeypatch, name, error=errno.EIO):
    """Let a function of the module os fail, which is made all the same if it closes something."""
    real = getattr(os, name)

    def fail(*arguments, **settings):
        if name == "close":
            real(*arguments, **settings)
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, name, fail)


READERS = {
    "a state": lambda folder: StateFile(folder / "file.json").load().data,
    "a log": lambda folder: list(JsonlFile(folder / "file.json"))[-1],
    "a log's check": lambda folder: {"n": JsonlFile(folder / "file.json").verify().records},
    "a document": lambda folder: DocumentStore(folder)["file"],
}


@pytest.fixture
def folder(tmp_path):
    write_text(tmp_path / "file.json", '{"n":1}\n')
    return tmp_path


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("call", ["fstat", "read", "pread"])
@posix_only
def test_an_error_while_a_file_is_read_says_which_file_it_is(folder, read, call, monkeypatch):
    assert read(folder) == {"n": 1}
    with monkeypatch.context() as context:
        failing(context, call)
        try:
            assert read(folder) == {"n": 1}  # without that call
        except OSError as error:
            assert str(folder / "file.json") in str(error)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@posix_only
def test_an_error_of_closing_what_was_only_read_is_none(folder, read, monkeypatch):
    with monkeypatch.context() as context:
        failing(context, "close", errno.EINTR)
        assert read(folder) == {"n": 1}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@posix_only
def test_a_read_that_gives_less_than_there_is_is_continued(folder, read, monkeypatch):
    for name in "read", "pread":
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda file, size, *where, real=real: real(file, min(size, 3), *where))
    assert read(folder) == {"n": 1}
