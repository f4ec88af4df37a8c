"""The chart, rendered by the real Helm engine."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python import chart

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "hourglass"

Values = dict[str, Any]
Object = dict[str, Any]


class Release:
    """What `helm install demo --namespace ml` would send to Kubernetes."""

    def __init__(self, templates: dict[str, str]) -> None:
        self.notes = next(text for path, text in templates.items() if path.endswith("NOTES.txt"))
        self.objects: list[Object] = [
            one
            for path, text in sorted(templates.items())
            if path.endswith(".yaml")
            for one in yaml.safe_load_all(text)
            if one is not None
        ]

    def get(self, kind: str, name: str) -> Object:
        return next(o for o in self.objects if o["kind"] == kind and o["metadata"]["name"] == name)

    @property
    def deployment(self) -> Object:
        return next(o for o in self.objects if o["kind"] == "Deployment")

    @property
    def pod(self) -> Object:
        pod: Object = self.deployment["spec"]["template"]["spec"]
        return pod

    @property
    def container(self) -> Object:
        container: Object = self.pod["containers"][0]
        return container

    @property
    def environment(self) -> dict[str, str]:
        return {entry["name"]: entry["value"] for entry in self.container["env"] if "value" in entry}


class Hourglass:
    """The chart's folder, and ways to render it."""

    folder = CHART
    defaults: Values = yaml.safe_load((CHART / "values.yaml").read_text())
    examples = ("cpu", "gpu", "full")

    def __init__(self) -> None:
        self._chart = chart.Chart.load(CHART)

    def example(self, name: str) -> Values:
        values: Values = yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text())
        return values

    def render(self, values: Values, *, release: str = "demo") -> Release:
        """Raises helm_python's errors, as the helm command would."""
        return Release(self._chart.render(values, name=release, namespace="ml"))

    def render_cpu(self, **changes: Any) -> Release:
        """The smallest values that install, with some replaced."""
        values = copy.deepcopy(self.example("cpu"))
        values.update(changes)
        return self.render(values)


@pytest.fixture(scope="session")
def hourglass() -> Hourglass:
    return Hourglass()
