from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Generator, Tensor, fx

from training.config import FitConfig
from training.errors import ConfigError
from training.fit import build
from training.trainer import EpochRecord, Training

Config = Callable[..., FitConfig]
ROWS = torch.rand(300, 8, 8, generator=Generator().manual_seed(0))


def trained(config: FitConfig) -> tuple[Training, list[EpochRecord]]:
    records: list[EpochRecord] = []
    with torch.random.fork_rng(devices=[]):
        training = Training(lambda: build(config, (8, 8)), config)
        training.run(ROWS, ROWS[:50], records.append)
    return training, records


class Backend:
    """Runs what was traced as it was written."""

    def __init__(self) -> None:
        self.graphs: list[fx.GraphModule] = []

    def __call__(self, graph: fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., object]:
        self.graphs.append(graph)
        return graph.forward

    @property
    def layers(self) -> int:
        """Linear ones among all that was traced."""
        return sum("linear" in str(node.target) for graph in self.graphs for node in graph.graph.nodes)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    torch.compiler.reset()  # what other tests have compiled
    found, real = Backend(), torch.compile
    monkeypatch.setattr(torch, "compile", partial(real, backend=found))
    return found


# Networks that the loss calls, of two layers each, traced for the batches of 128 and for the last one, of 44; of the
# ensemble's eight, two are as large as two others.
@pytest.mark.parametrize(
    ("variant", "options", "precision", "networks"),
    [
        ("denoising", {}, "float32", 2),
        ("denoising", {}, "bf16", 2),
        ("vae", {}, "float32", 2),
        ("ensemble", {}, "float32", 6),
    ],
)
def test_compiled_networks_learn_the_same_and_are_saved_under_the_same_names(
    variant: str, options: dict[str, object], precision: str, networks: int, config: Config, backend: Backend
):
    settings = config(variant=variant, options=options, precision=precision)
    plain, records = trained(settings)
    assert not backend.graphs
    training, others = trained(settings.model_copy(update={"compile": True}))
    assert len(backend.graphs) == 2 * networks
    assert backend.layers == 2 * 2 * networks
    expected = [record.early_stop_loss for record in records]
    assert [record.early_stop_loss for record in others] == pytest.approx(expected)
    assert list(plain.model.state_dict()) == list(training.model.state_dict())


@pytest.mark.parametrize(("variant", "options"), [("stacked", {}), ("contractive", {"jacobian": "hutchinson"})])
def test_what_is_called_in_pieces_is_compiled_in_pieces(
    variant: str, options: dict[str, object], config: Config, backend: Backend
):
    settings = config(variant=variant, options=options)
    expected = [record.early_stop_loss for record in trained(settings)[1]]
    _, others = trained(settings.model_copy(update={"compile": True}))
    assert backend.layers
    assert [record.early_stop_loss for record in others] == pytest.approx(expected)


def test_a_compiler_that_fails_is_told_in_one_line(config: Config, monkeypatch: pytest.MonkeyPatch):
    def without_compiler(*_: object) -> None:
        raise RuntimeError("no C++ compiler\nis here")

    torch.compiler.reset()
    real = torch.compile
    monkeypatch.setattr(torch, "compile", partial(real, backend=without_compiler))
    with pytest.raises(ConfigError, match=r"--compile: .*no C\+\+ compiler: leave it out, or see that") as error:
        trained(config(compile=True))
    assert "\n" not in str(error.value)
