"""hourglass-serve with onnxruntime's arena, which keeps the largest batch ever seen, switched on."""

from __future__ import annotations

import sys
from typing import Any

import onnxruntime

from service.__main__ import main


class _WithArena(onnxruntime.SessionOptions):  # type: ignore[misc]
    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, True if name == "enable_cpu_mem_arena" else value)


if __name__ == "__main__":
    onnxruntime.SessionOptions = _WithArena
    sys.exit(main())
