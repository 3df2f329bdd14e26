"""holdfast.filelock: our locks where a program expects those of the filelock package, compared with these."""

from __future__ import annotations

import abc
import asyncio
import copy
import gc
import inspect
import os
import pickle
import re
import stat
import subprocess
import sys
import threading
import time
import types
import weakref
from importlib.util import LazyLoader, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

import holdfast
from conftest import linux_only, posix_only
from support import PATIENCE, Child, in_another_thread, is_free, number_in

filelock = pytest.importorskip("filelock", reason="the filelock package is not installed")
import holdfast.filelock as bridge  # noqa: E402 - it needs that package
from holdfast.filelock import FileLock, ReadWriteLock, SoftFileLock, Timeout, install, uninstall  # noqa: E402

KINDS = [FileLock, SoftFileLock]
PACKAGES = {"theirs": filelock, "ours": bridge}
TheirFileLock, TheirSoftFileLock, TheirAsyncFileLock = filelock.FileLock, filelock.SoftFileLock, filelock.AsyncFileLock


@pytest.fixture(params=PACKAGES, ids=PACKAGES)
def package(request):
    """filelock and its bridge, one after the other, for what must be the same with both."""
    return PACKAGES[request.param]


@pytest.fixture(params=["FileLock", "SoftFileLock"])
def kind(package, request):
    """A class of locks, of filelock and of its bridge."""
    return getattr(package, request.param)


# ---------------------------------------------------------------------------------------------------------------------
# What they pass for


@pytest.mark.parametrize("kind", KINDS)
def test_our_locks_are_instances_of_filelocks_classes(path, kind):
    lock = kind(path)
    assert isinstance(lock, filelock.BaseFileLock)
    assert isinstance(lock, getattr(filelock, kind.__name__))
    assert isinstance(lock, (getattr(holdfast, kind.__name__), bridge.BaseFileLock, holdfast.BaseFileLock))


def test_our_locks_of_one_kind_are_no_instances_of_the_other(path):
    assert not isinstance(FileLock(path), filelock.SoftFileLock)
    assert not isinstance(SoftFileLock(path), filelock.FileLock)


def test_filelocks_locks_are_instances_of_our_classes(path):
    for theirs, ours in ((TheirFileLock, FileLock), (TheirSoftFileLock, SoftFileLock)):
        assert isinstance(theirs(path), ours)
        assert isinstance(theirs(path), bridge.BaseFileLock)
    assert not isinstance(TheirFileLock(path), SoftFileLock)


def test_holdfasts_own_locks_are_not_filelocks(path):
    assert not isinstance(holdfast.FileLock(path), filelock.BaseFileLock)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("caught", [filelock.Timeout, holdfast.Timeout, Timeout, TimeoutError])
def test_the_timeout_is_caught_as_filelocks_and_as_ours(path, kind, caught):
    with kind(path), pytest.raises(caught) as raised:
        kind(path, timeout=0.01).acquire()
    assert type(raised.value) is Timeout
    assert raised.value.lock_file == path


@linux_only
def test_the_timeout_says_who_holds_the_lock(path):
    with FileLock(path), pytest.raises(Timeout, match=f"{re.escape(path)}.*0.01 seconds.*pid {os.getpid()}") as raised:
        FileLock(path).acquire(timeout=0.01)
    assert [holder.pid for holder in raised.value.holders] == [os.getpid()]


def test_the_timeout_of_a_soft_lock_says_what_to_do_about_a_file_that_names_nobody(path):
    Path(path).write_text("nobody\n")
    with pytest.raises(Timeout, match="remove the file"):
        SoftFileLock(path).acquire(blocking=False)


def test_the_timeout_can_be_pickled(path):
    with FileLock(path), pytest.raises(Timeout) as raised:
        FileLock(path).acquire(blocking=False)
    twin = pickle.loads(pickle.dumps(raised.value))
    assert (type(twin), twin.lock_file, str(twin)) == (Timeout, path, str(raised.value))


def test_the_timeout_can_be_raised_by_users_as_in_filelock(package):
    error = package.Timeout("some.lock")
    assert error.lock_file == "some.lock"
    assert repr(error) == "Timeout('some.lock')"


def test_the_timeout_of_a_read_write_lock_is_filelocks(path):
    lock = ReadWriteLock(path)
    with lock.read_lock(), pytest.raises(filelock.Timeout, match=re.escape(path)):
        in_another_thread(lambda: ReadWriteLock(path).acquire_write(timeout=0.01))


# ---------------------------------------------------------------------------------------------------------------------
# Arguments

ARGUMENTS = [
    {},
    {"timeout": 3},
    {"timeout": 1.5, "blocking": False},
    {"mode": 0o644},
    {"mode": 0o600},
    {"thread_local": False},
    {"is_singleton": True},
    {"poll_interval": 0.5},
    {"context_error_policy": "group"},
    {"close_error_policy": "raise"},
    {"close_error_policy": "suppress"},
    {"fallback_to_soft": False},
]
NATIVE_ARGUMENTS = [{"preserve_lock_file": True}, {"on_acquired": id}]
ATTRIBUTES = [
    "lock_file",
    "timeout",
    "blocking",
    "mode",
    "has_explicit_mode",
    "is_singleton",
    "poll_interval",
    "lifetime",
    "context_error_policy",
    "close_error_policy",
    "fallback_to_soft",
    "preserve_lock_file",
    "on_acquired",
    "is_locked",
    "lock_counter",
]


def attributes(lock):
    return {**{name: getattr(lock, name) for name in ATTRIBUTES}, "is_thread_local": lock.is_thread_local()}


@pytest.mark.parametrize("arguments", [*ARGUMENTS, *NATIVE_ARGUMENTS], ids=str)
def test_a_file_lock_shows_its_arguments_as_filelocks_does(path, arguments):
    assert attributes(FileLock(path, **arguments)) == attributes(filelock.FileLock(path, **arguments))


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_a_soft_file_lock_shows_its_arguments_as_filelocks_does(path, arguments):
    assert attributes(SoftFileLock(path, **arguments)) == attributes(filelock.SoftFileLock(path, **arguments))


@pytest.mark.parametrize(
    ("ours", "theirs"), [("FileLock", "BaseFileLock"), ("SoftFileLock", "BaseFileLock"), ("AsyncFileLock",) * 2]
)
def test_the_constructors_have_the_same_arguments_in_the_same_order_with_the_same_defaults(ours, theirs):
    def of(cls):
        parameters = inspect.signature(cls.__init__).parameters.values()
        return [(parameter.name, parameter.kind, parameter.default) for parameter in parameters]

    assert of(getattr(bridge, ours)) == of(getattr(filelock, theirs))


@pytest.mark.parametrize(
    "arguments",
    [
        {"context_error_policy": "ignore"},
        {"close_error_policy": "ignore"},
        {"mode": 0o044},
        {"mode": -2},
        {"mode": 0o1777},
        {"poll_interval": -1},
        {"lifetime": -1},
    ],
    ids=str,
)
def test_wrong_values_are_refused(path, kind, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        kind(path, **arguments)


@pytest.mark.parametrize("arguments", [{"timeout": True}, {"blocking": "no"}, {"mode": "644"}, {"timout": 3}], ids=str)
def test_wrong_types_and_names_are_refused(path, kind, arguments):
    with pytest.raises(TypeError):
        kind(path, **arguments)


@pytest.mark.parametrize("arguments", NATIVE_ARGUMENTS, ids=str)
def test_soft_locks_refuse_what_only_makes_sense_for_a_file_that_stays(package, path, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        package.SoftFileLock(path, **arguments)


def test_a_file_lock_warns_that_it_does_not_age(package, path):
    with pytest.warns(UserWarning, match="lifetime is ignored"):
        lock = package.FileLock(path, lifetime=5)
    assert lock.lifetime is None


def test_the_timeout_can_be_changed(kind, path):
    lock = kind(path)
    lock.timeout = 0.01
    assert lock.timeout == 0.01
    with kind(path), pytest.raises(filelock.Timeout):
        lock.acquire()


def test_the_old_spelling_of_poll_interval_is_understood_with_a_warning(kind, path):
    lock = kind(path)
    with pytest.warns(DeprecationWarning, match="poll_interval"):
        lock.acquire(poll_intervall=0.1)
    lock.release()


def test_a_subclass_can_pass_all_arguments_of_acquire_on(kind, path):
    class Lock(kind):
        def acquire(self, timeout=None, poll_interval=None, *, poll_intervall=None, blocking=None, cancel_check=None):
            return super().acquire(
                timeout, poll_interval, poll_intervall=poll_intervall, blocking=blocking, cancel_check=cancel_check
            )

    with Lock(path) as lock:
        assert lock.is_locked


@pytest.fixture
def umask():
    """A umask that hides nothing from the owner and all from others."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def permissions_under(lock):
    with lock:
        return stat.S_IMODE(os.stat(lock.lock_file).st_mode)


@posix_only
@pytest.mark.parametrize("arguments", [{}, {"mode": 0o600}, {"mode": 0o644}, {"mode": 0o666}, {"mode": -1}], ids=str)
def test_a_new_lock_file_gets_the_permissions_that_filelock_gives_it(path, arguments, umask):
    theirs = permissions_under(filelock.FileLock(path + ".theirs", **arguments))
    assert permissions_under(FileLock(path, **arguments)) == theirs


@posix_only
def test_without_a_mode_a_new_lock_file_gets_what_the_umask_leaves(path):
    before = os.umask(0o002)
    try:
        assert permissions_under(FileLock(path)) == 0o664
    finally:
        os.umask(before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arguments", [{}, {"mode": 0o644}, {"timeout": 5, "thread_local": False}], ids=str)
@pytest.mark.parametrize("twin_of", [copy.copy, lambda lock: pickle.loads(pickle.dumps(lock))], ids=["copy", "pickle"])
def test_a_copy_is_a_lock_with_the_same_arguments(path, kind, arguments, twin_of):
    lock = kind(path, **arguments)
    twin = twin_of(lock)
    assert twin is not lock
    assert attributes(twin) == attributes(lock)


def test_a_lock_that_was_pickled_is_not_kept_alive(path):
    lock = FileLock(path)
    pickle.dumps(lock)
    reference = weakref.ref(lock)
    del lock
    gc.collect()
    assert reference() is None


# ---------------------------------------------------------------------------------------------------------------------
# Subclasses


def test_a_subclass_may_take_less(kind, path):
    class Narrow(kind):
        def __init__(self, lock_file):
            super().__init__(lock_file, timeout=7)

    assert Narrow(path).timeout == 7
    assert Narrow(path, timeout=-1, mode=-1, is_singleton=False).timeout == 7


@pytest.mark.parametrize("arguments", [{"timeout": 5}, {"is_singleton": True}, {"unheard_of": 1}], ids=str)
def test_a_subclass_that_takes_less_refuses_what_it_does_not_take(kind, path, arguments):
    class Narrow(kind):
        def __init__(self, lock_file):
            super().__init__(lock_file)

    with pytest.raises(TypeError, match=f"Narrow.*{next(iter(arguments))}"):
        Narrow(path, **arguments)


def test_a_subclass_may_take_more(kind, path):
    class Wide(kind):
        def __init__(self, lock_file, timeout=-1, mode=0o600, *, color, **others):
            super().__init__(lock_file, timeout, mode, **others)
            self.color = color

    lock = Wide(path, 5, 0o640, color="red", poll_interval=0.5)
    assert (lock.color, lock.timeout, lock.mode, lock.poll_interval) == ("red", 5, 0o640, 0.5)


def test_a_subclass_that_takes_anything_gets_all_arguments_by_name(kind, path):
    class Any(kind):
        def __init__(self, path, **options):
            self.options = options
            super().__init__(path, **options)

    options = Any(path, 5).options
    assert options.keys() == inspect.signature(kind.__init__).parameters.keys() - {"self", "lock_file"}
    assert (options["timeout"], options["mode"], options["is_singleton"]) == (5, -1, False)


def test_a_subclass_may_require_what_its_users_leave_out(kind, path):
    class Demanding(kind):
        def __init__(self, lock_file, thread_local, timeout):
            super().__init__(lock_file, timeout, thread_local=thread_local)

    lock = Demanding(path)
    assert (lock.timeout, lock.is_thread_local()) == (-1, True)


def test_a_subclass_may_make_its_path_from_something_else(kind, tmp_path):
    class Lock(kind):
        def __init__(self, directory):
            super().__init__(str(directory / "the.lock"))

    assert Lock(tmp_path).lock_file == str(tmp_path / "the.lock")


def test_a_with_statement_goes_through_the_acquire_and_release_of_a_subclass(kind, path):
    calls = []

    class Lock(kind):
        def acquire(self, timeout=None, poll_interval=0.05):
            calls.append("acquire")
            return super().acquire(timeout, poll_interval)

        def release(self, force=False):
            calls.append("release")
            super().release(force=force)

    lock = Lock(path)
    with lock:
        assert lock.is_locked
    with lock.acquire():
        assert lock.is_locked
    assert calls == ["acquire", "release"] * 2


def test_a_with_statement_goes_through_what_a_test_puts_in_the_place_of_acquire(kind, path, monkeypatch):
    calls = []
    original = kind.acquire
    monkeypatch.setattr(kind, "acquire", lambda self: calls.append(self) or original(self))
    lock = kind(path)
    with lock:
        assert calls == [lock]


def test_a_subclass_may_override_what_a_with_statement_calls(kind, path):
    class Lock(kind):
        def __enter__(self):
            return "entered", kind.__enter__(self)

    lock = Lock(path)
    with lock as entered:
        assert entered == ("entered", lock)
        assert lock.is_locked
    assert not lock.is_locked


def test_a_subclass_may_have_an_abstract_base_class(kind, path):
    class Named(abc.ABC):
        @abc.abstractmethod
        def name(self): ...

    class Lock(kind, Named):
        def name(self):
            return "lock"

    with Lock(path) as lock:
        assert lock.name() == "lock"


@pytest.mark.parametrize("method", ["_acquire", "_release"])
def test_a_subclass_that_relies_on_the_inside_of_filelock_is_refused(method):
    with pytest.raises(TypeError, match=f"Lock defines {method}.*filelock.BaseFileLock"):
        type("Lock", (FileLock,), {method: lambda self: None})


class Counted:
    """How virtualenv makes a lock that one thread may take again, whichever instance it has."""

    def __init__(self, lock_file):
        super().__init__(lock_file)
        self.count = 0
        self.thread_safe = threading.RLock()

    def acquire(self, timeout=None, poll_interval=0.05):
        if not self.thread_safe.acquire(timeout=-1 if timeout is None else timeout):
            raise filelock.Timeout(self.lock_file)
        if self.count == 0:
            try:
                super().acquire(timeout, poll_interval)
            except BaseException:
                self.thread_safe.release()
                raise
        self.count += 1

    def release(self, force=False):
        with self.thread_safe:
            if self.count > 0:
                if self.count == 1:
                    super().release(force=force)
                self.count -= 1
                self.thread_safe.release()


def test_a_lock_counted_by_its_subclass_keeps_threads_apart(kind, path):
    lock = type("CountedLock", (Counted, kind), {})(path)
    inside, most = [], []

    def work():
        for _ in range(20):
            with lock, lock:
                inside.append(None)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert most == [1] * 80
    assert not lock.is_locked


# ---------------------------------------------------------------------------------------------------------------------
# Singletons


def test_a_singleton_is_the_one_instance_of_its_class_for_its_file(kind, path):
    class Lock(kind):
        pass

    assert kind(path, is_singleton=True) is kind(Path(path), is_singleton=True)
    assert Lock(path, is_singleton=True) is Lock(path, is_singleton=True) is not kind(path, is_singleton=True)


@pytest.mark.parametrize("arguments", [{"timeout": 5}, {"mode": 0o644}, {"context_error_policy": "group"}], ids=str)
def test_a_singleton_refuses_other_arguments(kind, path, arguments):
    lock = kind(path, is_singleton=True)
    with pytest.raises(ValueError, match=next(iter(arguments))):
        kind(path, is_singleton=True, **arguments)
    assert kind(path, is_singleton=True) is lock


def test_a_singleton_of_a_subclass_with_arguments_of_its_own_is_one(kind, path):
    class Wide(kind):
        def __init__(self, lock_file, *, color="red", **others):
            super().__init__(lock_file, **others)
            self.color = color

    lock = Wide(path, is_singleton=True)
    assert Wide(path, is_singleton=True) is lock
    assert lock.color == "red"


# ---------------------------------------------------------------------------------------------------------------------
# on_acquired


def test_on_acquired_gets_the_descriptor_of_the_lock_file(package, path):
    seen = []
    with package.FileLock(path, on_acquired=lambda descriptor: seen.append(os.fstat(descriptor))):
        assert [(found.st_dev, found.st_ino) for found in seen] == [(os.stat(path).st_dev, os.stat(path).st_ino)]


@posix_only
def test_on_acquired_can_write_into_the_lock_file(package, path):
    with package.FileLock(path, on_acquired=lambda descriptor: os.write(descriptor, b"mine")):
        assert Path(path).read_bytes() == b"mine"


def test_on_acquired_is_called_while_the_lock_is_held(package, path):
    free = []
    with package.FileLock(path, on_acquired=lambda _: free.append(in_another_thread(lambda: is_free(path)))):
        pass
    assert free == [False]


def test_on_acquired_is_called_once_for_nested_acquisitions_and_again_for_the_next(package, path):
    calls = []
    lock = package.FileLock(path, on_acquired=calls.append)
    with lock, lock, lock.acquire():
        assert len(calls) == 1
    with lock.acquire():
        assert len(calls) == 2
    lock.acquire()
    lock.acquire()
    lock.release(force=True)
    with lock:
        assert len(calls) == 4


def test_on_acquired_is_called_for_a_decorated_function(package, path):
    calls = []
    package.FileLock(path, on_acquired=calls.append)(lambda: None)()
    assert len(calls) == 1


@pytest.mark.parametrize("thread_local", [True, False])
def test_what_on_acquired_raises_undoes_the_acquisition(package, path, thread_local):
    def fail(_):
        raise KeyError

    lock = package.FileLock(path, thread_local=thread_local, on_acquired=fail)
    for _ in range(2):
        with pytest.raises(KeyError):
            lock.acquire()
        assert not lock.is_locked
        assert is_free(path)


@pytest.mark.parametrize("thread_local", [True, False])
def test_on_acquired_may_nest(package, path, thread_local):
    def nest(_):
        with lock:
            counts.append(lock.lock_counter)

    counts = []
    lock = package.FileLock(path, thread_local=thread_local, on_acquired=nest)
    with lock:
        assert counts == [2]
    assert is_free(path)


def test_a_thread_that_joins_a_hold_returns_when_on_acquired_is_done(path):
    order, nesting = [], []

    def hook(_):
        nesting.append(threading.Thread(target=join))
        nesting[0].start()
        order.append("told")

    def join():
        with lock:
            order.append("joined")

    lock = FileLock(path, thread_local=False, on_acquired=hook)
    with lock:
        nesting[0].join(PATIENCE)
    assert order == ["told", "joined"]


def test_when_on_acquired_fails_a_thread_that_has_joined_has_it_called_again(path):
    calls, nesting = [], []

    def hook(_):
        calls.append(threading.get_ident())
        if len(calls) == 1:
            nesting.append(threading.Thread(target=join))
            nesting[0].start()
            raise KeyError

    def join():
        with lock:
            pass

    lock = FileLock(path, thread_local=False, on_acquired=hook)
    with pytest.raises(KeyError):
        lock.acquire()
    nesting[0].join(PATIENCE)
    assert len(calls) == len(set(calls)) == 2
    assert is_free(path)


def test_threads_that_share_holds_have_on_acquired_called_once_for_each_of_these(path):
    told, wrong, rounds = [], [], 50
    lock = FileLock(path, thread_local=False, on_acquired=told.append)
    all_here = threading.Barrier(4)

    def work():
        for before in range(rounds):
            all_here.wait(PATIENCE)  # nobody holds it
            for _ in range(3):
                with lock:
                    calls = len(told)
                    time.sleep(0)
                    if len(told) != calls or calls <= before:  # called while it is held, or not for this one
                        wrong.append((before, calls, len(told)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not wrong
    assert len(told) >= rounds


@posix_only
@pytest.mark.parametrize("thread_local", [True, False])
def test_a_forked_child_has_on_acquired_called_for_itself(path, thread_local):
    code = """
        from holdfast.filelock import FileLock
        told = []
        lock = FileLock(args[0], thread_local=args[1] == "True", on_acquired=told.append)
        lock.acquire()
        child = os.fork()
        if child == 0:
            with FileLock(args[0] + ".ready"):
                lock.acquire()
            os._exit(len(told))
        lock.release()
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    with Child(code, path, thread_local) as child:
        child.expect("2")
        child.join()


# ---------------------------------------------------------------------------------------------------------------------
# Errors at the end of a block


def failing(kind):
    """A class of locks whose release succeeds and raises."""

    class Failing(kind):
        def release(self, force=False):
            super().release(force)
            raise OSError("release")

    return Failing


def through_with(lock):
    return lock


def through_proxy(lock):
    return lock.acquire()


@pytest.mark.parametrize("way", [through_with, through_proxy])
def test_errors_of_a_block_and_its_release_are_chained(kind, path, way):
    with pytest.raises(OSError, match="release") as raised, way(failing(kind)(path)):
        raise KeyError("block")
    assert isinstance(raised.value.__context__, KeyError)


@pytest.mark.parametrize("way", [through_with, through_proxy])
def test_errors_of_a_block_and_its_release_are_grouped_on_demand(kind, path, way):
    with pytest.raises(Exception) as raised, way(failing(kind)(path, context_error_policy="group")):  # noqa: PT011
        raise KeyError("block")
    assert [type(error) for error in raised.value.exceptions] == [KeyError, OSError]


@pytest.mark.parametrize("way", [through_with, through_proxy])
@pytest.mark.parametrize("policy", ["chain", "group"])
def test_one_error_alone_is_raised_as_it_is(kind, path, way, policy):
    with pytest.raises(KeyError), way(kind(path, context_error_policy=policy)):
        raise KeyError
    with pytest.raises(OSError, match="release"), way(failing(kind)(path, context_error_policy=policy)):
        pass


def test_the_proxy_of_filelock_can_hold_our_locks(path):
    lock = FileLock(path)
    lock.acquire()
    with filelock.AcquireReturnProxy(lock) as held:
        assert held is lock
    assert is_free(path)


# ---------------------------------------------------------------------------------------------------------------------
# Exclusion

HOLD = """
    import importlib
    lock = getattr(importlib.import_module(args[0]), args[1])(args[2])
    with lock:
        say("held")
        hear()
    say("released")
"""
SIDES = [("filelock", "holdfast.filelock"), ("holdfast.filelock", "filelock")]


@pytest.mark.parametrize("name", ["FileLock", "SoftFileLock"])
@pytest.mark.parametrize(("holder", "other"), SIDES)
def test_the_bridges_locks_and_filelocks_exclude_each_other(path, name, holder, other):
    kind = getattr(sys.modules[other], name)
    with Child(HOLD, holder, name, path) as child:
        child.expect("held")
        with pytest.raises(filelock.Timeout):
            kind(path, timeout=0.05).acquire()
        child.tell()
        child.expect("released")
        with kind(path, timeout=PATIENCE):
            pass


@pytest.mark.parametrize("name", ["FileLock", "SoftFileLock"])
def test_processes_with_both_lose_no_update(path, name):
    code = """
        import importlib
        from support import increment
        lock = getattr(importlib.import_module(args[0]), args[1])(args[2], poll_interval=0.001)
        for _ in range(50):
            with lock:
                increment(args[2] + ".number")
    """
    children = [Child(code, module, name, path) for module in ("filelock", "holdfast.filelock") * 2]
    for child in children:
        with child:
            child.join()
    assert number_in(path + ".number") == 200


@pytest.mark.parametrize("name", ["FileLock", "SoftFileLock"])
def test_threads_with_both_are_never_inside_together(path, name):
    inside, most = [], []

    def work(package):
        lock = getattr(package, name)(path, poll_interval=0.001)
        for _ in range(25):
            with lock:
                inside.append(None)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work, args=[package]) for package in PACKAGES.values() for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert most == [1] * 100


# ---------------------------------------------------------------------------------------------------------------------
# AsyncFileLock


def test_an_async_lock_is_an_instance_of_filelocks_classes(path):
    lock = bridge.AsyncFileLock(path)
    assert isinstance(lock, (filelock.BaseAsyncFileLock, filelock.BaseFileLock, filelock.AsyncFileLock))
    assert isinstance(lock, holdfast.AsyncFileLock)
    assert isinstance(filelock.AsyncFileLock(path), bridge.AsyncFileLock)
    assert type(lock).__qualname__ == "AsyncFileLock"


@pytest.mark.parametrize(
    "arguments",
    [*ARGUMENTS, *NATIVE_ARGUMENTS, {"run_in_executor": False}, {"run_in_executor": False, "thread_local": True}],
    ids=str,
)
def test_an_async_lock_shows_its_arguments_as_filelocks_does(path, arguments):
    def shown(lock):
        return attributes(lock), lock.loop, lock.run_in_executor, lock.executor

    assert shown(bridge.AsyncFileLock(path, **arguments)) == shown(filelock.AsyncFileLock(path, **arguments))


def test_an_async_lock_is_held_in_its_block(package, path):
    async def main():
        lock = package.AsyncFileLock(path)
        async with lock as entered:
            assert entered is lock
            assert not is_free(path)
        assert is_free(path)
        async with await lock.acquire(timeout=5) as entered:
            assert entered is lock
            assert not is_free(path)
        assert is_free(path)

    asyncio.run(main())


@pytest.mark.parametrize("other", PACKAGES)
def test_an_async_lock_and_others_exclude_each_other(package, path, other):
    async def main():
        async with package.AsyncFileLock(path):
            with pytest.raises(filelock.Timeout):
                PACKAGES[other].FileLock(path, timeout=0).acquire()
        with PACKAGES[other].FileLock(path), pytest.raises(filelock.Timeout, match=re.escape(path)):
            await in_another_thread(lambda: package.AsyncFileLock(path)).acquire(timeout=0.01)

    asyncio.run(main())


def test_the_timeout_of_an_async_lock_is_ours_and_filelocks(path):
    async def main():
        async with bridge.AsyncFileLock(path):
            await bridge.AsyncFileLock(path).acquire(timeout=0.01)

    with pytest.raises(Timeout, match=f"pid {os.getpid()}" if sys.platform == "linux" else "cannot be seen"):
        asyncio.run(main())


def test_the_tasks_that_share_an_async_lock_share_one_hold(package, path):
    async def main():
        lock = package.AsyncFileLock(path)

        async def nest():
            async with lock:
                return lock.lock_counter

        async with lock:
            return await asyncio.create_task(nest()), lock.lock_counter

    assert asyncio.run(main()) == (2, 1)


def test_with_thread_local_each_task_holds_an_async_lock_for_itself(path):
    async def main():
        lock = bridge.AsyncFileLock(path, thread_local=True)
        async with lock:
            await asyncio.create_task(lock.acquire(timeout=0.01))

    with pytest.raises(Timeout):
        asyncio.run(main())


@pytest.mark.parametrize("thread_local", [True, False])
def test_on_acquired_of_an_async_lock_is_called_once_while_it_is_held(path, thread_local):
    seen = []

    async def main():
        lock = bridge.AsyncFileLock(path, thread_local=thread_local, on_acquired=lambda fd: seen.append(os.fstat(fd)))
        async with lock, lock, await lock.acquire():
            assert [found.st_ino for found in seen] == [os.stat(path).st_ino]
        async with lock:
            assert len(seen) == 2

    asyncio.run(main())


def test_what_on_acquired_of_an_async_lock_raises_undoes_the_acquisition(package, path):
    def fail(_):
        raise KeyError

    async def main():
        lock = package.AsyncFileLock(path, on_acquired=fail)
        for _ in range(2):
            with pytest.raises(KeyError):
                await lock.acquire()
            assert is_free(path)

    asyncio.run(main())


def test_on_acquired_of_an_async_lock_is_called_once_by_tasks_that_have_waited_together(path):
    told = []

    async def main():
        lock = bridge.AsyncFileLock(path, on_acquired=told.append)
        with FileLock(path) as held:
            waiting = [asyncio.create_task(lock.acquire()) for _ in range(5)]
            await asyncio.sleep(0)
            held.release()
            await asyncio.gather(*waiting)
        assert lock.lock_counter == 5
        await lock.release(force=True)

    asyncio.run(main())
    assert len(told) == 1


@posix_only
@pytest.mark.parametrize("arguments", [{}, {"mode": 0o600}, {"mode": 0o644}], ids=str)
def test_an_async_lock_creates_its_file_with_the_permissions_that_filelock_gives_it(path, arguments, umask):
    async def permissions(lock):
        async with lock:
            return stat.S_IMODE(os.stat(lock.lock_file).st_mode)

    theirs = asyncio.run(permissions(filelock.AsyncFileLock(path + ".theirs", **arguments)))
    assert asyncio.run(permissions(bridge.AsyncFileLock(path, **arguments))) == theirs


def test_a_subclass_of_an_async_lock_may_take_less(package, path):
    class Narrow(package.AsyncFileLock):
        def __init__(self, lock_file, timeout=5):
            super().__init__(lock_file, timeout)

    assert Narrow(path, 3).timeout == 3
    with pytest.raises(TypeError, match="mode"):
        Narrow(path, mode=0o600)


def test_errors_of_an_async_block_and_its_release_are_grouped_on_demand(package, path):
    class Failing(package.AsyncFileLock):
        async def release(self, force=False):
            await super().release(force)
            raise OSError("release")

    async def main(policy):
        async with Failing(path, context_error_policy=policy):
            raise KeyError("block")

    with pytest.raises(OSError, match="release"):
        asyncio.run(main("chain"))
    with pytest.raises(Exception) as raised:  # noqa: PT011
        asyncio.run(main("group"))
    assert [type(error) for error in raised.value.exceptions] == [KeyError, OSError]


def test_an_async_lock_can_be_pickled(path):
    lock = bridge.AsyncFileLock(path, timeout=5, mode=0o600)
    assert attributes(pickle.loads(pickle.dumps(lock))) == attributes(lock)


# ---------------------------------------------------------------------------------------------------------------------
# install()


@pytest.fixture(autouse=True)
def _uninstall():
    yield
    uninstall()


@pytest.fixture
def module(monkeypatch):
    """A loaded module that has imported the classes of filelock, some under other names."""
    module = types.ModuleType("some_user_of_filelock")
    module.FileLock, module.Soft, module.Async = TheirFileLock, TheirSoftFileLock, TheirAsyncFileLock
    module.Timeout = filelock.Timeout
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_installed_filelock_gives_out_our_locks():
    install()
    assert filelock.FileLock is FileLock
    assert getattr(filelock, TheirFileLock.__name__) is FileLock
    assert filelock.SoftFileLock is SoftFileLock
    assert filelock.AsyncFileLock is bridge.AsyncFileLock


def test_installed_modules_that_are_loaded_have_our_locks_under_their_names(module):
    install()
    assert (module.FileLock, module.Soft, module.Async) == (FileLock, SoftFileLock, bridge.AsyncFileLock)


def test_installed_the_other_names_stay_filelocks(module):
    names = {
        "BaseFileLock",
        "Timeout",
        "ReadWriteLock",
        "StrictSoftFileLock",
        "BaseAsyncFileLock",
        "AcquireReturnProxy",
    }
    before = {name: getattr(filelock, name) for name in names}
    install()
    assert {name: getattr(filelock, name) for name in names} == before
    assert module.Timeout is filelock.Timeout


def test_the_insides_of_filelock_go_on_working_when_it_is_installed(path):
    code = """
        import holdfast.filelock
        holdfast.filelock.install()
        import filelock
        with filelock.StrictSoftFileLock(args[0] + ".strict"), filelock.SoftReadWriteLock(args[0] + ".rw").read_lock():
            say(filelock.AsyncFileLock is holdfast.filelock.AsyncFileLock)
        say(filelock.AsyncSoftFileLock.__mro__[1] is filelock.SoftFileLock)
        holdfast.filelock.uninstall()
        say(filelock.AsyncFileLock.__module__)
        say(filelock.AsyncSoftFileLock.__mro__[1] is filelock.SoftFileLock)
    """
    with Child(code, path) as child:
        for line in ("True", "False", "filelock.asyncio", "True"):
            child.expect(line)
        child.join()


def test_uninstall_undoes_all_of_it(module):
    before = dict(vars(filelock)), dict(vars(module))
    install()
    assert (dict(vars(filelock)), dict(vars(module))) != before
    uninstall()
    assert (dict(vars(filelock)), dict(vars(module))) == before


def test_install_does_nothing_the_second_time(module):
    install()
    names = dict(vars(filelock))
    install()
    assert dict(vars(filelock)) == names
    uninstall()
    assert filelock.FileLock is module.FileLock is TheirFileLock
    uninstall()
    assert filelock.FileLock is TheirFileLock


def test_a_with_statement_uninstalls_at_its_end_what_it_has_installed():
    with install():
        assert filelock.FileLock is FileLock
        with install():
            pass
        assert filelock.FileLock is FileLock
    assert filelock.FileLock is TheirFileLock


def test_uninstall_leaves_alone_what_somebody_has_changed_meanwhile(module):
    install()
    module.FileLock = "something else"
    del module.Soft
    uninstall()
    assert module.FileLock == "something else"
    assert not hasattr(module, "Soft")


def test_a_lazy_module_is_not_loaded_by_install(tmp_path, monkeypatch):
    (tmp_path / "lazy.py").write_text("raise RuntimeError('it was loaded')")
    spec = spec_from_file_location("lazy", tmp_path / "lazy.py")
    loader = LazyLoader(spec.loader)
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "lazy", module)
    loader.exec_module(module)
    install()
    with pytest.raises(RuntimeError, match="loaded"):
        module.anything  # noqa: B018


def test_what_is_no_module_does_not_disturb_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nothing", None)
    monkeypatch.setitem(sys.modules, "anything", object())
    install()
    assert filelock.FileLock is FileLock


def test_threads_may_install_and_uninstall_at_any_time(module):
    def work():
        for _ in range(20):
            with install():
                pass
            uninstall()

    before = dict(vars(filelock)), dict(vars(module))
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    uninstall()
    assert (dict(vars(filelock)), dict(vars(module))) == before


def test_locks_and_subclasses_of_before_stay_filelocks_and_exclude_ours(path):
    class Lock(TheirFileLock):
        pass

    early = TheirFileLock(path)
    install()
    assert isinstance(early, filelock.FileLock)
    assert issubclass(Lock, filelock.FileLock)
    with Lock(path, timeout=0) as late:
        assert not isinstance(late, holdfast.FileLock)
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(path, blocking=False).acquire()


def test_neither_import_nor_install_loads_asyncio(path):
    code = """
        import holdfast.filelock
        holdfast.filelock.install()
        say("asyncio" in sys.modules)
    """
    if (
        "asyncio"
        in subprocess.run(
            [sys.executable, "-c", "import sys, filelock; print(*sys.modules)"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.split()
    ):
        pytest.skip("this version of filelock loads asyncio itself")
    with Child(code) as child:
        child.expect("False")
        child.join()


def test_without_the_filelock_package_the_error_says_what_to_install():
    code = """
        sys.modules["filelock"] = None
        try:
            import holdfast.filelock
        except ImportError as error:
            say(error)
    """
    with Child(code) as child:
        assert "pip install 'holdfast[filelock]'" in child.hear()
        child.join()


def test_a_name_that_the_bridge_has_not_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'StrictSoftFileLock'"):
        bridge.StrictSoftFileLock  # noqa: B018


def test_all_public_names_of_the_bridge_can_be_imported():
    namespace = {}
    exec("from holdfast.filelock import *", namespace)
    assert namespace.keys() >= set(bridge.__all__)


# ---------------------------------------------------------------------------------------------------------------------
# python -m holdfast.filelock

PROGRAM = """
import filelock, sys
from filelock import FileLock
print(FileLock.__module__, filelock.SoftFileLock.__module__)
print(__name__, sys.argv[1:], sys.modules["__main__"].FileLock is FileLock)
print(sys.path[0])
raise SystemExit(int(sys.argv[1]))
"""


def run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "holdfast.filelock", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize(("command", "directory"), [(["sub/program.py"], "sub"), (["-m", "sub.program"], ".")])
def test_a_program_runs_with_our_locks_as_it_would_without(tmp_path, command, directory):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "program.py").write_text(PROGRAM)
    result = run(*command, "3", "--flag", cwd=tmp_path)
    *lines, first_of_path = result.stdout.splitlines()
    assert lines == ["holdfast.filelock holdfast.filelock", "__main__ ['3', '--flag'] True"], result.stderr
    assert os.path.samefile(first_of_path, tmp_path / directory)
    assert result.returncode == 3


@pytest.mark.parametrize("command", [[], ["-m"], ["--help"]], ids=str)
def test_a_command_without_a_program_says_how_to_use_it(tmp_path, command):
    result = run(*command, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("usage: python -m holdfast.filelock")


def test_a_program_that_does_not_exist_is_an_error_that_names_it(tmp_path):
    result = run("missing.py", cwd=tmp_path)
    assert result.returncode == 1
    assert "missing.py" in result.stderr.splitlines()[-1]
