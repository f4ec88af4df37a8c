"""What the chart gives Kubernetes: valid objects, and the facts that availability and security rest on."""

from __future__ import annotations

import copy

import kubernetes_validate
import pytest
from helm_python import HelmRenderError, chart

from service.config import Settings

OLDEST, NEWEST = "1.27", "1.37"
EXAMPLES = pytest.mark.parametrize("example", ["cpu", "gpu", "full"])


@EXAMPLES
def test_helm_lints_it_without_error(hourglass, example):
    assert chart.lint(hourglass.folder, hourglass.example(example), strict=True)["errors"] == []


def test_helm_lints_the_default_values(hourglass):
    assert chart.lint(hourglass.folder, strict=True)["errors"] == []


@EXAMPLES
@pytest.mark.parametrize("kubernetes", [OLDEST, NEWEST])
def test_kubernetes_knows_every_field(hourglass, example, kubernetes):
    objects = hourglass.render(hourglass.example(example)).objects
    assert [o["kind"] for o in objects] == ["Deployment", "Service", "Service"]
    for one in objects:
        # Raises on an unknown kind, an unknown field or a wrong value.
        kubernetes_validate.validate(one, kubernetes, strict=True)


def test_the_kubernetes_schemas_refuse_a_misspelt_field(hourglass):
    deployment = copy.deepcopy(hourglass.render_cpu().deployment)
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, NEWEST, strict=True)


@EXAMPLES
def test_services_and_deployment_select_the_same_pods(hourglass, example):
    release = hourglass.render(hourglass.example(example))
    labels = release.deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [o["spec"]["selector"] for o in release.objects if o["kind"] == "Service"]
    selectors.append(release.deployment["spec"]["selector"]["matchLabels"])
    assert len(selectors) == 3
    for selector in selectors:
        assert len(selector) == 2
        assert selector.items() <= labels.items()


def test_labels_of_the_user_cannot_take_pods_out_of_the_service(hourglass):
    release = hourglass.render_cpu(podLabels={"app.kubernetes.io/name": "other", "team": "fraud"})
    labels = release.deployment["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == "hourglass"
    assert labels["team"] == "fraud"


def test_services_speak_http2_and_one_of_them_shows_every_pod(hourglass):
    release = hourglass.render_cpu()
    cluster, headless = (
        release.get("Service", "demo-hourglass"),
        release.get("Service", "demo-hourglass-headless"),
    )
    assert cluster["spec"]["type"] == "ClusterIP"
    assert "clusterIP" not in cluster["spec"]
    assert headless["spec"]["clusterIP"] == "None"
    for service in (cluster, headless):
        (port,) = service["spec"]["ports"]
        assert (port["port"], port["targetPort"]) == (8001, "grpc")
        assert port["appProtocol"] == "kubernetes.io/h2c"


def test_probes_are_grpc_and_liveness_does_not_follow_readiness(hourglass):
    container = hourglass.render_cpu().container
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    asked = {name: container[name]["grpc"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {probe["port"] for probe in asked.values()} == {ports["grpc"]}
    # A draining server is not ready, and must not be killed for it.
    assert {name: probe["service"] for name, probe in asked.items()} == {
        "startupProbe": "",
        "readinessProbe": "",
        "livenessProbe": "liveness",
    }


@EXAMPLES
def test_the_pod_is_restricted(hourglass, example):
    pod = hourglass.render(hourglass.example(example)).pod
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert mounts["models"] == {"name": "models", "mountPath": "/models", "readOnly": True}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["tmp"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Mi"}
    assert volumes.keys() == mounts.keys() == {"models", "tmp"}


@pytest.mark.parametrize(("age", "drain"), [(30, 35), (30, 34), (1, 2), (300, 331), (300, 3600)])
def test_the_pod_outlives_drain_and_stop(hourglass, age, drain):
    server = {"maxConnectionAgeSeconds": age, "drainSeconds": drain}
    release = hourglass.render_cpu(server=server)
    # 10 s: what the server gives open calls after the drain.
    assert release.pod["terminationGracePeriodSeconds"] > drain + 10
    assert release.environment["HOURGLASS_DRAIN_SECONDS"] == str(drain)


@pytest.mark.parametrize(("age", "drain"), [(30, 33), (30, 30), (10, 11), (300, 35)])
def test_a_drain_shorter_than_a_connection_lives_is_refused(hourglass, age, drain):
    server = {"maxConnectionAgeSeconds": age, "drainSeconds": drain}
    with pytest.raises(HelmRenderError, match=rf"server.drainSeconds \({drain}\) must be more than 1.1 x"):
        hourglass.render_cpu(server=server)


def test_a_chart_without_models_is_refused(hourglass):
    with pytest.raises(HelmRenderError, match=r"models\.volume is empty: name the volume"):
        hourglass.render({})


def test_a_queue_smaller_than_a_batch_is_refused(hourglass):
    with pytest.raises(HelmRenderError, match=r"server.maxQueueRows \(8\) is smaller than"):
        hourglass.render_cpu(server={"maxQueueRows": 8})


def test_extra_environment_cannot_contradict_the_values(hourglass):
    with pytest.raises(HelmRenderError, match="extraEnv: the chart itself sets HOURGLASS_DRAIN_SECONDS"):
        hourglass.render_cpu(extraEnv=[{"name": "HOURGLASS_DRAIN_SECONDS", "value": "500"}])


@EXAMPLES
def test_the_server_takes_every_variable(hourglass, example, monkeypatch):
    environment = {
        name: value
        for name, value in hourglass.render(hourglass.example(example)).environment.items()
        if name.startswith("HOURGLASS_")
    }
    fields = {f"HOURGLASS_{name.upper()}" for name in Settings.model_fields}
    assert environment.keys() <= fields
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert str(settings.exported) == "/models"
    assert (settings.host, settings.grpc_port, settings.metrics_port) == ("0.0.0.0", 8001, 8002)
    assert settings.device == ("cpu" if example == "cpu" else "cuda")
    if example == "full":
        assert settings.max_message_bytes == 67108864
        assert settings.reflection is False
        assert settings.versions == "all"


def test_the_chart_has_the_servers_own_defaults(hourglass, monkeypatch):
    for name, value in hourglass.render_cpu().environment.items():
        monkeypatch.setenv(name, value)
    given = Settings().model_dump(exclude={"exported", "host", "device"})
    assert given == {name: Settings.model_fields[name].default for name in given}


def test_a_gpu_pod_gets_its_gpus_and_says_cuda(hourglass):
    release = hourglass.render(hourglass.example("gpu"))
    assert release.environment["HOURGLASS_DEVICE"] == "cuda"
    assert release.container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert release.container["resources"]["limits"]["memory"] == hourglass.defaults["resources"]["limits"]["memory"]
    assert release.pod["runtimeClassName"] == "nvidia"
    assert release.container["image"] == "hourglass:0.1.0-gpu"


def test_a_cpu_pod_asks_for_no_gpu(hourglass):
    release = hourglass.render_cpu(gpu={"runtimeClassName": "nvidia"})
    assert release.environment["HOURGLASS_DEVICE"] == "cpu"
    assert release.container["resources"]["limits"].keys() == {"cpu", "memory"}
    assert "runtimeClassName" not in release.pod
    assert release.container["image"] == "hourglass:0.1.0"


@pytest.mark.parametrize(
    ("image", "rendered"),
    [
        ({"tag": "1.10"}, "hourglass:1.10"),
        ({"repository": "registry:5000/ml/hourglass"}, "registry:5000/ml/hourglass:0.1.0"),
        ({"tag": "1.10", "digest": f"sha256:{'a' * 64}"}, f"hourglass@sha256:{'a' * 64}"),
    ],
)
def test_image(hourglass, image, rendered):
    assert hourglass.render_cpu(image=image).container["image"] == rendered


def test_a_rollout_keeps_every_pod(hourglass):
    strategy = hourglass.render_cpu().deployment["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def test_pods_spread_softly_over_hosts_and_zones(hourglass):
    release = hourglass.render_cpu()
    constraints = release.pod["topologySpreadConstraints"]
    assert [c["topologyKey"] for c in constraints] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    for constraint in constraints:
        assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
        assert constraint["labelSelector"] == release.deployment["spec"]["selector"]


def test_a_spread_of_the_user_keeps_its_own_selector(hourglass):
    (constraint,) = hourglass.render(hourglass.example("full")).pod["topologySpreadConstraints"]
    assert constraint["labelSelector"] == {"matchLabels": {"example.com/tier": "gold"}}


@pytest.mark.parametrize("on", [True, False])
def test_scrape_annotations_name_the_metrics_port(hourglass, on):
    release = hourglass.render_cpu(metrics={"scrapeAnnotations": on}, podAnnotations={"team": "fraud"})
    annotations = release.deployment["spec"]["template"]["metadata"]["annotations"]
    scrape = {name: value for name, value in annotations.items() if name.startswith("prometheus.io/")}
    port = release.environment["HOURGLASS_METRICS_PORT"]
    expected = {"prometheus.io/scrape": "true", "prometheus.io/port": port, "prometheus.io/path": "/metrics"}
    assert scrape == (expected if on else {})
    assert annotations["team"] == "fraud"


def test_every_value_changes_the_pods_so_that_it_is_rolled_out(hourglass):
    before = hourglass.render_cpu().deployment["spec"]["template"]
    for change in ({"versions": "all"}, {"threads": 3}, {"reflection": False}, {"maxMessageBytes": 65536}):
        assert hourglass.render_cpu(server=change).deployment["spec"]["template"] != before


@pytest.mark.parametrize("release", ["7", "demo", "hourglass", "h" * 53])
def test_names_fit_whatever_the_release_is_called(hourglass, release):
    rendered = hourglass.render(hourglass.example("cpu"), release=release)
    names = [one["metadata"]["name"] for one in rendered.objects]
    assert max(map(len, names)) <= 63
    assert len(set(names[1:])) == 2
    for one in rendered.objects:
        kubernetes_validate.validate(one, NEWEST, strict=True)


def test_notes_name_addresses_that_exist(hourglass):
    notes = hourglass.render_cpu().notes
    assert "demo-hourglass.ml.svc:8001" in notes
    assert "dns:///demo-hourglass-headless.ml.svc:8001" in notes
    assert "hourglass models --server 127.0.0.1:8001" in notes
