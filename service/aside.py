"""Work beside the event loop, where others would wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

# So many take a thread longer to hand over than to rank or to read one by one.
FEW_NUMBERS = 4_096


async def aside(few: bool, function: Callable[..., T], *arguments: Any) -> T:
    """In a thread, unless that takes longer to begin than the work: other calls would wait for the event loop."""
    return function(*arguments) if few else await asyncio.to_thread(function, *arguments)
