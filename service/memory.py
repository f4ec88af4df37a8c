"""How the process keeps its memory: allocator and garbage collector."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_NEVER = 2**30
_LARGEST_ON_HEAP = 32 * 2**20  # the most that every glibc takes, and more than a message may have by default


def keep_freed_memory() -> None:
    """Let glibc take messages from the heap and keep what is freed.

    By default it maps large blocks anew and gives them back, and the kernel then clears each page when it is touched
    again: an echo of 1.6 MB messages does 500 calls/s so, and 1,100 with this. A large model hides it.
    """
    libc = _glibc()
    if libc:
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_ON_HEAP)
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)


def settle() -> None:
    """After loading: what is loaded stays, what loading needed is given back.

    Calls leave few cycles behind, so that the collector looks for them less often, and not among the models: worth 8 %
    of the calls/s of single rows. Giving back is worth 45 MiB.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    give_back()


def give_back() -> None:
    """What is freed, to the kernel: after models come or go, or each would leave tens of MB behind. Lets other threads
    go on meanwhile."""
    libc = _glibc()
    if libc:
        libc.malloc_trim(0)


def _glibc() -> Any:
    """None where the C library is another."""
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None
