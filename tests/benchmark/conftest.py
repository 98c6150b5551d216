"""Options of small runs."""

import pytest

from xcit_dense.benchmark.options import Options


@pytest.fixture
def options():
    """Makes the options of a small run."""

    def make(**changes):
        values = {"variant": "nano_12_p16", "sizes": ((64, 96),), "batch": 2, "dtype": "fp32", "train": True}
        values |= {"device": "cpu", "threads": 1, "rounds": 1, "contenders": ("ours", "timm")}
        return Options(**{**values, **changes})

    return make
