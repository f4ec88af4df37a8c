"""Triton's names and what they count, worked out of batches and endings that the test makes up."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from service.errors import DeadlineMissed, InferenceFailed, OutOfMemory, Overloaded
from service.metrics import Metrics

NAMES = {
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_pending_request_count",
    "nv_inference_request_duration_us",
    "nv_inference_queue_duration_us",
    "nv_inference_compute_input_duration_us",
    "nv_inference_compute_infer_duration_us",
    "nv_inference_compute_output_duration_us",
}


def scraped(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Of every nv_ sample: name and reason -> value."""
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    samples = [sample for family in families for sample in family.samples if sample.name.startswith("nv_")]
    assert all((sample.labels["model"], sample.labels["version"]) == ("m", "7") for sample in samples)
    return {(sample.name, sample.labels.get("reason", "")): sample.value for sample in samples}


def test_they_are_there_only_when_asked_for() -> None:
    assert "nv_" not in generate_latest(Metrics().registry).decode()


def test_graphs_of_a_version_are_counted_together() -> None:
    metrics = Metrics(triton_names=True)
    model, encoder = (metrics.graph("m", 7, f"{graph}.onnx") for graph in ("model", "encoder"))
    model.batch(10, waits=[0.001, 0.002], run_seconds=0.5)
    encoder.batch(3, waits=[0.004], run_seconds=0.25)
    for failed, seconds in ((None, 0.6), (None, 0.6), (None, 0.3), (InferenceFailed, 1.0), (OutOfMemory, 1.0)):
        model.ended(failed, seconds)
    for other in (Overloaded, DeadlineMissed, asyncio.CancelledError, RuntimeError):
        encoder.ended(other, 1.0)
    metrics.served["m", 7].waiting["model.onnx"] = lambda: 4

    found = scraped(metrics)
    assert {name for name, _ in found} == NAMES
    assert found["nv_inference_request_success", ""] == 3
    assert found["nv_inference_count", ""] == 13
    assert found["nv_inference_exec_count", ""] == 2
    assert found["nv_inference_pending_request_count", ""] == 4
    assert found["nv_inference_request_duration_us", ""] == pytest.approx(1.5e6)
    assert found["nv_inference_queue_duration_us", ""] == pytest.approx(7e3)
    assert found["nv_inference_compute_infer_duration_us", ""] == pytest.approx(1.25e6)  # of each request its batch's
    reasons = {reason: value for (name, reason), value in found.items() if name == "nv_inference_request_failure"}
    assert reasons == {"BACKEND": 2, "REJECTED": 2, "CANCELED": 1, "OTHER": 1}


def test_openmetrics_has_the_same_names() -> None:
    metrics = Metrics(triton_names=True)
    metrics.graph("m", 7, "model.onnx")
    lines = generate_openmetrics(metrics.registry).decode().splitlines()
    assert {line.partition("{")[0] for line in lines if line.startswith("nv_")} == NAMES
