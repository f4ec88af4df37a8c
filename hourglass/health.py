"""grpc.health.v1, of which a client needs one call: no package beside gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from hourglass.v1.autoencoder_pb2_grpc import AutoencoderStub

READINESS, LIVENESS, SERVICE = "", "liveness", "hourglass.v1.Autoencoder"
SERVING = 1


@dataclass(frozen=True)
class Health:
    """What one server says of itself.

    ready: models are loaded, and it does not drain. live: the process answers. service: as ready, the name that
    balancing clients watch. models: by name, whether it answers.
    """

    ready: bool
    live: bool
    service: bool
    models: Mapping[str, bool]

    @property
    def ok(self) -> bool:
        """Whether all of it serves."""
        return self.ready and self.live and self.service and all(self.models.values())


class HealthStub:
    """`Check`, a name -> its status: messages of one field each, as these are. And `ListModels`."""

    def __init__(self, channel: Any) -> None:
        self.Check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=Int32Value.FromString,
        )
        self.ListModels = AutoencoderStub(channel).ListModels
