"""onnxruntime: the device, the session, and the proofs a model passes before it may serve."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hourglass.contract.layout import Artefact, ArtefactError
from hourglass.contract.manifest import GRAPHS, INPUT, Manifest
from service.costs import Costs
from service.errors import StartError

# onnxruntime reports its use to its maker unless told not to, from the import on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

# A new execution provider is one entry here: device -> provider and its options.
PROVIDERS: dict[str, tuple[str, dict[str, str]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
}


def choose_device(asked: str) -> tuple[str, str]:
    """The device to use, and why. Raises StartError when cuda is asked for and cannot be had."""
    if asked == "cpu":
        return "cpu", "asked for"
    problem = _why_not_cuda()
    if problem is None:
        return "cuda", "asked for" if asked == "cuda" else "a GPU is usable"
    if asked == "cuda":
        raise StartError(f"--device cuda: {problem}")
    return "cpu", problem


def _why_not_cuda() -> str | None:
    if PROVIDERS["cuda"][0] not in ort.get_available_providers():
        return "this onnxruntime is built for the CPU; install 'hourglass-serving[serve-gpu]'"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1) here"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver finds no GPU"
    ort.preload_dlls()  # CUDA and cuDNN from the nvidia-* wheels
    return None


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


class Session:
    """One graph of one model on one device. `run` may be called from several threads."""

    def __init__(self, graph: bytes, device: str, threads: int) -> None:
        """Raises ArtefactError when onnxruntime refuses the graph, StartError when the device is not the real one."""
        provider, options = PROVIDERS[device]
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 4  # what matters comes as an exception, and is logged by us
        # Spinning would take the cores that the gRPC threads need.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Arenas keep the largest batch ever seen; without them memory stays flat at equal speed.
        settings.enable_cpu_mem_arena = False
        try:
            self._session = ort.InferenceSession(graph, settings, providers=[(provider, options)])
        except Exception as error:
            raise ArtefactError(f"onnxruntime refuses the graph: {type(error).__name__}") from error
        self._session.disable_fallback()
        if self._session.get_providers()[0] != provider:
            raise StartError(f"onnxruntime did not give {provider}: it would have served on the CPU")
        (self._input,) = self.inputs

    @property
    def inputs(self) -> dict[str, tuple[str, list[int | str | None]]]:
        """name -> (element type, shape)"""
        return {node.name: (node.type, node.shape) for node in self._session.get_inputs()}

    @property
    def outputs(self) -> dict[str, tuple[str, list[int | str | None]]]:
        return {node.name: (node.type, node.shape) for node in self._session.get_outputs()}

    def run(self, rows: np.ndarray, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """rows: float32 [n, ...] -> each asked output, float32 [n, ...]."""
        answers = self._session.run(outputs, {self._input: rows})
        return dict(zip(outputs, answers, strict=True))


class Proven(NamedTuple):
    """A session that gives the golden rows' answers, and what its batches cost."""

    session: Session
    costs: Costs


def open_model(artefact: Artefact, device: str, threads: int, max_batch_rows: int) -> dict[str, Proven]:
    """Verified bytes -> a session for each graph, which has proven itself: inputs and outputs, golden rows, warm-up.

    Raises ArtefactError naming the rule that is broken.
    """
    golden = artefact.manifest.golden
    rows = {INPUT: golden.input.unpack(), **{name: answer.unpack() for name, answer in golden.outputs.items()}}
    proven = {}
    for file, (input_name, _) in GRAPHS.items():
        session = Session(artefact.files[file], device, threads)
        _check_io(file, session, artefact.manifest)
        _check_golden(file, session, artefact.manifest, rows[input_name])
        proven[file] = Proven(session, _costs(session, rows[input_name], max_batch_rows))
    return proven


def _costs(session: Session, rows: np.ndarray, max_rows: int) -> Costs:
    """Also the warm-up: the first run of a shape is slow, and must not be a caller's."""
    many = np.resize(rows, (max_rows, *rows.shape[1:]))
    outputs = list(session.outputs)
    return Costs.measure(lambda size: session.run(many[:size], outputs), max_rows)


def _check_io(file: str, session: Session, manifest: Manifest) -> None:
    shapes = {INPUT: manifest.row_shape, **manifest.output_shapes()}
    for side, found, names in (
        ("inputs", session.inputs, GRAPHS[file][:1]),
        ("outputs", session.outputs, manifest.graph_outputs(file)),
    ):
        if found.keys() != set(names):
            raise ArtefactError(f"{file}: its {side} are {sorted(found)}, not {sorted(names)}")
        for name in names:
            element, shape = found[name]
            counts_rows = bool(shape) and not isinstance(shape[0], int)
            if element != "tensor(float)" or not counts_rows or list(shape[1:]) != shapes[name]:
                wanted = ["n", *shapes[name]]
                raise ArtefactError(f"{file}: {name!r} is {element} {shape}, not tensor(float) {wanted}")


def _check_golden(file: str, session: Session, manifest: Manifest, rows: np.ndarray) -> None:
    names = manifest.graph_outputs(file)
    for name, answer in session.run(rows, names).items():
        expected = manifest.golden.outputs[name].unpack()
        tolerance = manifest.tolerance[name]
        if not np.allclose(answer, expected, rtol=tolerance.rtol, atol=tolerance.atol):
            difference = float(np.max(np.abs(answer - expected)))
            raise ArtefactError(f"{file}: golden rows: {name} differs by up to {difference:.3g} on this machine")
