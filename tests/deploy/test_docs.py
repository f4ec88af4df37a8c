"""What the pages for operators name exists: settings, environment variables, metrics, values, commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service import open_models, open_parameters
from service.config import Settings
from service.metrics import Metrics
from service.scrape import Processes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "operator.md").read_text()


@pytest.fixture(scope="module")
def open_page() -> str:
    return (ROOT / "docs" / "open-inference.md").read_text()


def test_settings_and_variables(page):
    variables = set(re.findall(r"\bHOURGLASS_[A-Z_]+", page)) - {"HOURGLASS_PORT"}  # Kubernetes' own
    known = {f"HOURGLASS_{name.upper()}" for name in Settings.model_fields}
    assert variables
    assert variables <= known
    flags = set(re.findall(r"`(?:hourglass-serve )?--([a-z0-9-]+)", page)) - {"help"}
    assert flags
    assert {flag.replace("-", "_") for flag in flags} <= Settings.model_fields.keys()


def test_metrics(page):
    registries = (Metrics().registry, Processes())
    families = {family.name for registry in registries for family in registry.collect()}
    exported = {f"{family}{suffix}" for family in families for suffix in ("", "_total", "_bucket")}
    named = set(re.findall(r"\b(?:hourglass|process)_[a-z_]+\b", page))
    assert named
    assert named <= exported


def test_the_page_for_users_of_triton_names_what_exists(open_page):
    flags = set(re.findall(r"`--([a-z0-9-]+)", open_page))
    assert {"triton-metrics", "model-control"} <= flags
    assert {flag.replace("-", "_") for flag in flags} <= Settings.model_fields.keys()
    exported = {family.name for family in Metrics(triton_names=True).registry.collect()}
    names = set(re.findall(r"`(nv_[a-z_]+)`", open_page))
    assert names == {name for name in exported if name.startswith("nv_")}
    parameters = re.findall(
        r"^\| `([a-z_]+)` \|", open_page.partition("## Parameters")[2].partition("## What")[0], re.M
    )
    assert parameters == list(open_parameters._READ)
    outputs = re.findall(r"^\| (`.*?`) \|", open_page.partition("## Outputs")[2].partition("## Parameters")[0], re.M)
    assert ", ".join(outputs).replace("`", "").split(", ") == list(open_models.names(True, True))


def test_values(page, hourglass):
    named = re.findall(r"`((?:models|gpu|server|resources|metrics|rollingUpdate)(?:\.[a-zA-Z]+)*)`", page)
    assert named
    for path in named:
        values = hourglass.defaults
        for key in path.split("."):
            values = values[key]


def test_the_chart_keeps_both_inequalities_of_the_page(page, hourglass):
    pod = hourglass.render_cpu()
    grace = pod.pod["terminationGracePeriodSeconds"]
    drain = int(pod.environment["HOURGLASS_DRAIN_SECONDS"])
    age = int(pod.environment["HOURGLASS_MAX_CONNECTION_AGE_SECONDS"])
    assert f"{drain} > {age * 11 // 10}\n" in page
    assert f"{grace} > {drain + 10}\n" in page
