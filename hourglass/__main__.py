"""The `hourglass` program."""

from __future__ import annotations

import io
import os
import signal
import sys


def main() -> None:
    """Exit codes: 0 done; 1 the server or the way to it failed; 2 the input is wrong; 130 Ctrl-C, 143 SIGTERM."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own remarks would stand among ours
    from hourglass.cli import interrupt, run

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show "×" still shows the rest
    if hasattr(signal, "SIGALRM"):  # not on Windows
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, interrupt)
    code = run(sys.argv[1:])
    if hasattr(signal, "SIGALRM"):
        signal.alarm(0)
    sys.exit(code)


if __name__ == "__main__":
    main()
