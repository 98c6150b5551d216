"""The memory of a process, without pages of files."""

import threading
import time
from pathlib import Path


def anonymous_bytes():
    """The memory of this process without file-backed pages, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


class Peak:
    """The peak of the memory without file-backed pages inside a ``with`` block, in ``bytes``."""

    def __enter__(self):
        self.bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def _watch(self):
        while not self._ended.is_set():
            self.bytes = max(self.bytes, anonymous_bytes())
            time.sleep(0.002)
