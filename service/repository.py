"""Which versions are live: what the folder of models holds now, decided anew at each look.

A version that is refused is listed and tried again, and never disturbs what is served. Everything here but the look
itself happens on the event loop, one change at a time.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

import structlog

from hourglass.contract import layout
from service import scanning
from service.engine import LiveModel
from service.errors import ModelNotFound, NotLoaded, ServiceError, Unsupported
from service.index import Listed, listed
from service.live import LiveVersions
from service.loading import Loader
from service.memory import give_back
from service.metrics import Metrics
from service.refusals import Refusals
from service.remote import Mirror
from service.scanning import Found, Signature, Version
from service.start import StartError

log = structlog.get_logger(__name__)


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
        self._asked: set[str] | None = set() if explicit else None
        self._loop = asyncio.get_running_loop()
        self._one_at_a_time = asyncio.Lock()
        self._fetching = asyncio.Lock()  # by itself: what is here comes and goes meanwhile
        self._coming: list[str] = []  # asked for and not loaded yet
        self._live = LiveVersions(self._ended)
        self._refused = Refusals(clock)
        self._found: dict[str, Found | None] = {}  # at the last look
        self._loading: Version | None = None
        self._unreadable = ""
        self._has_started = False
        self._is_shown = True
        self._changes: set[asyncio.Task[None]] = set()  # that callers asked for

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
            if not allow_empty and not self._live.of(name):
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
            if self._live.draining:
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
            for name in {version.model for version in self._known} - found.keys():
                self._drop(name)
                self._metrics.model_gone(name)
            self._found = found
            self._publish()
        if self._mirror:
            async with self._fetching:
                await asyncio.to_thread(self._mirror.prune, self._known)

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
                self._refused.forget_model(name)
                await self._update(name, found[name])
                self._found[name] = found[name]
                self._publish()
                if not self._live.of(name):
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
            if not self._live.of(name):
                raise ModelNotFound(f"{name[:64]!r} is not loaded", field="model")
            asked.discard(name)
            self._drop(name)
            self._found.pop(name, None)
            self._publish()

    def index(self) -> Sequence[Listed]:
        """Every version that is live, on its way in or out, or refused, by name, newest first."""
        return listed(self._found, self._reasons(), self._live.draining, self._loading, self._live.versions)

    def stop_fetching(self) -> None:
        """What is under way is given up at its next piece: a thread would keep the process from ending."""
        if self._mirror:
            self._mirror.stop()

    async def close(self) -> None:
        """When no more calls come."""
        for change in self._changes:
            change.cancel()
        await asyncio.gather(*self._changes, return_exceptions=True)
        await self._live.close()

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
            await asyncio.to_thread(self._mirror.refresh, self._newest, self._refused.versions, wanted)
            self._is_shown &= before == self._mirror.failed

    async def _look(self) -> dict[str, Found | None]:
        """Raises OSError where the folder cannot be read, or is empty and was not: more likely not mounted than
        meant."""
        began = time.perf_counter()
        found = await asyncio.to_thread(scanning.scan, self._root, self._newest, self._refused.versions)
        if self._live and not found:
            raise OSError("it is empty")
        self._metrics.scanned(time.perf_counter() - began)
        self._metrics.unreadable(bool(self._mirror and self._mirror.unreachable))
        return found

    def _wanted(self, found: dict[str, Found | None]) -> list[str]:
        return [name for name in found if self._asked is None or name in self._asked]

    def _changed(self, found: dict[str, Found | None]) -> list[str]:
        """Of most models nothing is new: what a look costs the event loop is one comparison for each."""
        again = self._refused.due()
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
        there = [version for version in self._live.of(name) if version.number in one.numbers]
        for version in set(self._live.of(name)) - set(there[: self._newest]):
            self._live.retire(version)
            self._is_shown = False
        if self._refused.forget_model(name, but=one.numbers):
            self._is_shown = False

    async def _settle(self, version: Version, signature: Signature) -> bool:
        """Whether it is live, having tried to load it unless that was tried with these files, and lately."""
        is_live, is_refused = version in self._live, version in self._refused
        if self._refused.stands(version, signature) if is_refused else self._live.signature(version) == signature:
            return is_live
        if is_live and not is_refused:
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
        self._live.put(version, model, signature)
        self._refused.forget(version)
        self._is_shown = False
        return True

    def _refuse(self, version: Version, signature: Signature, error: Exception) -> None:
        kind = type(error).__name__
        # What other libraries say may name paths.
        reason = str(error) if isinstance(error, layout.ArtefactError | ServiceError) else f"{kind}; the log says more"
        if self._mirror and isinstance(error, layout.Damaged):
            self._mirror.distrusted.add(version)
        self._is_shown = False
        if self._refused.add(version, signature, reason, may_change=isinstance(error, layout.Unreadable)):
            self._metrics.load_failed(version.model)
            why = str(error) if isinstance(error, layout.ArtefactError) else f"{kind}: {error}"
            log.error("model refused", model=version.model, version=version.number, why=why)

    def _drop(self, name: str) -> None:
        for version in self._live.of(name):
            self._live.retire(version)
        self._refused.forget_model(name)
        self._is_shown = False

    def _ended(self, version: Version) -> None:
        if version not in self._live and version not in self._live.draining:
            self._metrics.model_unloaded(*version)
        log.info("model unloaded", model=version.model, version=version.number)

    @property
    def _known(self) -> set[Version]:
        return self._live.versions | self._refused.versions

    def _publish(self) -> None:
        if self._is_shown:
            return
        self._show(self._live.models)
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
        return {**fetched, **self._refused.reasons}

    def _is_one_model(self) -> bool:
        try:
            return bool(layout.versions(self._root.parent, self._root.name))
        except (ValueError, OSError):
            return False
