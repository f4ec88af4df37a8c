"""Which versions are live: decided here without graphs, by a loader that says what the files say."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import weakref
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import pytest

from hourglass.contract.layout import ArtefactError, Unreadable
from service.errors import ModelNotFound, NotLoaded, Unsupported
from service.index import Listed
from service.metrics import Metrics
from service.repository import Repository
from service.scanning import Version
from service.start import StartError

LONG_AGO = 1_000_000_000


class Model:
    """Stands in for a LiveModel."""

    def __init__(self, name: str, version: int, closed: list[tuple[str, int]]) -> None:
        self.name, self.version = name, version
        self._closed = closed

    def on_release(self, then: Any) -> None:
        weakref.finalize(self, then).atexit = False

    def closer(self) -> Any:
        closed, what = self._closed, (self.name, self.version)

        async def close() -> None:
            closed.append(what)

        return close


class Loader:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.loads: list[tuple[str, int]] = []
        self.closed: list[tuple[str, int]] = []
        self.gate: asyncio.Event | None = None
        self.gently = False

    async def load(self, name: str, version: int, *, gently: bool) -> Any:
        self.loads.append((name, version))
        self.gently = gently
        if self.gate:
            await self.gate.wait()
        said = (self.root / name / str(version) / "says").read_text().rstrip()
        if said == "unreadable":
            raise Unreadable("says cannot be read: Input/output error")
        if said == "surprise":
            raise RuntimeError(f"at {self.root}: boom")
        if said != "good":
            raise ArtefactError(said)
        return Model(name, version, self.closed)


class Elsewhere:
    """Stands in for a Mirror."""

    def __init__(self) -> None:
        self.failed: dict[Version, str] = {}
        self.distrusted: set[Version] = set()
        self.unreachable = ""
        self.wanted: list[set[str] | None] = []
        self.gate = threading.Event()
        self.gate.set()

    def refresh(self, newest: int | None, refused: Container[Version], wanted: set[str] | None) -> None:
        self.wanted.append(wanted)
        self.gate.wait(60)

    def prune(self, keep: Container[Version]) -> None: ...


class World:
    """A folder of models, and what is served of it."""

    def __init__(
        self, root: Path, newest: int | None = 2, *, explicit: bool = False, mirror: Elsewhere | None = None
    ) -> None:
        self.root = root
        root.mkdir()
        self.loader = Loader(root)
        self.shown: list[tuple[str, int]] = []
        self.held: Sequence[Any] = ()
        self.metrics = Metrics()
        self.now = 0.0
        fake: Any = self.loader
        remote: Any = mirror
        self.repository = Repository(
            root, newest, fake, self.metrics, self._show, explicit=explicit, mirror=remote, clock=lambda: self.now
        )

    def _show(self, models: Sequence[Any]) -> None:
        self.held = models
        self.shown = sorted((model.name, model.version) for model in models)

    def put(self, name: str, version: int | str, says: str = "good", changed: float = LONG_AGO) -> None:
        folder = self.root / name / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "says").write_text(says)
        os.utime(folder / "says", (changed, changed))

    def remove(self, name: str, version: int) -> None:
        (self.root / name / str(version) / "says").unlink()
        (self.root / name / str(version)).rmdir()

    async def start(self) -> World:
        await self.repository.start(allow_empty=True)
        return self

    async def poll(self) -> list[tuple[str, int]]:
        """What it loads."""
        before = len(self.loader.loads)
        await self.repository.poll()
        return self.loader.loads[before:]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "exported"


async def test_a_poll_that_finds_nothing_new_loads_nothing(root: Path) -> None:
    one = World(root)
    for version in (1, 2, 3):
        one.put("line", version)
    await one.start()
    assert one.shown == [("line", 2), ("line", 3)]
    assert await one.poll() == []
    assert not one.loader.gently  # at start nobody is served yet
    one.put("line", 4)
    assert await one.poll() == [("line", 4)]
    assert one.loader.gently
    assert one.shown == [("line", 3), ("line", 4)]


async def test_a_refused_version_is_tried_again_when_its_files_change(root: Path) -> None:
    one = World(root, 1)
    one.put("line", 1)
    one.put("line", 2, "golden rows: score differs")
    await one.start()
    assert one.shown == [("line", 1)]
    assert list(one.repository.index()) == [
        Listed("line", "2", "UNAVAILABLE", "golden rows: score differs"),
        Listed("line", "1", "READY"),
    ]
    assert await one.poll() == []
    one.put("line", 2, "good", LONG_AGO + 1)
    assert await one.poll() == [("line", 2)]
    assert one.shown == [("line", 2)]


@pytest.mark.parametrize("why", ["surprise", "its sha256 is not the manifest's"])
async def test_a_refused_version_that_looks_the_same_is_tried_ever_more_seldom(root: Path, why: str) -> None:
    one = World(root, 1)
    one.put("line", 1)
    one.put("line", 2, why)
    await one.start()
    tried = []
    for one.now in range(1000):
        if await one.poll():
            tried.append(one.now)
    assert tried == [5, 15, 35, 75, 155, 315, 615, 915]
    assert one.metrics.registry.get_sample_value("hourglass_model_load_failures_total", {"model": "line"}) == 1
    one.put("line", 2, "good".ljust(len(why)))  # the same size and time
    assert await one.poll() == []
    one.now = 1215
    assert await one.poll() == [("line", 2)]
    assert one.shown == [("line", 2)]


async def test_what_changed_a_moment_ago_or_cannot_be_read_is_tried_at_each_poll(root: Path) -> None:
    one = World(root)
    one.put("line", 1)
    one.put("fresh", 1, "model.onnx has 3 bytes", time.time())
    one.put("lost", 1, "unreadable")
    await one.start()
    assert await one.poll() == [("fresh", 1), ("lost", 1)]


async def test_a_version_that_breaks_stays_as_it_was_loaded(root: Path) -> None:
    one = World(root)
    one.put("line", 1)
    await one.start()
    one.put("line", 1, "its sha256 is not the manifest's", LONG_AGO + 1)
    assert await one.poll() == [("line", 1)]
    assert one.shown == [("line", 1)]
    assert list(one.repository.index()) == [Listed("line", "1", "READY", "its sha256 is not the manifest's")]
    assert await one.poll() == []


async def test_reasons_name_no_paths(root: Path) -> None:
    one = World(root)
    one.put("line", 1, "surprise")
    await one.start()
    (listed,) = one.repository.index()
    assert listed.reason == "RuntimeError; the log says more"


async def test_numbers_that_are_no_versions_are_listed_as_such(root: Path) -> None:
    one = World(root)
    one.put("line", 1)
    for name in ("0", "007", "-1", ".draft-1", "config.pbtxt"):
        one.put("line", name)
    await one.start()
    await one.poll()
    unavailable = [listed.version for listed in one.repository.index() if listed.state == "UNAVAILABLE"]
    assert sorted(unavailable) == ["-1", "0", "007"]
    assert one.shown == [("line", 1)]


async def test_a_version_is_closed_when_its_last_call_has_ended(root: Path) -> None:
    one = World(root)
    one.put("line", 1)
    one.put("other", 1)
    await one.start()
    (called,) = [model for model in one.held if model.name == "line"]
    one.remove("line", 1)
    await one.poll()
    assert one.shown == [("other", 1)]
    assert Listed("line", "1", "UNLOADING") in one.repository.index()
    assert one.loader.closed == []
    del called
    while Listed("line", "1", "UNLOADING") in one.repository.index():
        await asyncio.sleep(0)
    assert one.loader.closed == [("line", 1)]


async def test_calls_that_failed_keep_no_version_alive(root: Path) -> None:
    """An exception, its traceback and the frame in it are a cycle."""
    one = World(root)
    one.put("line", 1)
    one.put("other", 1)
    await one.start()
    gc.disable()
    try:
        cycle: list[Any] = [model for model in one.held if model.name == "line"]
        cycle.append(cycle)
        del cycle
        one.remove("line", 1)
        await one.poll()
        await one.poll()
        while Listed("line", "1", "UNLOADING") in one.repository.index():
            await asyncio.sleep(0)
        assert one.loader.closed == [("line", 1)]
    finally:
        gc.enable()


async def test_a_version_that_is_being_loaded_is_listed(root: Path) -> None:
    one = World(root)
    one.put("line", 1)
    await one.start()
    one.put("line", 2)
    one.loader.gate = asyncio.Event()
    polling = asyncio.create_task(one.repository.poll())
    while len(one.loader.loads) < 2:
        await asyncio.sleep(0)
    assert [(listed.version, listed.state) for listed in one.repository.index()] == [("2", "LOADING"), ("1", "READY")]
    one.loader.gate.set()
    await polling
    assert [listed.state for listed in one.repository.index()] == ["READY", "READY"]


async def test_explicitly_only_what_is_asked_for_is_loaded(root: Path) -> None:
    one = World(root, explicit=True)
    one.put("line", 1)
    one.put("other", 1)
    one.put("broken", 1, "golden rows: score differs")
    await one.start()
    assert await one.poll() == []
    await one.repository.load("line")
    assert one.shown == [("line", 1)]
    one.put("line", 2)
    one.put("other", 2)
    assert await one.poll() == [("line", 2)]
    with pytest.raises(ModelNotFound):
        await one.repository.load("nothing")
    with pytest.raises(NotLoaded, match="version 1: golden rows: score differs"):
        await one.repository.load("broken")
    await one.repository.unload("line")
    assert one.shown == []
    with pytest.raises(ModelNotFound):
        await one.repository.unload("line")
    assert await one.poll() == []


async def test_a_model_whose_caller_left_while_it_was_loaded_is_followed(root: Path) -> None:
    one = World(root, explicit=True)
    one.put("line", 1)
    await one.start()
    one.loader.gate = asyncio.Event()
    load = asyncio.create_task(one.repository.load("line"))
    while not one.loader.loads:
        await asyncio.sleep(0)
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    one.loader.gate.set()
    assert await one.poll() == []
    assert one.shown == [("line", 1)]
    one.put("line", 2)
    assert await one.poll() == [("line", 2)]


async def test_what_is_loaded_when_the_server_ends_is_given_up(root: Path) -> None:
    one = World(root, explicit=True)
    one.put("line", 1)
    await one.start()
    one.loader.gate = asyncio.Event()
    load = asyncio.create_task(one.repository.load("line"))
    while not one.loader.loads:
        await asyncio.sleep(0)
    await one.repository.close()
    with pytest.raises(asyncio.CancelledError):
        await load


async def test_names_that_are_asked_for_in_vain_take_no_memory(root: Path) -> None:
    one = World(root, explicit=True)
    await one.start()
    for number in range(10):
        with pytest.raises(ModelNotFound):
            await one.repository.unload(f"nothing-{number}")
    assert not one.repository._live._of


async def test_only_what_is_asked_for_is_fetched(root: Path) -> None:
    remote = Elsewhere()
    one = World(root, explicit=True, mirror=remote)
    one.put("line", 1)
    one.put("other", 1)
    await one.start()
    await one.repository.load("line")
    await one.poll()
    with pytest.raises(ModelNotFound):
        await one.repository.load("nothing")
    await one.poll()
    assert remote.wanted == [set(), {"line"}, {"line"}, {"line", "nothing"}, {"line"}]


async def test_a_fetch_does_not_keep_a_model_from_being_unloaded(root: Path) -> None:
    remote = Elsewhere()
    one = World(root, explicit=True, mirror=remote)
    one.put("line", 1)
    await one.start()
    await one.repository.load("line")
    remote.gate.clear()
    poll = asyncio.create_task(one.poll())
    while len(remote.wanted) < 3:
        await asyncio.sleep(0)
    try:
        await asyncio.wait_for(one.repository.unload("line"), 30)
    finally:
        remote.gate.set()
    assert one.shown == []
    assert await poll == []


async def test_models_that_come_by_themselves_are_not_loaded_by_hand(root: Path) -> None:
    one = World(root)
    one.put("line", 1)
    await one.start()
    for change in (one.repository.load, one.repository.unload):
        with pytest.raises(Unsupported):
            await change("line")
    assert one.shown == [("line", 1)]


async def test_without_leave_to_be_empty_every_model_must_be_served(root: Path) -> None:
    one = World(root)
    with pytest.raises(StartError, match="holds no models"):
        await one.repository.start(allow_empty=False)
    one.put("line", 1, "golden rows: score differs")
    with pytest.raises(StartError, match="no version of 'line'"):
        await one.repository.start(allow_empty=False)
