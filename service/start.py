"""Why a server does not start."""

from __future__ import annotations

REFUSED = 2  # the exit code


class StartError(Exception):
    """The server cannot start; the message is one line for the operator."""


def reason(error: StartError | ModuleNotFoundError) -> str:
    """One line for the operator, also where a part of the installation is missing."""
    if isinstance(error, StartError):
        return str(error)
    return (
        f"{error.name} is not installed: run `pip install 'hourglass-serving[serve]'` "
        "(on a machine with an NVIDIA GPU: 'hourglass-serving[serve-gpu]')"
    )
