"""Downloads of checkpoints over http: resumed, retried, checked, whole or not at all."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
import uuid
import zipfile
import zlib
from http.client import BadStatusLine, HTTPException, IncompleteRead
from pathlib import Path
from ssl import SSLError
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from xcit_dense.errors import UserError
from xcit_dense.weights.safe_load import load_allowed

STALL = 30.0
"""Seconds without a byte after which a connection counts as broken."""

WAITS = (1.0, 4.0, 10.0)
"""Seconds to wait before each retry of a download."""

_ABANDONED = 3600.0  # seconds: a download that lives writes far more often
_PARTIAL = ".xcit_dense-partial"
_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # PyTorch's magic number, pickled; two bytes with the protocol go before


def download(address: str, path: Path) -> None:
    """Downloads a checkpoint: whole or not at all, resumed and retried, and only if it is one.

    Args:
        address: Where from, http or https.
        path: Where to. Its suffix says what is expected: ``.safetensors``, or else a file of ``torch.save``.

    Raises:
        UserError: The download fails, or what is served is no whole checkpoint; the message has the address and the
            path, where the file can be put by hand.
    """
    try:
        _download(address, path)
    except (OSError, HTTPException) as error:
        raise UserError(
            f"Could not download {address} ({error}); download it elsewhere and put it at {path}."
        ) from error


def _download(address: str, path: Path) -> None:
    """Downloads to a file of this call alone, which becomes ``path`` once it is whole and found to be weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f"*{_PARTIAL}"):
        with contextlib.suppress(OSError):  # another process may be faster
            if time.time() - leftover.stat().st_mtime > _ABANDONED:
                leftover.unlink()
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{_PARTIAL}")
    try:
        with partial.open("xb") as file:
            _Transfer(address, file, path.name).run()
        flaw = _flaw(partial, path.suffix)
        if flaw:
            raise UserError(f"{address} gave {flaw}; check the address, or put the right file at {path}.")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class _Transfer:
    """A download into an open file that goes on, after a broken connection, where it stopped."""

    def __init__(self, address: str, file: BinaryIO, label: str) -> None:
        self.address = address
        self.file = file
        self.label = label
        self.size: int | None = None
        self.version: str | None = None
        """What identifies the file's state on the server: its entity tag, or the date of its last change."""

    def run(self) -> None:
        for wait in WAITS:
            try:
                self._attempt()
                return
            except (OSError, HTTPException) as error:
                if not self._may_pass(error):
                    raise
                logging.getLogger(__name__).warning("%s: %s; trying again in %g s.", self.address, error, wait)
            time.sleep(wait)
        self._attempt()

    def _attempt(self) -> None:
        from tqdm import tqdm  # comes with timm

        # Some servers refuse the name that Python gives itself.
        request = Request(self.address, headers={"User-Agent": "xcit_dense"})
        start = self.file.tell()
        # Without its version, the rest could be another file's.
        if start and self.size and self.version:
            request.add_header("Range", f"bytes={start}-")
            request.add_header("If-Range", self.version)
        with urlopen(request, timeout=STALL) as response:
            headers = response.headers
            tag = headers["ETag"]
            version = tag if tag and not tag.startswith("W/") else headers["Last-Modified"]
            if response.status == 206:
                rest = f"bytes {start}-{(self.size or 0) - 1}/{self.size}"
                if headers["Content-Range"] != rest or version not in (None, self.version):
                    self._start_anew()
                    raise ConnectionError("the file changed during the download")
            else:
                self._start_anew()
                length = headers["Content-Length"]
                self.size, self.version = int(length) if length else None, version
            done = self.file.tell()
            # disable=None: no bar unless in a terminal.
            with tqdm.wrapattr(response, "read", self.size, initial=done, desc=self.label, disable=None) as source:
                shutil.copyfileobj(source, self.file)
        # A connection that breaks off looks like the end of the file.
        if self.size is not None and self.file.tell() != self.size:
            raise ConnectionError(f"the connection broke off after {self.file.tell()} of {self.size} bytes")

    def _may_pass(self, error: Exception) -> bool:
        """Whether another attempt may succeed."""
        if isinstance(error, HTTPError):
            error.close()
            if error.code == 416 and self.file.tell():  # the file is now shorter than what came of it
                self._start_anew()
                return True
            return error.code >= 500 or error.code in (408, 425, 429)
        # Not among these: a full disk, an address that is none.
        return isinstance(error, URLError | TimeoutError | ConnectionError | SSLError | IncompleteRead | BadStatusLine)

    def _start_anew(self) -> None:
        self.file.seek(0)
        self.file.truncate()


def _flaw(file: Path, suffix: str) -> str | None:
    """What a downloaded file is, if it is not a whole checkpoint of the kind that its suffix says."""
    with file.open("rb") as opened:
        head = opened.read(40)
    if suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "pt"):
                return None
        except SafetensorError:
            begun = head[8:9] == b"{"
    elif head[2:].startswith(_LEGACY):
        try:
            load_allowed(file, "cpu")  # nothing less tells whether it is whole
            return None
        except Exception:  # depends on its bytes
            return "a checkpoint that was cut short or damaged, or that holds more than weights"
    else:
        begun = head.startswith(b"PK\3\4")
        with contextlib.suppress(zipfile.BadZipFile, zlib.error, EOFError), zipfile.ZipFile(file) as archive:
            if archive.testzip() is None:
                if any(name.endswith("/data.pkl") for name in archive.namelist()):
                    return None
                return "an archive that is no checkpoint"
    if begun:
        return "a checkpoint that was cut short or damaged"
    kind = "a web page" if head.lstrip().startswith(b"<") else "a file"
    return f"{kind} that is no checkpoint (it begins with {head!r})"
