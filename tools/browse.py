"""Draws what a training sees: the same as ``xcit-dense browse``."""

from xcit_dense.cli.main import run_tool

if __name__ == "__main__":
    run_tool("browse")
