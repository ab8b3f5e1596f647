"""The lines of a data file, plain or zstd-compressed, with a greatest length."""

import io
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from configs.errors import DataError, MissingExtra

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# One block of zstd is at least 4 bytes and holds at most 128 KiB, so this much input gives 32 MiB at worst.
COMPRESSED_CHUNK_BYTES = 1024
SKIP_BYTES = 1 << 20


class _Frame(Protocol):
    """zstandard's decompressor of one frame, as far as it is used."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes) -> bytes: ...


@contextmanager
def open_data_file(path: Path) -> Generator[BinaryIO]:
    """The file's bytes, decompressed if they are zstd's; what is wrong with the file is a DataError."""
    try:
        with path.open("rb") as file:
            is_zstd = file.read(len(ZSTD_MAGIC)) == ZSTD_MAGIC
            file.seek(0)
            if path.suffix == ".zst" and not is_zstd:
                raise DataError(f"{path}: named .zst but not zstd data", hint="Rename it, or copy it again.")
            yield cast(BinaryIO, io.BufferedReader(_ZstdFile(file, path))) if is_zstd else file
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def lines_of(file: BinaryIO, *, max_bytes: int) -> Iterator[tuple[int, bytes, int]]:
    """Each line with its number from 1 and its length; a line that is too long comes as no bytes."""
    number = 0
    while line := file.readline(max_bytes + 1):
        number += 1
        if len(line) <= max_bytes or line.endswith(b"\n"):
            yield number, line, len(line)
            continue
        size = len(line)
        while more := file.readline(SKIP_BYTES):
            size += len(more)
            if more.endswith(b"\n"):
                break
        yield number, b"", size


class _ZstdFile(io.RawIOBase):
    """Frames one after another. A file that ends inside one is an error, which the library would miss."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__()
        try:
            import zstandard
        except ImportError:
            raise MissingExtra(package="zstandard", extra="train", purpose="a .zst file") from None
        self._library = zstandard
        self._file = file
        self._path = path
        self._frame: _Frame | None = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill the buffer as far as one step of decompression goes; 0 at the end."""
        while not self._output:
            data = self._input or self._file.read(COMPRESSED_CHUNK_BYTES)
            if not data:
                if self._frame is not None:
                    self._damaged("it ends too early")
                return 0
            self._step(data)
        room = memoryview(buffer).cast("B")
        size = min(len(room), len(self._output))
        room[:size] = self._output[:size]
        self._output = self._output[size:]
        return size

    def _step(self, data: bytes) -> None:
        frame = self._frame or cast(_Frame, self._library.ZstdDecompressor().decompressobj())
        try:
            self._output = memoryview(frame.decompress(data))
        except self._library.ZstdError as error:
            self._damaged(str(error))
        self._input = frame.unused_data if frame.eof else b""
        self._frame = None if frame.eof else frame

    def _damaged(self, reason: str) -> None:
        raise DataError(f"{self._path}: damaged zstd data: {reason}", hint="Copy the file again.")
