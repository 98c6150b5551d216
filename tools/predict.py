"""Finds objects in images and videos, or segments them: the same as ``xcit-dense predict``."""

from xcit_dense.cli.main import run_tool

if __name__ == "__main__":
    run_tool("predict")
