"""Opens .npy and .npz files without loading them, and without ever unpickling.

An .npy file, and an .npz member that is stored uncompressed (`np.savez`), is mapped where it lies.
A compressed member is read once, when first asked for. Sizes that a header claims are compared with
what the file holds before any memory is taken.
"""

from __future__ import annotations

import dataclasses
import os
import struct
import zipfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from onnxprune.core.errors import DataError, first_line
from onnxprune.core.graph import Array

from ._columns import Column, Held, Ints

_BOMB_FROM, _BOMB_RATIO = 64 << 20, 200  # bytes; real samples are packed 2 to 50 times
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip member: lengths of its name and extra field


@dataclasses.dataclass(frozen=True)
class _Header:
    """What an .npy header says, and how long it is itself."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[np.generic]
    length: int

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        count = 1
        for size in self.shape:  # not np.prod: a hostile shape overflows int64
            count *= size
        return count * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Compressed:
    """A compressed member of an .npz file, read whole on first use."""

    path: Path
    member: str
    header: _Header

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, from the header."""
        return self.header.shape

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Element type, from the header."""
        return self.header.dtype

    @cached_property
    def array(self) -> Array:
        """The values."""
        if self.header.nbytes > _memory() // 2:
            raise DataError(
                f"{self.path}: compressed array '{_key(self.member)}' takes "
                f"{self.header.nbytes / 1e9:.1f} GB, more than half of the memory: "
                "store it uncompressed (np.savez), then it is not loaded"
            )
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
                return np.asarray(npy.read_array(file, allow_pickle=False))
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(
                f"{self.path}: array '{_key(self.member)}' is damaged: {error}"
            ) from error

    def rows(self, index: Ints) -> Array:
        """Copy rows out."""
        return np.asarray(self.array[index])


def open_npy(path: Path) -> Column:
    """Map an .npy file.

    Raises:
        DataError: if it is no such file, is shorter than it says, or holds Python objects.
    """
    with _opened(path) as file:
        header = _header(file, str(path))
        size = path.stat().st_size
    return Held(_mapped(path, 0, size, header, str(path)))


def open_npz(path: Path) -> dict[str, Column]:
    """Open every array of an .npz file: mapped where stored, lazy where compressed.

    Raises:
        DataError: if it is no such file, or an array is shorter than it says or holds Python objects.
    """
    columns: dict[str, Column] = {}
    with _opened(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                for info in archive.infolist():
                    columns[_key(info.filename)] = _member(path, file, archive, info)
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            OSError,
            RuntimeError,
            ValueError,
        ) as error:
            raise DataError(f"{path} is not a whole .npz file: {error}") from error
    if not columns:
        raise DataError(f"{path} holds no arrays")
    return columns


def _member(path: Path, file: IO[bytes], archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Column:
    where = f"{path}: array '{_key(info.filename)}'"
    with archive.open(info) as member:
        header = _header(member, where)
    if info.compress_type != zipfile.ZIP_STORED:
        if header.length + header.nbytes != info.file_size:
            raise DataError(_mismatch(where, header, info.file_size))
        if info.file_size > max(_BOMB_FROM, _BOMB_RATIO * info.compress_size):
            raise DataError(
                f"{where} takes {info.file_size / 1e6:.0f} MB out of {info.compress_size / 1e6:.1f} MB, "
                "as archives do that are made to fill the memory: store it uncompressed (np.savez)"
            )
        return Compressed(path, info.filename, header)
    file.seek(info.header_offset)
    name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    start = info.header_offset + _LOCAL_HEADER.size + name + extra
    return Held(_mapped(path, start, info.file_size, header, where))


def _header(file: IO[bytes], where: str) -> _Header:
    """Read an .npy header; the values are not touched."""
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except (ValueError, EOFError) as error:
        raise DataError(f"{where} is not in .npy format: {first_line(error)}") from error
    if dtype.hasobject:
        raise DataError(
            f"{where} holds Python objects (pickle), which are never loaded: save numbers of one type"
        )
    return _Header(shape, fortran, dtype, file.tell())


def _mapped(path: Path, start: int, size: int, header: _Header, where: str) -> Array:
    """Map the values that follow a header at `start`, within `size` bytes."""
    if header.length + header.nbytes > size:
        raise DataError(_mismatch(where, header, size))
    if header.nbytes == 0:
        return np.zeros(header.shape, header.dtype)  # an empty range cannot be mapped
    return np.memmap(
        path, header.dtype, "r", start + header.length, header.shape, "F" if header.fortran else "C"
    )


def _mismatch(where: str, header: _Header, size: int) -> str:
    return (
        f"{where} is damaged: its header says shape {list(header.shape)} of {header.dtype} "
        f"({header.nbytes} bytes), the file holds {max(size - header.length, 0)}"
    )


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror}") from error


def _key(member: str) -> str:
    return member.removesuffix(".npy")


def _memory() -> int:
    """Return the bytes of memory this machine has; 16 GB where the system does not say."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return 16 << 30
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
