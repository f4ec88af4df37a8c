"""The `hourglass` program."""

from __future__ import annotations

import os
import sys

_FILES_EXTRA = ("pyarrow", "PIL", "rich")


def main() -> None:
    """Exit codes: 0 done; 1 the server or the way to it failed; 2 the input is wrong; 130 Ctrl-C."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # gRPC's own remarks would stand among ours
    try:
        from hourglass.cli import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _FILES_EXTRA:
            raise
        sys.exit(_complain(f"{error.name} is not installed: pip install 'hourglass-serving[files]'"))
    sys.exit(run(sys.argv[1:]))


def _complain(message: str) -> int:
    sys.stderr.write(f"hourglass: error: {message}\n")
    return 2


if __name__ == "__main__":
    main()
