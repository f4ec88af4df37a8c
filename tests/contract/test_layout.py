from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hourglass.contract import layout
from hourglass.contract.manifest import ENCODER, MODEL
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


def test_a_version_is_readable_by_other_users(tmp_path: Path) -> None:
    artefacts.publish(tmp_path, "m")
    assert (tmp_path / "m" / "1").stat().st_mode & 0o755 == 0o755


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
    "a dangling link": (_replace_by(lambda path: path.symlink_to("/nowhere")), "model.onnx is missing"),
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
