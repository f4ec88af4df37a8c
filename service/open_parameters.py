"""Parameters of a ModelInfer request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from service import explanation
from service.errors import InvalidInput
from service.oip import open_inference_pb2 as pb

# The protocol's own, which mean nothing to models without state or to answers that are no JSON.
_IGNORED = {"sequence_id", "sequence_start", "sequence_end", "headers", "binary_data_output"}
_IGNORED_PREFIX = "triton_"
_HIGHEST, PRIORITIES = 1, 2
_LARGEST = 2**63


@dataclass(frozen=True)
class Options:
    """false_alarm_rate: None for the model's own. timeout: seconds to wait in the queue, None without end. urgent:
    ahead of others there."""

    false_alarm_rate: float | None = None
    top_features: int = 0
    normalize: bool = False
    timeout: float | None = None
    urgent: bool = False


_NONE = Options()


def read(parameters: Mapping[str, pb.InferParameter]) -> Options:
    """Raises InvalidInput naming the parameter."""
    if not parameters:
        return _NONE
    options: dict[str, object] = {}
    for name, parameter in parameters.items():
        if name in _READ:
            option, read_one = _READ[name]
            options[option] = read_one(name, _value(parameter))
        else:
            ignore(name, f"there is no parameter {name[:64]!r} here, but {', '.join(sorted(_READ))}")
    return Options(**options)  # type: ignore[arg-type]  # each is read as what it is


def ignore(name: str, problem: str) -> None:
    """Raises InvalidInput with this problem unless the parameter is one that can be passed over."""
    if name not in _IGNORED and not name.startswith(_IGNORED_PREFIX):
        raise InvalidInput(problem, reason="BAD_PARAMETER", field=f"parameters.{name[:64]}")


def _value(parameter: pb.InferParameter) -> object:
    choice = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, choice) if choice else None


def _number(name: str, value: object) -> float:
    """Clients of before double_param send texts."""
    try:
        if isinstance(value, bool) or value is None:
            raise ValueError
        return float(value)  # type: ignore[arg-type]
    except ValueError:
        raise _bad(name, value, "a number is needed") from None


def _whole(name: str, value: object) -> int:
    number = _number(name, value)
    if not number.is_integer() or abs(number) >= _LARGEST:
        raise _bad(name, value, "a whole number is needed")
    return value if isinstance(value, int) else int(number)


def _flag(name: str, value: object) -> bool:
    texts = {"true": True, "false": False}
    flag = texts.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(flag, bool):
        raise _bad(name, value, "true or false is needed")
    return flag


def _timeout(name: str, value: object) -> float | None:
    microseconds = _whole(name, value)
    if microseconds < 0:
        raise _bad(name, value, "microseconds, or 0 for no limit")
    return microseconds / 1e6 or None


def _urgent(name: str, value: object) -> bool:
    priority = _whole(name, value)
    if priority < 0:
        raise _bad(name, value, f"{_HIGHEST} is ahead of all others; 0, and {PRIORITIES} and above, are as usual")
    return priority == _HIGHEST


def _top(name: str, value: object) -> int:
    return explanation.how_many(_whole(name, value))


def _bad(name: str, value: object, problem: str) -> InvalidInput:
    shown = repr(value)[:64]
    return InvalidInput(f"{name} is {shown}: {problem}", reason="BAD_PARAMETER", field=f"parameters.{name}")


# A parameter's option, and how it is read.
_READ: Mapping[str, tuple[str, Callable[[str, object], object]]] = {
    "false_alarm_rate": ("false_alarm_rate", _number),
    "top_features": ("top_features", _top),
    "normalize": ("normalize", _flag),
    "timeout": ("timeout", _timeout),
    "priority": ("urgent", _urgent),
}
