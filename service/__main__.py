"""hourglass-serve: read the settings, check the ground, serve."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import tempfile
from functools import partial
from importlib import metadata
from pathlib import Path

from service.start import REFUSED, StartError, reason

log = logging.getLogger(__name__)


def main() -> int:
    """Exit code 0 after a clean stop, 1 when a process of several ends again and again, 2 when the server cannot start,
    with one line saying why."""
    # gRPC's C core writes lines of its own to stderr, which are no JSON and which our errors already say.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    problem = _two_runtimes()
    if problem:
        return _refuse(problem)
    try:
        from service import config

        settings = config.load(sys.argv[1:]).with_absolute_paths()
        from service import logs

        logs.configure(settings.log_level)
        for name in config.unknown_environment():
            log.warning("this environment variable is no setting: misspelt?", extra={"variable": name})
        _leave_for_an_empty_directory()
        if settings.processes > 1:
            from service import supervisor

            return supervisor.run(settings)
        from service import server  # after the settings: --help and mistakes need no onnxruntime

        server.run(settings, partial(logs.ready, settings))
    except (StartError, ModuleNotFoundError) as error:
        return _refuse(reason(error))
    return 0


def _refuse(problem: str) -> int:
    print(f"hourglass-serve: error: {problem}", file=sys.stderr)  # noqa: T201
    return REFUSED


def _two_runtimes() -> str | None:
    """Both onnxruntime wheels write the same files, so that which one gets imported is chance."""
    installed = []
    for wheel in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            metadata.version(wheel)
            installed.append(wheel)
    if len(installed) < 2:
        return None
    return (
        "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: `pip uninstall onnxruntime`, "
        "then `pip install --force-reinstall --no-deps onnxruntime-gpu`"
    )


def _leave_for_an_empty_directory() -> None:
    """onnxruntime resolves a graph's external data against the working directory: there must be nothing there."""
    with contextlib.suppress(OSError):  # it may be gone, or not for us to look at
        if not any(Path.cwd().iterdir()):
            return
    folder = tempfile.mkdtemp(prefix="hourglass-serve-")
    os.chdir(folder)
    Path(folder).chmod(0o500)
    atexit.register(lambda: Path(folder).rmdir())


if __name__ == "__main__":
    sys.exit(main())
