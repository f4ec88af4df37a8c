""".ci/run, with stand-ins for the programs it calls."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "run"
SHELL_TOOLS = ("bash", "env", "dirname")


class Machine:
    """A PATH of our own: what is not put there is not installed. Calls are logged in order."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.log = folder / "log"
        self.log.touch()
        for tool in SHELL_TOOLS:
            (self.bin / tool).symlink_to(f"/usr/bin/{tool}")

    def install(self, program: str, script: str = "") -> None:
        file = self.bin / program
        file.write_text(f'#!/bin/bash\necho "{program} $*" >> {self.log}\n{script}\n')
        file.chmod(0o755)

    def run(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(SCRIPT)], env={"PATH": str(self.bin)}, cwd="/", capture_output=True, text=True, timeout=30, check=False
        )

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()

    def called(self, program: str) -> list[str]:
        return [call for call in self.calls if call.split()[0] == program]


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


def test_it_is_executable_and_parses():
    assert os.access(SCRIPT, os.X_OK)
    assert subprocess.run(["bash", "-n", SCRIPT], check=False).returncode == 0


def test_it_checks_and_tests_and_ends_with_the_tests_last_line(machine):
    machine.install("python3")
    machine.install("chromium")
    machine.install("make", 'echo "$1 is done"')
    done = machine.run()
    assert (done.returncode, done.stdout.splitlines()) == (0, ["check is done", "test is done"])
    assert machine.called("make") == ["make check", "make test"]
    assert machine.called("apt-get") == []


@pytest.mark.parametrize("failing", ["check", "test"])
def test_either_failure_fails_it_and_both_run(machine, failing):
    machine.install("python3")
    machine.install("make", f'if [ "$1" = {failing} ]; then exit 2; fi')
    assert machine.run().returncode == 2
    assert machine.called("make") == ["make check", "make test"]


def test_it_installs_what_is_missing(machine):
    # No make, and a python3 without venv until apt-get ran.
    machine.install("make-of-debian", 'echo "make $1" >> ' + str(machine.log))
    machine.install("python3", f'[ -e {machine.bin}/make ] || [[ "$2" != *venv* ]]')
    machine.install("apt-get", f'if [ "$1" = install ]; then /bin/ln -s make-of-debian {machine.bin}/make; fi')
    assert machine.run().returncode == 0
    assert machine.called("apt-get") == [
        "apt-get update -qq",
        "apt-get install -y -qq --no-install-recommends make python3 python3-venv",
        "apt-get update -qq",
        "apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core",
    ]
    assert machine.called("make") == ["make check", "make test"]


def test_without_a_browser_to_install_it_goes_on(machine):
    machine.install("python3")
    machine.install("make")
    machine.install("apt-get", "exit 100")
    done = machine.run()
    assert done.returncode == 0
    assert "no browser: the report's pages will not be opened" in done.stderr
    assert machine.called("make") == ["make check", "make test"]


def test_an_old_python_is_named(machine):
    machine.install("make")
    machine.install("python3", 'case "$*" in *version_info*) exit 1;; --version) echo "Python 3.9.2";; esac')
    refused = machine.run()
    assert refused.returncode == 2
    assert refused.stderr == "hourglass needs Python 3.11 or later; python3 is Python 3.9.2\n"
    assert machine.called("make") == []
