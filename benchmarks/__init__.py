"""Benchmarks on a CPU: each measures interleaved variants, checks them first, and keeps JSON; `python -m benchmarks`."""
