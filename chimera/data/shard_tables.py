"""Reading the tables of token shards: columns of numbers, as long as their files and no longer.

NumPy's own reader believes the shape that a file states, and evaluates its header as Python.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import DataError

HINT = "Build the shards again."
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(<[iu][1-8])', 'fortran_order': False, "
    rb"'shape': \((\d{1,15}),\), \} *\n",
    re.DOTALL,
)
_LONGEST_HEADER = 1024
_PIECE = 1 << 20


def read_table(path: Path, dtype: type[np.generic]) -> NDArray[Any]:
    """The column of a `.npy` file, which must be of this type and as long as the file."""
    with path.open("rb") as file:
        header = _HEADER.match(file.read(_LONGEST_HEADER))
        num_bytes = path.stat().st_size
        wanted = np.dtype(dtype)
        if header is None or header[1].decode() != wanted.str:
            raise DataError(f"{path}: a table cannot be read: not a column of {wanted.name}", hint=HINT)
        count = int(header[2])
        if num_bytes != header.end() + count * wanted.itemsize:
            raise DataError(
                f"{path}: a table cannot be read: {count} numbers in a file of {num_bytes} bytes", hint=HINT
            )
        file.seek(header.end())
        return np.frombuffer(file.read(), dtype=wanted)


def map_column(path: Path, dtype: str) -> NDArray[Any]:
    """A file of numbers end to end, mapped."""
    num_bytes, wanted = path.stat().st_size, np.dtype(dtype)
    if num_bytes == 0 or num_bytes % wanted.itemsize:
        raise DataError(f"{path}: {num_bytes} bytes are no column of {wanted.name}", hint=HINT)
    return np.memmap(path, dtype=wanted, mode="r")


def largest(column: NDArray[Any]) -> int:
    """The largest number of a column, read piece by piece."""
    return max((int(column[at : at + _PIECE].max()) for at in range(0, len(column), _PIECE)), default=-1)
