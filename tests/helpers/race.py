"""Helpers for tests of the benchmark."""

from xcit_dense.benchmark.options import Options


def race_options(**changes):
    """Makes the options of a small run."""
    values = {"variant": "nano_12_p16", "sizes": ((64, 96),), "batch": 2, "dtype": "fp32", "train": True}
    values |= {"device": "cpu", "threads": 1, "rounds": 1, "contenders": ("ours", "timm")}
    return Options(**{**values, **changes})
