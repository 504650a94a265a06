"""Benchmarks: real processes, real files, ratios against the machine's own limits in one run."""
