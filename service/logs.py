"""One JSON object a line on stderr, ours and the libraries'."""

from __future__ import annotations

import logging
import sys
from functools import partial

import structlog

from service.config import Settings

_FIRST = {"time": "timestamp", "level": "level", "message": "event"}

log = structlog.get_logger(__name__)


def configure(level: str, **always: object) -> None:
    """always: what every line says besides."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                partial(_people_first, always),
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())


def ready(settings: Settings, grpc_port: int, metrics_port: int) -> None:
    log.info(
        "ready",
        host=settings.host,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        tls=settings.tls_cert is not None,
        drain_seconds=settings.drain_seconds,
        processes=settings.processes,
    )


def _people_first(
    always: dict[str, object], _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """When, how bad and what, before the details."""
    first = {key: event.pop(name) for key, name in _FIRST.items()}
    return {**first, **always, **event}
