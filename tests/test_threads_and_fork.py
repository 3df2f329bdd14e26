"""Threads exclude each other, and a forked child holds nothing and harms nothing.

Whatever forks runs in a child process of its own: a test runner may have threads.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import holdfast
from conftest import linux_only, posix_only
from holdfast import FileLock, Timeout
from support import PATIENCE, Child, eventually, held_elsewhere, increment, is_free, number_in, until_it_waits

# ---------------------------------------------------------------------------------------------------------------------
# Threads


def run_in_threads(functions):
    """Run functions in threads of their own, and raise what the first of them raised."""
    errors = []

    def run(function):
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - it is raised in the test's thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads)


THREADS = 8
ROUNDS = 150


@pytest.mark.parametrize("shared_object", [True, False], ids=["one object", "an object each"])
@pytest.mark.parametrize("kind", ["flock", pytest.param("ofd", marks=linux_only)])
def test_threads_exclude_each_other(path, shared_object, kind):
    one = FileLock(path, kind=kind)
    locks = [one if shared_object else FileLock(path, kind=kind) for _ in range(THREADS)]

    def count(lock):
        for _ in range(ROUNDS):
            with lock:
                increment(path + ".number")

    run_in_threads([lambda lock=lock: count(lock) for lock in locks])
    assert number_in(path + ".number") == THREADS * ROUNDS


def test_threads_that_use_several_locks_in_every_way_exclude_each_other(path):
    paths = [f"{path}{n}" for n in range(3)]
    locks = [FileLock(name) for name in paths for _ in range(2)]
    done = [0] * len(paths)

    def work(seed):
        choice = random.Random(seed)
        for _ in range(ROUNDS):
            lock = choice.choice(locks)
            how = choice.choice(["with", "try", "timeout", "nested"])
            try:
                lock.acquire(timeout={"try": 0, "timeout": 0.001}.get(how, -1))
            except Timeout:
                continue
            if how == "nested":
                lock.acquire()
            done[paths.index(lock.lock_file)] += 1  # guarded by the lock itself
            increment(lock.lock_file + ".number")
            lock.release(force=how == "nested")

    run_in_threads([lambda seed=seed: work(seed) for seed in range(THREADS)])
    assert [number_in(name + ".number") for name in paths] == done
    assert all(done)
    assert all(is_free(name) for name in paths)
    assert all(lock.lock_counter == 0 for lock in locks)


def test_threads_share_a_lock_that_is_not_thread_local_without_confusing_its_count(path):
    lock = FileLock(path, thread_local=False)
    most = []

    def work():
        for _ in range(ROUNDS):
            with lock:
                most.append(lock.lock_counter)

    run_in_threads([work] * 4)
    assert lock.lock_counter == 0
    assert min(most) >= 1
    assert max(most) <= 4
    assert is_free(path)


def test_closing_in_one_thread_does_not_disturb_another(path):
    lock = FileLock(path)

    def count():
        for _ in range(ROUNDS):
            with lock:
                increment(path + ".number")
            lock.close()

    run_in_threads([count] * 4)
    assert number_in(path + ".number") == 4 * ROUNDS


def test_a_waiting_thread_lets_the_others_run(path):
    with held_elsewhere(path) as holder:
        thread = threading.Thread(target=FileLock(path).acquire)
        thread.start()
        before = time.monotonic()
        sum(range(100_000))
        assert time.monotonic() - before < PATIENCE
        assert thread.is_alive()
        holder.tell()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_hundred_threads_that_wait_all_get_their_turn(path):
    def acquire_and_close():
        FileLock(path).acquire().lock.close()

    with held_elsewhere(path) as holder:
        threads = [threading.Thread(target=acquire_and_close) for _ in range(100)]
        for thread in threads:
            thread.start()
        assert all(thread.is_alive() for thread in threads)
        holder.tell()
        for thread in threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads)


# ---------------------------------------------------------------------------------------------------------------------
# Fork

FORK = textwrap.dedent("""
    import traceback
    from holdfast import FileLock, Timeout

    def forked(function):
        pid = os.fork()
        if pid:
            return pid
        try:
            function()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def ended_well(pid):
        assert os.waitpid(pid, 0)[1] == 0

    def is_free(path):
        try:
            FileLock(path).acquire(blocking=False).lock.close()
        except Timeout:
            return False
        return True

    def descriptors_of(path):
        found = []
        for descriptor in os.listdir("/proc/self/fd"):
            try:
                name = os.readlink(f"/proc/self/fd/{descriptor}")
            except OSError:
                continue
            if name.startswith(path):
                found.append(name)
        return found

    path = args[0]
    lock = FileLock(path)
""")


def run_forking(code, *args):
    """Run code that forks, and ends with `done`."""
    with Child(FORK + textwrap.dedent(code) + '\nsay("done")\n', *args) as child:
        child.expect("done")
        child.join()


@posix_only
def test_a_forked_child_holds_nothing(path):
    run_forking(
        """
        lock.acquire()
        lock.acquire()
        def child():
            assert not lock.is_locked
            assert lock.lock_counter == 0
            assert not is_free(path)
            try:
                lock.acquire(timeout=0.01)
            except Timeout:
                pass
            else:
                raise AssertionError("both hold it")
        ended_well(forked(child))
        assert lock.lock_counter == 2
        """,
        path,
    )


@posix_only
def test_a_forked_child_can_acquire_when_the_parent_releases(path):
    run_forking(
        """
        lock.acquire()
        def child():
            with lock:
                assert os.path.exists(path + ".mark"), "too early"
                assert not is_free(path)
        pid = forked(child)
        open(path + ".mark", "w").close()
        lock.release()
        ended_well(pid)
        """,
        path,
    )


@posix_only
@pytest.mark.parametrize(
    "how",
    [
        "lock.release()",
        "lock.release(force=True)",
        "lock.close()",
        "lock.__exit__(None, None, None)",
        "del globals()['lock']",
    ],
)
def test_a_forked_child_cannot_release_its_parents_lock(path, how):
    run_forking(
        f"""
        lock.acquire()
        def child():
            {how}
            assert not is_free(path)
        ended_well(forked(child))
        assert lock.is_locked
        assert not is_free(path)
        """,
        path,
    )


@posix_only
def test_the_end_of_a_forked_child_does_not_release_its_parents_lock(path):
    run_forking(
        """
        lock.acquire()
        pid = os.fork()
        if pid == 0:
            sys.exit(0)  # in good order, with all the cleaning up there is
        ended_well(pid)
        assert lock.is_locked
        assert not is_free(path)
        """,
        path,
    )


@posix_only
def test_parent_and_child_exclude_each_other_through_the_same_object(path):
    run_forking(
        """
        from support import increment, number_in
        with lock:
            pass
        def work():
            for _ in range(300):
                with lock:
                    increment(path + ".number")
        pids = [forked(work) for _ in range(3)]
        work()
        for pid in pids:
            ended_well(pid)
        assert number_in(path + ".number") == 1200
        """,
        path,
    )


@posix_only
def test_the_parents_death_releases_its_lock_although_a_child_lives_on(path):
    code = """
        lock.acquire()
        pid = os.fork()
        if pid == 0:
            say("forked")
            hear()
            say("alive")
            os._exit(0)
        os.waitpid(pid, 0)
    """
    with Child(FORK + textwrap.dedent(code), path) as parent:
        parent.expect("forked")
        assert not is_free(path)
        parent.kill()
        with FileLock(path, timeout=PATIENCE):
            parent.tell()
            parent.expect("alive")


@posix_only
@pytest.mark.parametrize("thread_local", [True, False])
def test_a_fork_in_a_thread_that_holds_the_lock_leaves_nothing_in_the_child(path, thread_local):
    run_forking(
        f"""
        lock = FileLock(path, thread_local={thread_local})
        def in_thread():
            with lock:
                def child():
                    assert lock.lock_counter == 0
                    assert not is_free(path)
                ended_well(forked(child))
                assert lock.lock_counter == 1
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
        assert is_free(path)
        """,
        path,
    )


@posix_only
def test_a_grandchild_holds_nothing_either(path):
    run_forking(
        """
        def child():
            with lock:
                ended_well(forked(lambda: lock.release(force=True)))
                assert lock.is_locked
                assert not is_free(path)
        lock.acquire()
        lock.release()
        ended_well(forked(child))
        assert is_free(path)
        """,
        path,
    )


@linux_only
def test_a_forked_child_has_none_of_its_parents_descriptors(path):
    run_forking(
        """
        idle = [FileLock(f"{path}.{n}") for n in range(20)]
        for other in idle:
            with other:
                pass
        lock.acquire()
        assert len(descriptors_of(path)) == 21
        def child():
            assert descriptors_of(path) == []
        ended_well(forked(child))
        assert len(descriptors_of(path)) == 21
        """,
        path,
    )


@posix_only
def test_fork_does_not_wait_for_a_thread_that_waits_for_a_lock(path):
    code = """
        def wait():
            with lock:
                say("acquired")
        thread = threading.Thread(target=wait)
        thread.start()
        hear()  # now it waits
        def child():
            assert not lock.is_locked
            assert not is_free(path)
        for _ in range(5):
            ended_well(forked(child))
        say("forked")
        thread.join()
        say("done")
    """
    with held_elsewhere(path) as holder, Child(FORK + textwrap.dedent(code), path) as child:
        until_it_waits(child, path)
        child.tell()
        child.expect("forked")  # the lock is still held, so this did not wait for it
        assert not is_free(path)
        holder.tell()
        child.expect("acquired")
        child.expect("done")
        child.join()


@posix_only
def test_a_fork_during_a_wait_does_not_keep_the_waiters_lock_alive(path):
    code = """
        threading.Thread(target=lock.acquire, daemon=True).start()
        hear()
        pid = os.fork()
        if pid == 0:
            say("forked")
            hear()
        hear()
    """
    with FileLock(path):
        child = Child(FORK + textwrap.dedent(code), path)
        until_it_waits(child, path)
        child.tell()
        child.expect("forked")
    with child:
        eventually(lambda: not is_free(path))  # the thread has it now
        child.kill()
        with FileLock(path, timeout=PATIENCE):
            pass  # although the grandchild lives on, with whatever it inherited


HAMMER = textwrap.dedent("""
    from support import increment, number_in
    locks = [FileLock(name, poll_interval=0.001) for name in (path, path, path + "2")]
    stop = threading.Event()
    started = threading.Barrier(7)
    counts = {}
    def hammer(me, close_every):
        mine, n = locks[me % 3], 0
        with mine:
            increment(mine.lock_file + ".number")
            n += 1
        started.wait()
        while not stop.is_set():
            with mine:
                increment(mine.lock_file + ".number")
            n += 1
            time.sleep(0.0002)  # where locks are polled for, those who never pause starve the others
            if close_every and n % close_every == 0:
                mine.close()
        counts[me] = n
    def child():
        assert not carried()
        for mine in locks[1:]:
            assert mine.lock_counter == 0
            with mine:
                increment(mine.lock_file + ".number")
    def carried():
        return []  # unless something can be seen
    def start_hammering(close_every):
        threads = [threading.Thread(target=hammer, args=(me, close_every), daemon=True) for me in range(6)]
        for thread in threads:
            thread.start()
        started.wait()
        return threads
""")

FORK_WHILE_HAMMERING = """
    threads = start_hammering(int(args[1]))
    for _ in range(40):
        ended_well(forked(child))
    stop.set()
    for thread in threads:
        thread.join()
    first = counts[0] + counts[1] + counts[3] + counts[4] + 40
    second = counts[2] + counts[5] + 40
    assert (number_in(path + ".number"), number_in(path + "2.number")) == (first, second)
    assert is_free(path) and is_free(path + "2")
"""

CARRIED = textwrap.dedent("""
    def carried():
        return [name for name in descriptors_of(path) if name in (path, path + "2")]
""")


@posix_only
@pytest.mark.parametrize("close_every", [0, 1, 7])
def test_forks_while_threads_hammer_lose_nothing(path, close_every):
    run_forking(HAMMER + textwrap.dedent(FORK_WHILE_HAMMERING), path, close_every)


@linux_only
def test_forks_while_threads_hammer_leak_no_descriptor(path):
    run_forking(HAMMER + CARRIED + textwrap.dedent(FORK_WHILE_HAMMERING), path, 0)


@posix_only
@pytest.mark.parametrize("close_every", [0, 1])
def test_children_forked_while_threads_hammer_keep_no_lock_alive(path, close_every):
    code = """
        start_hammering(int(args[1]))
        for _ in range(20):
            if os.fork() == 0:
                hear()  # for ever
                os._exit(0)
        say("forked")
        hear()
    """
    with Child(FORK + HAMMER + textwrap.dedent(code), path, close_every) as child:
        child.expect("forked")
        child.kill()
        for name in (path, path + "2"):
            with FileLock(name, timeout=PATIENCE):
                pass


@posix_only
def test_fork_does_not_wait_behind_a_timed_wait_either(path):
    run_forking(
        """
        holder = FileLock(path)
        holder.acquire()
        def wait():
            try:
                FileLock(path).acquire(timeout=100)
            except Timeout:
                pass
        threads = [threading.Thread(target=wait, daemon=True) for _ in range(10)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            ended_well(forked(lambda: FileLock(path + "2").acquire()))
        assert not is_free(path)
        assert all(thread.is_alive() for thread in threads)
        holder.release()
        """,
        path,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Other ways to start a process


def count_in_process(lock, rounds):
    assert lock.lock_counter == 0
    for _ in range(rounds):
        with lock:
            increment(lock.lock_file + ".number")


def start_processes(method, path):
    """Runs in a child: processes of multiprocessing, each handed the lock, while this one holds it."""
    context = multiprocessing.get_context(method)
    lock = FileLock(path)
    with lock:
        processes = [context.Process(target=count_in_process, args=(lock, 100)) for _ in range(3)]
        for process in processes:
            process.start()
        assert not os.path.exists(path + ".number")
    count_in_process(lock, 100)
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_lock_handed_to_multiprocessing_excludes(path, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot start processes by {method}")
    code = "from test_threads_and_fork import start_processes\nstart_processes(*args)"
    with Child(code, method, path) as child:
        child.join()
    assert number_in(path + ".number") == 400


LIST_DESCRIPTORS = (
    "import os\n"
    "for descriptor in os.listdir('/proc/self/fd'):\n"
    "    try: print(os.readlink(f'/proc/self/fd/{descriptor}'))\n"
    "    except OSError: pass\n"
)


@linux_only
def test_a_program_that_is_started_inherits_no_descriptor(path):
    idle = FileLock(path + ".idle")
    with idle:
        pass
    with FileLock(path):
        command = [sys.executable, "-c", LIST_DESCRIPTORS]
        seen = subprocess.run(command, close_fds=False, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert "pipe:" in seen  # it did look
    assert path not in seen


@posix_only
def test_a_program_that_lives_on_does_not_keep_the_lock(path):
    code = """
        import subprocess
        from holdfast import FileLock
        lock = FileLock(args[0])
        lock.acquire()
        null = subprocess.DEVNULL
        sleeper = subprocess.Popen(["sleep", "1000"], close_fds=False, stdin=null, stdout=null)
        say(sleeper.pid)
        hear()
    """
    with Child(code, path) as child:
        sleeper = int(child.hear())
        try:
            assert not is_free(path)
            child.kill()
            with FileLock(path, timeout=PATIENCE):
                os.kill(sleeper, 0)  # it lives
        finally:
            os.kill(sleeper, 9)


@pytest.mark.parametrize(
    "ending",
    [
        "pass",
        "sys.exit(0)",
        "os._exit(0)",
        "gc.disable(); lock.itself = lock",
        "import atexit; atexit.register(lock.acquire)",
    ],
)
def test_the_end_of_the_interpreter_releases(path, ending):
    code = f"""
        import gc
        from holdfast import FileLock
        lock = FileLock(args[0])
        lock.acquire()
        {ending}
    """
    with Child(code, path) as child:
        child.join()
    assert is_free(path)


def test_an_interpreter_ends_in_good_order_while_a_daemon_thread_waits(path):
    code = """
        from holdfast import FileLock
        threading.Thread(target=FileLock(args[0]).acquire, daemon=True).start()
        hear()
    """
    with held_elsewhere(path), Child(code, path) as child:
        until_it_waits(child, path)
        child.tell()
        child.join()


# ---------------------------------------------------------------------------------------------------------------------
# What else runs while a process forks


@posix_only
@pytest.mark.parametrize("kind", ["FileLock", "SoftFileLock"])
def test_a_lock_that_only_another_thread_knows_survives_a_fork(path, kind):
    """In the child, Python drops what only that thread had, before any of its fork handlers runs."""
    code = """
        import holdfast
        own = threading.local()
        held, over = threading.Event(), threading.Event()
        def hold():
            own.lock = getattr(holdfast, args[1])(args[0])
            own.lock.acquire()
            held.set()
            over.wait()
        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        say(os.waitpid(pid, 0)[1])
        hear()
        over.set()
        thread.join()
    """
    with Child(code, path, kind) as child:
        child.expect("0")
        with pytest.raises(Timeout):
            getattr(holdfast, kind)(path).acquire(blocking=False)
        child.tell()
        child.join()


USES = {
    "JsonlFile": ("JsonlFile(path, max_bytes=20)", "[one.append(number) for number in range(20)]"),
    "atomic_write": ("atomic_write(path, lock=True)", "one.write('text')"),
    "DocumentStore": ("DocumentStore(path)", "one.update(key={}), one.flush()"),
    "StateFile, JSON": ("StateFile(path + '.json', history=True)", "one.save({}), one.save({'n': 1})"),
    "StateFile without a history": ("StateFile(path + '.json')", "one.save({}), one.prune_history(0)"),
    "StateFile, YAML": ("StateFile(path + '.yaml', history=True)", "one.save({}), one.save({'n': 1})"),
    "StateFile, TOML": ("StateFile(path + '.toml', history=True)", "one.save({}), one.save({'n': 1})"),
    "repair": ("JsonlFile(path)", "one.append_bytes(b'bad'), one.append({}), one.repair()"),
    "SoftFileLock": ("SoftFileLock(path)", "one.acquire(), one.release()"),
}


@posix_only  # where a child is forked
@pytest.mark.parametrize("name", USES)
def test_nothing_is_imported_while_a_lock_is_held(path, name):
    """A child forked while another thread imports a module can never import it: it would keep the lock for ever."""
    make, use = USES[name]
    code = f"""
        from holdfast import {make.partition("(")[0]}
        from holdfast import jsonl, locks
        path = args[0]
        one = {make}
        def watch(kind):
            enter, leave, imported = kind.__enter__, kind.__exit__, []
            def watched_enter(lock):
                result = enter(lock)
                imported.append(set(sys.modules))
                return result
            def watched_leave(lock, *error):
                say(sorted(set(sys.modules) - imported.pop()))
                leave(lock, *error)
            kind.__enter__, kind.__exit__ = watched_enter, watched_leave
        watch(locks.FileLock)
        watch(jsonl._Locked)
        {use}
        say("end")
    """
    with Child(code, path) as child:
        while (line := child.hear()) != "end":
            assert line == "[]"


@posix_only
def test_locks_that_are_collected_and_used_by_fork_handlers_do_no_harm(path):
    code = """
        import gc
        def use_and_collect():
            lock = FileLock(args[0])
            lock.myself = lock
            del lock
            gc.collect()
            with FileLock(args[0]):
                pass
        os.register_at_fork(before=use_and_collect, after_in_parent=use_and_collect, after_in_child=use_and_collect)
        from holdfast import FileLock
        os.register_at_fork(before=use_and_collect, after_in_parent=use_and_collect, after_in_child=use_and_collect)
        for _ in range(50):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        say("done")
    """
    with Child(code, path) as child:
        child.expect("done")


@posix_only
def test_signals_that_raise_while_a_process_forks_do_no_harm(path):
    code = """
        import signal
        from holdfast import FileLock
        class Alarm(Exception): pass
        def alarm(*_): raise Alarm
        sys.unraisablehook = lambda _: None  # what is raised in a fork handler is reported there
        signal.signal(signal.SIGALRM, alarm)
        lock = FileLock(args[0])
        for number in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 * (number % 60 + 1))
                pid = os.fork()
                if pid == 0:
                    os._exit(0)
            except Alarm:
                pass
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Alarm:
                pass
            with lock:
                pass
        say("done")
    """
    with Child(code, path) as child:
        child.expect("done")
