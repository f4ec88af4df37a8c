from __future__ import annotations

import threading

import pytest

from service.runners import Runners


def test_threads_start_when_they_are_needed_and_end() -> None:
    runners, done = Runners(2), threading.Semaphore(0)
    before = threading.active_count()
    gate = threading.Event()

    def work() -> None:
        gate.wait(30)
        done.release()

    assert threading.active_count() == before
    runners.submit(work, 0)
    assert threading.active_count() == before + 1
    runners.submit(work, 1)
    runners.submit(work, 2)
    assert threading.active_count() == before + 2
    gate.set()
    for _ in range(3):
        assert done.acquire(timeout=30)
    runners.submit(work, 0)
    runners.close()
    assert done.acquire(timeout=0), "closed before the work was done"
    assert threading.active_count() == before


def test_without_a_thread_nothing_is_taken_and_with_one_all_is(monkeypatch: pytest.MonkeyPatch) -> None:
    runners, done, start = Runners(2), threading.Semaphore(0), threading.Thread.start

    def no_more(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    with pytest.raises(RuntimeError, match="new thread"):
        runners.submit(done.release, 0)
    monkeypatch.setattr(threading.Thread, "start", start)
    runners.submit(done.release, 0)
    assert done.acquire(timeout=30)
    assert not done.acquire(timeout=0.05), "what was refused was run"
    monkeypatch.setattr(threading.Thread, "start", no_more)
    runners.submit(done.release, 1)
    assert done.acquire(timeout=30)
    runners.close()
