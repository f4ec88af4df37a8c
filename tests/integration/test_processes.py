"""Several server processes on one port: they share the calls, and what happens to one is not the others' trouble."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from hourglass.v1 import autoencoder_pb2 as pb
from service.devices import available_cores
from tests import artefacts, wire
from tests.load import Load, bare_caller, shipped_client
from tests.processes import Serve, refusal

Starter = Callable[..., Serve]
CALLERS = 32  # on connections of their own: that all of them are one process's is a matter of 2^-31
TWO = ("--processes", "2")
FREE = ("--grpc-port", "0", "--metrics-port", "0")


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    artefacts.publish(tmp_path / "exported", "line")
    return tmp_path / "exported"


def pids(server: Serve) -> list[int]:
    """Of each number's process the latest."""
    found = {entry["process"]: entry["pid"] for entry in server.log if entry["message"] == "process serves"}
    return [found[number] for number in sorted(found)]


def call_often(server: Serve, times: int) -> None:
    for _ in range(times):
        with bare_caller(server.address) as call:
            call()


def test_calls_reach_all_and_metrics_are_those_of_all(exported: Path, serve: Starter) -> None:
    server = serve(exported, HOURGLASS_PROCESSES="2", HOURGLASS_TYPO="1")
    call_often(server, CALLERS)
    text = server.metrics()
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        numbers = {sample.labels.get("process") for sample in family.samples}
        assert numbers <= ({None} if family.name.startswith("hourglass_process") else {"0", "1"}), family.name
    for name, labels in (
        ("hourglass_requests_total", {"method": "Score", "code": "OK"}),
        ("hourglass_request_duration_seconds_count", {"method": "Score"}),
        ("hourglass_scored_rows_total", {"model": "line"}),
    ):
        values = server.values(name, **labels)
        assert len(values) == 2
        assert min(values) > 0
        assert sum(values) == CALLERS * (2 if "rows" in name else 1)
    assert server.values("hourglass_processes") == [2]
    assert "_created" not in text
    shares = [entry["cores"] for entry in server.log if entry["message"] == "threads"]
    assert shares == [max(1, available_cores() // 2)] * 2
    assert [entry["variable"] for entry in server.log if "misspelt" in entry["message"]] == ["HOURGLASS_TYPO"]
    assert server.ready["processes"] == 2


def test_of_one_process_no_sample_says_which(exported: Path, serve: Starter) -> None:
    server = serve(exported)
    call_often(server, 1)
    assert "process=" not in server.metrics()
    assert server.metric("hourglass_requests_total", method="Score", code="OK") == 1
    assert server.values("hourglass_processes") == []


@pytest.mark.parametrize("caller", ["bare", "shipped"])
def test_a_killed_process_comes_back_and_the_others_calls_go_on(exported: Path, serve: Starter, caller: str) -> None:
    server = serve(exported, *TWO)
    before = pids(server)
    connect = bare_caller if caller == "bare" else shipped_client
    load = Load(CALLERS, lambda: connect(server.address))
    load.wait_calls(1_000)
    os.kill(before[0], signal.SIGKILL)
    ended = server.wait_logged("a process ended")
    assert (ended["process"], ended["why"], ended["level"]) == (0, "SIGKILL", "error")
    load.wait_calls(1_000)
    server.wait_logged("process serves", 3)
    after = pids(server)
    assert after[0] != before[0]
    assert after[1] == before[1]
    load.stop()
    if caller == "shipped":
        assert load.failures == []
    else:
        assert 0 < len(load.failures) < CALLERS
        assert all("StatusCode.UNAVAILABLE" in failure for _, failure in load.failures)
    call_often(server, CALLERS)
    new, old = (server.metric("hourglass_requests_total", method="Score", process=number) for number in "01")
    assert new > 0
    assert old > 1_000
    assert server.metric("hourglass_process_restarts_total") == 1


def test_a_process_that_cannot_come_back_ends_all_with_a_drain(exported: Path, serve: Starter) -> None:
    server = serve(exported, *TWO)
    shutil.rmtree(exported)
    os.kill(pids(server)[1], signal.SIGKILL)
    assert server.wait() == 1
    given_up = server.wait_logged("a process ends again and again")
    assert given_up["process"] == 1
    assert "No such file" in given_up["why"]
    assert server.wait_logged("draining")["process"] == 0
    assert [line for line in server.lines if not line.startswith("{")] == []


def test_a_process_that_is_told_to_end_is_replaced(exported: Path, serve: Starter) -> None:
    server = serve(exported, *TWO)
    os.kill(pids(server)[0], signal.SIGTERM)
    server.wait_logged("process serves", 3)
    assert server.wait_logged("a process ended")["why"] == "exit code 0"


def test_processes_end_with_their_supervisor(exported: Path, serve: Starter) -> None:
    server = serve(exported, *TWO, "--drain-seconds", "600")
    with contextlib.ExitStack() as stack:
        ends = []
        for pid in pids(server):
            end = os.pidfd_open(pid)
            stack.callback(os.close, end)
            ends.append(end)
        assert select.select(ends, [], [], 0)[0] == []
        server.process.kill()
        for end in ends:
            assert select.select([end], [], [], 30)[0] == [end]


def test_a_process_that_does_not_answer_is_left_out_of_the_metrics(exported: Path, serve: Starter) -> None:
    server = serve(exported, *TWO)
    silent = pids(server)[0]
    os.kill(silent, signal.SIGSTOP)
    try:
        text = server.metrics()
    finally:
        os.kill(silent, signal.SIGCONT)
    assert set(re.findall(r'process="(.)"', text)) == {"1"}
    assert "\nhourglass_processes 1.0\n" in text
    assert server.wait_logged("a process does not answer for its metrics")["process"] == 0
    assert server.values("hourglass_processes") == [2]


def test_a_process_that_crashes_at_the_start_is_a_refusal(tmp_path: Path, exported: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("import os; os._exit(3)")
    said = refusal("--exported", str(exported), *FREE, *TWO, PYTHONPATH=str(tmp_path))
    assert re.fullmatch(r"process [01] of --processes ended before it served: exit code 3", said)


@pytest.mark.parametrize(("first", "second"), [("1", "2"), ("2", "1"), ("2", "2")])
def test_the_port_is_not_shared_with_another_server(exported: Path, serve: Starter, first: str, second: str) -> None:
    server = serve(exported, "--processes", first)
    port = str(server.ready["grpc_port"])
    flags = ("--exported", str(exported), "--metrics-port", "0", "--processes", second)
    assert f"--grpc-port {port}" in refusal(*flags, "--grpc-port", port)
    call_often(server, CALLERS)


def test_a_busy_process_does_not_take_two_signals_for_one(exported: Path, serve: Starter) -> None:
    """The second SIGTERM skips the drain of all, also of one that has not yet heard the first."""
    server = serve(exported, *TWO, "--drain-seconds", "600")
    busy = pids(server)[0]
    os.kill(busy, signal.SIGSTOP)
    server.terminate()
    server.wait_logged("draining")
    server.terminate()
    server.wait_logged("stopped")
    os.kill(busy, signal.SIGCONT)
    assert server.wait(30) == 0


def test_a_terminals_ctrl_c_is_for_the_supervisor_alone(exported: Path, serve: Starter) -> None:
    """Or it would take its processes' end for a crash."""
    server = serve(exported, *TWO)
    assert server.process.pid not in {os.getpgid(pid) for pid in pids(server)}


@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "::1"])
def test_every_kind_of_address_can_be_shared(exported: Path, serve: Starter, host: str) -> None:
    if host == "::1":
        try:
            socket.create_server((host, 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("no IPv6 here")
    server = serve(exported, *TWO, "--host", host)
    name = f"[{host}]" if ":" in host else "127.0.0.1"
    with grpc.insecure_channel(f"{name}:{server.ready['grpc_port']}") as channel:
        assert wire.stub(channel).ListModels(pb.ListModelsRequest()).models
