"""hourglass-train: fit, export, list."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin

from training.config import FitConfig, check_same, read_option, read_toml, validated
from training.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from training.progress import Progress

_WIDTH = 100
_OWN_PACKAGES = ("training", "hourglass")


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code: 0, 2 for what the user can mend, 130 when interrupted."""
    try:
        parsed = _parser().parse_args(arguments)
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
        sys.stderr.write("interrupted: hourglass-train fit --resume RUN continues\n")
        return 130
    return 0


def _fail(message: str) -> int:
    sys.stderr.write(f"hourglass-train: error: {message}\n")
    return 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("hourglass-train", description="From data to a published autoencoder.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="fit|export|list")

    fit = commands.add_parser("fit", help="train a model and publish it", allow_abbrev=False)
    fit.set_defaults(command=_fit)
    for name, field in FitConfig.model_fields.items():
        if field.annotation is bool:
            fit.add_argument(f"--{name.replace('_', '-')}", action="store_true", default=None, help=field.description)
        elif name != "options":
            default = "" if field.is_required() or field.default in (None, ()) else f" [{field.default}]"
            help_text = f"{_meaning(field)}{default}".replace("%", "%%")
            fit.add_argument(f"--{name.replace('_', '-')}", metavar=name.upper(), help=help_text)
    fit.add_argument("--option", action="append", metavar="KEY=VALUE", help="one of the variant's own settings")
    fit.add_argument("--config", type=Path, metavar="FILE.toml", help="settings; flags override them")
    fit.add_argument("--resume", type=Path, metavar="RUN", help="continue this run exactly, with its settings")

    export = commands.add_parser("export", help="publish what a run has learned", allow_abbrev=False)
    export.set_defaults(command=_export)
    export.add_argument("--run", type=Path, required=True, metavar="RUN", help="runs/NAME/TIME")
    export.add_argument("--checkpoint", type=Path, metavar="C", help="another checkpoint than the run's last")
    export.add_argument("--exported", type=Path, metavar="DIR", help="another folder than the run's setting")

    commands.add_parser("list", help="the variants and their options").set_defaults(command=_list)
    return parser


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
        config = validated(FitConfig, settings, "setting")
        from training.fit import fit

        _print_folder(fit(config, _progress()))
    else:
        from training.fit import resume
        from training.run import Run

        run = Run.open(parsed.resume)
        check_same(run.config, settings, str(run.folder))
        _print_folder(resume(run, _progress()))


def _export(parsed: argparse.Namespace) -> None:
    from training.fit import export_run
    from training.run import Run

    _print_folder(export_run(Run.open(parsed.run), parsed.checkpoint, parsed.exported, _progress()))


def _list(_parsed: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from training.autoencoder import registered

    console = Console(width=min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns), highlight=False)
    for name, variant in registered().items():
        console.print(Text.assemble((name, "bold"), f": {variant.summary}"))
        options = Table.grid(padding=(0, 2))
        for key, field in variant.options_class.model_fields.items():
            default = "" if field.default is None else str(field.default)
            options.add_row("", key, Text(default, "cyan"), Text(_meaning(field), "dim"))
        console.print(options)
        console.print()
    console.print("Options are given as --option KEY=VALUE; the second column is the default.")


def _meaning(field: FieldInfo) -> str:
    """The description, and the words to choose from where there are such."""
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    return f"{field.description}: {', '.join(choices)}" if choices else str(field.description)


def _progress() -> Progress:
    from rich.console import Console

    from training.progress import Progress

    return Progress(Console(stderr=True))


def _print_folder(folder: Path) -> None:
    sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    sys.exit(main())
