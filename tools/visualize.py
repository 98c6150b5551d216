"""Draws what a backbone sees in images: the same as ``xcit-dense visualize``."""

from xcit_dense.cli.main import run_tool

if __name__ == "__main__":
    run_tool("visualize")
