"""Evaluates a detector or a segmentor: the same as ``xcit-dense test``."""

from xcit_dense.cli.main import run_tool

if __name__ == "__main__":
    run_tool("test")
