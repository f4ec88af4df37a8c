"""Models from elsewhere, an object store or a file server, mirrored into a local folder that is served as any other.

Only from the operator's URL, never from a request. A version is fetched into a hidden folder, every file's size and
sha256 compared with its manifest, and moved to its place in one step; what is served is read, verified and proven from
there as always. Of the remote only names are believed, and only those that a model and a version may have.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Container
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import structlog

from hourglass.contract import layout
from service.scanning import Version
from service.start import StartError

log = structlog.get_logger(__name__)

_URL = re.compile(r"[a-z][a-z0-9+.:-]*://")
_CONNECT_SECONDS, _READ_SECONDS = 10, 30
# Before a version that failed is fetched again: doubled from one to the other.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 300.0
# A file may take so long, and so much longer as it has bytes: a remote that drips never lets a read time out.
_FILE_SECONDS, _SLOWEST_BYTES_PER_SECOND = 60, 100_000
_LEFTOVER_SECONDS = _UNWANTED_SECONDS = 3600.0
_HIDDEN = ".draft-"


def is_url(text: str) -> bool:
    return _URL.match(text) is not None


def check(url: str) -> None:
    """Raises ValueError where a URL is no place to take models from."""
    scheme, _, rest = url.partition("://")
    if scheme == "http":
        raise ValueError("http:// can be changed on its way: use https://")
    if "::" in url:
        raise ValueError("URLs are not chained")
    if "@" in rest.partition("/")[0]:
        raise ValueError("no credentials in the URL: the storage's own environment or files hold them")


class _Stopped(Exception):
    """The process is about to end."""


class Mirror:
    """Used from one thread at a time. Several processes may share the folder."""

    def __init__(
        self, url: str, folder: Path, failed: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """failed: told the model whenever another version cannot be fetched. Raises StartError."""
        self._url = url
        self._folder = folder
        self._tell_failed = failed
        self._clock = clock
        self._files, self._root = _open(url)
        self._retries: dict[Version, tuple[float, float]] = {}  # when, and the pause after that
        self._problems: dict[str, str] = {}
        self._unwanted: dict[Version, float] = {}  # since when
        self._stop = threading.Event()
        # Why versions cannot be fetched, and why something of the remote cannot be listed; empty when all can.
        self.failed: dict[Version, str] = {}
        self.unreachable = ""
        # Versions here that turned out to be damaged: they stay until they were fetched again.
        self.distrusted: set[Version] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _clear_leftovers(folder)
        except OSError as error:
            raise StartError(f"--cache {folder}: {error.strerror}") from None

    def refresh(self, newest: int | None, refused: Container[Version], wanted: Container[str] | None = None) -> None:
        """Fetch the newest versions of each model, or each wanted one, until there are `newest` that were not refused,
        and let go of those that the remote has no more. What cannot be listed stays as it is."""
        found, problems = self._list(wanted)
        for name in problems.keys() - self._problems.keys():
            log.error(
                "the remote models cannot be listed: what was fetched is served on", model=name, why=problems[name]
            )
        self._problems = problems
        self.unreachable = next(iter(problems.values()), "")
        if not found:
            return
        self.failed = {one: why for one, why in self.failed.items() if one.number in (found.get(one.model) or ())}
        for name, numbers in found.items():
            good = 0
            for number in numbers or ():
                if good == newest:
                    break
                version = Version(name, number)
                good += self._has(version) and version not in refused
        for version in self._cached():
            numbers = found.get(version.model, [])
            if numbers is not None and version.number not in numbers:
                self._remove(version)

    def stop(self) -> None:
        """From any thread: nothing more is fetched."""
        self._stop.set()

    def prune(self, keep: Container[Version]) -> None:
        """Forget all other versions, once they have been unwanted for an hour: until then another process that shares
        the folder, and is not as far, may serve them."""
        now = self._clock()
        self._unwanted = {one: self._unwanted.get(one, now) for one in self._cached() if one not in keep}
        for version, since in self._unwanted.items():
            if now - since >= _UNWANTED_SECONDS:
                self._remove(version)

    def _list(self, wanted: Container[str] | None) -> tuple[dict[str, list[int] | None], dict[str, str]]:
        """Of each model the versions, newest first; None where they are not wanted or cannot be listed. And what cannot
        be listed, why: a model, or "" for all of them, which then are not there: that is more likely a mistake than
        meant."""
        found: dict[str, list[int] | None] = {}
        problems: dict[str, str] = {}
        try:
            self._files.invalidate_cache()
            names = sorted(filter(layout.is_name, self._names(self._root)))
        except Exception as error:  # every storage has exceptions of its own
            return {}, {"": _say(error)}
        for name in names:
            found[name] = None
            if wanted is None or name in wanted:
                try:
                    numbers = map(int, filter(layout.is_version, self._names(f"{self._root}/{name}")))
                    found[name] = sorted(numbers, reverse=True)
                except Exception as error:
                    problems[name] = _say(error)
        if all(numbers == [] for numbers in found.values()):
            return {}, {"": "FileNotFoundError: there are no models"}
        return found, problems

    def _names(self, folder: str) -> Collection[str]:
        return {str(path).rstrip("/").rpartition("/")[2] for path in self._files.ls(folder, detail=False)}

    def _has(self, version: Version) -> bool:
        """Whether it is here, having tried to fetch it unless that failed lately."""
        if self._place(version).exists() and version not in self.distrusted:
            self.failed.pop(version, None)  # another process may have been luckier
            return True
        after, pause = self._retries.get(version, (0.0, _SHORTEST_PAUSE))
        if self._clock() < after:
            return False
        try:
            self._fetch(version)
        except _Stopped:
            return False
        except Exception as error:
            self._fail(version, error)
            return False
        finally:
            self._retries[version] = self._clock() + pause, min(2 * pause, _LONGEST_PAUSE)
        self.failed.pop(version, None)
        if version in self.distrusted:  # if it is damaged again, the disk is: the pauses go on
            self.distrusted.discard(version)
        else:
            del self._retries[version]
        return True

    def _fail(self, version: Version, error: Exception) -> None:
        known = isinstance(error, layout.ArtefactError)
        # What a storage says may name places.
        reason = str(error) if known else f"it cannot be fetched: {type(error).__name__}; the log says more"
        if self.failed.get(version) != reason:
            self._tell_failed(version.model)
            why = reason if known else _say(error)
            log.error("model cannot be fetched", model=version.model, version=version.number, why=why)
        self.failed[version] = reason

    def _fetch(self, version: Version) -> None:
        began = time.perf_counter()
        place = self._place(version)
        place.parent.mkdir(exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=place.parent))
        try:
            remote = f"{self._root}/{version.model}/{version.number}"
            self._download(f"{remote}/{layout.MANIFEST}", draft / layout.MANIFEST, layout.MAX_MANIFEST_BYTES)
            manifest = layout.read_manifest(draft)
            for file, entry in manifest.files.items():
                if self._download(f"{remote}/{file}", draft / layout.check_file(file), entry.bytes) != entry.sha256:
                    raise layout.Damaged(f"{file}: its sha256 is not the manifest's, or not yet")
            draft.chmod(0o755)
            layout.sync(draft)
            if version in self.distrusted:
                self._remove(version)
            try:
                draft.rename(place)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # of another process that was faster
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        seconds = round(time.perf_counter() - began, 3)
        log.info("model fetched", model=version.model, version=version.number, seconds=seconds)

    def _download(self, remote: str, local: Path, most: int) -> str:
        """Returns the sha256. Raises ArtefactError where there is nothing, or more than so many bytes."""
        from fsspec.callbacks import Callback

        last = self._clock() + _FILE_SECONDS + most / _SLOWEST_BYTES_PER_SECOND

        def look_up(_size: int | None, fetched: int, **_: object) -> None:
            if self._stop.is_set():
                raise _Stopped
            if fetched > most:
                raise layout.Damaged(f"{local.name} has more than {most} bytes")
            if self._clock() > last:
                raise TimeoutError(f"{local.name} comes too slowly")

        look_up(None, 0)
        try:
            self._files.get_file(remote, str(local), callback=Callback(hooks={"look up": look_up}))
        except FileNotFoundError:
            raise layout.Damaged(f"{local.name} is missing: not a version, or still being copied") from None
        with local.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _cached(self) -> list[Version]:
        return [
            Version(name, number)
            for name in layout.names(self._folder)
            for number in layout.versions(self._folder, name)
        ]

    def _place(self, version: Version) -> Path:
        return self._folder / version.model / str(version.number)

    def _remove(self, version: Version) -> None:
        """In one step for whoever looks."""
        place = self._place(version)
        hidden = place.with_name(f"{_HIDDEN}{version.number}-{time.monotonic_ns()}")
        try:
            place.rename(hidden)
        except OSError:  # another process has
            return
        shutil.rmtree(hidden, ignore_errors=True)


def _open(url: str) -> tuple[Any, str]:
    """The storage, and the place in it. Raises StartError."""
    scheme = url.partition("://")[0]
    try:
        from fsspec.core import url_to_fs

        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if scheme == "https":
            import aiohttp

            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
            trace = aiohttp.TraceConfig()
            trace.on_request_redirect.append(_check_redirect)
            options["client_kwargs"] = {"timeout": timeout, "trace_configs": [trace]}
        files, root = url_to_fs(url, **options)
    except ImportError as error:
        extra = {"s3": "remote-s3", "gs": "remote-gcs", "gcs": "remote-gcs"}.get(scheme, "remote")
        raise StartError(f"--exported {scheme}://: {error}: run `pip install 'hourglass-serving[{extra}]'`") from None
    except ValueError as error:
        raise StartError(f"--exported: {error}") from None
    return files, str(root).rstrip("/")


async def _check_redirect(_session: object, _context: object, redirect: Any) -> None:
    """File servers redirect to a folder's name with a slash; elsewhere is the operator's to say."""
    location = redirect.response.headers.get("Location") or redirect.response.headers.get("URI", "")
    there = urljoin(str(redirect.url), location)
    if urlsplit(there)[:2] != urlsplit(str(redirect.url))[:2]:
        raise PermissionError("it redirects to another place: give that one's URL")


def _clear_leftovers(folder: Path) -> None:
    """Of a process that was killed while it fetched."""
    for draft in folder.glob(f"*/{_HIDDEN}*"):
        with contextlib.suppress(FileNotFoundError):  # another process clears them, too
            if time.time() - draft.stat().st_mtime > _LEFTOVER_SECONDS:
                shutil.rmtree(draft, ignore_errors=True)


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
