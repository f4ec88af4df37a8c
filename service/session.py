"""onnxruntime: one graph on one device, and what its errors mean."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hourglass.contract.layout import ArtefactError
from service.devices import CPU, CUDA, Device
from service.errors import OutOfMemory
from service.pieces import Answer
from service.start import StartError

# onnxruntime reports its use to its maker unless told not to, from the import on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

ort.set_default_logger_severity(4)  # our log has its own lines

# A new execution provider is one entry here, beside its options.
PROVIDERS = {CPU: "CPUExecutionProvider", CUDA: "CUDAExecutionProvider"}
# What onnxruntime says, with one exception class for everything, when an allocation failed.
_NO_MEMORY = (
    "Failed to allocate memory",
    "Available memory of",
    "out of memory",
    "bad allocation",
    "bad_alloc",
    "_STATUS_ALLOC_FAILED",  # cuBLAS and cuDNN
)


@dataclass(frozen=True)
class Options:
    """threads: of one batch, on the CPU. tf32: whether a GPU may round products' factors to 10 bits. memory_bytes: most
    that a session takes of a GPU's memory to compute with; 0 for no limit."""

    threads: int = 1
    tf32: bool = False
    memory_bytes: int = 0


class Session:
    """One graph of one model on one device. `run` may be called from several threads."""

    def __init__(self, graph: bytes, device: Device, options: Options, stream: int = 0) -> None:
        """stream: the GPU's stream to work in, which then nobody waits for; 0 for one of its own.

        Raises ArtefactError when onnxruntime refuses the graph, StartError when the device is not the real one,
        OutOfMemory.
        """
        self._device = device
        provider = PROVIDERS[device.kind]
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = options.threads if device.kind == CPU else 1
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 4  # what matters comes as an exception, and is logged by us
        # Spinning would take the cores that the gRPC threads need.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Arenas keep the largest batch ever seen; without them memory stays flat at equal speed.
        settings.enable_cpu_mem_arena = False
        if device.kind != CPU:
            settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            self._session = ort.InferenceSession(
                graph, settings, providers=[(provider, _provider_options(device, options, stream))]
            )
        except Exception as error:
            _raise_if_no_memory(error)
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

    def run(self, rows: np.ndarray, outputs: Sequence[str]) -> Answer:
        """rows: float32 [n, ...] -> each asked output, float32 [n, ...].

        What does not fit into memory is run half by half. Raises OutOfMemory when a single row does not.
        """
        if not rows.flags.aligned:  # kernels round otherwise there
            rows = rows.copy()
        try:
            answers = self._session.run(outputs, {self._input: rows})
        except Exception as error:
            _raise_if_no_memory(error, unless=len(rows) > 1)
            if not _no_memory(error):
                raise
            half = len(rows) // 2
            parts = [self.run(part, outputs) for part in (rows[:half], rows[half:])]
            return {name: np.concatenate([part[name] for part in parts]) for name in outputs}
        return dict(zip(outputs, answers, strict=True))

    def bound(self, rows: int, addresses: Mapping[str, int]) -> Callable[[], None]:
        """A function that runs the graph on so many rows, from and to the device's memory: addresses, one for each
        input and output. It does not wait for the end, and raises OutOfMemory."""
        binding = self._session.io_binding()
        kind, index = self._device.kind, self._device.index
        for nodes, bind in ((self.inputs, binding.bind_input), (self.outputs, binding.bind_output)):
            for name, (_, shape) in nodes.items():
                bind(name, kind, index, np.float32, [rows, *shape[1:]], addresses[name])
        options = ort.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")

        def run() -> None:
            try:
                self._session.run_with_iobinding(binding, options)
            except Exception as error:
                _raise_if_no_memory(error)
                raise

        return run

    def placement(self) -> Mapping[str, Mapping[str, int]]:
        """Which execution provider really got how many nodes of which kind; empty where it is the CPU's."""
        if self._device.kind == CPU:
            return {}
        return {
            part.ep_name: Counter(node.op_type for node in part.get_nodes())
            for part in self._session.get_provider_graph_assignment_info()
        }


def _provider_options(device: Device, options: Options, stream: int) -> dict[str, str]:
    if device.kind == CPU:
        return {}
    chosen = {
        "device_id": str(device.index),
        "use_tf32": str(int(options.tf32)),
        # The default doubles what is held each time.
        "arena_extend_strategy": "kSameAsRequested",
        # The default tries every algorithm at every new shape.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    if options.memory_bytes:
        chosen["gpu_mem_limit"] = str(options.memory_bytes)
    if stream:
        chosen["user_compute_stream"] = str(stream)
    return chosen


def _no_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)


def _raise_if_no_memory(error: Exception, *, unless: bool = False) -> None:
    if not unless and _no_memory(error):
        raise OutOfMemory("the device has no memory left for these rows: send fewer at once, or retry") from error
