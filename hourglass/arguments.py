"""The command line of `hourglass`: commands, flags and their help."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from hourglass.contract.quantization import DTYPES


class UsageError(Exception):
    """The command line is wrong."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def parser(commands: Mapping[str, Callable[..., int | None]]) -> argparse.ArgumentParser:
    """commands: what runs each, in `command` of the parsed arguments."""
    whole = _Parser(prog="hourglass", description="Ask a server of autoencoders.")
    parsers = whole.add_subparsers(metavar="COMMAND", required=True, dest="name")

    def add(name: str, purpose: str, *parents: _Parser) -> argparse.ArgumentParser:
        return parsers.add_parser(name, parents=[*parents, connection], help=purpose)

    connection, version, out, rows = _connection(), _version(), _out(), _rows()
    for listing in (
        add("models", "what the server has loaded"),
        add("health", "whether the server and its models serve: exit code 1 if not"),
    ):
        listing.add_argument("--json", action="store_true", help="all of it, as one JSON document")
    _add_index_options(add("embed", "embedding_0, embedding_1, … of each row", rows, version, out))
    denoise = add("denoise", "each row's own columns, denoised", rows, version, out)
    denoise.add_argument(
        "--only-missing", action="store_true", help="keep the file's own values, and fill in the missing ones"
    )
    _add_score_options(add("score", "anomaly score, p-value and verdict of each row", rows, version, out))
    _add_search_options(add("search", "the nearest neighbours of rows in an index of `embed --to`"))
    generate = add("generate", "new rows, drawn from a VAE's prior", version, out)
    generate.add_argument("--rows", metavar="N", type=_count, default=10, help="how many (default 10)")
    generate.add_argument("--seed", metavar="S", type=_count, help="the same seed gives the same rows")
    _add_drift_options(add("drift", "whether rows still are like those the model was calibrated on", version))
    for name, run in commands.items():
        parsers.choices[name].set_defaults(command=run)
    return whole


def _connection() -> _Parser:
    parent = _Parser(add_help=False)
    group = parent.add_argument_group("the server")
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
    return parent


def _version() -> _Parser:
    parent = _Parser(add_help=False)
    parent.add_argument("--model", metavar="NAME", required=True)
    parent.add_argument("--version", metavar="V", type=_count, help="default: the newest")
    return parent


def _out() -> _Parser:
    parent = _Parser(add_help=False)
    parent.add_argument("--out", metavar="FILE", type=Path, help="write .parquet, .csv or .npy (only the numbers)")
    return parent


def _rows() -> _Parser:
    parent = _Parser(add_help=False)
    parent.add_argument(
        "file", metavar="FILE", type=Path, help=".csv and the like, .parquet, .npy, .npz, idx, PNG folder"
    )
    parent.add_argument(
        "--id",
        metavar="COLUMN",
        help="a column to copy to the output, before the others (default: the model's, if there)",
    )
    parent.add_argument(
        "--bad-rows",
        choices=("fail", "null"),
        default="fail",
        help="what becomes of a row with a cell that the model does not take: an error (default), or an empty line and "
        "the reason in a column 'problem' (embed --to: it is left out)",
    )
    return parent


def _add_drift_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        nargs="?",
        help="as of score; without one, the rows that came to the server last",
    )
    command.add_argument("--id", metavar="COLUMN", help="a column that is no part of a row")
    command.add_argument("--fail", action="store_true", help="exit code 1 if they drift")


def _add_index_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--normalize", action="store_true", help="to length 1: distances then rank as angles do")
    index = command.add_argument_group("into an index")
    index.add_argument(
        "--to",
        metavar="URI",
        help="lancedb://PATH, postgresql://…, qdrant://HOST, each with #NAME (default #embeddings): adds the rows that "
        "are not there, replaces those that changed",
    )
    index.add_argument("--payload", metavar="A,B", type=_names, default=(), help="columns to find with the embeddings")
    index.add_argument(
        "--encoding",
        choices=tuple(DTYPES),
        default="float32",
        help="what is kept of each number (default float32)",
    )


def _add_search_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "rows", metavar="FILE|ROW", help="a file as of embed, or a row: '{\"flow\": 1.5, …}', '[1.5, …]'"
    )
    command.add_argument("--in", metavar="URI", dest="at", required=True, help="the index, as of embed --to")
    command.add_argument(
        "-k", metavar="K", type=_count, default=10, help="how many neighbours of each row (default 10)"
    )
    command.add_argument("--id", metavar="COLUMN", help="the column of the rows' own ids (default: the model's)")
    command.add_argument("--model", metavar="NAME", help="default: the one that made the index")
    command.add_argument("--version", metavar="V", type=_count, help="default: the newest")
    command.add_argument("--out", metavar="FILE", type=Path, help="write .parquet or .csv: row, query_id, rank, id, …")


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
    command.add_argument(
        "--per",
        choices=("timestamp", "window"),
        help="of a series through a model of windows: a line for each row of the file (default), or for each window",
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


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)
