"""Where published models live: exported/<name>/<version>/, written whole or not at all, never changed afterwards."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from hourglass.contract.manifest import Manifest

MANIFEST = "manifest.json"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MAX_MANIFEST_BYTES = 64 * 2**20


class ArtefactError(Exception):
    """A folder is not a published model; the message names the rule that is broken."""


class Unreadable(ArtefactError):
    """A file cannot be opened or read: that says nothing of the version, and may pass."""


class Damaged(ArtefactError):
    """A file is not what was published, or missing: another copy may be whole."""


@dataclass(frozen=True)
class Artefact:
    """One published version: its manifest, and the verified bytes of the files that were asked for."""

    name: str
    version: int
    manifest: Manifest
    files: dict[str, bytes]


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def is_version(text: str) -> bool:
    return _VERSION.fullmatch(text) is not None


def check_name(name: str) -> str:
    """Returns the name. Raises ValueError when it is not [a-z][a-z0-9-]{0,62}."""
    if not is_name(name):
        raise ValueError(
            f"{name!r} is not a model name: a lower-case letter, then at most 62 lower-case letters, digits or '-'"
        )
    return name


def names(root: Path) -> list[str]:
    """The names under `root` that have a version, sorted. A folder without one is not a model, or not yet."""
    return sorted(entry.name for entry in root.iterdir() if is_name(entry.name) and versions(root, entry.name))


def versions(root: Path, name: str) -> list[int]:
    """The version numbers of a model, newest first; empty when there is none."""
    folder = root / check_name(name)
    if not folder.is_dir():
        return []
    return sorted((int(e.name) for e in folder.iterdir() if is_version(e.name)), reverse=True)


def publish(root: Path, name: str, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a folder nobody sees, then give it the next version number in one step.

    Returns exported/<name>/<version>. When `write` or the disk fails, nothing is left behind. Several publishers may
    race: each gets a number of its own.
    """
    parent = root / check_name(name)
    draft = _new_draft(parent)
    try:
        write(draft)
        sync(draft)
        published = _claim_version(draft, root, name)
        _fsync(parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        with contextlib.suppress(OSError):
            parent.rmdir()  # only when this was the first version
        raise
    return published


def _new_draft(parent: Path) -> Path:
    while True:
        draft = parent / f".draft-{secrets.token_hex(8)}"
        # Another publisher, who failed, may be removing the empty folder at this moment.
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            parent.mkdir(parents=True, exist_ok=True)
            draft.mkdir()  # with the permissions that the umask gives, unlike mkdtemp
            return draft
        if parent.exists() and not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(parent))


def _claim_version(draft: Path, root: Path, name: str) -> Path:
    version = max(versions(root, name), default=0) + 1
    while True:
        published = root / name / str(version)
        try:
            return draft.rename(published)  # fails on a folder that is not empty: somebody else's version
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            version += 1


def sync(folder: Path) -> None:
    """To the disk, before its name says that it is whole."""
    for file in folder.iterdir():
        _fsync(file)
    _fsync(folder)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(root: Path, name: str, version: int, files: tuple[str, ...] = ()) -> Artefact:
    """Read and verify a version: the manifest, every file's size and sha256. Keeps the bytes of `files`.

    The kept bytes are the hashed ones, so nothing can change in between. Raises ArtefactError.
    """
    folder = root / check_name(name) / str(version)
    _check_inside(root, folder / MANIFEST)
    manifest = read_manifest(folder)
    kept: dict[str, bytes] = {}
    for file, entry in manifest.files.items():
        _check_inside(root, folder / check_file(file))
        data = _read_file(folder, file, entry.bytes)
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise Damaged(f"{file}: its sha256 is not the manifest's")
        if file in files:
            kept[file] = data
    return Artefact(name, version, manifest, kept)


def _check_inside(root: Path, path: Path) -> None:
    """Links are followed, as in a ConfigMap's volume, but not to other folders of the machine. Raises ArtefactError."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise ArtefactError(f"{path.name} is a link that leads out of the folder of models: copy the file there")


def read_manifest(folder: Path) -> Manifest:
    """Of a version's folder, without looking at the files it names. Raises ArtefactError."""
    data = _read_regular(folder / MANIFEST, lambda size: size <= MAX_MANIFEST_BYTES, f"at most {MAX_MANIFEST_BYTES}")
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        kind = Damaged if first["type"] == "json_invalid" else ArtefactError
        raise kind(f"{MANIFEST}: {where + ': ' if where else ''}{first['msg']}") from None


def check_file(file: str) -> str:
    """Returns the name. Raises ArtefactError when it may be another folder's."""
    if not _FILE.fullmatch(file):
        raise ArtefactError(f"{MANIFEST}: {file!r} is not a file name")
    return file


def _read_file(folder: Path, file: str, size: int) -> bytes:
    return _read_regular(folder / file, lambda found: found == size, f"the manifest's {size}")


def _read_regular(path: Path, size_is_right: Callable[[int], bool], expected: str) -> bytes:
    try:
        # Not blocking: a pipe in a model's place must not hang the server.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ArtefactError(f"{path.name} is not a regular file")
            # Looked at before reading: what is claimed or found must not decide how much memory is taken.
            if not size_is_right(status.st_size):
                raise Damaged(f"{path.name} has {status.st_size} bytes, not {expected}")
            return stream.read()
    except FileNotFoundError:
        raise Damaged(f"{path.name} is missing: not a version, or still being copied") from None
    except OSError as error:
        raise Unreadable(f"{path.name} cannot be read: {error.strerror}") from None
