"""The KServe manifests of docs/open-inference.md: KServe's own fields, Kubernetes' fields inside them, our settings."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.config import ENV_PREFIX, Settings

PAGE = Path(__file__).parents[2] / "docs" / "open-inference.md"
NEWEST = "1.37"
Text = Annotated[str, Field(min_length=1)]
Protocol = Literal["v1", "v2", "grpc-v1", "grpc-v2"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Meta(Strict):
    name: Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$")]


class Format(Strict):
    """pkg/apis/serving/v1alpha1, SupportedModelFormat."""

    name: Text
    version: Annotated[str, Field(pattern=r"^\d+(\.\d+){0,2}$")] | None = None
    autoSelect: bool | None = None  # noqa: N815
    priority: Annotated[int, Field(ge=1)] | None = None


class RuntimeSpec(Strict):
    """ServingRuntimeSpec, as far as a runtime of one model uses it; containers and volumes are Kubernetes'."""

    supportedModelFormats: Annotated[list[Format], Field(min_length=1)]  # noqa: N815
    protocolVersions: list[Protocol]  # noqa: N815
    annotations: dict[str, str] = {}
    labels: dict[str, str] = {}
    containers: Annotated[list[dict[str, Any]], Field(min_length=1)]
    volumes: list[dict[str, Any]] = []


class ServingRuntime(Strict):
    apiVersion: Literal["serving.kserve.io/v1alpha1"]  # noqa: N815
    kind: Literal["ServingRuntime"]
    metadata: Meta
    spec: RuntimeSpec


class ModelFormat(Strict):
    name: Text
    version: str | None = None


class ModelSpec(Strict):
    """pkg/apis/serving/v1beta1, ModelSpec."""

    modelFormat: ModelFormat  # noqa: N815
    protocolVersion: Protocol  # noqa: N815
    runtime: Text
    storageUri: Annotated[str, Field(pattern=r"^(pvc|s3|gs|https|oci)://.+")]  # noqa: N815


class Predictor(Strict):
    """PredictorSpec, with what it takes of Kubernetes' PodSpec."""

    minReplicas: Annotated[int, Field(ge=0)]  # noqa: N815
    maxReplicas: int  # noqa: N815
    terminationGracePeriodSeconds: int  # noqa: N815
    model: ModelSpec


class ServiceSpec(Strict):
    predictor: Predictor


class InferenceService(Strict):
    apiVersion: Literal["serving.kserve.io/v1beta1"]  # noqa: N815
    kind: Literal["InferenceService"]
    metadata: Meta
    spec: ServiceSpec


Manifests = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture
def manifests() -> Manifests:
    """The runtime and the service."""
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    runtime, service = yaml.safe_load_all(block)
    return runtime, service


def pod(runtime: dict[str, Any]) -> dict[str, Any]:
    """What KServe makes of a runtime: its containers, with the models mounted."""
    containers, volumes = runtime["spec"]["containers"], runtime["spec"]["volumes"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "one"},
        "spec": {"containers": containers, "volumes": volumes},
    }


def test_kserve_and_kubernetes_know_every_field(manifests: Manifests) -> None:
    runtime, service = manifests
    for kind, manifest in ((ServingRuntime, runtime), (InferenceService, service)):
        assert kind.model_validate(manifest).model_dump(exclude_unset=True) == manifest
    assert pod(runtime)["spec"]["containers"]
    kubernetes_validate.validate(pod(runtime), NEWEST, strict=True)  # raises


def test_a_misspelt_field_is_found(manifests: Manifests) -> None:
    runtime, service = manifests
    container = copy.deepcopy(runtime)
    container["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod(container), NEWEST, strict=True)
    service["spec"]["predictor"]["model"]["storageURI"] = "pvc://models"
    runtime["spec"]["protocolVersion"] = ["grpc-v2"]
    for kind, manifest in ((InferenceService, service), (ServingRuntime, runtime)):
        with pytest.raises(ValidationError):
            kind.model_validate(manifest)


def test_the_service_uses_the_runtime(manifests: Manifests) -> None:
    runtime, service = map(lambda kind, one: kind.model_validate(one), (ServingRuntime, InferenceService), manifests)
    model = service.spec.predictor.model
    assert model.runtime == runtime.metadata.name
    assert (model.modelFormat.name, model.modelFormat.version) in [
        (one.name, one.version) for one in runtime.spec.supportedModelFormats
    ]
    assert model.protocolVersion in runtime.spec.protocolVersions


def test_ports_settings_and_grace_are_the_servers(manifests: Manifests, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, service = manifests
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"  # KServe looks for it
    given = {entry["name"]: entry["value"] for entry in container["env"]}
    assert given.keys() <= {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.folder == Path("/mnt/models")  # where KServe puts storageUri
    (port,) = container["ports"]
    assert (port["name"], port["containerPort"]) == ("h2c", settings.grpc_port)
    assert runtime["spec"]["annotations"]["prometheus.kserve.io/port"] == str(settings.metrics_port)
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["port"] == settings.grpc_port
    assert service["spec"]["predictor"]["terminationGracePeriodSeconds"] > settings.drain_seconds + 10
