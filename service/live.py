"""The versions that are served, and those that have left and still answer their last calls."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from functools import partial

from service.engine import LiveModel
from service.memory import give_back
from service.scanning import Signature, Version


class LiveVersions:
    """Needs a running event loop, on which everything but the release of a version happens."""

    def __init__(self, ended: Callable[[Version], None]) -> None:
        """ended: told of each version that has left, when its memory is free."""
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._of: defaultdict[str, dict[int, tuple[LiveModel, Signature]]] = defaultdict(dict)
        self._closing: set[asyncio.Task[None]] = set()
        # How many models of a version still answer calls: one whose files changed is loaded anew before it has left.
        self.draining: Counter[Version] = Counter()

    def __contains__(self, version: Version) -> bool:
        return version.number in self._of.get(version.model, ())

    def __bool__(self) -> bool:
        return bool(self._of)

    @property
    def models(self) -> list[LiveModel]:
        return [model for versions in self._of.values() for model, _ in versions.values()]

    @property
    def versions(self) -> set[Version]:
        return {Version(name, number) for name, versions in self._of.items() for number in versions}

    def of(self, name: str) -> list[Version]:
        """Of one model, newest first."""
        return [Version(name, number) for number in sorted(self._of.get(name, ()), reverse=True)]

    def signature(self, version: Version) -> Signature | None:
        """Of the files that it was loaded from; None where it is not live."""
        _, signature = self._of.get(version.model, {}).get(version.number, (None, None))
        return signature

    def put(self, version: Version, model: LiveModel, signature: Signature) -> None:
        """In the place of what was loaded of the version before, if anything was."""
        if version in self:
            self.retire(version)
        self._of[version.model][version.number] = model, signature

    def retire(self, version: Version) -> None:
        """It leaves now, and memory when the last call that holds it is answered."""
        model = self._pop(version)
        self.draining[version] += 1
        model.on_release(partial(self._release, version, model.closer()))

    async def close(self) -> None:
        """When no more calls come."""
        for version in self.versions:
            await self._pop(version).closer()()
        await asyncio.gather(*self._closing)

    def _pop(self, version: Version) -> LiveModel:
        model, _ = self._of[version.model].pop(version.number)
        if not self._of[version.model]:
            del self._of[version.model]
        return model

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
        self.draining[version] -= 1
        if not self.draining[version]:
            del self.draining[version]
        self._ended(version)
