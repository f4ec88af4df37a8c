"""The Python of docs/client.md and docs/clients calls what the package has, with arguments that it takes."""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]


def declared(block: str) -> str:
    """The block behind declarations of the names that other blocks and the reader give it."""
    nodes = list(ast.walk(ast.parse(block)))
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    own = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    own |= {alias.asname or alias.name for node in nodes if isinstance(node, ast.ImportFrom | ast.Import)
            for alias in node.names}  # fmt: skip
    own |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    client = "AsyncClient" if "await " in block else "Client"
    lines = ["import typing", "from hourglass import AsyncClient, Client"]
    lines += [
        f"{name}: {client if name == 'client' else 'typing.Any'}"
        for name in sorted(used - own - {"Client", "AsyncClient"} - set(dir(builtins)))
    ]
    return "\n".join([*lines, block])


def test_python_of_the_page(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "client.md").read_text()
    blocks = [textwrap.dedent(block) for block in re.findall(r"^ *```python\n(.*?)^ *```", page, re.M | re.S)]
    assert blocks
    files = [tmp_path / f"block_{i}.py" for i in range(len(blocks))]
    for file, block in zip(files, blocks, strict=True):
        file.write_text(declared(block))
    # Of annotations a page has none, and not every library that it shows is installed or typed.
    options = ["--no-strict-optional", "--allow-untyped-defs", "--allow-redefinition", "--ignore-missing-imports"]
    command = [sys.executable, "-m", "mypy", *options, *map(str, files), "docs/clients/python/client.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
