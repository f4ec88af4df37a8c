"""Which versions are live: what the folder of models holds now, decided anew at each look.

A version that is refused is tried again when its files change, and else ever more seldom: memory or threads may have
been missing, or its files replaced by ones that look the same. It is listed, and never disturbs what is served.
Everything here but the look itself happens on the event loop, one change at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from hourglass.contract import layout
from service import scanning
from service.engine import LiveModel
from service.errors import ModelNotFound, NotLoaded, ServiceError, Unsupported
from service.index import Listed, State
from service.loading import Loader
from service.memory import give_back
from service.metrics import Metrics
from service.remote import Mirror
from service.scanning import Found, Signature, Version
from service.start import StartError

log = structlog.get_logger(__name__)

# A file that changed so lately may change again without a trace: some file systems count whole seconds.
_FRESH_SECONDS = 2.0
# Before a version whose files stay as they are is tried again: doubled from one to the other.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0
_NO_NUMBER = "not a version: these are 1, 2, 3, ... without a sign or leading zeros"


@dataclass(frozen=True)
class _Refusal:
    """signature: None where the files are to be tried at the next look. after: when they are in any case, and pause:
    how long that was."""

    signature: Signature | None
    reason: str
    after: float
    pause: float


class Repository:
    """The live versions of a folder of models. `show` is given all of them whenever they change."""

    def __init__(
        self,
        root: Path,
        newest: int | None,
        loader: Loader,
        metrics: Metrics,
        show: Callable[[Sequence[LiveModel]], None],
        *,
        explicit: bool = False,
        mirror: Mirror | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """newest: so many versions of each model are served; None: all. explicit: only models that `load` named.
        mirror: brings the versions of elsewhere to `root`."""
        self._root = root
        self._newest = newest
        self._loader = loader
        self._metrics = metrics
        self._show = show
        self._mirror = mirror
        self._clock = clock
        self._asked: set[str] | None = set() if explicit else None
        self._loop = asyncio.get_running_loop()
        self._one_at_a_time = asyncio.Lock()
        self._fetching = asyncio.Lock()  # by itself: what is here comes and goes meanwhile
        self._coming: list[str] = []  # asked for and not loaded yet
        self._live: dict[Version, LiveModel] = {}
        self._numbers: defaultdict[str, set[int]] = defaultdict(set)  # of the live ones
        self._signatures: dict[Version, Signature] = {}  # of the live ones
        self._refused: dict[Version, _Refusal] = {}
        self._found: dict[str, Found | None] = {}  # at the last look
        self._loading: Version | None = None
        self._draining: Counter[Version] = Counter()
        self._unreadable = ""
        self._has_started = False
        self._is_shown = True
        self._changes: set[asyncio.Task[None]] = set()  # that callers asked for
        self._closing: set[asyncio.Task[None]] = set()

    async def start(self, *, allow_empty: bool) -> None:
        """Load what is there, and show it at once. Unless that may be nothing, raises StartError when a model has no
        version that can be served, or there is no model."""
        await self._fetch()
        try:
            found = await self._look()
        except OSError as error:
            if not allow_empty:
                raise StartError(f"--exported {error.filename or self._root}: {error.strerror}") from None
            self._say_unreadable(error.strerror or str(error))
            found = {}
        for name in self._wanted(found):
            await self._update(name, found.get(name))
            if self._mirror and any(version.model == name for version in self._mirror.distrusted):
                await self._fetch()  # again
                found = await self._look()
                await self._update(name, found.get(name))
            if not allow_empty and not self._served(name):
                raise StartError(f"--exported {self._root}: no version of {name!r} can be served; the log says why")
        self._found = found
        self._has_started = True
        self._publish()
        if not self._live and not allow_empty and self._asked is None:
            if self._mirror and self._mirror.unreachable:
                raise StartError(f"--exported: {self._mirror.unreachable}")
            if self._is_one_model():
                raise StartError(f"--exported {self._root}: this is one model: give the folder it is in")
            raise StartError(f"--exported {self._root}: holds no models; publish one with `hourglass-train fit`")
        if not self._live:
            log.warning("no models yet: waiting for the first")

    async def follow(self, seconds: float) -> None:
        """Look every so many seconds, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.poll()
            except Exception:  # whatever it is, what is live goes on, and the next look may succeed
                log.exception("the folder of models could not be followed")

    async def poll(self) -> None:
        """Look once, and load and unload accordingly."""
        await self._fetch()
        async with self._one_at_a_time:
            if self._draining:
                # Calls that failed hold their model in cycles, which the collector would find some day.
                gc.collect()
            try:
                found = await self._look()
            except OSError as error:
                self._say_unreadable(error.strerror or str(error))
                return
            self._unreadable = ""
            for name in self._changed(found):
                await self._update(name, found[name])
                if not self._is_shown:
                    self._publish()
                    await asyncio.to_thread(give_back)
            for name in {version.model for version in (*self._live, *self._refused)} - found.keys():
                self._drop(name)
                self._numbers.pop(name, None)
                self._metrics.model_gone(name)
            self._found = found
            self._publish()
        if self._mirror:
            async with self._fetching:
                await asyncio.to_thread(self._mirror.prune, {*self._live, *self._refused})

    async def load(self, name: str) -> None:
        """Load the model as it is in the folder now; from now on it is followed. Raises ModelNotFound where there is
        none, NotLoaded where no version can be served, Unsupported where models come and go by themselves."""
        await self._whole(self._load(name, self._asked_by_name()))

    async def _load(self, name: str, asked: set[str]) -> None:
        self._coming.append(name)
        try:
            await self._fetch()
            async with self._one_at_a_time:
                try:
                    found = await self._look()
                except OSError:
                    raise NotLoaded("the folder of models cannot be read") from None
                if name not in found:
                    raise ModelNotFound(f"there is no model {name[:64]!r} in the folder of models", field="model")
                for version in [version for version in self._refused if version.model == name]:
                    del self._refused[version]
                await self._update(name, found[name])
                self._found[name] = found[name]
                self._publish()
                if not self._served(name):
                    whys = [f"version {one.version}: {one.reason}" for one in self.index() if one.name == name]
                    raise NotLoaded(f"no version of {name!r} can be served: {'; '.join(whys[:3])}"[:500])
                asked.add(name)
        finally:
            self._coming.remove(name)

    async def unload(self, name: str) -> None:
        """No more calls to this model; those begun are finished. Raises ModelNotFound, Unsupported."""
        await self._whole(self._unload(name, self._asked_by_name()))

    async def _unload(self, name: str, asked: set[str]) -> None:
        async with self._one_at_a_time:
            if not self._served(name):
                raise ModelNotFound(f"{name[:64]!r} is not loaded", field="model")
            asked.discard(name)
            self._drop(name)
            self._found.pop(name, None)
            self._publish()

    def index(self) -> Sequence[Listed]:
        """Every version that is live, on its way in or out, or refused, by name, newest first."""
        states: dict[tuple[str, str], Listed] = {}

        def say(model: str, version: str, state: State, reason: str = "") -> None:
            states[model, version] = Listed(model, version, state, reason)

        for model, one in self._found.items():
            for name in one.no_versions if one else ():
                say(model, name, "UNAVAILABLE", _NO_NUMBER)
        for version, reason in self._reasons().items():
            say(version.model, str(version.number), "UNAVAILABLE", reason)
        for version in self._draining:
            say(version.model, str(version.number), "UNLOADING")
        if self._loading:
            say(self._loading.model, str(self._loading.number), "LOADING")
        for version in self._live:
            say(version.model, str(version.number), "READY", self._reasons().get(version, ""))
        return sorted(states.values(), key=lambda one: (one.name, -int(one.version)))

    def stop_fetching(self) -> None:
        """What is under way is given up at its next piece: a thread would keep the process from ending."""
        if self._mirror:
            self._mirror.stop()

    async def close(self) -> None:
        """When no more calls come."""
        for change in self._changes:
            change.cancel()
        await asyncio.gather(*self._changes, return_exceptions=True)
        for version in list(self._live):
            await self._live.pop(version).closer()()
        await asyncio.gather(*self._closing)

    async def _whole(self, change: Coroutine[None, None, None]) -> None:
        """To its end, though the caller leaves: half of it would be versions that are served and never followed."""
        task = self._loop.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)

    def _asked_by_name(self) -> set[str]:
        if self._asked is None:
            raise Unsupported(
                "models are loaded and unloaded as they come and go in the folder: the server's --model-control is "
                "not explicit",
                reason="MODEL_CONTROL",
            )
        return self._asked

    async def _fetch(self) -> None:
        """Bring what is wanted of elsewhere."""
        if self._mirror is None:
            return
        async with self._fetching:
            before = self._mirror.failed
            wanted = None if self._asked is None else {*self._asked, *self._coming}
            await asyncio.to_thread(self._mirror.refresh, self._newest, frozenset(self._refused), wanted)
            self._is_shown &= before == self._mirror.failed

    async def _look(self) -> dict[str, Found | None]:
        """Raises OSError where the folder cannot be read, or is empty and was not: more likely not mounted than
        meant."""
        began = time.perf_counter()
        found = await asyncio.to_thread(scanning.scan, self._root, self._newest, frozenset(self._refused))
        if self._live and not found:
            raise OSError("it is empty")
        self._metrics.scanned(time.perf_counter() - began)
        self._metrics.unreadable(bool(self._mirror and self._mirror.unreachable))
        return found

    def _wanted(self, found: dict[str, Found | None]) -> list[str]:
        return [name for name in found if self._asked is None or name in self._asked]

    def _changed(self, found: dict[str, Found | None]) -> list[str]:
        """Of most models nothing is new: what a look costs the event loop is one comparison for each."""
        now = self._clock()
        again = {version.model for version, one in self._refused.items() if one.signature is None or one.after <= now}
        return [name for name in self._wanted(found) if name in again or found[name] != self._found.get(name)]

    async def _update(self, name: str, one: Found | None) -> None:
        """Load what is new of a model, and let go of what is too old or no longer there."""
        if one is None:  # its folder cannot be read just now
            return
        good = 0
        for number in one.numbers:
            if good == self._newest:
                break
            signature = one.signatures.get(number)
            if signature is None:  # newer ones have just been refused
                signature = await asyncio.to_thread(scanning.signature, self._root, name, number)
            good += await self._settle(Version(name, number), signature)
        there = [version for version in self._served(name) if version.number in one.numbers]
        for version in set(self._served(name)) - set(there[: self._newest]):
            self._retire(version)
        for version in [version for version in self._refused if version.model == name]:
            if version.number not in one.numbers:
                del self._refused[version]
                self._is_shown = False

    async def _settle(self, version: Version, signature: Signature) -> bool:
        """Whether it is live, having tried to load it unless that was tried with these files, and lately."""
        refusal = self._refused.get(version)
        is_live = version in self._live
        tried = self._signatures.get(version) if refusal is None else refusal.signature
        if tried == signature and (refusal is None or self._clock() < refusal.after):
            return is_live
        if is_live and refusal is None:
            log.warning(
                "a published version was changed: it is loaded anew", model=version.model, version=version.number
            )
        self._loading = version
        try:
            model = await self._loader.load(*version, gently=self._has_started)
        except Exception as error:  # a model is data: whatever it makes libraries do, others go on
            if isinstance(error, StartError) and not self._has_started:
                raise
            self._refuse(version, signature, error)
            return is_live
        finally:
            self._loading = None
        if is_live:
            self._retire(version)
        self._live[version] = model
        self._numbers[version.model].add(version.number)
        self._signatures[version] = signature
        self._refused.pop(version, None)
        self._is_shown = False
        return True

    def _refuse(self, version: Version, signature: Signature, error: Exception) -> None:
        may_change = isinstance(error, layout.Unreadable) or _is_fresh(signature)
        kind = type(error).__name__
        # What other libraries say may name paths.
        reason = str(error) if isinstance(error, layout.ArtefactError | ServiceError) else f"{kind}; the log says more"
        if self._mirror and isinstance(error, layout.Damaged):
            self._mirror.distrusted.add(version)
        before = self._refused.get(version)
        pause = _SHORTEST_PAUSE
        if before and before.signature == signature:
            pause = min(2 * before.pause, _LONGEST_PAUSE)
        self._refused[version] = _Refusal(None if may_change else signature, reason, self._clock() + pause, pause)
        self._is_shown = False
        if before is None or before.reason != reason:
            self._metrics.load_failed(version.model)
            why = str(error) if isinstance(error, layout.ArtefactError) else f"{kind}: {error}"
            log.error("model refused", model=version.model, version=version.number, why=why)

    def _served(self, name: str) -> list[Version]:
        """Newest first."""
        return [Version(name, number) for number in sorted(self._numbers.get(name, ()), reverse=True)]

    def _drop(self, name: str) -> None:
        for version in self._served(name):
            self._retire(version)
        for version in [version for version in self._refused if version.model == name]:
            del self._refused[version]
            self._is_shown = False

    def _retire(self, version: Version) -> None:
        """It leaves the snapshot now, and memory when the last call that holds it is answered."""
        model = self._live.pop(version)
        self._numbers[version.model].discard(version.number)
        del self._signatures[version]
        self._draining[version] += 1
        self._is_shown = False
        model.on_release(partial(self._release, version, model.closer()))

    def _release(self, version: Version, close: Callable[[], Awaitable[None]]) -> None:
        """On whatever thread let go of it last."""

        def begin() -> None:
            task = self._loop.create_task(self._end(version, close))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

        with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
            self._loop.call_soon_threadsafe(begin)

    async def _end(self, version: Version, close: Callable[[], Awaitable[None]]) -> None:
        await close()
        del close  # and with it the sessions
        await asyncio.to_thread(give_back)
        self._draining[version] -= 1
        if not self._draining[version]:
            del self._draining[version]
            if version not in self._live:
                self._metrics.model_unloaded(*version)
        log.info("model unloaded", model=version.model, version=version.number)

    def _publish(self) -> None:
        if self._is_shown:
            return
        self._show(list(self._live.values()))
        self._metrics.refused(Counter(version.model for version in self._reasons()))
        self._is_shown = True

    def _say_unreadable(self, why: str) -> None:
        self._metrics.unreadable(True)
        if why != self._unreadable:
            log.error("the folder of models cannot be read: what is loaded is served on", why=why)
        self._unreadable = why

    def _reasons(self) -> dict[Version, str]:
        """Of what cannot be served."""
        fetched = self._mirror.failed if self._mirror else {}
        return {**fetched, **{version: refusal.reason for version, refusal in self._refused.items()}}

    def _is_one_model(self) -> bool:
        try:
            return bool(layout.versions(self._root.parent, self._root.name))
        except (ValueError, OSError):
            return False


def _is_fresh(signature: Signature) -> bool:
    changed = max((nanoseconds for _, _, nanoseconds, _ in signature), default=0) / 1e9
    return abs(time.time() - changed) < _FRESH_SECONDS
