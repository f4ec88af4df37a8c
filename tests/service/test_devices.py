from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service import devices
from service.devices import CPU, CUDA, Device
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
    assert devices.available_cores(tmp_path) == cores


def test_the_affinity_mask_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3})
    assert devices.available_cores(tmp_path) == 1


def test_a_runtime_for_the_cpu_cannot_give_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert devices.choose("cpu") == (Device(CPU), "asked for")
    device, why = devices.choose("auto")
    assert device == Device(CPU)
    assert "serve-gpu" in why
    with pytest.raises(StartError, match=r"--device cuda:1: .*serve-gpu"):
        devices.choose("cuda:1")


class Driver:
    """libcuda.so.1 of a machine with so many GPUs."""

    def __init__(self, gpus: int) -> None:
        self._gpus = gpus

    def cuInit(self, _flags: int) -> int:
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self._gpus
        return 0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def of(gpus: int, missing: str | None = None) -> None:
        """A machine with so many GPUs, no driver if there are less than none, and one library that is not there."""

        def load(name: str) -> object:
            if name == missing or (name == "libcuda.so.1" and gpus < 0):
                raise OSError(f"{name}: cannot open shared object file: No such file or directory")
            return Driver(gpus) if name == "libcuda.so.1" else object()

        monkeypatch.setattr(devices.ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
        monkeypatch.setattr(devices.ort, "preload_dlls", lambda: print("Failed to load libcudnn.so.9"))
        monkeypatch.setattr(devices.ctypes, "CDLL", load)

    return of


@pytest.mark.parametrize(
    ("asked", "gpus", "missing", "why"),
    [
        ("cuda", -1, None, "there is no NVIDIA driver (libcuda.so.1) here"),
        ("cuda", 0, None, "the NVIDIA driver finds no GPU"),
        ("cuda:2", 2, None, "the NVIDIA driver finds no GPU 2, only 2, counted from 0"),
        ("cuda", 1, "libcudnn.so.9", "libcudnn.so.9: cannot open shared object file"),
        ("cuda", 1, "libcublasLt.so.13", "libcublasLt.so.13: cannot open shared object file"),
        ("cuda", 1, "libcudart.so.13", "libcudart.so.13: cannot open shared object file"),
    ],
)
def test_what_is_missing_is_named(
    machine: Callable[..., None], asked: str, gpus: int, missing: str | None, why: str, capsys: Any
) -> None:
    machine(gpus, missing)
    with pytest.raises(StartError) as refused:
        devices.choose(asked)
    assert str(refused.value).startswith(f"--device {asked}: {why}")
    device, reason = devices.choose("auto") if asked == "cuda" else (Device(CPU), why)
    assert device == Device(CPU)
    assert reason.startswith(why)
    assert not capsys.readouterr().out  # what onnxruntime prints is in the message


def test_a_gpu_is_chosen_by_its_number(machine: Callable[..., None]) -> None:
    machine(4)
    assert devices.choose("auto") == (Device(CUDA, 0), "a GPU is usable")
    assert devices.choose("cuda") == (Device(CUDA, 0), "asked for")
    chosen, _ = devices.choose("cuda:3")
    assert chosen == Device(CUDA, 3)
    assert str(chosen) == "cuda:3"
    assert str(Device(CPU)) == "cpu"
