"""Several small denoising autoencoders as one: Chen et al. 2017, "Outlier detection with autoencoder ensembles", whose
members differ in their connections; here in their weights, in the size of their bottleneck and in the damage they see.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from training.autoencoder import Clock, Options
from training.errors import ConfigError
from training.variants.denoising import Denoising, DenoisingOptions


class EnsembleOptions(DenoisingOptions):
    members: Annotated[
        int, Field(ge=2, le=64, description="autoencoders that share out the embedding, each at least one number")
    ] = 4


class Ensemble(Denoising):
    """Members learn side by side and apart: each has its own weights, bottleneck and damage, none sees another's loss.

    An embedding is the members' embeddings in a row, a reconstruction the mean of theirs.
    """

    variant: ClassVar[str] = "ensemble"
    summary: ClassVar[str] = "several small denoising autoencoders as one: scores that hang on no single one"
    options_class: ClassVar[type[Options]] = EnsembleOptions

    options: EnsembleOptions
    encoder: _Joined
    decoder: _Averaged

    @property
    def objective(self) -> str:
        return f"mean over {len(self.encoder.members)} members of: {super().objective}"

    def build(self) -> tuple[nn.Module, nn.Module]:
        encoders, decoders = [], []
        members, numbers = self.options.members, self.architecture.embedding_dim
        if numbers < members:
            raise ConfigError(
                f"{members} members need an embedding of at least {members} numbers, and it has {numbers}: "
                f"--embedding-dim {members}, or fewer with --option members={max(2, numbers)}"
            )
        sizes = _shared_out(numbers, members)
        for size in sizes:
            member = replace(self.architecture, embedding_dim=size)
            encoder, decoder = member.tied() if self.options.tied else (member.encoder(), member.decoder())
            encoders.append(encoder)
            decoders.append(decoder)
        return _Joined(encoders), _Averaged(decoders, sizes)

    def trained_networks(self) -> list[nn.Module]:
        return [*super().trained_networks(), *self.encoder.members, *self.decoder.members]

    def loss(self, rows: Tensor, clock: Clock, generator: Generator) -> dict[str, Tensor]:
        members = list(zip(self.encoder.members, self.decoder.members, strict=True))
        losses: defaultdict[str, list[Tensor]] = defaultdict(list)
        for encoder, decoder in members:
            for name, part in self.repair_loss(encoder, decoder, rows, generator).items():
                losses[name].append(part)
        return {name: torch.stack(parts).mean() for name, parts in losses.items()}


class _Joined(nn.Module):
    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, rows: Tensor) -> Tensor:
        return torch.cat([member(rows) for member in self.members], dim=1)


class _Averaged(nn.Module):
    def __init__(self, members: Sequence[nn.Module], sizes: Sequence[int]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.sizes = list(sizes)

    def forward(self, embedding: Tensor) -> Tensor:
        parts = torch.split(embedding, self.sizes, dim=1)
        return torch.stack([member(part) for member, part in zip(self.members, parts, strict=True)]).mean(dim=0)


def _shared_out(numbers: int, members: int) -> list[int]:
    """`numbers` over so many members, at least one each, the last about three times the first."""
    shares = torch.linspace(0.5, 1.5, members).cumsum(0)
    # One each, and the rest by share.
    ends = [round((numbers - members) * (share / shares[-1]).item()) for share in shares]
    return [1 + end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
