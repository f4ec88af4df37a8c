from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hourglass.contract import layout
from hourglass.contract.manifest import ENCODER, MODEL, Array
from tests import artefacts


def test_what_was_published_is_what_is_read(tmp_path: Path) -> None:
    model = artefacts.Linear.random()
    assert artefacts.publish(tmp_path, "m", model) == 1
    artefact = layout.read(tmp_path, "m", 1, files=(ENCODER,))
    assert artefact.files == {ENCODER: (tmp_path / "m/1/encoder.onnx").read_bytes()}
    assert artefact.manifest == artefacts.manifest(model, model.graphs())
    golden = artefact.manifest.golden
    np.testing.assert_array_equal(
        golden.outputs["embedding"].unpack(), model.answers(golden.input.unpack())["embedding"].astype("f4")
    )


def test_versions_count_up_and_are_listed_newest_first(tmp_path: Path) -> None:
    for expected in range(1, 12):
        assert artefacts.publish(tmp_path, "m") == expected
    (tmp_path / "m" / "012").mkdir()
    (tmp_path / "m" / "draft").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "not-yet" / ".draft-1").mkdir(parents=True)
    assert layout.versions(tmp_path, "m") == list(range(11, 0, -1))
    assert layout.names(tmp_path) == ["m"]
    assert layout.versions(tmp_path, "other") == []


def _publish_some(root: Path, count: int) -> None:
    for _ in range(count):
        artefacts.publish(root, "m")


def test_racing_publishers_get_versions_of_their_own(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    publishers = [context.Process(target=_publish_some, args=(tmp_path, 10)) for _ in range(3)]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join()
        assert publisher.exitcode == 0
    assert layout.versions(tmp_path, "m") == list(range(30, 0, -1))
    assert {entry.name for entry in (tmp_path / "m").iterdir()} == {str(version) for version in range(1, 31)}


def test_a_failed_publication_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / MODEL).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        layout.publish(tmp_path, "m", fail)
    assert list(tmp_path.iterdir()) == []
    artefacts.publish(tmp_path, "m")
    with pytest.raises(OSError, match="No space left"):
        layout.publish(tmp_path, "m", fail)
    assert [entry.name for entry in (tmp_path / "m").iterdir()] == ["1"]


@pytest.mark.parametrize(("umask", "folder", "file"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600)])
def test_the_umask_says_who_may_read(tmp_path: Path, umask: int, folder: int, file: int) -> None:
    before = os.umask(umask)
    try:
        artefacts.publish(tmp_path, "m")
    finally:
        os.umask(before)
    for path in (tmp_path / "m", tmp_path / "m" / "1"):
        assert path.stat().st_mode & 0o777 == folder
    assert (tmp_path / "m" / "1" / MODEL).stat().st_mode & 0o777 == file


def test_failing_publishers_do_not_hurt_the_others(tmp_path: Path) -> None:
    def fail(_folder: Path) -> None:
        raise OSError(28, "No space left on device")

    def publish(number: int) -> object:
        try:
            return layout.publish(tmp_path, "m", fail if number % 3 else lambda folder: (folder / "x").touch())
        except OSError as error:
            return error.errno

    for _ in range(20):
        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(publish, range(24)))
        assert [outcome for number, outcome in enumerate(outcomes) if number % 3] == [28] * 16
        assert all(isinstance(outcome, Path) for outcome in outcomes[::3])
        shutil.rmtree(tmp_path / "m")


@pytest.mark.parametrize("name", ["", "M", "1a", "a_b", "a/b", "..", "a" * 64, "a\n", " a", "-a", "ä"])
def test_a_bad_name_is_refused_before_any_path_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a model name"):
        layout.publish(tmp_path, name, lambda folder: None)
    with pytest.raises(ValueError, match="not a model name"):
        layout.read(tmp_path, name, 1)
    assert list(tmp_path.iterdir()) == []


def _edit_manifest(change: Callable[[dict[str, object]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / layout.MANIFEST).read_text())
        change(content)
        (folder / layout.MANIFEST).write_text(json.dumps(content))

    return edit


def _append(file: str, data: bytes) -> Callable[[Path], None]:
    def append(folder: Path) -> None:
        with (folder / file).open("ab") as stream:
            stream.write(data)

    return append


def _flip_last_bit(folder: Path) -> None:
    data = bytearray((folder / MODEL).read_bytes())
    data[-1] ^= 1
    (folder / MODEL).write_bytes(data)


def _replace_by(make: Callable[[Path], None], file: str = MODEL) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        (folder / file).unlink()
        make(folder / file)

    return replace


BROKEN = {
    "no manifest": (lambda folder: (folder / layout.MANIFEST).unlink(), "manifest.json is missing"),
    "manifest is no JSON": (_append(layout.MANIFEST, b"}"), "manifest.json"),
    "manifest is huge": (
        lambda folder: os.truncate(folder / layout.MANIFEST, 10**12),
        "manifest.json has 1000000000000 bytes",
    ),
    "unknown field": (_edit_manifest(lambda m: m.update(surprise=1)), "surprise"),
    "newer schema": (_edit_manifest(lambda m: m.update(schema_version=2)), "schema_version"),
    "file outside": (
        _edit_manifest(lambda m: m["files"].update({"../x": {"sha256": "0" * 64, "bytes": 1}})),  # type: ignore[attr-defined]
        "not a file name",
    ),
    "other space id": (_edit_manifest(lambda m: m.update(embedding_space_id="0" * 16)), "embedding_space_id"),
    "columns of another number": (_edit_manifest(lambda m: m.update(columns=[])), "columns"),
    "no decoder": (lambda folder: (folder / "decoder.onnx").unlink(), "decoder.onnx is missing"),
    "graph longer": (_append(MODEL, b"x"), "model.onnx has"),
    "graph cut": (lambda folder: os.truncate(folder / MODEL, 100), "model.onnx has 100 bytes"),
    "one bit": (_flip_last_bit, "model.onnx: its sha256"),
    "a folder for a graph": (_replace_by(lambda path: path.mkdir()), "model.onnx cannot be read"),
    "a pipe for a graph": (_replace_by(lambda path: os.mkfifo(path)), "model.onnx is not a regular file"),
    "a dangling link": (_replace_by(lambda path: path.symlink_to("nowhere")), "model.onnx is missing"),
    "a name with a NUL": (
        _edit_manifest(lambda m: m["files"].update({"x\0y": {"sha256": "0" * 64, "bytes": 1}})),  # type: ignore[attr-defined]
        "not a file name",
    ),
    "a column twice": (
        _edit_manifest(lambda m: m.update(columns=[{"name": "a", "type": "numeric"}] * 4)),
        "a name comes twice",
    ),
    "golden rows of no shape": (
        _edit_manifest(lambda m: m["golden"]["input"].update(shape=[], base64="AAAAAA==")),  # type: ignore[index]
        "golden.input",
    ),
    "no golden rows": (
        _edit_manifest(lambda m: m["golden"]["input"].update(shape=[0, 4], base64="")),  # type: ignore[index]
        "golden.input: no rows",
    ),
    "a tolerance that proves nothing": (
        _edit_manifest(lambda m: m["golden"]["tolerance"]["float32"]["score"].update(atol=1e9)),  # type: ignore[index]
        "proves nothing",
    ),
    "an infinite tolerance": (
        _edit_manifest(lambda m: m["golden"]["tolerance"]["float32"]["score"].update(atol=float("inf"))),  # type: ignore[index]
        "atol",
    ),
    "golden answers that are no numbers": (
        _edit_manifest(
            lambda m: m["golden"]["outputs"].update(  # type: ignore[index]
                score=Array.pack(np.full(5, np.nan)).model_dump()
            )
        ),
        "golden.outputs.score: not finite",
    ),
    "a calibration of huge ranks": (
        _edit_manifest(lambda m: m["calibration"].update(rows=10**30, ranks=[*m["calibration"]["ranks"][:-1], 10**30])),  # type: ignore[index]
        "calibration",
    ),
    "a local time": (
        _edit_manifest(lambda m: m["provenance"].update(created="2026-01-01T00:00:00")),  # type: ignore[attr-defined]
        "provenance.created",
    ),
    "a pipe for the manifest": (
        _replace_by(lambda path: os.mkfifo(path), layout.MANIFEST),
        "manifest.json is not a regular file",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_version_is_refused_naming_the_rule(tmp_path: Path, kind: str) -> None:
    damage, message = BROKEN[kind]
    artefacts.publish(tmp_path, "m", damage=damage)
    with pytest.raises(layout.ArtefactError, match=message) as refused:
        layout.read(tmp_path, "m", 1, files=(MODEL,))
    assert str(tmp_path) not in str(refused.value)


@settings(deadline=None)  # disks take what they take
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), file=st.sampled_from([MODEL, ENCODER]))
def test_no_changed_bit_gets_through(
    tmp_path_factory: pytest.TempPathFactory, position: float, bit: int, file: str
) -> None:
    root = tmp_path_factory.mktemp("flip")

    def flip(folder: Path) -> None:
        data = bytearray((folder / file).read_bytes())
        data[int(position * len(data))] ^= 1 << bit
        (folder / file).write_bytes(data)

    artefacts.publish(root, "m", damage=flip)
    with pytest.raises(layout.ArtefactError, match="sha256"):
        layout.read(root, "m", 1)
