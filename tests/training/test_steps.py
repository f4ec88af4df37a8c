from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Generator, Tensor

from tests.training.models import END, make
from training import chance, trainer
from training.autoencoder import Clock, registered
from training.config import FitConfig
from training.fit import build
from training.steps import Eager, Losses
from training.trainer import EpochRecord, Training

Config = Callable[..., FitConfig]
Take = Callable[[], Losses]
ROWS = torch.rand(300, 6, generator=Generator().manual_seed(0))


class Recorder:
    """Records as a CUDA graph does: what is replayed has the tensors and the clock of the first step."""

    def __init__(self, spoil: Callable[[Take], Losses] | None = None) -> None:
        self.spoil, self.recorded, self.replayed = spoil, 0, 0

    def __call__(self, step: Take, eager: Eager) -> Take:
        self.recorded += 1

        def replay() -> Losses:
            self.replayed += 1
            return self.spoil(step) if self.spoil else step()

        return replay


def trained(config: FitConfig) -> tuple[Training, list[EpochRecord]]:
    records: list[EpochRecord] = []
    with torch.random.fork_rng(devices=[]):
        training = Training(lambda: build(config, (6,)), config)
        training.run(ROWS, ROWS[:50], records.append)
    return training, records


def replayed(
    config: FitConfig, monkeypatch: pytest.MonkeyPatch, recorder: Recorder
) -> tuple[Training, list[EpochRecord]]:
    monkeypatch.setattr(trainer, "recorder", lambda device: recorder)
    return trained(config)


def same(one: tuple[Training, list[EpochRecord]], other: tuple[Training, list[EpochRecord]]) -> bool:
    weights, others = one[0].model.state_dict(), other[0].model.state_dict()
    return (
        all(value.equal(others[name]) for name, value in weights.items())
        and one[0].generator.get_state().equal(other[0].generator.get_state())
        and [record.train for record in one[1]] == [record.train for record in other[1]]
    )


# Of five batches an epoch the last is smaller.
SCHEDULED: dict[str, tuple[dict[str, object], int]] = {
    "denoising": ({}, 16),
    "sparse": ({"variant": "sparse"}, 16),
    "vae": ({"variant": "vae"}, 16),
    "k_sparse, while k falls": ({"variant": "k_sparse"}, 8),
    "stacked, while it pretrains": ({"variant": "stacked", "options": {"pretraining": 0.5}}, 8),
    "annealed, while C rises": ({"variant": "annealed_beta_vae"}, 8),
    "mixed, while it warms up": ({"training_data": "mixed"}, 14),
    "the user's noise, which looks at numbers": ({"options": {"noise": "tests.training.test_steps:halved"}}, 0),
    "float16, whose scale changes": ({"precision": "fp16"}, 0),
}


def halved(rows: Tensor, generator: Generator) -> Tensor:
    return rows / 2


@pytest.mark.parametrize("name", SCHEDULED)
def test_a_replayed_step_is_the_eager_one_and_schedules_are_not_replayed(
    name: str, config: Config, monkeypatch: pytest.MonkeyPatch
):
    settings, replays = SCHEDULED[name]
    chosen = config(**{"epochs": 4, "batch_size": 64, "patience": 9, **settings})
    eager, recorder = trained(chosen), Recorder()
    assert same(replayed(chosen, monkeypatch, recorder), eager)
    assert (recorder.recorded, recorder.replayed) == (min(1, replays), replays)


def fails(step: Take) -> Losses:
    raise RuntimeError("operation not permitted when stream is capturing\nsome more")


def does_nothing(step: Take) -> Losses:
    return Losses(("reconstruction_sse_per_row",), torch.zeros(1))


def steps_twice(step: Take) -> Losses:
    step()
    return step()


def breaks(step: Take) -> Losses:
    step()
    raise RuntimeError("after it has moved the weights")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (fails, "operation not permitted when stream is capturing"),
        (does_nothing, "its recording moves the weights otherwise"),
        (steps_twice, "its recording moves the weights otherwise"),
        (breaks, "after it has moved the weights"),
    ],
)
def test_a_recording_that_is_not_the_step_is_given_up_and_leaves_no_trace(
    spoil: Callable[[Take], Losses],
    why: str,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    chosen = config(epochs=3, batch_size=64)
    eager, recorder = trained(chosen), Recorder(spoil)
    with caplog.at_level(logging.WARNING):
        assert same(replayed(chosen, monkeypatch, recorder), eager)
    assert (recorder.recorded, recorder.replayed) == (1, 1)
    assert [record.getMessage() for record in caplog.records] == [
        f"the step is not replayed as a CUDA graph, and so slower: {why}"
    ]


TABLE, IMAGE = (6,), (8, 8)
VARIANTS = [(name, row_shape, {}) for name in registered() for row_shape in (TABLE, IMAGE)]
OTHERS: list[tuple[str, tuple[int, ...], dict[str, object]]] = [
    ("denoising", TABLE, {"noise": "gaussian"}),
    ("denoising", TABLE, {"noise": "salt_and_pepper", "damaged_weight": 2.0}),
    ("denoising", IMAGE, {"loss": "cross_entropy"}),
    ("vae", IMAGE, {"binarise": True}),
    ("vae", IMAGE, {"likelihood": "gaussian"}),
    ("vae", TABLE, {"variance": 0.5}),
    ("contractive", IMAGE, {"jacobian": "hutchinson"}),
    ("contractive", IMAGE, {"activation": "tanh"}),
]


def drawn_nowhere(draw: Callable[..., Tensor], shape: Sequence[int], generator: Generator) -> Tensor:
    return draw(tuple(shape), device="meta")


@pytest.mark.parametrize(("variant", "row_shape", "options"), [*VARIANTS, *OTHERS])
def test_a_loss_lives_on_one_device_and_never_looks_at_a_number(
    variant: str, row_shape: tuple[int, ...], options: dict[str, object], monkeypatch: pytest.MonkeyPatch
):
    """On the meta device there are no numbers to look at, and nothing of the processor's may be mixed in."""
    model = make(variant, row_shape, 8, (12,), **options).to("meta")
    assert model.capturable
    monkeypatch.setattr(chance, "_drawn", drawn_nowhere)
    for clock in (Clock(0, 0.0), END):
        parts = model.loss(torch.rand(5, *row_shape, device="meta"), clock, Generator())
        assert {part.device.type for part in parts.values()} == {"meta"}
        torch.autograd.backward(list(parts.values()))
    assert all(parameter.grad is not None for parameter in model.parameters())
