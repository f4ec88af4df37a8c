from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.errors import ConfigError
from training.networks import Architecture, pairs
from training.scaling import Scaling

SIZES = st.integers(1, 33)


@settings(max_examples=40, deadline=None)
@given(height=SIZES, width=SIZES, channels=st.sampled_from([None, 1, 3]), stages=st.integers(1, 3))
def test_conv_gives_back_images_of_any_size(height: int, width: int, channels: int | None, stages: int):
    row_shape = (height, width) if channels is None else (height, width, channels)
    architecture = Architecture(row_shape, 3, "conv", (4,) * stages)
    rows = torch.rand(2, *row_shape)
    embedding = architecture.encoder()(rows)
    assert embedding.shape == (2, 3)
    assert architecture.decoder()(embedding).shape == rows.shape


@settings(max_examples=40, deadline=None)
@given(length=st.integers(2, 65), channels=st.integers(1, 5), stages=st.integers(1, 3))
def test_conv1d_gives_back_windows_of_any_length(length: int, channels: int, stages: int):
    architecture = Architecture((length, channels), 3, "conv1d", (4,) * stages, windowed=True)
    windows = torch.rand(2, length, channels)
    embedding = architecture.encoder()(windows)
    assert embedding.shape == (2, 3)
    assert architecture.decoder()(embedding).shape == windows.shape


def test_conv1d_keeps_times_and_channels_apart():
    torch.manual_seed(0)
    encoder = Architecture((7, 3), 6, "conv1d", (8,), windowed=True).encoder()
    windows = torch.rand(1, 7, 3)
    for position in ((0, 0), (6, 2), (3, 1)):
        changed = windows.clone()
        changed[(0, *position)] += 1
        assert not torch.allclose(encoder(changed), encoder(windows))


@pytest.mark.parametrize("row_shape", [(21,), (8, 8), (28, 28, 3)])
def test_mlp_takes_every_row(row_shape: tuple[int, ...]):
    architecture = Architecture(row_shape, 5)
    embedding = architecture.encoder()(torch.rand(4, *row_shape))
    assert embedding.shape == (4, 5)
    assert architecture.decoder()(embedding).shape == (4, *row_shape)
    assert architecture.encoder(outputs=10)(torch.rand(4, *row_shape)).shape == (4, 10)


def test_the_decoder_mirrors_the_encoder():
    architecture = Architecture((784,), 32, "mlp", (512, 256))
    layers = [m for net in (architecture.encoder(), architecture.decoder()) for m in net if hasattr(m, "weight")]
    assert [(m.in_features, m.out_features) for m in layers] == [
        (784, 512),
        (512, 256),
        (256, 32),
        (32, 256),
        (256, 512),
        (512, 784),
    ]


def test_conv_keeps_rows_and_columns_and_channels_apart():
    """A change of one channel of one corner of the input changes the embedding: nothing is lost in the layout."""
    torch.manual_seed(0)
    encoder = Architecture((5, 4, 3), 6, "conv", (8,)).encoder()
    rows = torch.rand(1, 5, 4, 3)
    for position in ((0, 0, 0), (4, 3, 2), (0, 3, 1)):
        changed = rows.clone()
        changed[(0, *position)] += 1
        assert not torch.allclose(encoder(changed), encoder(rows))


def test_convolutions_refuse_rows_that_they_are_not_for():
    with pytest.raises(ConfigError, match=r"conv needs images.*use mlp"):
        Architecture((21,), 5, "conv")
    with pytest.raises(ConfigError, match=r"conv needs images.*use conv1d"):
        Architecture((21, 3), 5, "conv", windowed=True)
    with pytest.raises(ConfigError, match="conv1d needs windows"):
        Architecture((21, 3), 5, "conv1d")


def test_tied_layers_are_each_others_transpose():
    encoder, decoder = Architecture((2, 3), 2, "mlp", (4,)).tied()
    embedding = torch.rand(5, 2)
    first, second = encoder[1].weight, encoder[3].weight
    expected = (embedding @ second + decoder[0].bias).relu() @ first + decoder[2].bias
    torch.testing.assert_close(decoder(embedding).flatten(1), expected)
    assert len({id(p) for p in (*encoder.parameters(), *decoder.parameters())}) == 6


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture((3, 2), 2, "mlp", (5, 4)),
        Architecture((7, 5), 3, "conv", (4, 6)),
        Architecture((9, 2), 3, "conv1d", (4, 6), "relu", windowed=True),
        Architecture((6,), 2, hidden=()),
    ],
)
def test_each_layer_is_paired_with_its_mirror(architecture: Architecture):
    encoder, decoder = architecture.encoder(), architecture.decoder()
    rows = hidden = torch.rand(2, *architecture.row_shape)
    found = pairs(encoder, decoder)
    assert len(found) == len(architecture.widths) + 1
    for up, down in found:
        assert down(up(hidden)).numel() == hidden.numel()
        hidden = up(hidden)
    torch.testing.assert_close(hidden, encoder(rows))
    for i, (_, down) in enumerate(reversed(found)):
        hidden = down(hidden) if i == len(found) - 1 else down(hidden).relu()
    torch.testing.assert_close(hidden, decoder(encoder(rows)))


def test_shallow_means_no_hidden_layer_unless_one_is_asked_for():
    assert Architecture((784,), 8).without_hidden_layers().widths == ()
    assert Architecture((784,), 8, "mlp", (32,)).without_hidden_layers().widths == (32,)
    assert Architecture((784,), 8, "mlp", ()).widths == ()
    assert Architecture((28, 28), 8, "conv").without_hidden_layers().widths == (32, 64)


def test_tables_are_standardised_per_column_and_clipped_at_ten_spreads():
    rows = torch.tensor([[1.0, 1e6], [3.0, 1e6 + 8], [5.0, 1e6 + 4]])
    scaling = Scaling.of(rows)
    scaled = scaling(rows)
    assert torch.allclose(scaled.mean(dim=0), torch.zeros(2), atol=1e-6)
    assert torch.allclose(scaled.std(dim=0, correction=0), torch.ones(2))
    assert torch.allclose(scaling.inverse(scaled), rows)
    assert scaling(torch.tensor([[1e9, -1e9]])).tolist() == [[10.0, -10.0]]


def test_images_share_one_range_and_are_clipped_one_range_beyond():
    rows = torch.tensor([[[0.0, 51.0], [102.0, 255.0]]])
    scaling = Scaling.of(rows)
    assert torch.allclose(scaling(rows), rows / 255)
    assert scaling(torch.tensor([[[-1e6, 1e6], [-255.0, 510.0]]])).flatten().tolist() == [-1.0, 2.0, -1.0, 2.0]


def test_a_column_that_only_the_training_rows_hold_constant_stays_finite():
    scaling = Scaling.of(torch.tensor([[1.0, 4.0], [2.0, 4.0]]))
    assert scaling(torch.tensor([[1.0, 5.0]])).tolist() == [[-1.0, 1.0]]


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=2, max_size=20))
def test_scaled_numbers_are_finite_and_bounded_whatever_the_column(values: list[float]):
    rows = torch.tensor(values)[:, None]
    scaled = Scaling.of(rows)(torch.cat([rows, torch.tensor([[3e38], [-3e38]])]))
    assert scaled.abs().max() <= 10
    assert scaled.isfinite().all()


@pytest.mark.parametrize(
    ("row_shape", "embedding_dim", "network", "widths"),
    [
        ((6,), 3, "mlp", (32,)),
        ((21,), 10, "mlp", (42,)),
        ((400,), 32, "mlp", (512,)),
        ((166,), 32, "mlp", (332,)),
        ((8, 8), 16, "mlp", (512, 256)),
        ((28, 28), 32, "conv", (32, 64)),
    ],
)
def test_networks_that_nobody_chose(
    row_shape: tuple[int, ...], embedding_dim: int, network: Literal["mlp", "conv"], widths: tuple[int, ...]
) -> None:
    assert Architecture(row_shape, embedding_dim, network).widths == widths
