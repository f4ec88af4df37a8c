"""One of several server processes on one port, `python -m service.worker NUMBER`: the supervisor starts and ends it.

Its settings are the first line of stdin, as JSON. It says one line of JSON on stdout: {"metrics_port": 4711} as soon as
it serves, or {"error": "..."} when it cannot.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from threading import Thread

from service.start import REFUSED, StartError, reason


def main() -> int:
    # Until the server hears it, and knows what to end: quietly.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    told = sys.stdin.readline()
    Thread(target=_end_with_the_supervisor, name="supervisor", daemon=True).start()
    # Whatever else is printed must not be taken for what this process has to say.
    with os.fdopen(os.dup(1), "w") as supervisor:
        os.dup2(2, 1)

        def tell(**what: int | str) -> None:
            print(json.dumps(what), file=supervisor, flush=True)

        try:
            from service import logs, server
            from service.config import Settings

            settings = Settings.model_validate_json(told)
            logs.configure(settings.log_level, process=int(sys.argv[1]))
            server.run(settings, lambda _grpc_port, metrics_port: tell(metrics_port=metrics_port))
        except (StartError, ModuleNotFoundError) as error:
            tell(error=reason(error))
            return REFUSED
    return 0


def _end_with_the_supervisor() -> None:
    """stdin stays open for as long as it lives: without it nobody would end this process."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
