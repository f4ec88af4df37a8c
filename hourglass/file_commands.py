"""The commands that read or write files or indices: embed, search, denoise, score, generate, drift.

Needs the `files` extra.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hourglass import drift, indices, terminal
from hourglass.arguments import UsageError
from hourglass.batches import Taken, ask, take
from hourglass.client import Client
from hourglass.contract.schema import Column
from hourglass.files import ArrayWriter, FileError, LateTableWriter, RowFile, TableWriter, open_rows
from hourglass.files.encoding import refused
from hourglass.models import ModelInfo
from hourglass.outputs import DenoiseOutput, EmbedOutput, FillOutput, GenerateOutput, Output, ScoreOutput
from hourglass.selection import Selection, select
from hourglass.series import PerWindow, RowDenoiseOutput, RowScoreOutput, Series
from hourglass.stores import StoreError, StoreUnavailable

_SUFFIXES = (".parquet", ".npy", ".csv")


def run(client: Client, args: argparse.Namespace) -> int:
    """Returns the exit code. A file or an index that will not do is a UsageError, a failing store a ConnectionError."""
    try:
        return _COMMANDS[args.name](client, args) or 0
    except StoreUnavailable as error:
        raise ConnectionError(error) from None
    except (FileError, StoreError) as error:
        raise UsageError(error) from None


def _embed(client: Client, args: argparse.Namespace) -> None:
    if args.to is not None:
        indices.embed(client, args)
        return
    of_index = ["--payload"] * bool(args.payload) + ["--encoding"] * (args.encoding != "float32")
    if of_index:
        raise UsageError(f"{' and '.join(of_index)}: only for an index: add --to URI")
    _rows(client, args)


def _rows(client: Client, args: argparse.Namespace) -> None:
    _check_out(args)
    if args.name == "score":
        _check_score(args)
    file = open_rows(args.file)
    id_type = None if args.id is None else next(file.batches(1)).column(args.id).type
    model = client.model(args.model, args.version)
    if args.id is None and _copies_ids(args.out) and model.aside.id in (*(file.columns or ()), *file.extras):
        args.id = model.aside.id
        id_type = next(file.batches(1)).column(args.id).type
    if model.window is not None and file.columns is not None:
        _series(client, args, file, model)
        return
    if args.name == "score" and args.per is not None:
        raise UsageError(
            f"--per: the rows of {args.file} are not a series, or not for {model.model.name!r}: leave it out"
        )
    selection = select(file, model, args.id)
    output = _output(args, model, selection)
    keep_bad = args.bad_rows == "null"
    columns = [*output.schema, *([pa.field("problem", pa.string())] if keep_bad else [])]
    schema = pa.schema(columns if id_type is None else [pa.field(args.id, id_type), *columns])
    if len(set(schema.names)) < len(schema):
        raise UsageError(f"the output has a column {args.id!r} already: leave out --id, or rename it in the file")
    taken = take(file, selection, output.rows_per_message(client), keep_bad=keep_bad)
    answers = ask(taken, partial(output.ask, client))
    _deliver(answers, output, schema, args, lambda rows: file.read_share)


def _series(client: Client, args: argparse.Namespace, file: RowFile, model: ModelInfo) -> None:
    """A table whose rows follow one another in time, for a model of windows."""
    assert file.columns is not None
    assert model.window is not None
    per_row = args.name == "denoise" or (args.name == "score" and args.per != "window")
    _check_series(args, per_row)
    time = model.aside.time if model.aside.time in file.columns else None
    if time is None and model.aside.time is not None:
        _note(f"{args.file} has no column {model.aside.time!r}: rows are taken to follow one another without gaps")
    selection = select(file, replace(model, row_shape=model.row_shape[1:]), args.id)
    kept = [name for name in dict.fromkeys((time, args.id)) if name is not None and _copies_ids(args.out)]
    series = Series(file, selection, model.window, kept, time)
    inner = _output(args, model, None)
    output: Output[Any]
    if isinstance(inner, ScoreOutput) and per_row:
        output = RowScoreOutput(model, inner, series)
    elif isinstance(inner, DenoiseOutput):
        output = RowDenoiseOutput(model, inner, series)
    else:
        output = PerWindow(model, inner, series)
    if len(set(output.schema.names)) < len(output.schema):
        raise UsageError(f"the output has a column {args.id!r} already: leave out --id, or rename it in the file")
    answers = output.ask(client, series.messages(output.rows_per_message(client)))
    _deliver(((answer, None) for answer in answers), output, output.schema, args, lambda rows: file.read_share)
    for finding in series.findings():
        _note(f"{args.file}: {finding}")


def _check_series(args: argparse.Namespace, per_row: bool) -> None:
    if args.bad_rows == "null":
        raise UsageError("--bad-rows null: a series is read as a whole: correct the row, or leave it out of the file")
    if args.name == "denoise" and args.only_missing:
        raise UsageError("--only-missing: not of a series")
    if args.name != "score":
        return
    if args.control_fdr:
        raise UsageError(
            "--control-fdr: windows that overlap are not independent of each other: use --false-alarm-rate"
        )
    if per_row and (args.top_features or args.feature_errors):
        raise UsageError("--top-features and --feature-errors are of windows: add --per window")


def _note(text: str) -> None:
    """A line on stderr that is no error."""
    sys.stderr.write(f"hourglass: {text}\n")


def _generate(client: Client, args: argparse.Namespace) -> None:
    _check_suffix(args.out)
    model = client.model(args.model, args.version)
    columns = model.schema if model.schema and model.window is None else _unnamed(model)
    output = GenerateOutput(model, columns, args.rows, args.seed)
    answers = ((answer, None) for answer in output.ask(client))
    _deliver(answers, output, output.schema, args, lambda rows: rows / max(args.rows, 1))


def _drift(client: Client, args: argparse.Namespace) -> int:
    file = None if args.file is None else open_rows(args.file)
    model = client.model(args.model, args.version)
    known = client.drift(model.model.name, model.model.version)
    if file is not None:
        rows = _rows_of(file, model, args.id, client.rows_per_message(model.model.name, model.model.version))
        with terminal.progress(lambda rows: file.read_share) as advance:
            now = drift.of_rows(client, known, rows, advance)
    elif known.now is None:
        raise UsageError("this server does not look at its traffic (its --drift-window-rows is 0): give a FILE")
    else:
        now = known.now
    whose = "of the rows that came to the server last" if file is None else "rows of the file"
    drift.show(terminal.console(), model, known.sketch, now, whose)
    return int(args.fail and bool(now))


def _rows_of(file: RowFile, model: ModelInfo, id_column: str | None, size: int) -> Iterator[np.ndarray]:
    """float32 [n, *row_shape] each: the file's rows, or the windows of its series, in messages of `size`."""
    if model.window is None or file.columns is None:
        return map(select(file, model, id_column).take, file.batches(size))
    selection = select(file, replace(model, row_shape=model.row_shape[1:]), id_column)
    time = model.aside.time if model.aside.time in file.columns else None
    return Series(file, selection, model.window, [], time).messages(size)


def _deliver(
    answers: Iterable[tuple[Any, Taken | None]],
    output: Output[Any],
    schema: pa.Schema,
    args: argparse.Namespace,
    share: Callable[[int], float],
) -> None:
    """Write answers, then show what there is to see. share: how much is done after so many rows."""
    schema = schema.with_metadata(output.metadata)
    rows = bad = 0
    first_bad: FileError | None = None
    with ExitStack() as stack:
        write = _writer(stack, output, schema, args)
        advance = stack.enter_context(terminal.progress(share))
        for answer, taken in answers:
            write(answer, taken)
            if answer is not None:
                ids = [] if taken is None or args.id is None else [taken.batch.column(args.id).filter(taken.good)]
                output.see(answer, taken, ids)
            if taken is not None and taken.problems:
                first_bad = first_bad or refused(taken.batch, taken.problems[0])
                bad += len(taken.problems)
            count = len(output.numbers(answer, None)) if taken is None else len(taken.rows)
            rows += count
            advance(count)
    console = terminal.console()
    output.show(console, rows=args.out is None)
    if first_bad is not None:
        console.print(f"{bad:,} of {rows:,} rows could not be used and are left empty; the first: {first_bad}")
    if args.out is not None:
        console.print(f"written to {args.out}", soft_wrap=True)


def _check_out(args: argparse.Namespace) -> None:
    out: Path | None = args.out
    _check_suffix(out)
    if out is None:
        return
    if args.id is not None and not _copies_ids(out):
        raise UsageError("--id: an .npy holds only the numbers: write .parquet or .csv")
    if out.exists() and args.file.exists() and out.samefile(args.file):
        raise UsageError(f"--out {out} is the input: name another file")


def _copies_ids(out: Path | None) -> bool:
    return out is None or out.suffix.lower() != ".npy"


def _check_score(args: argparse.Namespace) -> None:
    if args.threshold is not None and (args.false_alarm_rate is not None or args.control_fdr):
        other = "--control-fdr" if args.control_fdr else "--false-alarm-rate"
        raise UsageError(f"--threshold and {other}: each decides alone what is an anomaly")
    if args.feature_errors and (args.out is None or args.out.suffix.lower() != ".npy"):
        raise UsageError("--feature-errors: they are written to an .npy: add --out FILE.npy")


def _check_suffix(out: Path | None) -> None:
    if out is not None and out.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"--out {out}: its name must end in {', '.join(_SUFFIXES)}")


def _unnamed(model: ModelInfo) -> list[Column]:
    """One column for each number of a row."""
    return [Column(name=f"c{i}") for i in range(math.prod(model.row_shape))]


def _output(args: argparse.Namespace, model: ModelInfo, selection: Selection | None) -> Output[Any]:
    """selection: of rows as the file has them; None of windows."""
    if args.name == "score":
        return ScoreOutput(
            model,
            (selection and selection.names) or model.feature_names,
            false_alarm_rate=args.false_alarm_rate,
            threshold=args.threshold,
            control_fdr=args.control_fdr,
            top_features=args.top_features,
            feature_errors=args.feature_errors,
        )
    if args.name == "embed":
        return EmbedOutput(model, args.normalize)
    columns = model.schema if selection is None else selection.columns
    if args.only_missing and not (model.takes_missing and columns):
        raise UsageError(f"--only-missing: the model {model.model.name!r} takes no missing cells of columns")
    return (FillOutput if args.only_missing else DenoiseOutput)(model, columns or _unnamed(model))


def _writer(stack: ExitStack, output: Output[Any], schema: pa.Schema, args: argparse.Namespace) -> Any:
    """What takes an answer, None where no row of a batch could be used, and the batch."""
    out: Path | None = args.out
    if out is None:
        return lambda answer, taken: None
    if not _copies_ids(out):
        numbers = stack.enter_context(ArrayWriter(out, output.row_shape))
        return lambda answer, taken: numbers.write(_numbers(output, answer, taken))
    if isinstance(output, ScoreOutput) and output.control_fdr:
        table: TableWriter = stack.enter_context(LateTableWriter(out, schema, output.complete))
    else:
        table = stack.enter_context(TableWriter(out, schema))

    def write(answer: Any, taken: Taken | None) -> None:
        if taken is None:
            columns = output.arrays(answer, None)
        elif answer is None:
            columns = [pa.nulls(len(taken.rows), field.type) for field in output.schema]
        else:
            columns = taken.spread(output.arrays(answer, taken))
        if taken is not None and args.id is not None:
            columns.insert(0, taken.batch.column(args.id))
        if taken is not None and args.bad_rows == "null":
            columns.append(taken.why())
        table.write(pa.table(columns, schema=schema))

    return write


def _numbers(output: Output[Any], answer: Any, taken: Taken | None) -> np.ndarray:
    """float32 [n, ...]: NaN in the rows that could not be used."""
    if taken is None or not taken.problems:
        return output.numbers(answer, taken)
    numbers = np.full((len(taken.rows), *output.row_shape), np.nan, dtype=np.float32)
    if answer is not None:
        numbers[taken.good] = output.numbers(answer, taken)
    return numbers


_COMMANDS: Mapping[str, Callable[[Client, argparse.Namespace], int | None]] = {
    "embed": _embed,
    "search": indices.search,
    **dict.fromkeys(("denoise", "score"), _rows),
    "generate": _generate,
    "drift": _drift,
}
