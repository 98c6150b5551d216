"""Downloads checkpoints over http: atomic, resumed, retried and checked.

No library among the dependencies does all of this. ``torch.hub`` and pooch do not resume a download. ``urllib3.Retry``
repeats a request, but does not continue a body that broke off, and does not notice that the file has changed.
``huggingface_hub`` does all of it, for the servers of its own hub (see :mod:`xcit_dense.weights.resolve`).
"""

from __future__ import annotations

import contextlib
import hashlib
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
"""Seconds without a byte after which a connection is broken."""

WAITS = (1.0, 4.0, 10.0)
"""Seconds to wait before each retry of a download."""

_ABANDONED = 3600.0  # seconds without a write after which a partial file is left over from a killed process
_PARTIAL = ".xcit_dense-partial"
_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # PyTorch's pickled magic number, which follows two bytes of the protocol


def download(address: str, path: Path, sha256: str | None = None) -> None:
    """Downloads a checkpoint. The file appears only when it is complete and intact.

    Args:
        address: The http or https address.
        path: The file to write. The suffix ``.safetensors`` expects a safetensors file, every other suffix expects a
            file of ``torch.save``.
        sha256: The first digits of the SHA-256 of the file. None accepts any intact checkpoint.

    Raises:
        UserError: The download fails, or the server sends something else than an intact checkpoint with this SHA-256.
            The message contains the address, and the path at which a user can place the file by hand.
    """
    try:
        _download(address, path, sha256)
    except (OSError, HTTPException) as error:
        raise UserError(
            f"Could not download {address} ({error}); download it elsewhere and put it at {path}."
        ) from error


def _download(address: str, path: Path, sha256: str | None) -> None:
    """Downloads to a partial file of this call, and renames it to ``path`` when it is complete and intact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f"*{_PARTIAL}"):
        with contextlib.suppress(OSError):  # another process may have removed it
            if time.time() - leftover.stat().st_mtime > _ABANDONED:
                leftover.unlink()
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{_PARTIAL}")
    try:
        with partial.open("xb") as file:
            _Transfer(address, file, path.name).run()
        flaw = _flaw(partial, path.suffix) or _other_content(partial, sha256)
        if flaw:
            raise UserError(f"{address} gave {flaw}; check the address, or put the right file at {path}.")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class _Transfer:
    """A download into an open file. After a broken connection, the next attempt continues at the same byte."""

    def __init__(self, address: str, file: BinaryIO, label: str) -> None:
        self.address = address
        self.file = file
        self.label = label
        self.size: int | None = None
        self.version: str | None = None
        """The version of the file on the server: its entity tag, or the date of its last change."""

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

        # Some servers refuse Python's default user agent.
        request = Request(self.address, headers={"User-Agent": "xcit_dense"})
        start = self.file.tell()
        # Without a version, the rest could be that of a changed file.
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
                    self._start_again()
                    raise ConnectionError("the file changed during the download")
            else:
                self._start_again()
                length = headers["Content-Length"]
                self.size, self.version = int(length) if length else None, version
            done = self.file.tell()
            # disable=None shows the bar only in a terminal.
            with tqdm.wrapattr(response, "read", self.size, initial=done, desc=self.label, disable=None) as source:
                shutil.copyfileobj(source, self.file)
        # A broken connection looks like the end of the file.
        if self.size is not None and self.file.tell() != self.size:
            raise ConnectionError(f"the connection broke off after {self.file.tell()} of {self.size} bytes")

    def _may_pass(self, error: Exception) -> bool:
        """Returns whether another attempt may succeed after this error."""
        if isinstance(error, HTTPError):
            error.close()
            if error.code == 416 and self.file.tell():  # the file is now shorter than the part that was received
                self._start_again()
                return True
            return error.code >= 500 or error.code in (408, 425, 429)
        # A full disk or an invalid address is not among these errors, and another attempt would fail too.
        return isinstance(error, URLError | TimeoutError | ConnectionError | SSLError | IncompleteRead | BadStatusLine)

    def _start_again(self) -> None:
        self.file.seek(0)
        self.file.truncate()


def _other_content(file: Path, sha256: str | None) -> str | None:
    """Describes a downloaded file whose SHA-256 does not begin with the expected digits. None if it does."""
    if sha256 is None:
        return None
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    found = digest.hexdigest()[: len(sha256)]
    if found == sha256:
        return None
    return f"another file than the published one (its SHA-256 begins with {found}, not with {sha256})"


def _flaw(file: Path, suffix: str) -> str | None:
    """Describes a downloaded file that is not an intact checkpoint of the kind of its suffix. None if it is one."""
    with file.open("rb") as opened:
        head = opened.read(40)
    if suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "pt"):
                return None
        except SafetensorError:
            is_begun = head[8:9] == b"{"
    elif head[2:].startswith(_LEGACY):
        try:
            load_allowed(file, "cpu")  # only a complete read shows whether this format is intact
            return None
        except Exception:  # the type of torch's error depends on the bytes of the file
            return "a checkpoint that was cut short or damaged, or that contains more than weights"
    else:
        is_begun = head.startswith(b"PK\3\4")
        with contextlib.suppress(zipfile.BadZipFile, zlib.error, EOFError), zipfile.ZipFile(file) as archive:
            if archive.testzip() is None:
                if any(name.endswith("/data.pkl") for name in archive.namelist()):
                    return None
                return "an archive that is not a checkpoint"
    if is_begun:
        return "a checkpoint that was cut short or damaged"
    kind = "a web page" if head.lstrip().startswith(b"<") else "a file"
    return f"{kind} that is not a checkpoint (it begins with {head!r})"
