"""hourglass models | health | embed | search | denoise | score | generate | drift: files in and out, by a server."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import NoReturn

import grpc

from hourglass import listings, terminal
from hourglass.arguments import UsageError, parser
from hourglass.client import Client
from hourglass.errors import HourglassError

_INPUT_IS_WRONG = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
)


def run(arguments: Sequence[str]) -> int:
    """Returns the exit code; whatever goes wrong is one line on stderr."""
    try:
        args = parser(_COMMANDS).parse_args(arguments)
        with _client(args) as client:
            return args.command(client, args) or 0
    except UsageError as error:
        return _complain(error, 2)
    except HourglassError as error:
        return _complain(error, 2 if error.code in _INPUT_IS_WRONG else 1)
    except OSError as error:
        return _complain(error, 1)
    except KeyboardInterrupt as stop:
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)


def _complain(error: Exception, code: int) -> int:
    sys.stderr.write(f"hourglass: error: {' '.join(str(error).split())}\n")
    return code


def _client(args: argparse.Namespace) -> Client:
    files = {name: getattr(args, name) for name in ("ca_file", "cert_file", "key_file", "token_file")}
    try:
        return Client(args.server, timeout=args.timeout, **files)
    except (OSError, ValueError) as error:
        raise UsageError(error) from None


def _models(client: Client, args: argparse.Namespace) -> None:
    models, console = client.models(), terminal.console()
    if args.json:
        sys.stdout.write(f"{listings.models_json(models)}\n")
    else:
        console.print(listings.models_table(models, console) if models else "no model is loaded")


def _health(client: Client, args: argparse.Namespace) -> int:
    health = client.health()
    if args.json:
        sys.stdout.write(f"{listings.health_json(health)}\n")
    else:
        terminal.console().print(listings.health_table(health))
    return int(not health.ok)


def _by_files(client: Client, args: argparse.Namespace) -> int:
    """What the other commands need is loaded when one runs: the base dependencies list models, and that at once."""
    try:
        from hourglass import file_commands
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("pyarrow", "PIL"):
            raise
        of_index = args.name == "search" or (args.name == "embed" and args.to is not None)
        extra = "'hourglass-serving[lancedb]' (or [postgres], [qdrant])" if of_index else "'hourglass-serving[files]'"
        raise UsageError(f"{package} is not installed: pip install {extra}") from None
    return file_commands.run(client, args)


def interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:
    """On Ctrl-C and the like: KeyboardInterrupt, again each second until the program has ended.

    Once is not enough: pyarrow looks for pandas in many of its calls, and swallows what is raised meanwhile.
    """
    signal.signal(signal.SIGALRM, lambda _, frame: interrupt(signal_number, frame))
    signal.alarm(1)
    raise KeyboardInterrupt(signal_number)


_COMMANDS: Mapping[str, Callable[[Client, argparse.Namespace], int | None]] = {
    "models": _models,
    "health": _health,
    **dict.fromkeys(("embed", "search", "denoise", "score", "generate", "drift"), _by_files),
}
