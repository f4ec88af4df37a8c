"""The instruments: what they say of a server that is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.serving import load, page
from benchmarks.serving.measuring import Case, Ratio, ratio, turns
from benchmarks.serving.systems import python_echo


@pytest.fixture
def python_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "compiled", lambda _name: None)


@pytest.mark.usefixtures("python_generator")
@pytest.mark.parametrize("how", [{"concurrency": 4}, {"rate": 200.0}])
def test_the_generator_in_python_counts_calls(how: dict[str, float]) -> None:
    with python_echo(17) as echo:
        measured = load.grpc_load(echo.address, "/any/Method", [b"x", b"y"], seconds=0.5, channels=2, **how)
    assert measured.answer_bytes == 17
    assert measured.all_calls >= measured.calls_per_second * 0.5
    assert 0 < measured.p50 <= measured.p99
    if "rate" in how:
        assert 100 < measured.calls_per_second < 300


@pytest.mark.usefixtures("python_generator")
def test_a_failed_call_is_no_measurement() -> None:
    from tests.hourglass import fake

    with fake.serving(fake.Fake()) as server, pytest.raises(RuntimeError, match="calls failed"):
        load.grpc_load(server.address, "/hourglass.v1.Autoencoder/Score", [b""], seconds=0.2)


def test_contenders_take_turns_and_ratios_are_those_of_each_turn() -> None:
    order: list[str] = []

    def contender(name: str, *values: float):
        return lambda turn: (order.append(name), values[turn])[1]

    case = turns("t", "calls/s", {"a": contender("a", 2, 6, 9), "b": contender("b", 1, 2, 3)}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    found = ratio(case, "a", "b", 3.0)
    assert (found.values, found.median, found.met) == ((2.0, 3.0, 3.0), 3.0, True)
    assert Ratio("t", "a", "b", (1.2,), 1.1, at_most=True).met is False


def test_the_page_has_its_tables_from_the_results(tmp_path: Path) -> None:
    case = Case("Score", "calls/s", {"a": [1.0, 3.0], "b": [2.0, 2.0]}, (Ratio("Score", "a", "b", (0.5, 1.5), 0.8),))
    about = {"machine": "m", "cores": 2, "python": "3", "versions": {}, "commit": "c", "date": "d", "generator": "g"}
    results, written = tmp_path / "results.json", tmp_path / "page.md"
    results.write_text(json.dumps({"limits": {**about, "configurations": {}, "cases": [case.record()]}}))
    marks = [f"<!-- limits-{name} -->\nold\n<!-- /limits-{name} -->" for name in ("machine", "bars", "numbers")]
    written.write_text("words\n" + "\n".join(marks) + "\nmore words\n")
    page.write(results, written)
    text = written.read_text()
    assert "old" not in text
    assert text.startswith("words\n")
    assert text.endswith("more words\n")
    assert "| Score: a over b | 1.00 (0.50 – 1.50) | ≥ 0.8 | reached |" in text
    written.write_text("no marks")
    with pytest.raises(ValueError, match="no place"):
        page.write(results, written)
