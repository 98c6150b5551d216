"""XCiT next to its peers and to bare matrix products, in seconds, bytes and multiply-adds (``tools/benchmark.py``)."""
