from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn

from training import checkpoint, mixed_precision
from training.autoencoder import registered
from training.config import FitConfig, Precision
from training.errors import ConfigError
from training.fit import build
from training.trainer import EpochRecord, Training

Config = Callable[..., FitConfig]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
ROWS = torch.rand(400, 8, 8, generator=Generator().manual_seed(0))


def trained(config: FitConfig) -> tuple[Training, list[EpochRecord]]:
    records: list[EpochRecord] = []
    with torch.random.fork_rng(devices=[]):
        training = Training(lambda: build(config, (8, 8)), config)
        training.run(ROWS, ROWS[:50], records.append)
    return training, records


@pytest.mark.parametrize("variant", sorted(registered()))
def test_bfloat16_learns_nearly_the_same_in_float32_weights(variant: str, config: Config):
    full, rounded = (trained(config(variant=variant, precision=kind)) for kind in ("float32", "bf16"))
    for one, other in zip(full[1], rounded[1], strict=True):
        assert one.early_stop_loss == pytest.approx(other.early_stop_loss, rel=0.05)
        assert one.early_stop_loss != other.early_stop_loss
    assert {value.dtype for value in rounded[0].model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_a_network_multiplies_in_half_precision_and_answers_in_float32(kind: Precision):
    seen: list[torch.dtype] = []
    network = nn.Sequential(nn.Linear(4, 3))
    network[0].register_forward_hook(lambda module, rows, answer: seen.append(answer.dtype))
    rows = torch.rand(5, 4)
    exact: Tensor = network(rows)
    mixed_precision.mix(network, kind, CPU)
    answer: Tensor = network(rows)
    assert seen == [torch.float32, {"bf16": torch.bfloat16, "fp16": torch.float16}[kind]]
    assert answer.dtype == torch.float32
    assert torch.allclose(answer, exact, rtol=0.02, atol=0.02)
    assert not answer.equal(exact)


def test_float16_scales_its_gradients_and_a_checkpoint_has_the_scale(config: Config, tmp_path: Path):
    settings = config(precision="fp16", epochs=3, batch_size=32)
    whole, _ = trained(settings)
    # Of 39 steps the first one's gradients overflow.
    assert whole.scaler.state_dict()["_growth_tracker"] == 38
    assert whole.scaler.get_scale() == 2.0**15
    path = tmp_path / "c.safetensors"

    def write_and_stop(record: EpochRecord) -> None:
        if record.epoch == 2:
            checkpoint.write(path, begun)
            raise KeyboardInterrupt

    with torch.random.fork_rng(devices=[]):
        begun = Training(lambda: build(settings, (8, 8)), settings)
        with pytest.raises(KeyboardInterrupt):
            begun.run(ROWS, ROWS[:50], write_and_stop)
        again = Training(lambda: build(settings, (8, 8)), settings)
        checkpoint.resume(path, again)
        again.run(ROWS, ROWS[:50], lambda _: None)
    assert again.scaler.state_dict() == whole.scaler.state_dict()
    assert all(value.equal(again.model.state_dict()[name]) for name, value in whole.model.state_dict().items())


def test_a_float16_step_that_overflows_is_left_out(config: Config):
    settings = config(precision="fp16", epochs=1, batch_size=400)
    with torch.random.fork_rng(devices=[]):
        training = Training(lambda: build(settings, (8, 8)), settings)
        before = {name: value.clone() for name, value in training.model.state_dict().items()}
        training.scaler.load_state_dict({**training.scaler.state_dict(), "scale": 2.0**30})
        training.run(ROWS, ROWS[:50], lambda _: None)
    weights = {name: value for name, value in training.model.state_dict().items() if name.endswith(("weight", "bias"))}
    assert all(value.equal(before[name]) for name, value in weights.items())
    assert training.scaler.get_scale() == 2.0**29


def test_a_gpu_rounds_factors_where_that_was_asked_for():
    def allowed() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = allowed()
    with mixed_precision.products("float32", GPU):
        assert allowed() == ("highest", False)
        with mixed_precision.products("tf32", GPU):
            assert allowed() == ("high", True)
        with mixed_precision.products("bf16", GPU):
            assert allowed() == ("high", True)
        assert allowed() == ("highest", False)
    with mixed_precision.products("float32", CPU):
        assert allowed() == before
    assert allowed() == before


def test_tf32_is_a_gpus():
    mixed_precision.check("tf32", GPU)
    with pytest.raises(ConfigError, match="--precision tf32 is a GPU's: use float32 or bf16"):
        mixed_precision.check("tf32", CPU)
