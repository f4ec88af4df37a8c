"""What the client needs, and what it does without."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from tests.conftest import REPOSITORY
from tests.hourglass.fake import Fake, serving

ROUND_TRIP = """
import sys
import google.protobuf, numpy
from hourglass import Client
with Client(sys.argv[1]) as client:
    assert client.embed("m", numpy.ones((3, 4))).values.tolist() == [[2, 2]] * 3
    try:
        client.embed("m", numpy.ones(4))
    except Exception as error:
        assert error.reason == "SHAPE_MISMATCH", error
print(google.protobuf.__version__)
"""
WITHOUT = "import sys; sys.modules.update(dict.fromkeys({absent!r})); "
NOT_BASE = ("pandas", "polars", "pyarrow", "PIL", "torch", "onnxruntime", "onnx", "sklearn", "lancedb", "psycopg")
COMMANDS = ("models", "health", "embed", "search", "denoise", "score", "generate", "drift")
OF_INDICES = "'hourglass-serving[lancedb]' (or [postgres], [qdrant])"


def python(code: str, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("major", [6, 7])
def test_the_client_runs_on_protobuf(fake: Fake, major: int) -> None:
    # The environment has one, and a folder beside it the other.
    done = python(ROUND_TRIP, fake.address, path=str(Path(sys.prefix) / "protobuf-7") if major == 7 else "")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{major}.")


def test_the_client_needs_only_the_base_dependencies(fake: Fake) -> None:
    done = python(WITHOUT.format(absent=(*NOT_BASE, "rich")) + ROUND_TRIP, fake.address)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_a_frame_without_its_library_says_what_to_install(fake: Fake, library: str) -> None:
    ask = f"import hourglass; hourglass.Client({fake.address!r}).embed('m', [[1, 2, 3, 4]])"
    done = python(WITHOUT.format(absent=(library,)) + f"{ask}.to_{library.removeprefix('py')}()")
    assert done.stderr.endswith(f"ModuleNotFoundError: {library} is not installed: pip install {library}\n")


def test_the_wheel_says_that_it_is_typed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=60)
    [wheel] = tmp_path.iterdir()
    names = zipfile.ZipFile(wheel).namelist()
    assert {"hourglass/py.typed", "hourglass/client.py", "hourglass/v1/autoencoder_pb2.pyi"} <= set(names)


@pytest.fixture(scope="module")
def listed() -> Iterator[Fake]:
    """A server with a health service."""

    def healthy(server: grpc.Server) -> None:
        servicer = HealthServicer()
        for name in ("", "liveness", "hourglass.v1.Autoencoder", "model/m"):
            servicer.set(name, HealthCheckResponse.SERVING)
        add_HealthServicer_to_server(servicer, server)

    with serving(Fake(), more=healthy) as fake:
        yield fake


def program(absent: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from hourglass.__main__ import main; sys.argv[0] = 'hourglass'; main()"
    return python(WITHOUT.format(absent=absent) + code, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        *((command, "--help") for command in COMMANDS),
        ("models",),
        ("models", "--json"),
        ("health",),
        ("health", "--json"),
    ],
    ids=" ".join,
)
def test_the_program_lists_with_only_the_base_dependencies(listed: Fake, arguments: tuple[str, ...]) -> None:
    server = () if "--help" in arguments else ("--server", listed.address)
    done = program(NOT_BASE, *arguments, *server)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("absent", ["pyarrow", "PIL"])
@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("score", "in.csv", "--model", "m"), "'hourglass-serving[files]'"),
        (("embed", "in.csv", "--model", "m"), "'hourglass-serving[files]'"),
        (("generate", "--model", "m"), "'hourglass-serving[files]'"),
        (("embed", "in.csv", "--model", "m", "--to", "x"), OF_INDICES),
        (("search", "[1]", "--in", "x"), OF_INDICES),
    ],
)
def test_a_command_without_its_extra_says_what_to_install(absent: str, arguments: tuple[str, ...], what: str) -> None:
    done = program((absent,), *arguments)
    assert done.returncode == 2
    assert done.stderr == f"hourglass: error: {absent} is not installed: pip install {what}\n"


@pytest.mark.parametrize("names", ["searching import Index", "indexing import index"])
def test_indices_without_pyarrow_say_what_to_install(names: str) -> None:
    done = python(WITHOUT.format(absent=("pyarrow",)) + f"from hourglass.{names}")
    assert done.stderr.endswith(f"ImportError: pyarrow is not installed: pip install {OF_INDICES}\n")


def test_no_library_of_an_extra_is_loaded_for_a_listing() -> None:
    done = python(f"import sys, hourglass.cli; print({set(NOT_BASE)!r} & set(sys.modules))")
    assert done.stdout == "set()\n", done.stderr


def test_the_rest_of_the_package_does_not_load_the_client() -> None:
    done = python("import sys, hourglass.contract.layout; print([m for m in ('grpc', 'pyarrow') if m in sys.modules])")
    assert done.stdout == "[]\n", done.stderr


def test_unknown_names_are_attribute_errors() -> None:
    done = python("import hourglass; hourglass.nothing")
    assert "module 'hourglass' has no attribute 'nothing'" in done.stderr


def test_every_public_name_is_there() -> None:
    done = python("import hourglass as h; print(all(getattr(h, name) is not None for name in h.__all__))")
    assert done.stdout == "True\n", done.stderr
