"""hourglass models | embed | denoise | score | generate | drift: files in, files out, through a server."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import grpc
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from hourglass import drift
from hourglass.client import Client
from hourglass.errors import HourglassError
from hourglass.files import ArrayWriter, FileError, LateTableWriter, TableWriter, open_rows
from hourglass.messages import ModelInfo
from hourglass.outputs import DenoiseOutput, EmbedOutput, GenerateOutput, Output, ScoreOutput
from hourglass.selection import Selection, select

_WIDTH = 100
_SUFFIXES = (".parquet", ".npy", ".csv")
_INPUT_IS_WRONG = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
)


class UsageError(Exception):
    """The command line is wrong."""


def run(arguments: Sequence[str]) -> int:
    """Returns the exit code; whatever goes wrong is one line on stderr."""
    try:
        args = _parser().parse_args(arguments)
        with _client(args) as client:
            return args.command(client, args) or 0
    except (UsageError, FileError) as error:
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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    connection = _Parser(add_help=False)
    group = connection.add_argument_group("the server")
    group.add_argument(
        "--server",
        metavar="HOST:PORT",
        default=os.environ.get("HOURGLASS_SERVER", "127.0.0.1:8001"),
        help="default: $HOURGLASS_SERVER, else 127.0.0.1:8001",
    )
    group.add_argument("--ca-file", metavar="PEM", help="use TLS; who signed the server's certificate")
    group.add_argument("--cert-file", metavar="PEM", help="our certificate, where the server asks for one")
    group.add_argument("--key-file", metavar="PEM", help="its key")
    group.add_argument("--token-file", metavar="FILE", help="a bearer token")
    group.add_argument("--timeout", metavar="SECONDS", type=float, default=30.0, help="of each message (default 30)")

    version = _Parser(add_help=False)
    version.add_argument("--model", metavar="NAME", required=True)
    version.add_argument("--version", metavar="V", type=_count, help="default: the newest")
    model = _Parser(add_help=False, parents=[version])
    model.add_argument("--out", metavar="FILE", type=Path, help="write .parquet, .csv or .npy (only the numbers)")
    rows = _Parser(add_help=False)
    rows.add_argument("file", metavar="FILE", type=Path, help=".csv(.gz), .parquet, .npy, .npz, idx(.gz), PNG folder")
    rows.add_argument("--id", metavar="COLUMN", help="a column to copy to the output, before the others")

    parser = _Parser(prog="hourglass", description="Ask a server of autoencoders.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    commands.add_parser("models", parents=[connection], help="what the server has loaded").set_defaults(command=_models)
    for name, purpose in (
        ("embed", "embedding_0, embedding_1, … of each row"),
        ("denoise", "each row's own columns, denoised"),
        ("score", "anomaly score, p-value and verdict of each row"),
    ):
        command = commands.add_parser(name, parents=[rows, model, connection], help=purpose)
        command.set_defaults(command=_rows, name=name)
        if name == "score":
            _add_score_options(command)
    generate = commands.add_parser("generate", parents=[model, connection], help="new rows, drawn from a VAE's prior")
    generate.add_argument("--rows", metavar="N", type=_count, default=10, help="how many (default 10)")
    generate.add_argument("--seed", metavar="S", type=_count, help="the same seed gives the same rows")
    generate.set_defaults(command=_generate)
    drifts = "whether rows still are like those the model was calibrated on"
    compare = commands.add_parser("drift", parents=[version, connection], help=drifts)
    compare.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        nargs="?",
        help="as of score; without one, the rows that came to the server last",
    )
    compare.add_argument("--id", metavar="COLUMN", help="a column that is no part of a row")
    compare.add_argument("--fail", action="store_true", help="exit code 1 if they drift")
    compare.set_defaults(command=_drift)
    return parser


def _add_score_options(command: argparse.ArgumentParser) -> None:
    verdict = command.add_argument_group("what is an anomaly")
    verdict.add_argument(
        "--false-alarm-rate",
        metavar="A",
        type=float,
        help="share of normal rows that may be called anomalies (default: the model's own)",
    )
    verdict.add_argument("--threshold", metavar="S", type=float, help="instead: every score above it")
    verdict.add_argument(
        "--control-fdr",
        action="store_true",
        help="of the file's rows that are called anomalies, on average at most the share A is normal; decided when the "
        "last row is scored, until when the output waits in a temporary file beside it",
    )
    explanation = command.add_argument_group("why")
    explanation.add_argument(
        "--top-features",
        metavar="K",
        type=_count,
        default=0,
        help="name the K features with the largest share in each score, with their observed and expected values",
    )
    explanation.add_argument(
        "--feature-errors",
        action="store_true",
        help="write each feature's part in the score, instead of the score, to an .npy of the rows' shape",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def _client(args: argparse.Namespace) -> Client:
    files = {name: getattr(args, name) for name in ("ca_file", "cert_file", "key_file", "token_file")}
    try:
        return Client(args.server, timeout=args.timeout, **files)
    except (OSError, ValueError) as error:
        raise UsageError(error) from None


def _console(stderr: bool = False) -> Console:
    # Neither markup nor highlighting: what is shown comes from files and servers.
    width = min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns)
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def _models(client: Client, _: argparse.Namespace) -> None:
    table = Table("model", "version", "variant", "row", "embedding", "space id", "device", "created")
    models = client.models()
    for info in models:
        table.add_row(
            info.model.name,
            f"{info.model.version}",
            info.variant,
            "×".join(map(str, info.row_shape)),
            f"{info.embedding_size}",
            info.model.embedding_space_id,
            info.device,
            info.created[:10],
        )
    _console().print(table if models else "no model is loaded")


def _rows(client: Client, args: argparse.Namespace) -> None:
    _check_out(args)
    if args.name == "score":
        _check_score(args)
    file = open_rows(args.file)
    id_type = None if args.id is None else next(file.batches(1)).column(args.id).type
    model = client.model(args.model, args.version)
    selection = select(file, model, args.id)
    output = _output(args, model, selection)
    schema = output.schema if id_type is None else output.schema.insert(0, pa.field(args.id, id_type))
    if len(set(schema.names)) < len(schema):
        raise UsageError(f"the output has a column {args.id!r} already: leave out --id, or rename it in the file")
    size = output.rows_per_message(client)
    waiting: deque[pa.Array | None] = deque()

    def batches() -> Iterator[np.ndarray]:
        for batch in file.batches(size):
            waiting.append(None if args.id is None else batch.column(args.id))
            yield selection.take(batch)

    answers = ((answer, waiting.popleft()) for answer in output.ask(client, batches()))
    _deliver(answers, output, schema, args.out, lambda rows: file.read_share)


def _generate(client: Client, args: argparse.Namespace) -> None:
    _check_suffix(args.out)
    model = client.model(args.model, args.version)
    output = GenerateOutput(model, list(model.columns) or _unnamed(model), args.rows, args.seed)
    answers = ((answer, None) for answer in output.ask(client))
    _deliver(answers, output, output.schema, args.out, lambda rows: rows / max(args.rows, 1))


def _drift(client: Client, args: argparse.Namespace) -> int:
    file = None if args.file is None else open_rows(args.file)
    model = client.model(args.model, args.version)
    known = client.drift(model.model.name, model.model.version)
    if file is not None:
        selection = select(file, model, args.id)
        size = client.rows_per_message(model.model.name, model.model.version)
        with _progress(lambda rows: file.read_share) as advance:
            now = drift.of_rows(client, known, map(selection.take, file.batches(size)), advance)
    elif known.now is None:
        raise UsageError("this server does not look at its traffic (its --drift-window-rows is 0): give a FILE")
    else:
        now = known.now
    whose = "of the rows that came to the server last" if file is None else "rows of the file"
    drift.show(_console(), model, known.sketch, now, whose)
    return int(args.fail and bool(now))


def _deliver(
    answers: Iterable[tuple[Any, pa.Array | None]],
    output: Output[Any],
    schema: pa.Schema,
    out: Path | None,
    share: Callable[[int], float],
) -> None:
    """Write answers and their rows' ids, then show what there is to see. share: how much is done after so many rows."""
    with ExitStack() as stack:
        write = _writer(stack, out, output, schema)
        advance = stack.enter_context(_progress(share))
        for answer, ids in answers:
            write(answer, ids)
            output.see(answer, ids)
            advance(len(output.numbers(answer)))
    console = _console()
    output.show(console, rows=out is None)
    if out is not None:
        console.print(f"written to {out}", soft_wrap=True)


def _check_out(args: argparse.Namespace) -> None:
    out: Path | None = args.out
    _check_suffix(out)
    if out is None:
        return
    if args.id is not None and out.suffix.lower() == ".npy":
        raise UsageError("--id: an .npy holds only the numbers: write .parquet or .csv")
    if out.exists() and args.file.exists() and out.samefile(args.file):
        raise UsageError(f"--out {out} is the input: name another file")


def _check_score(args: argparse.Namespace) -> None:
    if args.threshold is not None and (args.false_alarm_rate is not None or args.control_fdr):
        other = "--control-fdr" if args.control_fdr else "--false-alarm-rate"
        raise UsageError(f"--threshold and {other}: each decides alone what is an anomaly")
    if args.feature_errors and (args.out is None or args.out.suffix.lower() != ".npy"):
        raise UsageError("--feature-errors: they are written to an .npy: add --out FILE.npy")


def _check_suffix(out: Path | None) -> None:
    if out is not None and out.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"--out {out}: its name must end in {', '.join(_SUFFIXES)}")


def _unnamed(model: ModelInfo) -> list[str]:
    return [f"c{i}" for i in range(math.prod(model.row_shape))]


def _output(args: argparse.Namespace, model: ModelInfo, selection: Selection) -> Output[Any]:
    if args.name == "score":
        return ScoreOutput(
            model,
            selection.columns or model.feature_names,
            false_alarm_rate=args.false_alarm_rate,
            threshold=args.threshold,
            control_fdr=args.control_fdr,
            top_features=args.top_features,
            feature_errors=args.feature_errors,
        )
    if args.name == "embed":
        return EmbedOutput(model)
    return DenoiseOutput(model, model.row_shape, list(selection.columns or _unnamed(model)))


def _writer(stack: ExitStack, out: Path | None, output: Output[Any], schema: pa.Schema) -> Any:
    if out is None:
        return lambda answer, ids: None
    if out.suffix.lower() == ".npy":
        numbers = stack.enter_context(ArrayWriter(out, output.row_shape))
        return lambda answer, ids: numbers.write(output.numbers(answer))
    if isinstance(output, ScoreOutput) and output.control_fdr:
        table: TableWriter = stack.enter_context(LateTableWriter(out, schema, output.complete))
    else:
        table = stack.enter_context(TableWriter(out, schema))

    def write(answer: Any, ids: pa.Array | None) -> None:
        columns = output.arrays(answer) if ids is None else [ids, *output.arrays(answer)]
        table.write(pa.table(columns, schema=schema))

    return write


def interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:
    """On Ctrl-C and the like: KeyboardInterrupt, again each second until the program has ended.

    Once is not enough: pyarrow looks for pandas in many of its calls, and swallows what is raised meanwhile.
    """
    signal.signal(signal.SIGALRM, lambda _, frame: interrupt(signal_number, frame))
    signal.alarm(1)
    raise KeyboardInterrupt(signal_number)


@contextmanager
def _progress(share: Callable[[int], float]) -> Iterator[Callable[[int], None]]:
    """A bar on stderr: share that is done, rows, rows/s, time left; nothing where nobody watches. Takes new rows."""
    console = _console(stderr=True)
    speed = TextColumn("{task.fields[rows]:,} rows  {task.fields[speed]:,.0f} rows/s")
    columns = (BarColumn(), TaskProgressColumn(), speed, TimeRemainingColumn())
    start, done = time.monotonic(), 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1.0, rows=0, speed=0.0)

        def advance(rows: int) -> None:
            nonlocal done
            done += rows
            bar.update(task, completed=share(done), rows=done, speed=done / max(time.monotonic() - start, 1e-9))

        yield advance
