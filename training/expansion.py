"""A table's columns as numbers that can be scaled, and back: a category becomes one number for each it might be."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hourglass.contract.schema import UNKNOWN, Column, Schema


class Expansion(nn.Module):
    """[n, ..., columns] with codes in categorical columns <-> [n, ..., numbers]: see Schema.expanded.

    NaN, a missing cell, is NaN in all numbers of its column. Back, the category with the largest number is taken, but
    never the unknown one, and flags are 0 or 1. Where all columns are numeric nothing happens, neither way. Standard
    ONNX operators only.
    """

    source: Tensor
    code: Tensor
    is_category: Tensor
    membership: Tensor

    def __init__(self, schema: Schema | None) -> None:
        super().__init__()
        self.plain = schema is None or schema.is_numeric
        if schema is None or self.plain:
            return
        self.columns = schema.columns
        sources, codes = zip(*schema.expanded, strict=True)
        self.register_buffer("source", torch.tensor(sources))
        self.register_buffer("code", torch.tensor(codes, dtype=torch.float32))
        self.register_buffer("is_category", torch.tensor([code >= 0 for code in codes]))
        membership = torch.nn.functional.one_hot(self.source, len(schema.columns)).float()
        self.register_buffer("membership", membership)

    def forward(self, rows: Tensor) -> Tensor:
        if self.plain:
            return rows
        cells = rows.index_select(-1, self.source)
        chosen = torch.where(cells.isnan(), cells, (cells == self.code).float())
        return torch.where(self.is_category, chosen, cells)

    def inverse(self, numbers: Tensor) -> Tensor:
        """[n, ..., numbers], none of them NaN -> [n, ..., columns]."""
        return numbers if self.plain else torch.stack(self._cells(numbers), dim=-1)

    def sums(self, values: Tensor) -> Tensor:
        """Of the values of each column's numbers: [n, ..., numbers] -> [n, ..., columns]."""
        if self.plain:
            return values
        summed: Tensor = values @ self.membership
        return summed

    def decided(self, numbers: Tensor, clear: float) -> Tensor:
        """Whose categories and flags lead by more than `clear`: [n, numbers] -> bool [n]."""
        decided = torch.ones(len(numbers), dtype=torch.bool)
        for column, values in self._blocks(numbers):
            if column.type == "boolean":
                decided &= (values[..., 0] - 0.5).abs() > clear
            elif column.type == "categorical" and column.width > 2:
                first, second = values[..., UNKNOWN + 1 :].topk(2, dim=-1).values.unbind(-1)
                decided &= first - second > clear
        return decided

    def _cells(self, numbers: Tensor) -> list[Tensor]:
        cells = []
        for column, values in self._blocks(numbers):
            if column.type == "categorical":
                cells.append((values[..., UNKNOWN + 1 :].argmax(dim=-1) + UNKNOWN + 1).float())
            else:
                cells.append((values[..., 0] > 0.5).float() if column.type == "boolean" else values[..., 0])
        return cells

    def _blocks(self, numbers: Tensor) -> list[tuple[Column, Tensor]]:
        if self.plain:
            return []
        return list(zip(self.columns, torch.split(numbers, [c.width for c in self.columns], dim=-1), strict=True))
