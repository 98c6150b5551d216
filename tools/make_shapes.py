"""Writes the embedded data set: the same as ``xcit-dense shapes``."""

from xcit_dense.cli.main import run_tool

if __name__ == "__main__":
    run_tool("shapes")
