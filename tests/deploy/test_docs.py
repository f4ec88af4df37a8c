"""What the operator's page names exists: settings, environment variables, metrics, values, commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.config import Settings
from service.metrics import Metrics
from service.scrape import Processes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "operator.md").read_text()


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
