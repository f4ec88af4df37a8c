"""Where models can run here, and how many cores there are."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from dataclasses import dataclass
from pathlib import Path

from service.start import StartError

# onnxruntime reports its use to its maker unless told not to, from the import on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

CPU, CUDA = "cpu", "cuda"
# What onnxruntime's CUDA provider is linked with, by CUDA's major version; cuDNN it opens when a model needs it.
_LIBRARIES = (
    "libcublasLt.so.{}",
    "libcublas.so.{}",
    "libcurand.so.10",
    "libcudnn.so.9",
)


@dataclass(frozen=True)
class Device:
    """kind: CPU or CUDA. index: which GPU of those that the driver shows."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == CPU else f"{self.kind}:{self.index}"


def choose(asked: str) -> tuple[Device, str]:
    """auto, cpu, cuda or cuda:<index> -> the device to use, and why.

    Raises StartError when cuda is asked for and cannot be had, saying what is missing.
    """
    if asked == CPU:
        return Device(CPU), "asked for"
    _, _, index = asked.partition(":")
    device = Device(CUDA, int(index or 0))
    problem = _why_not(device)
    if problem is None:
        return device, "a GPU is usable" if asked == "auto" else "asked for"
    if asked == "auto":
        return Device(CPU), problem
    raise StartError(f"--device {asked}: {problem}")


def _why_not(device: Device) -> str | None:
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "this onnxruntime is built for the CPU; install 'hourglass-serving[serve-gpu]'"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1) here"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver finds no GPU"
    if device.index >= count.value:
        return f"the NVIDIA driver finds no GPU {device.index}, only {count.value}, counted from 0"
    return missing_library()


def missing_library() -> str | None:
    """Which library is missing, and what brings it; None where all are there.

    onnxruntime would say so on stderr and go on with the CPU.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what we say below
        ort.preload_dlls()  # CUDA and cuDNN from the nvidia-* wheels
    for library in (cuda_runtime(), *(name.format(_cuda_major()) for name in _LIBRARIES)):
        try:
            ctypes.CDLL(library)
        except OSError as error:
            return f"{error}; install 'hourglass-serving[serve-gpu]', which brings CUDA and cuDNN"
    return None


def cuda_runtime() -> str:
    """The library's name."""
    return f"libcudart.so.{_cuda_major()}"


def _cuda_major() -> str:
    """Of the CUDA that onnxruntime is built for."""
    return (getattr(ort, "cuda_version", None) or "13").partition(".")[0]


def available_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores this process may use: the cgroup's quota (v2 or v1) and the affinity mask, not the host's count."""
    cores = len(os.sched_getaffinity(0))
    quota = _quota_v2(cgroup) or _quota_v1(cgroup)
    return cores if quota is None else max(1, min(cores, int(quota)))


def _quota_v2(cgroup: Path) -> float | None:
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(cgroup: Path) -> float | None:
    try:
        quota, period = (int((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    except (OSError, ValueError):
        return None
    return None if quota <= 0 else quota / period
