# The served image: hourglass-serve on onnxruntime, without torch and without onnx.
#   docker build -t hourglass:0.1.0 .                              CPU
#   docker build -t hourglass:0.1.0-gpu --build-arg RUNTIME=gpu .  CUDA
ARG BASE=docker.io/library/python:3.12-slim-bookworm

FROM ${BASE} AS build
ARG RUNTIME=cpu
WORKDIR /src
# training/ is left out: the service never imports it.
COPY pyproject.toml README.md LICENSE ./
COPY hourglass hourglass
COPY service service
# The environment has no pip of its own and no program but the server.
RUN case "${RUNTIME}" in \
      cpu) extra=serve ;; \
      gpu) extra=serve-gpu ;; \
      *) echo "RUNTIME is cpu or gpu, not '${RUNTIME}'" >&2; exit 2 ;; \
    esac \
 && python -m venv --without-pip /opt/hourglass \
 && python -m pip --python /opt/hourglass install --no-cache-dir --disable-pip-version-check ".[${extra},tracing]" \
 && rm /opt/hourglass/bin/hourglass /opt/hourglass/bin/hourglass-train

FROM ${BASE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="hourglass-serve" \
      org.opencontainers.image.description="Embeddings, denoised outputs and anomaly scores of autoencoders over gRPC" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/hourglass /opt/hourglass
# onnxruntime reports to its maker unless told not to before it starts.
ENV PATH=/opt/hourglass/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    HOURGLASS_HOST=0.0.0.0 \
    HOURGLASS_EXPORTED=/models
# onnxruntime resolves a model's external files against the working directory: keep it empty, and root's.
WORKDIR /empty
USER 10001:10001
# What the image promises, checked as the user that will run it.
RUN hourglass-serve --help > /dev/null \
 && python -c "from importlib.util import find_spec; found = [name for name in ('torch', 'onnx', 'training') if find_spec(name)]; assert not found, found"
EXPOSE 8001 8002
STOPSIGNAL SIGTERM
ENTRYPOINT ["hourglass-serve"]
