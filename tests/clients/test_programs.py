"""The commands of docs/clients/README.md, as they stand there, against a real server: all programs say the same."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hourglass.contract.schema import Column
from tests import artefacts
from tests.processes import Serve

REPOSITORY = Path(__file__).parents[2]
PAGE = Path("docs") / "clients" / "README.md"
TOOLS = {"Node": ["npm"], "Shell": ["npm", "jq"], "Java": ["mvn"], "Go": ["go", "protoc"]}
# How npm, Maven and Go say that their registry cannot be reached.
UNREACHABLE = re.compile(
    "ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT"
    "|Could not transfer artifact|Failed to read artifact descriptor"
    "|no such host|dial tcp"
)

MODELS = {
    # Ones are far from its normal rows, whose numbers have other signs: an anomaly.
    "wide": artefacts.Linear(np.full((100, 5), 0.1, dtype=np.float32)),
    "table": artefacts.Linear.random(width=3, embedding_size=1, seed=2),
}
COLUMNS = [
    Column(name="flow"),
    Column(name="open", type="boolean"),
    Column(name="site", type="categorical", categories=["a", "b"]),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    exported = tmp_path_factory.mktemp("exported")
    for name, model in MODELS.items():
        artefacts.publish(exported, name, model, columns=COLUMNS if name == "table" else None)
    server = Serve(exported)
    yield server.wait_ready()
    server.kill()


@pytest.fixture(scope="module")
def programs() -> Path:
    """A copy of the repository's part that the programs need: what is installed and made stays out of the sources, and
    is there for the next run."""
    copy = Path(sys.prefix) / "clients"
    for part in ("proto", "docs/clients"):
        shutil.copytree(REPOSITORY / part, copy / part, dirs_exist_ok=True)
    return copy


class Program:
    """One language's commands in the page: all but the last, which runs the program, prepare it."""

    def __init__(self, language: str, folder: Path) -> None:
        _, _, section = (REPOSITORY / PAGE).read_text().partition(f"\n## {language}\n")
        self._commands = section.split("```")[1].strip().splitlines()
        self._folder = folder

    def _do(self, *commands: str) -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "npm_config_fetch_retries": "0"}
        script = ["bash", "-euc", "\n".join(commands)]
        return subprocess.run(
            script, cwd=self._folder, env=environment, capture_output=True, text=True, timeout=280, check=False
        )

    def prepare(self) -> None:
        done = self._do(*self._commands[:-1])
        if done.returncode and UNREACHABLE.search(done.stdout + done.stderr):
            pytest.skip(f"a registry cannot be reached: {self._commands[1]}")
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, model: str, address: str) -> subprocess.CompletedProcess[str]:
        move, last = self._commands[0], self._commands[-1]
        assert "pumps 127.0.0.1:8001" in last
        return self._do(move, last.replace("pumps 127.0.0.1:8001", f"{model} {address}"))


def expected(name: str, space: str) -> str:
    """What the page says that a program prints."""
    model = MODELS[name]
    rows = np.repeat(np.array([[0], [1]], dtype=np.float32), len(model.weights), axis=1)
    answers = model.answers(rows)
    lines = [f"embedding_space_id {space}", f"embedding {len(rows)} {model.weights.shape[1]}"]
    for embedding, score in zip(answers["embedding"], answers["score"], strict=True):
        numbers = " ".join(f"{number:.4f}" for number in embedding[:3])
        verdict = "anomaly" if name == "wide" and score else "normal"
        lines.append(f"{numbers} score {score:.4f} {verdict}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("language", ["Python", *TOOLS])
def test_every_program_says_the_same(language: str, programs: Path, server: Serve) -> None:
    for tool in TOOLS.get(language, []):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    program = Program(language, programs)
    program.prepare()
    spaces = {entry["model"]: entry["embedding_space_id"] for entry in server.log if entry["message"] == "model loaded"}
    for name in MODELS:
        done = program.run(name, server.address)
        assert (done.returncode, done.stdout, done.stderr) == (0, expected(name, spaces[name]), "")
    failed = program.run("nope", server.address)
    problem = "there is no model 'nope' here; ListModels (`hourglass models`) names those there are"
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.splitlines()[0] == f"MODEL_NOT_FOUND model: {problem}"


def test_the_page_names_every_program() -> None:
    page = (REPOSITORY / PAGE).read_text()
    for link in re.findall(r"\]\((?!https:)([^)#]+)", page):
        assert (REPOSITORY / PAGE.parent / link).exists(), link
    folders = {path.name for path in (REPOSITORY / PAGE.parent).iterdir() if path.is_dir()}
    assert {f"docs/clients/{folder}" for folder in folders} == set(re.findall(r"^cd (\S+)$", page, re.M))
