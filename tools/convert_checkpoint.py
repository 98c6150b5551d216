"""Writes the weights of a checkpoint to a new file: the same as ``xcit-dense convert``."""

from xcit_dense.cli.main import run_tool

if __name__ == "__main__":
    run_tool("convert")
