from __future__ import annotations

import os
from pathlib import Path

import pytest

from service import session
from service.start import StartError


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host of 64 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "400000 100000\n"}, 4),
        ({"cpu.max": "150000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "9900000 100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({"cpu.max": "nonsense\n"}, 64),
        ({}, 64),
    ],
)
def test_cores_come_from_the_cgroup(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert session.available_cores(tmp_path) == cores


def test_the_affinity_mask_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3})
    assert session.available_cores(tmp_path) == 1


def test_a_runtime_for_the_cpu_cannot_give_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert session.choose_device("cpu") == ("cpu", "asked for")
    device, why = session.choose_device("auto")
    assert device == "cpu"
    assert "serve-gpu" in why
    with pytest.raises(StartError, match=r"--device cuda: .*serve-gpu"):
        session.choose_device("cuda")


def test_a_runtime_for_cuda_on_a_machine_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("a GPU is present: this is about its absence")
    monkeypatch.setattr(session.ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert session.choose_device("auto")[0] == "cpu"
    with pytest.raises(StartError, match=r"--device cuda: .*driver"):
        session.choose_device("cuda")


def test_a_session_that_is_not_where_it_was_asked_for_is_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime falls back to the CPU without an exception: the provider it really gave is looked at."""
    from tests.artefacts import Linear

    graph = Linear.random().graphs()["encoder.onnx"]
    monkeypatch.setitem(session.PROVIDERS, "cuda", ("CUDAExecutionProvider", {}))
    if "CUDAExecutionProvider" in session.ort.get_available_providers():
        pytest.skip("a CUDA runtime is present: this is about its absence")
    with pytest.raises(StartError, match="did not give CUDAExecutionProvider"):
        session.Session(graph, "cuda", 1)
