from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.hourglass.fake import Fake, serving


@pytest.fixture
def start() -> Iterator[Callable[..., Fake]]:
    """Starts fake servers; they stop when the test ends."""
    with ExitStack() as stack:
        yield lambda credentials=None, **settings: stack.enter_context(serving(Fake(**settings), credentials))


@pytest.fixture
def fake(start: Callable[..., Any]) -> Fake:
    return start()
