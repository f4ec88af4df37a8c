"""Autoencoders from files to published artefacts. torch lives here, and only here."""

import os

# OpenMP threads that spin while they wait make a shared machine crawl: beside two other busy processes training ran at
# 1/20 of its speed. Spinning briefly costs a few per cent on an idle machine and keeps half the speed on a busy one.
# Read when libgomp is loaded, so before torch is.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

# onnxruntime reports its use to its maker unless told not to, from the import on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
