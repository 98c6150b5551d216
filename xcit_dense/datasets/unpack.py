"""Archives of data sets, unpacked once."""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from xcit_dense.datasets.prepare import prepare
from xcit_dense.errors import UserError
from xcit_dense.utils.progress import tracked


def unpack(archive: Path, directory: Path) -> Path:
    """Unpacks a ZIP file, if it is not unpacked yet.

    Args:
        archive: The file.
        directory: Where the unpacked files are kept, for example ``WORK_DIR/data``.

    Returns:
        The directory with the files.

    Raises:
        UserError: The file is damaged or encrypted, has a path outside the directory, or needs more space than is free.

    Example:
        >>> with zipfile.ZipFile("mine.zip", "w") as file:
        ...     file.writestr("images/a.txt", "hello")
        >>> root = unpack(Path("mine.zip"), Path("work/data"))  # doctest: +ELLIPSIS
        Unpacking 1 files, 0.0 MB, from ...mine.zip
        >>> (root / "images/a.txt").read_text()
        'hello'
    """
    settings = str(archive.absolute())
    return prepare(directory.absolute(), "unpacked", [archive], settings, lambda part: _extract(archive, part))


def _extract(archive: Path, part: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as file:
            members = [member for member in file.infolist() if not member.is_dir()]
            for member in members:
                _check(archive, member)
            size = sum(member.file_size for member in members)
            free = shutil.disk_usage(part).free
            if size > free:
                raise UserError(
                    f"{archive} needs {size / 1e9:.1f} GB unpacked, but {part.parent} has {free / 1e9:.1f} GB left; "
                    "free space, or write another --work-dir."
                )
            print(f"Unpacking {len(members):,} files, {size / 1e6:,.1f} MB, from {archive}", flush=True)
            for member in tracked("files unpacked", members):
                target = part / member.filename.replace("\\", "/")
                target.parent.mkdir(parents=True, exist_ok=True)
                with file.open(member) as source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"{archive} cannot be unpacked: {error}. Download it again, or unpack it and write --data-root DIRECTORY."
        ) from error


def _check(archive: Path, member: zipfile.ZipInfo) -> None:
    """Refuses a file that would be written outside the directory, and links, which may lead outside."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or is_link:
        raise UserError(f"{archive} has a link or a path outside the archive ({member.filename}); unpack it yourself.")
