"""The process: listeners, health, reflection, and an end that loses no call."""

from __future__ import annotations

import asyncio
import signal
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

import grpc
import structlog
import uvloop
from google.protobuf.internal import api_implementation
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from hourglass.v1 import autoencoder_pb2 as pb
from hourglass.v1 import autoencoder_pb2_grpc
from service import devices, native, open_inference
from service.arrivals import Arrivals
from service.batcher import Limits
from service.config import Settings
from service.engine import Engine, LiveModel
from service.health import SERVICE, Health
from service.interceptors import Guard, Tokens
from service.lanes import GREEDY, SLOTS, Memory
from service.loading import Loader
from service.memory import keep_freed_memory, settle
from service.metrics import LOOPBACK, Metrics, answer_scrapes
from service.oip import open_inference_pb2_grpc
from service.proving import Opener
from service.remote import Mirror
from service.repository import Repository
from service.session import Options
from service.start import StartError

if TYPE_CHECKING:
    from service.tracing import Tracing

log = structlog.get_logger(__name__)

# Measured with single rows of an MLP: what a hand-off to a runner and back takes while other calls come in.
_INLINE_SECONDS = 3e-4
_SERVICES = (native.SERVICE, open_inference.SERVICE)
_GRACE_SECONDS = 10.0
_GOAWAY_SECONDS = 0.05
_CALL_MILLISECONDS = 300_000  # no call is cut because its connection has reached its age

_PING_MILLISECONDS = 30_000

Ready = Callable[[int, int], None]  # called with the ports of gRPC and of /metrics


def run(settings: Settings, ready: Ready) -> None:
    """Serve until SIGTERM or SIGINT. Raises StartError."""
    keep_freed_memory()
    uvloop.run(_serve(settings, ready))


async def _serve(settings: Settings, ready: Ready) -> None:
    if api_implementation.Type() != "upb":
        log.warning("protobuf runs without its C implementation: slow", implementation=api_implementation.Type())
    metrics = Metrics(triton_names=settings.triton_metrics)
    # Of several processes, the supervisor asks each and answers for all.
    metrics_host = settings.host if settings.processes == 1 else LOOPBACK
    metrics_server, metrics_port = answer_scrapes(metrics.registry, metrics_host, settings.metrics_port)
    tracing = _tracing(settings)
    stop = _Stop()
    arrivals = Arrivals()
    engine, health = Engine(), Health(_SERVICES)

    def show(models: Sequence[LiveModel]) -> None:
        engine.replace(models)
        health.serve({model.name for model in models})

    explicit = settings.model_control == "explicit"
    mirror = None if settings.cache is None else Mirror(settings.exported, settings.cache, metrics.load_failed)
    loader = _loader(settings, metrics, arrivals, tracing)
    repository = Repository(settings.folder, settings.newest, loader, metrics, show, explicit=explicit, mirror=mirror)
    loading = asyncio.create_task(repository.start(allow_empty=settings.allow_empty))
    await stop.asked_before(loading)
    if not loading.done():
        loading.cancel()
        repository.stop_fetching()
        log.info("stopped while loading")
        return
    loading.result()
    settle()
    tokens = None if settings.auth_token_file is None else Tokens(settings.auth_token_file)
    with_rows = {**native.WITH_ROWS, **open_inference.WITH_ROWS}
    guard = Guard(metrics, _SERVICES, arrivals, with_rows, tokens, tracing)
    server, grpc_port = _listen(settings, engine, repository, health, metrics, guard)
    await server.start()
    ready(grpc_port, metrics_port)
    following = asyncio.create_task(repository.follow(settings.poll_seconds)) if settings.poll_seconds else None
    await stop.asked.wait()
    if following:
        following.cancel()
    repository.stop_fetching()
    await _drain(server, guard, health, stop, settings.drain_seconds)
    await repository.close()
    if tracing is not None:
        await asyncio.to_thread(tracing.close)
    metrics_server.shutdown()
    metrics_server.server_close()
    log.info("stopped")


def _loader(settings: Settings, metrics: Metrics, arrivals: Arrivals, tracing: Tracing | None) -> Loader:
    """For the device and the cores that there are. Raises StartError."""
    device, why = devices.choose(settings.device)
    log.info("device", device=str(device), asked=settings.device, why=why)
    on_gpu = device.kind != devices.CPU
    cores = max(1, devices.available_cores() // settings.processes)
    runners = SLOTS if on_gpu else max(1, cores // settings.threads)
    log.info("threads", runners=runners, threads_per_batch=settings.threads, cores=cores)
    opener = Opener(
        device,
        Options(settings.threads, settings.tf32, settings.gpu_memory_bytes),
        settings.max_batch_rows,
        _memory(device),
        settings.gpu_instances,
        slots=runners,
    )
    limits = Limits(
        batch_rows=settings.max_batch_rows,
        queue_rows=settings.max_queue_rows,
        queue_bytes=settings.max_queue_bytes,
        runners=runners,
        greedy=GREEDY if on_gpu else runners,
        serial=on_gpu,
        inline_seconds=_INLINE_SECONDS,
        delay=settings.batch_delay_ms / 1e3,
    )
    return Loader(settings.folder, opener, metrics, limits, arrivals, settings.drift_window_rows, tracing)


async def _drain(server: grpc.aio.Server, guard: Guard, health: Health, stop: _Stop, seconds: float) -> None:
    """Let callers go elsewhere, then take no new calls and end those begun."""
    health.drain()
    if not stop.at_once.is_set():
        log.info("draining: health says NOT_SERVING, calls are still answered", seconds=seconds)
    await stop.drained(seconds)
    log.info("stopping: no new calls, those begun are finished", grace_seconds=_GRACE_SECONDS)
    async with guard.last_calls():
        stopping = asyncio.create_task(server.stop(_GRACE_SECONDS))
        await asyncio.sleep(_GOAWAY_SECONDS)
    health.end()
    await stopping


def _memory(device: devices.Device) -> Callable[[], Memory] | None:
    """Of a GPU; models on the CPU run without."""
    if device.kind == devices.CPU:
        return None
    from service.cuda import Cuda  # whose package is installed where a GPU is

    return partial(Cuda, device.index)


def _tracing(settings: Settings) -> Tracing | None:
    """Raises StartError when traces are asked for and OpenTelemetry is not installed."""
    if settings.traces_endpoint is None:
        return None
    try:
        from service.tracing import Tracing  # of an extra
    except ModuleNotFoundError as error:
        raise StartError(
            f"--traces-endpoint: {error.name} is not installed: pip install 'hourglass-serving[tracing]'"
        ) from None
    return Tracing(settings.traces_endpoint)


class _Stop:
    """SIGTERM asks for a drain; SIGINT, or a second SIGTERM, for an end without one."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._terminate)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)

    def _terminate(self) -> None:
        if self.asked.is_set():
            self.at_once.set()
        self.asked.set()

    def _interrupt(self) -> None:
        self.at_once.set()
        self.asked.set()

    async def asked_before(self, task: asyncio.Task[object]) -> None:
        """Wait until an end is asked for or the task is done, whichever comes first."""
        asked = asyncio.ensure_future(self.asked.wait())
        await asyncio.wait((asked, task), return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()

    async def drained(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self.at_once.wait(), seconds)
        except TimeoutError:
            return


def _listen(
    settings: Settings, engine: Engine, repository: Repository, health: Health, metrics: Metrics, guard: Guard
) -> tuple[grpc.aio.Server, int]:
    """The gRPC server with everything on it, bound to its port and not started. Raises StartError."""
    server = grpc.aio.server(options=_options(settings))
    server.add_generic_rpc_handlers((guard,))

    limits = pb.Limits(max_rows=settings.max_batch_rows, max_message_bytes=settings.max_message_bytes)
    autoencoder_pb2_grpc.add_AutoencoderServicer_to_server(native.Autoencoder(engine, limits), guard)
    open_protocol = open_inference.OpenInference(
        engine,
        repository,
        metrics.served,
        max_rows=settings.max_batch_rows,
        delay=settings.batch_delay_ms / 1e3,
        may_control=settings.model_control == "explicit",
        ready=lambda: health.ready,
    )
    open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(open_protocol, guard)
    health_pb2_grpc.add_HealthServicer_to_server(health, guard)
    if settings.reflection:
        names = (*_SERVICES, SERVICE, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), guard)
    return server, _bind(server, settings)


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", -1),  # answers are bounded by the requests they answer
        ("grpc.max_connection_age_ms", round(settings.max_connection_age_seconds * 1e3)),
        ("grpc.max_connection_age_grace_ms", _CALL_MILLISECONDS),
        ("grpc.max_concurrent_streams", 1024),
        ("grpc.max_metadata_size", 8192),
        # Who pings more often than so is told to calm down, and then gone away from; a peer that is silent is asked
        # whether it is there, and given up.
        ("grpc.http2.min_ping_interval_without_data_ms", _PING_MILLISECONDS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", 2 * _PING_MILLISECONDS),
        ("grpc.keepalive_timeout_ms", _PING_MILLISECONDS),
        # A second server on the port must fail, not take half of the calls, unless it is one of ours.
        ("grpc.so_reuseport", int(settings.processes > 1)),
    ]


def _bind(server: grpc.aio.Server, settings: Settings) -> int:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    credentials = None if settings.tls_cert is None else _credentials(settings)
    try:
        if credentials is not None:
            return int(server.add_secure_port(address, credentials))
        if not _is_loopback(settings.host):
            log.warning("plaintext on an address others can reach; --tls-cert and --tls-key encrypt", host=host)
        return int(server.add_insecure_port(address))
    except (RuntimeError, UnicodeError):
        raise StartError(
            f"--grpc-port {settings.grpc_port} on {settings.host}: the port is taken or not allowed, or that is not an "
            "address of this machine"
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _credentials(settings: Settings) -> grpc.ServerCredentials:
    assert settings.tls_cert is not None
    assert settings.tls_key is not None
    try:
        # gRPC says nothing of what is wrong with a file: Python's ssl looks at them first.
        check = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        check.load_cert_chain(settings.tls_cert, settings.tls_key, password=lambda: "")
        if settings.tls_client_ca is not None:
            check.load_verify_locations(settings.tls_client_ca)
        pair = settings.tls_key.read_bytes(), settings.tls_cert.read_bytes()
        client_ca = None if settings.tls_client_ca is None else settings.tls_client_ca.read_bytes()
    except OSError as error:  # ssl.SSLError is one
        files = "--tls-cert, --tls-key" + (", --tls-client-ca" if settings.tls_client_ca else "")
        raise StartError(f"{files}: not a certificate and its unencrypted key in PEM: {error}") from None
    return grpc.ssl_server_credentials([pair], client_ca, require_client_auth=client_ca is not None)
