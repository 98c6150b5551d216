"""Marks of tests that are shared by files."""

import pytest

MATRIX = [pytest.mark.slow, pytest.mark.matrix]
"""The marks of a value of a matrix. CI tests other values of the statement, .ci/nightly tests all values."""
