"""SIGSTOP for holders, waiters and writers: who waits for them times out, and everything goes on afterwards."""

from __future__ import annotations

import os
import signal
import time

import pytest
from crew import alive, cells, ended, forked, until
from holding import HOLDS, alone
from scenarios import SCENARIOS

import evidence
from holdfast import Timeout


@pytest.mark.parametrize("name", HOLDS)
def test_who_waits_for_a_stopped_holder_times_out_or_gets_the_lock_when_it_goes_on(name, tmp_path):
    path, hold = str(tmp_path / "the.lock"), HOLDS[name]
    held, release, got = cells(1), cells(1), cells(1)

    def work():
        with hold(path, 60):
            held[0] = 1
            until(lambda: release[0])

    def wait():
        with alone(hold)(path, 60):
            got[0] = 1

    def give_up():
        began = time.monotonic()
        with pytest.raises(Timeout), alone(hold)(path, 0.2):
            pass
        assert time.monotonic() - began >= 0.2

    with alive():
        holder = forked(work)
        until(lambda: held[0], holder)
        os.kill(holder, signal.SIGSTOP)
        patient = forked(wait)
        assert ended(*[forked(give_up) for _ in range(3)])
        assert not got[0]
        os.kill(holder, signal.SIGCONT)
        release[0] = 1
        assert ended(holder, patient)


@pytest.mark.parametrize("name", HOLDS)
def test_a_waiter_that_is_stopped_past_its_deadline_gives_up_when_it_goes_on(name, tmp_path):
    path, hold = str(tmp_path / "the.lock"), HOLDS[name]
    began = cells(1)

    def give_up():
        began[0] = 1
        with pytest.raises(Timeout), alone(hold)(path, 0.3):
            pass

    with hold(path, 0), alive():
        waiter = forked(give_up)
        until(lambda: began[0], waiter)
        time.sleep(0.1)
        os.kill(waiter, signal.SIGSTOP)
        time.sleep(0.4)
        os.kill(waiter, signal.SIGCONT)
        assert ended(waiter)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_processes_that_are_stopped_at_random_moments_break_nothing(scenario, tmp_path):
    one = scenario(str(tmp_path), 0)
    one.crew.stop(200 if evidence.FULL else 12)
    print(dict(one.check()))
