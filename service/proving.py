"""What a model has to prove before it may serve, and what its batches cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from hourglass.contract.layout import Artefact, ArtefactError
from hourglass.contract.manifest import GRAPHS, INPUT, Manifest, Tolerance
from service.batcher import Run
from service.costs import Costs
from service.devices import Device
from service.lanes import Lanes, Memory
from service.session import Options, Session

# Of a GPU that rounds the factors of products to 10 bits: as wrong as the contract lets a golden row be.
_TF32 = Tolerance(atol=1e-2, rtol=1e-2)


@dataclass(frozen=True)
class Proven:
    """A graph that gives the golden rows' answers. lanes: where it runs, if it is on a GPU."""

    run: Run
    costs: Costs
    lanes: Lanes | None = None


@dataclass(frozen=True)
class Opener:
    """How graphs are opened here. memory: the device's, where batches run in lanes: instances of each graph that
    compute at once, and slots for batches on their way."""

    device: Device
    options: Options
    batch_rows: int
    memory: Callable[[], Memory] | None = None
    instances: int = 1
    slots: int = 1

    def open(self, artefact: Artefact, rest: float = 0.0) -> dict[str, Proven]:
        """Verified bytes -> each graph, having proven itself: inputs and outputs, golden rows, warm-up. On the CPU,
        `rest` times as long as each step took is slept after it.

        Raises ArtefactError naming the rule that is broken.
        """
        golden = artefact.manifest.golden
        rows = {INPUT: golden.input.unpack(), **{name: answer.unpack() for name, answer in golden.outputs.items()}}
        with ExitStack() as refused:  # where one graph is, the others give their memory back
            graphs = {
                file: self._open(file, artefact.files[file], artefact.manifest, rows[input_name], rest, refused)
                for file, (input_name, _) in GRAPHS.items()
            }
            refused.pop_all()
            return graphs

    def _open(
        self, file: str, graph: bytes, manifest: Manifest, rows: np.ndarray, rest: float, refused: ExitStack
    ) -> Proven:
        def session(stream: int = 0) -> Session:
            opened = Session(graph, self.device, self.options, stream)
            _check_io(file, opened, manifest)
            return opened

        if self.memory is None:
            began = time.perf_counter()
            run = session().run
            time.sleep(rest * (time.perf_counter() - began))
            many, outputs = np.resize(rows, (self.batch_rows, *rows.shape[1:])), manifest.graph_outputs(file)
            # Also the warm-up: the first run of a shape is slow, and must not be a caller's.
            proven = Proven(run, Costs.measure(lambda size: run(many[:size], outputs), self.batch_rows, rest))
        else:
            lanes = Lanes(session, self.memory, rows, most=self.batch_rows, instances=self.instances, slots=self.slots)
            refused.callback(lanes.close)
            proven = Proven(lanes.run, lanes.costs, lanes)
        _check_golden(file, proven.run, manifest, rows, tf32=self.options.tf32)
        return proven


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


def _check_golden(file: str, run: Run, manifest: Manifest, rows: np.ndarray, *, tf32: bool) -> None:
    names = manifest.graph_outputs(file)
    for name, answer in run(rows, names).items():
        expected = manifest.golden.outputs[name].unpack()
        tolerance = _TF32 if tf32 else manifest.tolerance[name]
        scale = max(1.0, float(np.abs(expected).max())) if tf32 else 1.0
        if not np.allclose(answer, expected, rtol=tolerance.rtol, atol=tolerance.atol * scale):
            difference = float(np.max(np.abs(answer - expected)))
            raise ArtefactError(f"{file}: golden rows: {name} differs by up to {difference:.3g} on this machine")
