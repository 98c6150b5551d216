"""Times XCiT next to timm's: the same as ``xcit-dense benchmark``."""

from xcit_dense.cli.main import run_tool

if __name__ == "__main__":
    run_tool("benchmark")
