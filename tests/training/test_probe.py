"""Classifiers on embeddings, on data whose errors are known."""

from __future__ import annotations

import torch
from torch import Generator, nn

from training.probe import Labelled, Parts, Settings, fine_tune, linear_probe

QUICK = Settings(epochs=20, batch_size=32, learning_rate=0.02)


def blobs(rows: int, seed: int, noise: float = 0.3) -> Labelled:
    """Three classes around the corners of a triangle, in the plane."""
    generator = Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (rows,), generator=generator)
    corners = torch.tensor([[0.0, 2.0], [-2.0, -1.0], [2.0, -1.0]])
    return Labelled(corners[labels] + noise * torch.randn(rows, 2, generator=generator), labels)


def parts(noise: float = 0.3) -> Parts:
    return Parts(blobs(300, 0, noise), blobs(200, 1, noise), blobs(200, 2, noise))


def test_a_linear_probe_tells_apart_what_a_line_can():
    assert linear_probe(parts(), 0, [QUICK]).test < 0.01
    assert linear_probe(parts(noise=100.0), 0, [QUICK]).test > 0.4


def test_the_unit_of_the_features_does_not_matter():
    tiny = parts().mapped(lambda rows: 1e-4 * rows)
    assert linear_probe(tiny, 0, [QUICK]) == linear_probe(parts(), 0, [QUICK])


def test_fine_tuning_finds_what_a_linear_probe_cannot_and_leaves_the_encoder_alone():
    def ring(rows: int, seed: int) -> Labelled:
        points = torch.randn(rows, 2, generator=Generator().manual_seed(seed))
        return Labelled(points, (points.square().sum(dim=1) > 1.4).long())

    rings = Parts(ring(600, 0), ring(300, 1), ring(300, 2))
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(2, 32), nn.ReLU())
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert linear_probe(rings, 0, [QUICK]).test > 0.3
    assert fine_tune(encoder, rings, 0, [QUICK]).test < 0.1
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_validation_rows_choose_the_settings_and_test_rows_have_no_say():
    hopeless = Settings(epochs=1, batch_size=300, learning_rate=1e-9)
    given = parts()
    found = linear_probe(given, 0, [hopeless, QUICK])
    assert found.settings == QUICK
    shuffled = given._replace(test=Labelled(given.test.rows, given.test.labels.roll(1)))
    again = linear_probe(shuffled, 0, [hopeless, QUICK])
    assert (again.validation, again.settings) == (found.validation, found.settings)
    assert again.test > 0.4


def test_the_same_seed_gives_the_same_classifier():
    noisy = parts(noise=1.5)
    assert linear_probe(noisy, 3, [QUICK]) == linear_probe(noisy, 3, [QUICK])
