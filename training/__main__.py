"""hourglass-train: fit, export, calibrate, evaluate, reproduce, list."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin

from training.config import FitConfig, check_same, read_option, read_toml, validated
from training.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from rich.console import Console

    from hourglass.contract.manifest import Precision
    from training.progress import Progress

    _Commands = argparse._SubParsersAction["_Parser"]

_WIDTH = 100
_OWN_PACKAGES = ("training", "hourglass")
_MODEL = "exported/NAME[/VERSION]"


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code: 0, 2 for what the user can mend, 130 when interrupted."""
    interrupted = "interrupted"
    try:
        parsed = _parser().parse_args(arguments)
        interrupted += parsed.goes_on
        if _by_torchrun() and parsed.command is not _fit:
            raise ConfigError("torchrun is for hourglass-train fit: start other commands without it")
        parsed.command(parsed)
    except TrainingError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OWN_PACKAGES:
            raise
        return _fail(f"{package} is not installed: pip install 'hourglass-serving[train]'")
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        sys.stderr.write(f"{interrupted}\n")
        return 130
    return 0


def _fail(message: str) -> int:
    whose = "" if _leads() else f" in process {os.environ['RANK']}"
    sys.stderr.write(f"hourglass-train: error{whose}: {message}\n")
    return 2


def _by_torchrun() -> bool:
    return os.environ.keys() >= {"TORCHELASTIC_RUN_ID", "RANK"}  # before torch is loaded


def _leads() -> bool:
    """As training.parallel.leads, which needs torch."""
    return not _by_torchrun() or os.environ["RANK"] == "0"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("hourglass-train", description="From data to a published autoencoder.", allow_abbrev=False)
    parser.set_defaults(goes_on="")  # what to do after an interruption
    commands = parser.add_subparsers(required=True, metavar="fit|export|calibrate|evaluate|reproduce|list")
    for add in (_add_fit, _add_export, _add_calibrate, _add_evaluate, _add_reproduce):
        add(commands)
    commands.add_parser("list", help="the variants and their options").set_defaults(command=_list)
    return parser


def _add_fit(commands: _Commands) -> None:
    fit = commands.add_parser("fit", help="train a model and publish it", allow_abbrev=False)
    fit.set_defaults(command=_fit, goes_on=": hourglass-train fit --resume RUN continues")
    for name, field in FitConfig.model_fields.items():
        if field.annotation is bool:
            fit.add_argument(f"--{name.replace('_', '-')}", action="store_true", default=None, help=field.description)
        elif name != "options":
            default = "" if field.is_required() or field.default in (None, (), {}) else f" [{field.default}]"
            help_text = f"{_meaning(field)}{default}".replace("%", "%%")
            fit.add_argument(f"--{name.replace('_', '-')}", metavar=name.upper(), help=help_text)
    fit.add_argument("--option", action="append", metavar="KEY=VALUE", help="one of the variant's own settings")
    fit.add_argument("--config", type=Path, metavar="FILE.toml", help="settings; flags override them")
    fit.add_argument("--resume", type=Path, metavar="RUN", help="continue this run exactly, with its settings")


def _add_export(commands: _Commands) -> None:
    export = commands.add_parser("export", help="publish what a run has learned", allow_abbrev=False)
    export.set_defaults(command=_export)
    export.add_argument("--run", type=Path, required=True, metavar="RUN", help="runs/NAME/TIME")
    export.add_argument("--checkpoint", type=Path, metavar="C", help="another checkpoint than the run's last")
    export.add_argument("--exported", type=Path, metavar="DIR", help="another folder than the run's setting")
    export.add_argument(
        "--precision",
        type=_precision,
        default="float32",
        metavar="float32|float16",
        help="what the networks compute in: float16 (fp16) for GPUs; calibrated anew, refused if it costs accuracy",
    )


def _add_calibrate(commands: _Commands) -> None:
    calibrate = commands.add_parser(
        "calibrate", help="a published model's threshold on new rows, as its next version", allow_abbrev=False
    )
    calibrate.set_defaults(command=_calibrate)
    calibrate.add_argument("model", type=Path, metavar=_MODEL, help="the newest version if none is named")
    calibrate.add_argument("--data", required=True, metavar="FILE", help="normal rows: a file or folder")
    calibrate.add_argument("--label", metavar="COLUMN", help="column that holds labels")
    calibrate.add_argument(
        "--exclude-label", type=_words, default=(), metavar="V[,V]", help="leave out rows with one of these labels"
    )
    calibrate.add_argument(
        "--false-alarm-rate", type=_rate, metavar="A", help="share of such rows called anomalies [the model's own]"
    )


def _add_evaluate(commands: _Commands) -> None:
    evaluate = commands.add_parser("evaluate", help="measure what a published model is worth", allow_abbrev=False)
    evaluate.set_defaults(command=_evaluate)
    evaluate.add_argument("model", type=Path, metavar=_MODEL, help="the newest version if none is named")
    evaluate.add_argument("--data", metavar="FILE", help="rows to measure on: a file, a folder, digits or sprites")
    evaluate.add_argument(
        "--label", "--labels", metavar="COLUMN", help="column that holds labels: adds classification and anomalies"
    )
    evaluate.add_argument(
        "--anomalies",
        type=_words,
        default=(),
        metavar="V[,V]",
        help="the labels that are anomalies [those that the fit excluded; of two, the one that is not 0, no or normal]",
    )
    evaluate.add_argument(
        "--run", type=Path, metavar="RUN", help="its weights: adds fine-tuning, and -log p(x) of a VAE"
    )
    evaluate.add_argument(
        "--samples", type=_positive, default=1000, metavar="K", help="draws for a row's -log p(x) [1000]"
    )
    evaluate.add_argument(
        "--search", action="store_true", help="adds what vector search finds by embeddings, in each encoding"
    )
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")


def _add_reproduce(commands: _Commands) -> None:
    reproduce = commands.add_parser("reproduce", help="train what papers report, and compare", allow_abbrev=False)
    reproduce.set_defaults(command=_reproduce, goes_on=": run the same command again: it goes on")
    reproduce.add_argument("name", metavar="NAME|all", help="see hourglass-train list")
    reproduce.add_argument("--budget", choices=("cpu", "gpu"), default="cpu", help="which recipe [cpu]")
    reproduce.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 [3]")
    reproduce.add_argument("--data", type=Path, metavar="DIR", help="folder with mnist/ [$HOURGLASS_DATA]")
    reproduce.add_argument(
        "--results", type=Path, default=Path("runs/reproductions"), metavar="DIR", help="results; DIR.md is the page"
    )
    reproduce.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="checkpoints and logs")
    reproduce.add_argument("--exported", type=Path, default=Path("exported"), metavar="DIR", help="published models")


def _settings(parsed: argparse.Namespace) -> dict[str, Any]:
    """The config file's keys, overridden by the flags that were given."""
    settings = read_toml(parsed.config) if parsed.config else {}
    flags = {name: getattr(parsed, name, None) for name in FitConfig.model_fields}
    settings |= {name: value for name, value in flags.items() if value is not None}
    if parsed.option:
        settings["options"] = settings.get("options", {}) | dict(map(read_option, parsed.option))
    return settings


def _fit(parsed: argparse.Namespace) -> None:
    settings = _settings(parsed)
    if parsed.resume is None:
        config, run = validated(FitConfig, settings, "setting"), None
    else:
        from training.run import Run

        run = Run.open(parsed.resume)
        check_same(run.config, settings, str(run.folder))
        run = run.on(settings.get("device"))
        config = run.config
    from training.fit import fit, follow, resume

    if not _leads():
        follow(config, run)
    else:
        _print_folder(fit(config, _progress()) if run is None else resume(run, _progress()))


def _export(parsed: argparse.Namespace) -> None:
    from training.fit import export_run
    from training.run import Run

    run = Run.open(parsed.run)
    _print_folder(export_run(run, parsed.checkpoint, parsed.exported, _progress(), parsed.precision))


def _calibrate(parsed: argparse.Namespace) -> None:
    from training.recalibrate import recalibrate

    _print_folder(
        recalibrate(
            parsed.model,
            source=parsed.data,
            label=parsed.label,
            exclude=parsed.exclude_label,
            rate=parsed.false_alarm_rate,
            progress=_progress(),
        )
    )


def _evaluate(parsed: argparse.Namespace) -> None:
    from training.evaluation import evaluate

    evaluate(
        parsed.model,
        source=parsed.data,
        label=parsed.label,
        anomalous=parsed.anomalies,
        run=parsed.run,
        samples=parsed.samples,
        neighbours=parsed.search,
        report=parsed.json,
        console=_console(),
        progress=_progress(),
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return rate


def _precision(text: str) -> Precision:
    """Both as numpy and as GPU makers call them."""
    if text in ("bf16", "bfloat16"):
        raise argparse.ArgumentTypeError(
            f"{text}: onnxruntime cannot run it on a CPU, so that an export could not be proven; use float16"
        )
    known: dict[str, Precision] = {"float32": "float32", "fp32": "float32", "float16": "float16", "fp16": "float16"}
    if text not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is neither float32 nor float16")
    return known[text]


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _reproduce(parsed: argparse.Namespace) -> None:
    from training.reproduce import Settings, reproduce

    data = parsed.data or os.environ.get("HOURGLASS_DATA")
    settings = Settings(
        parsed.budget, parsed.seeds, Path(data) if data else None, parsed.results, parsed.runs, parsed.exported
    )
    _print_folder(reproduce(parsed.name, settings, _progress()))


def _list(_parsed: argparse.Namespace) -> None:
    from rich.table import Table
    from rich.text import Text

    from training.autoencoder import registered
    from training.reproduction import registered as reproductions
    from training.scores import PARTS
    from training.scoring import MeanSquaredError, NegativeElbo

    console = _console()
    for name, variant in registered().items():
        console.print(Text.assemble((name, "bold"), f": {variant.summary}"))
        options = Table.grid(padding=(0, 2))
        for key, field in variant.options_class.model_fields.items():
            default = "" if field.default is None else str(field.default)
            options.add_row("", key, Text(default, "cyan"), Text(_meaning(field), "dim"))
        console.print(options)
        console.print()
    console.print("Options are given as --option KEY=VALUE; the second column is the default.")
    console.print()
    console.print(Text("hourglass-train fit --score NAME, or several joined by +:", "bold"))
    for score in (NegativeElbo.name, MeanSquaredError.name, *PARTS):
        console.print(f"  {score}")
    console.print()
    console.print(Text("hourglass-train reproduce NAME:", "bold"))
    for name, reproduction in reproductions().items():
        console.print(f"  {name}: {reproduction.title}")


def _meaning(field: FieldInfo) -> str:
    """The description, and the words to choose from where there are such."""
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    return f"{field.description}: {', '.join(choices)}" if choices else str(field.description)


def _console() -> Console:
    from rich.console import Console

    return Console(
        width=min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns), markup=False, highlight=False, emoji=False
    )


def _progress() -> Progress:
    from rich.console import Console

    from training.progress import Progress

    # As above: names of columns and files may look like markup.
    return Progress(Console(stderr=True, markup=False, highlight=False, emoji=False))


def _print_folder(folder: Path) -> None:
    sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    sys.exit(main())
