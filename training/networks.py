"""Encoder and decoder builders: rows [n, *row_shape] -> [n, outputs], and embeddings [n, embedding_dim] -> rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from training.errors import ConfigError

Network = Literal["mlp", "conv", "conv1d"]
Activation = Literal["relu", "selu", "tanh", "sigmoid"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "selu": nn.SELU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
CONV_CHANNELS = (32, 64)
IMAGE_WIDTHS = (512, 256)
TABLE_WIDTHS = (32, 512)  # at least, at most


@dataclass(frozen=True)
class Architecture:
    """What a variant needs to build its networks.

    hidden: widths of the fully connected layers, or channels of the stages that each halve the image or the window,
    from the input to the embedding; the decoder mirrors them; what suits the rows when None. activation: of the hidden
    layers, both ways, when None ReLU for images and tanh for others; embedding_activation: of the embedding, linear
    when None.
    column_of: the column that each number of a row is from, where a column may be several numbers; None: each its own.
    marked: whether the encoder is told, beside a row's numbers, which columns are missing, 1 for each that is.
    windowed: whether rows are windows of a series, (length, channels), not images.
    """

    row_shape: tuple[int, ...]
    embedding_dim: int
    network: Network = "mlp"
    hidden: tuple[int, ...] | None = None
    activation: Activation | None = None
    embedding_activation: Activation | None = None
    column_of: tuple[int, ...] | None = None
    marked: bool = False
    windowed: bool = False

    def __post_init__(self) -> None:
        if self.network != "mlp" and self.hidden == ():
            raise ConfigError(
                f"--network {self.network} needs at least one stage: give --hidden channels, or leave it out"
            )
        if self.network == "conv" and (len(self.row_shape) not in (2, 3) or self.windowed):
            instead = "conv1d" if self.windowed else "mlp"
            raise ConfigError(f"--network conv needs images, rows of (height, width[, channels]); use {instead}")
        if self.network == "conv1d" and not self.windowed:
            raise ConfigError("--network conv1d needs windows of a series: give --window LENGTH, or use mlp")

    @property
    def named(self) -> bool:
        """Whether a row's numbers are those of columns: of a table or of windows, not of an image."""
        return len(self.row_shape) == 1 or self.windowed

    @property
    def columns(self) -> Tensor:
        """The column of each number in the last dimension of a row: int [numbers]."""
        return torch.tensor(self.column_of) if self.column_of else torch.arange(self.row_shape[-1])

    @property
    def seen_shape(self) -> tuple[int, ...]:
        """Of what the encoder takes."""
        marks = int(self.columns[-1]) + 1 if self.marked else 0
        return (*self.row_shape[:-1], self.row_shape[-1] + marks)

    @property
    def widths(self) -> tuple[int, ...]:
        if self.hidden is not None:
            return self.hidden
        if self.network != "mlp":
            return CONV_CHANNELS
        if not self.named:
            return IMAGE_WIDTHS
        least, most = TABLE_WIDTHS
        return (max(least, min(most, 2 * math.prod(self.row_shape))),)

    @property
    def hidden_activation(self) -> Activation:
        # What ReLU repeats grows without bound outside the data, anomalies included (Bouman & Heskes 2025); tanh
        # levels off: mean AUROC on the sets of docs/anomaly-benchmark.md, clean, 93.5 to 92.6 points in a trial.
        return self.activation or ("tanh" if self.named else "relu")

    def without_hidden_layers(self) -> Architecture:
        """One fully connected layer each way, unless `hidden` asks for more."""
        return replace(self, hidden=()) if self.hidden is None and self.network == "mlp" else self

    def encoder(self, outputs: int | None = None) -> nn.Sequential:
        """outputs: numbers per row, the embedding's size when not given."""
        outputs = outputs or self.embedding_dim
        if self.network == "conv":
            layers = _conv_encoder(self.row_shape, self.widths, outputs, self._activation)
        elif self.network == "conv1d":
            layers = _conv1d_encoder(self.seen_shape, self.widths, outputs, self._activation)
        else:
            sizes = [math.prod(self.seen_shape), *self.widths, outputs]
            layers = [nn.Flatten(), *_dense(sizes, self._activation)]
        if self.embedding_activation:
            layers.append(ACTIVATIONS[self.embedding_activation]())
        return nn.Sequential(*layers)

    def decoder(self) -> nn.Sequential:
        if self.network == "conv":
            return _conv_decoder(self.row_shape, self.widths, self.embedding_dim, self._activation)
        if self.network == "conv1d":
            return _conv1d_decoder(self.row_shape, self.widths, self.embedding_dim, self._activation)
        layers = _dense([self.embedding_dim, *reversed(self.widths), math.prod(self.row_shape)], self._activation)
        return nn.Sequential(*layers, nn.Unflatten(1, self.row_shape))

    def tied(self) -> tuple[nn.Sequential, nn.Sequential]:
        """Encoder and decoder of one set of weights, each decoder layer the transpose of its mirror: mlp only."""
        if self.network != "mlp":
            raise ConfigError("tied weights are for fully connected layers: use --network mlp")
        encoder = self.encoder()
        layers: list[nn.Module] = []
        for layer in reversed([layer for layer in encoder if isinstance(layer, nn.Linear)]):
            layers += [_Transposed(layer), self._activation()]
        return encoder, nn.Sequential(*layers[:-1], nn.Unflatten(1, self.row_shape))

    @property
    def _activation(self) -> type[nn.Module]:
        return ACTIVATIONS[self.hidden_activation]


def pairs(encoder: nn.Sequential, decoder: nn.Sequential) -> list[tuple[nn.Sequential, nn.Sequential]]:
    """The encoder's layers from the input on, each with the decoder's layer that mirrors it; modules are shared.

    The decoder's layers come without their activation: what they give back is held to activations by squared error.
    """
    activations = tuple(ACTIVATIONS.values())
    up: list[list[nn.Module]] = []
    for module in encoder:
        if not up or (isinstance(up[-1][-1], activations) and not isinstance(module, activations)):
            up.append([])
        up[-1].append(module)
    down: list[list[nn.Module]] = []
    for module in decoder:
        if any(True for _ in module.parameters()):
            down.append([])
        if not isinstance(module, activations):
            down[-1].append(module)
    return [(nn.Sequential(*u), nn.Sequential(*d)) for u, d in zip(up, reversed(down), strict=True)]


class _Transposed(nn.Module):
    """A linear layer back, with the weights of `layer` and a bias of its own."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = layer.weight
        self.bias = nn.Parameter(torch.zeros(layer.in_features))

    def forward(self, rows: Tensor) -> Tensor:
        # Not linear() of the transpose: exported, that would be a second copy of the weights.
        return torch.addmm(self.bias, rows, self.weight)


def _dense(sizes: Sequence[int], activation: type[nn.Module]) -> list[nn.Module]:
    """Linear layers with the activation between them, none after the last."""
    layers: list[nn.Module] = []
    for width, following in pairwise(sizes):
        layers += [_initialised(nn.Linear(width, following), activation), activation()]
    return layers[:-1]


def _initialised(layer: nn.Linear, activation: type[nn.Module]) -> nn.Linear:
    """SELU keeps its promise of unit variance with N(0, 1 / inputs) weights only (Klambauer et al. 2017)."""
    if activation is nn.SELU:
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        nn.init.zeros_(layer.bias)
    return layer


def _sizes(row_shape: tuple[int, ...], stages: int) -> list[tuple[int, int]]:
    """(height, width) before each stage and after the last: a 3 x 3 kernel at stride 2 gives ceil(size / 2)."""
    sizes = [(row_shape[0], row_shape[1])]
    for _ in range(stages):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


class _ChannelsFirst(nn.Module):
    """[n, h, w] or [n, h, w, c] -> [n, c, h, w]."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows.unsqueeze(1) if rows.ndim == 3 else rows.permute(0, 3, 1, 2)


class _ChannelsLast(nn.Module):
    """[n, c, h, w] -> [n, h, w, c], or [n, h, w] for grey images."""

    def __init__(self, grey: bool) -> None:
        super().__init__()
        self.grey = grey

    def forward(self, images: Tensor) -> Tensor:
        return images.squeeze(1) if self.grey else images.permute(0, 2, 3, 1)


def _channels(row_shape: tuple[int, ...]) -> int:
    return row_shape[2] if len(row_shape) == 3 else 1


def _conv_encoder(
    row_shape: tuple[int, ...], stages: tuple[int, ...], outputs: int, activation: type[nn.Module]
) -> list[nn.Module]:
    layers: list[nn.Module] = [_ChannelsFirst()]
    for channels, following in pairwise((_channels(row_shape), *stages)):
        layers += [nn.Conv2d(channels, following, 3, stride=2, padding=1), activation()]
    height, width = _sizes(row_shape, len(stages))[-1]
    return [*layers, nn.Flatten(), nn.Linear(stages[-1] * height * width, outputs)]


def _conv_decoder(
    row_shape: tuple[int, ...], stages: tuple[int, ...], embedding_dim: int, activation: type[nn.Module]
) -> nn.Sequential:
    sizes = _sizes(row_shape, len(stages))
    height, width = sizes[-1]
    layers: list[nn.Module] = [
        nn.Linear(embedding_dim, stages[-1] * height * width),
        activation(),
        nn.Unflatten(1, (stages[-1], height, width)),
    ]
    backwards = (*reversed(stages), _channels(row_shape))
    for (channels, following), (height, width) in zip(pairwise(backwards), reversed(sizes[:-1]), strict=True):
        # Stride 2 undoes ceil(size / 2) for odd sizes; even ones lack one row and column.
        missing = (1 - height % 2, 1 - width % 2)
        layers += [nn.ConvTranspose2d(channels, following, 3, 2, padding=1, output_padding=missing), activation()]
    return nn.Sequential(*layers[:-1], _ChannelsLast(grey=len(row_shape) == 2))


class _Transposition(nn.Module):
    """[n, a, b] -> [n, b, a]: convolutions take channels before time."""

    def forward(self, windows: Tensor) -> Tensor:
        return windows.transpose(1, 2)


def _lengths(length: int, stages: int) -> list[int]:
    """Of a window before each stage and after the last, as _sizes."""
    lengths = [length]
    for _ in range(stages):
        lengths.append((lengths[-1] + 1) // 2)
    return lengths


def _conv1d_encoder(
    row_shape: tuple[int, ...], stages: tuple[int, ...], outputs: int, activation: type[nn.Module]
) -> list[nn.Module]:
    length, channels_in = row_shape
    layers: list[nn.Module] = [_Transposition()]
    for channels, following in pairwise((channels_in, *stages)):
        layers += [nn.Conv1d(channels, following, 3, stride=2, padding=1), activation()]
    return [*layers, nn.Flatten(), nn.Linear(stages[-1] * _lengths(length, len(stages))[-1], outputs)]


def _conv1d_decoder(
    row_shape: tuple[int, ...], stages: tuple[int, ...], embedding_dim: int, activation: type[nn.Module]
) -> nn.Sequential:
    length, channels_out = row_shape
    lengths = _lengths(length, len(stages))
    layers: list[nn.Module] = [
        nn.Linear(embedding_dim, stages[-1] * lengths[-1]),
        activation(),
        nn.Unflatten(1, (stages[-1], lengths[-1])),
    ]
    backwards = (*reversed(stages), channels_out)
    for (channels, following), longer in zip(pairwise(backwards), reversed(lengths[:-1]), strict=True):
        # As in _conv_decoder: an even length lacks one.
        missing = 1 - longer % 2
        layers += [nn.ConvTranspose1d(channels, following, 3, 2, padding=1, output_padding=missing), activation()]
    return nn.Sequential(*layers[:-1], _Transposition())
