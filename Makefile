# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Generated code is committed and never patched.
stubs = mkdir -p $(1) && $(BIN)/python -m grpc_tools.protoc -I proto \
	--python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1) \
	proto/hourglass/v1/autoencoder.proto proto/service/oip/open_inference.proto

.PHONY: demo search-demo test check proto bench bench-peers bench-memory bench-swaps bench-repository bench-training bench-training-gpu bench-anomaly bench-tables bench-series bench-drift bench-streaming bench-search bench-gpu gpu-smoke clean

# One environment for every target, made when there is none or when pyproject.toml changed.
$(READY): pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[train,serve,dev]'
	# A second protobuf, beside the environment: a test runs the client on both majors.
	$(BIN)/pip install --quiet --no-deps --target $(VENV)/protobuf-7 --upgrade 'protobuf>=7,<8'
	touch $@

demo: $(READY)
	$(BIN)/python -m examples.demo

search-demo: $(READY)
	$(BIN)/python -m examples.search

test: $(READY)
	$(BIN)/pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(call stubs,$(VENV)/stubs)
	@for stubs in hourglass/v1 service/oip; do \
		diff -r -x __init__.py -x __pycache__ $(VENV)/stubs/$$stubs $$stubs \
			|| { echo "the stubs are stale: run 'make proto' and commit"; exit 1; }; \
	done

proto: $(READY)
	$(call stubs,.)

bench: $(READY)
	$(BIN)/python -m benchmarks.serving

bench-peers: $(READY)
	$(BIN)/python -m benchmarks.serving --peers

bench-memory: $(READY)
	$(BIN)/python -m benchmarks.serving.memory

bench-swaps: $(READY)
	$(BIN)/python -m benchmarks.serving.swaps

bench-repository: $(READY)
	$(BIN)/python -m benchmarks.serving.repository

bench-training: $(READY)
	$(BIN)/python -m benchmarks.training

bench-training-gpu: $(READY)
	$(BIN)/python -m benchmarks.training_gpu

# One thread for everybody: what is compared is work, not how well it is spread.
bench-anomaly: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.anomaly

bench-series: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.series

bench-drift: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.drift

bench-streaming: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.streaming

bench-tables: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.tables

bench-search: $(READY)
	$(BIN)/python -m benchmarks.search

bench-gpu: $(READY)
	$(BIN)/python -m benchmarks.gpu

gpu-smoke: $(READY)
	$(BIN)/python -m benchmarks.gpu_smoke

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
