"""Every common setting of a fit, once: the TOML keys, the flags, their help and their checks come from FitConfig."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from hourglass.contract.layout import check_name
from hourglass.contract.schema import ColumnType
from training.errors import ConfigError, nearest

Model = TypeVar("Model", bound=BaseModel)
Precision = Literal["float32", "tf32", "bf16", "fp16"]


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _widths(value: object) -> object:
    return () if value == "none" else _split(value)


def _types(value: object) -> object:
    """'age=numeric,zip=categorical' as the table that a TOML file has."""
    if not isinstance(value, str):
        return value
    return {name.strip(): kind for name, _, kind in (part.rpartition("=") for part in value.split(","))}


Words = Annotated[tuple[str, ...], BeforeValidator(_split)]
Widths = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_widths)]


_TABLE_SCHEDULE = {"epochs": 60, "learning_rate": 3e-3}
_IMAGE_SCHEDULE = {"epochs": 100, "learning_rate": 1e-3}


class FitConfig(BaseModel):
    """The settings that every variant shares. What only one variant knows is in `options`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Annotated[str, Field(min_length=1, description="file or folder, or 'digits' or 'sprites' (built in)")]
    name: Annotated[str, AfterValidator(check_name), Field(description="the model's name: exported/NAME/VERSION")]
    # The default is the one that serves every call: it repairs, which the plain one never learned.
    variant: Annotated[str, Field(description="kind of autoencoder: see hourglass-train list")] = "denoising"
    label: Annotated[str | None, Field(description="column that holds labels: never part of a row")] = None
    exclude_label: Annotated[Words, Field(description="leave out rows whose label is one of these: V[,V]")] = ()
    id: Annotated[str | None, Field(description="column that names a row: never part of it, copied to answers")] = None
    time: Annotated[str | None, Field(description="column that holds the time: never part of a row")] = None
    window: Annotated[
        int | None,
        Field(ge=2, description="the file is a series, its rows in order of time: learn from windows of so many rows"),
    ] = None
    stride: Annotated[
        int | None,
        Field(
            ge=1,
            description="rows from one window to the next [to learn from: 1, of long series more; to score: a quarter "
            "of the window]",
        ),
    ] = None
    ignore: Annotated[Words, Field(description="columns that are not part of a row: COLUMN[,COLUMN]")] = ()
    columns: Annotated[
        dict[str, ColumnType],
        BeforeValidator(_types),
        Field(description="what columns hold, where it is not what it seems: NAME=numeric|boolean|categorical[,…]"),
    ] = {}
    max_rows: Annotated[
        int | None,
        Field(
            ge=1,
            description="of more rows so many are drawn at random, so that they fit in memory [512 MiB of numbers]",
        ),
    ] = None
    network: Annotated[
        Literal["mlp", "conv", "conv1d"],
        Field(description="fully connected, or convolutions: over images (conv), over the time of windows (conv1d)"),
    ] = "mlp"
    hidden: Annotated[
        Widths | None,
        Field(description="widths (mlp) or channels (conv) from input to embedding: W[,W] or none"),
    ] = None
    hidden_activation: Annotated[
        Literal["relu", "selu", "tanh", "sigmoid"] | None,
        Field(description="of the hidden layers, both ways: relu, selu, tanh, sigmoid [tables tanh, images relu]"),
    ] = None
    embedding_dim: Annotated[
        int | None,
        Field(
            ge=1,
            description="size of an embedding [at most 32: half a table's columns, a quarter if mixed, or of an image; "
            "sparse: twice the row, at most 256]",
        ),
    ] = None
    epochs: Annotated[
        int | None, Field(ge=1, description="most passes over the training rows [tables 60, images 100]")
    ] = None
    batch_size: Annotated[
        int | None, Field(ge=1, description="rows of one gradient step [a 16th of the training rows, 16 to 256]")
    ] = None
    learning_rate: Annotated[
        float | None,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="of Adam at the first step; falls on a cosine to 0 [tables 3e-3, images 1e-3]",
        ),
    ] = None
    weight_decay: Annotated[
        float,
        Field(ge=0, allow_inf_nan=False, description="AdamW's: each step takes this × the learning rate off a weight"),
    ] = 0.0
    patience: Annotated[
        int, Field(ge=1, description="stop after this many epochs without a better early-stop loss")
    ] = 10
    training_data: Annotated[
        Literal["clean", "mixed"],
        Field(description="whether the rows are normal, or may hold anomalies: then those repeated worst are left out"),
    ] = "clean"
    score: Annotated[
        str | None,
        Field(description="the anomaly score, parts joined by +: see hourglass-train list [for tables distances]"),
    ] = None
    false_alarm_rate: Annotated[
        float, Field(gt=0, lt=1, description="share of rows like the calibration rows that may be called anomalies")
    ] = 0.01
    no_examples: Annotated[bool, Field(description="show no row of the data in report.html's pictures")] = False
    device: Annotated[
        str,
        Field(
            pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$",
            description="where to train: auto (a GPU where there is one), cpu, cuda or cuda:N",
        ),
    ] = "auto"
    precision: Annotated[
        Precision,
        Field(description="of the networks' products while they learn; weights, losses and scores are float32"),
    ] = "float32"
    compile: Annotated[bool, Field(description="torch.compile the networks: slow first steps, fewer kernels")] = False
    seed: Annotated[int, Field(ge=0, lt=2**63, description="same seed, same data, same machine: same bits")] = 0
    exported: Annotated[Path, Field(description="folder that published models live in")] = Path("exported")
    runs: Annotated[Path, Field(description="folder that checkpoints and logs live in")] = Path("runs")
    options: Annotated[dict[str, Any], Field(description="the variant's own settings")] = {}

    def filled(self, row_shape: tuple[int, ...]) -> FitConfig:
        """With the schedule that suits such rows, where nobody chose one."""
        suits = _TABLE_SCHEDULE if len(row_shape) == 1 or self.window else _IMAGE_SCHEDULE
        return self.model_copy(update={key: value for key, value in suits.items() if getattr(self, key) is None})


def validated(model: type[Model], values: Mapping[str, Any], what: str) -> Model:
    """Check `values` against `model`. Raises ConfigError naming the first key that is wrong, `what` being whose."""
    for key in values:
        if key not in model.model_fields:
            raise ConfigError(f"unknown {what} {key!r}{nearest(key, model.model_fields)}")
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:  # about several keys: the message names them
            raise ConfigError(f"{what}s: {message}") from None
        key = str(first["loc"][0])
        if first["type"] == "missing":
            raise ConfigError(f"{what} {key!r} is required") from None
        raise ConfigError(
            f"{what} {key!r}: {message} (got {first['input']!r}; it is: {model.model_fields[key].description})"
        ) from None


def check_same(config: FitConfig, settings: Mapping[str, Any], whose: str) -> None:
    """Raises ConfigError when one of `settings` differs from `config`: a resumed run continues as it began, but for
    where."""
    given = validated(FitConfig, {**config.model_dump(), **settings}, "setting")
    for key in sorted(settings.keys() - {"device"}):
        if getattr(given, key) != getattr(config, key):
            asked, began = getattr(given, key), getattr(config, key)
            raise ConfigError(f"setting {key!r}: {asked!r} is not what {whose} began with ({began!r})")


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a config file. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


def read_option(text: str) -> tuple[str, Any]:
    """'KEY=VALUE' with VALUE as TOML has it, else as a string. Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ConfigError(f"--option {text!r} is not KEY=VALUE")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value
