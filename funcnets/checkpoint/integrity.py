"""Integrity: whether the files of a step are those that were written.

The manifest of a step lists all its other files, each with its size and a checksum:

    {"checksum": 3735928559, "files": {"arrays/d/77bf": [310, 2596996162], "tree.json": [349, 1911126734]}}

`checksum` is that of the list itself. A file's checksum is the CRC-32 of the CRC-32s of its blocks, so that several
threads work on one large file. A CRC finds whatever a disk, a cable or a full quota does to a file, any single flipped
bit for certain; it is no defence against somebody who means to deceive.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etils import epath

MANIFEST = "manifest.json"
_BLOCK = 1 << 24  # bytes of a file with a CRC of their own
_PIECE = 1 << 20  # bytes that are read at a time
_THREADS = min(4, os.cpu_count() or 1)

Files = Mapping[str, tuple[int, int]]
"""The size and checksum of files, by their path in the step's directory."""


class Damaged(ValueError):
    """A step that is not as it was written."""


def write_manifest(folder: epath.Path) -> None:
    """Lists all files that are in the directory now."""
    sizes = {name: _size(folder, name) for name in _names(folder)}
    checksums = _checksums(folder, sizes)
    (folder / MANIFEST).write_text(_text({name: (sizes[name], checksums[name]) for name in sizes}))


def read_manifest(folder: epath.Path) -> Files | None:
    """What the manifest lists; None if there is none."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        text = path.read_text()
        files = {name: (int(size), int(checksum)) for name, (size, checksum) in json.loads(text)["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{MANIFEST} cannot be read: {type(error).__name__}: {error}") from error
    if text != _text(files):
        raise Damaged(f"{MANIFEST} has other bytes than were written")
    return files


def check(folder: epath.Path, files: Files, only: Collection[str] | None = None) -> None:
    """Raises Damaged unless the directory has these files and no others, or has at least those that `only` names."""
    names = set(files) if only is None else set(only)
    there = set(_names(folder))
    if missing := sorted(names - there):
        raise Damaged(f"{missing[0]} is missing" + _more(missing))
    # hidden files are made by file managers, network drives and the like
    strange = sorted(name for name in there - set(files) if not name.rpartition("/")[2].startswith("."))
    if strange and only is None:
        raise Damaged(f"{strange[0]} is none of the files that were written" + _more(strange))
    try:
        sizes = {name: _size(folder, name) for name in sorted(names)}
        for name, size in sizes.items():
            if size != files[name][0]:
                raise Damaged(f"{name} has {size} bytes, and {files[name][0]} were written")
        wrong = [name for name, checksum in _checksums(folder, sizes).items() if checksum != files[name][1]]
    except OSError as error:
        raise Damaged(f"a file cannot be read: {error}") from error
    if wrong:
        raise Damaged(f"{wrong[0]} has other bytes than were written" + _more(wrong))


def _more(names: Collection[str]) -> str:
    return f" (and so for {len(names) - 1} more)" if len(names) > 1 else ""


def _text(files: Files) -> str:
    listed = {name: list(files[name]) for name in sorted(files)}
    return json.dumps({"checksum": zlib.crc32(json.dumps(listed).encode()), "files": listed})


def _names(folder: epath.Path, inside: str = "") -> Iterator[str]:
    for path in folder.iterdir():
        name = f"{inside}{path.name}"
        if path.is_dir():
            yield from _names(path, f"{name}/")
        elif name != MANIFEST:
            yield name


def _size(folder: epath.Path, name: str) -> int:
    return (folder / name).stat().length


def _checksums(folder: epath.Path, sizes: Mapping[str, int]) -> dict[str, int]:
    blocks = [(name, start) for name, size in sizes.items() for start in range(0, max(size, 1), _BLOCK)]
    found: dict[str, bytes] = dict.fromkeys(sizes, b"")
    with ThreadPoolExecutor(_THREADS) as threads:
        for (name, _), crc in zip(blocks, threads.map(lambda block: _crc(folder, *block), blocks), strict=True):
            found[name] += crc.to_bytes(4, "big")
    return {name: zlib.crc32(crcs) for name, crcs in found.items()}


def _crc(folder: epath.Path, name: str, start: int) -> int:
    crc, left = 0, _BLOCK
    with (folder / name).open("rb") as file:
        file.seek(start)
        while left and (piece := file.read(min(left, _PIECE))):
            crc, left = zlib.crc32(piece, crc), left - len(piece)  # without the GIL, like reading
    return crc
