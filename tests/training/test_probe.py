"""Classifiers on embeddings, on data whose errors are known."""

from __future__ import annotations

import torch
from torch import Generator, nn

from training.probe import Labelled, Settings, fine_tune, linear_probe

QUICK = Settings(epochs=20, batch_size=32, learning_rate=0.02)


def blobs(rows: int, seed: int, noise: float = 0.3) -> Labelled:
    """Three classes around the corners of a triangle, in the plane."""
    generator = Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (rows,), generator=generator)
    corners = torch.tensor([[0.0, 2.0], [-2.0, -1.0], [2.0, -1.0]])
    return Labelled(corners[labels] + noise * torch.randn(rows, 2, generator=generator), labels)


def parts(noise: float = 0.3) -> tuple[Labelled, Labelled, Labelled]:
    """To learn from, to choose with, to test on."""
    return blobs(300, 0, noise), blobs(200, 1, noise), blobs(200, 2, noise)


def test_a_linear_probe_tells_apart_what_a_line_can():
    train, validation, test = parts()
    assert linear_probe(train, validation, 0, [QUICK]).error(test) < 0.01
    train, validation, test = parts(noise=100.0)
    assert linear_probe(train, validation, 0, [QUICK]).error(test) > 0.4


def test_the_unit_of_the_features_does_not_matter():
    train, validation, test = parts(noise=1.5)
    tiny = [part.mapped(lambda rows: 2**-14 * rows) for part in (train, validation, test)]
    found, found_tiny = linear_probe(train, validation, 0, [QUICK]), linear_probe(*tiny[:2], 0, [QUICK])
    assert found_tiny.validation == found.validation
    assert found_tiny.error(tiny[2]) == found.error(test)


def test_fine_tuning_finds_what_a_linear_probe_cannot_and_leaves_the_encoder_alone():
    def ring(rows: int, seed: int) -> Labelled:
        points = torch.randn(rows, 2, generator=Generator().manual_seed(seed))
        return Labelled(points, (points.square().sum(dim=1) > 1.4).long())

    train, validation, test = ring(600, 0), ring(300, 1), ring(300, 2)
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(2, 32), nn.ReLU())
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert linear_probe(train, validation, 0, [QUICK]).error(test) > 0.3
    assert fine_tune(encoder, train, validation, 0, [QUICK]).error(test) < 0.1
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_validation_rows_choose_the_settings_and_the_epoch():
    hopeless = Settings(epochs=1, batch_size=300, learning_rate=1e-9)
    train, validation, _ = parts()
    found = linear_probe(train, validation, 0, [hopeless, QUICK])
    assert found.settings == QUICK
    assert found.validation == found.error(validation)
    # Labels that contradict what is learned: the earliest epoch, not the last, has the fewest errors.
    contrary = Labelled(validation.rows, validation.labels.roll(1))
    assert linear_probe(train, contrary, 0, [QUICK]).validation <= found.error(contrary)


def test_the_same_seed_gives_the_same_classifier():
    train, validation, test = parts(noise=1.5)
    first, second = (linear_probe(train, validation, 3, [QUICK]) for _ in range(2))
    assert torch.equal(first.network[1].weight, second.network[1].weight)  # type: ignore[index]
    assert first.error(test) == second.error(test)
