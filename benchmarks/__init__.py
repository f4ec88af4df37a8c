"""Measurements: each a ratio within one run, with its spread, the machine and the versions."""
