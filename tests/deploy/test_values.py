"""values.yaml and its schema: every value is described, typed, and a wrong one is refused by its name."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from helm_python import HelmValuesError

# Kubernetes' own type, described and checked as one value.
WHOLE = "resources"


def leaves(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        if isinstance(value, dict) and value and key != WHOLE:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def at(values: dict[str, Any], path: tuple[str, ...]) -> Any:
    return functools.reduce(lambda node, key: node[key], path, values)


@pytest.fixture(scope="module")
def schema(hourglass) -> dict[str, Any]:
    return json.loads((hourglass.folder / "values.schema.json").read_text())


def test_every_value_has_a_type(hourglass, schema):
    for path in leaves(hourglass.defaults):
        inner = tuple(step for key in path for step in ("properties", key))
        assert at(schema, inner).keys() & {"type", "enum"}, path


def test_the_schema_names_no_value_that_is_not_there(hourglass, schema):
    def walk(node: dict[str, Any], values: dict[str, Any], path: str) -> None:
        assert node["additionalProperties"] is False, path
        optional = {"global"} if not path else {"claims"} if path == "/resources" else set()
        assert node["properties"].keys() - optional == values.keys(), path
        for key, child in node["properties"].items():
            if "properties" in child:
                walk(child, values[key], f"{path}/{key}")

    walk(schema, hourglass.defaults, "")


def test_every_value_is_described(hourglass):
    text = (hourglass.folder / "values.yaml").read_text()
    lines = text.splitlines()

    def walk(node: yaml.MappingNode) -> Iterator[int]:
        for key, value in node.value:
            if isinstance(value, yaml.MappingNode) and value.value and key.value != WHOLE:
                yield from walk(value)
            else:
                yield key.start_mark.line

    found = list(walk(yaml.compose(text)))
    assert len(found) == len(list(leaves(hourglass.defaults)))
    for line in found:
        above = itertools.takewhile(lambda text: text.lstrip().startswith("#"), reversed(lines[:line]))
        assert any(comment.lstrip().startswith("# -- ") for comment in above), lines[line]


def test_the_full_example_leaves_no_value_at_its_default(hourglass):
    full = hourglass.example("full")
    for path in leaves(hourglass.defaults):
        assert at(full, path) != at(hourglass.defaults, path), path


@pytest.mark.parametrize(
    ("values", "where", "what"),
    [
        ("replica: 3", "", "replica"),
        ("server: {drainSecond: 40}", "/server", "drainSecond"),
        ("models: {existingClaim: models}", "/models", "existingClaim"),
        ("probes: {readiness: {httpGet: {path: /}}}", "/probes/readiness", "httpGet"),
        ("image: {version: 1.0.0}", "/image", "version"),
        ("replicas: two", "/replicas", "want integer"),
        ("replicas: -1", "/replicas", "minimum"),
        ("server: {drainSeconds: 35.5}", "/server/drainSeconds", "want integer"),
        ("server: {maxBatchRows: 0}", "/server/maxBatchRows", "minimum"),
        ("server: {maxMessageBytes: 4294967296}", "/server/maxMessageBytes", "maximum"),
        ("server: {versions: newest}", "/server/versions", "does not match pattern"),
        ("server: {versions: 'latest:0'}", "/server/versions", "does not match pattern"),
        ("server: {pollSeconds: -1}", "/server/pollSeconds", "minimum"),
        ("server: {allowEmpty: 'yes'}", "/server/allowEmpty", "want boolean"),
        ("server: {logLevel: WARN}", "/server/logLevel", "must be one of"),
        ("server: {reflection: 'yes'}", "/server/reflection", "want boolean"),
        ("server: {device: cuda}", "/server", "device"),
        ("image: {tag: 1.10}", "/image/tag", "want string"),
        ("image: {digest: 'sha256:abc'}", "/image/digest", "does not match pattern"),
        ("image: {repository: 'hourglass:0.1.0'}", "/image/repository", "does not match pattern"),
        ("image: {pullPolicy: Sometimes}", "/image/pullPolicy", "must be one of"),
        ("gpu: {enabled: true, count: 2}", "/gpu", "count"),
        ("server: {gpuInstances: 0}", "/server/gpuInstances", "minimum"),
        ("gpu: {resourceName: gpu}", "/gpu/resourceName", "does not match pattern"),
        ("service: {port: 70000}", "/service/port", "maximum"),
        ("metrics: {scrapeAnnotations: 'on'}", "/metrics/scrapeAnnotations", "want boolean"),
        ("podLabels: {tier: 1}", "/podLabels/tier", "want string"),
        ("rollingUpdate: {maxSurge: half}", "/rollingUpdate/maxSurge", "does not match pattern"),
        ("resources: {limit: {cpu: 1}}", "/resources", "limit"),
        ("extraEnv: [{value: x}]", "/extraEnv/0", "name"),
        ("fullnameOverride: Hourglass_1", "/fullnameOverride", "does not match pattern"),
    ],
)
def test_a_wrong_value_is_refused_by_name(hourglass, values, where, what):
    with pytest.raises(HelmValuesError) as refused:
        hourglass.render_cpu(**yaml.safe_load(values))
    assert f"at '{where}'" in str(refused.value)
    assert what in str(refused.value)


def test_two_volume_sources_are_refused(hourglass):
    both = {"persistentVolumeClaim": {"claimName": "models"}, "nfs": {"server": "nfs", "path": "/"}}
    with pytest.raises(HelmValuesError, match="/models/volume"):
        hourglass.render_cpu(models={"volume": both})


def test_values_of_a_parent_chart_are_allowed(hourglass):
    assert hourglass.render_cpu(**{"global": {"region": "eu"}}).objects
