"""TensorBoard scalars in a run's folder, when the `tensorboard` package is installed; nothing otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.trainer import EpochRecord


def scalars(folder: Path) -> Callable[[EpochRecord], None]:
    """The function that draws an epoch; epochs that `folder` has from the first one on are superseded."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return lambda record: None
    writer: SummaryWriter | None = None

    def draw(record: EpochRecord) -> None:
        nonlocal writer
        writer = writer or SummaryWriter(str(folder), purge_step=record.epoch)
        for tag, value in numbers(record).items():
            writer.add_scalar(tag, value, record.epoch)
        writer.flush()

    return draw


def numbers(record: EpochRecord) -> dict[str, float]:
    """What TensorBoard draws, by tag; a list's numbers are tagged by their index."""
    drawn = {"learning_rate": record.learning_rate, "early_stop/loss": record.early_stop_loss}
    drawn |= {f"train/{name}": value for name, value in record.train.items()}
    drawn |= {f"early_stop/{name}": value for name, value in record.early_stop.items()}
    for name, value in record.monitor.items():
        if isinstance(value, list):
            drawn |= {f"monitor/{name}/{index}": number for index, number in enumerate(value)}
        else:
            drawn[f"monitor/{name}"] = value
    return drawn
