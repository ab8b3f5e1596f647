"""Hot memory: slots of one expert each, in the layout that kernels read, locked where that is allowed."""

import ctypes
import mmap
import os

import numpy as np
from numpy.typing import NDArray

from configs.errors import NotEnoughMemory

_ON_FAULT = 1


class Slots:
    """A piece of memory that begins at a page."""

    def __init__(self, *, num_slots: int, block_bytes: int) -> None:
        self.num_slots, self.block_bytes = num_slots, block_bytes
        try:
            self._memory = _anonymous(num_slots * block_bytes)
        except (OSError, ValueError, OverflowError) as error:
            raise NotEnoughMemory(
                f"there is no memory for {num_slots:,} experts of {block_bytes:,} bytes",
                hint="Give experts less: --experts-memory SIZE",
            ) from error
        self._array: NDArray[np.uint8] = np.frombuffer(self._memory, dtype=np.uint8)
        self.address = self._array.ctypes.data
        self.is_locked = _lock(self.address, self.num_bytes)
        """Whether the system may not take its pages away."""

    @property
    def num_bytes(self) -> int:
        """All of it."""
        return self.num_slots * self.block_bytes

    def block(self, slot: int) -> NDArray[np.uint8]:
        """A slot's memory."""
        return self._array[slot * self.block_bytes : (slot + 1) * self.block_bytes]

    def address_of(self, slot: int) -> int:
        """Where a slot begins."""
        return self.address + slot * self.block_bytes


def _anonymous(num_bytes: int) -> mmap.mmap:
    """Memory of this process alone."""
    if os.name != "posix":
        return mmap.mmap(-1, num_bytes)
    return mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _lock(address: int, num_bytes: int) -> bool:
    """Keep pages in memory from their first use on, if the system allows a user so much of it.

    Slots that are never used take no memory, so they are not locked before.
    """
    library = ctypes.CDLL(None) if os.name == "posix" else None
    lock = getattr(library, "mlock2", None)
    if lock is None:
        return False
    lock.argtypes, lock.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint], ctypes.c_int
    return lock(address, num_bytes, _ON_FAULT) == 0
