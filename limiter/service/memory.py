"""What is remembered, in bounded space."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memory(OrderedDict[K, V]):
    """A mapping that forgets what it has known for the longest time.

    Not what was not asked for the longest time: `get` is in the way of every call, and to note it would cost more than
    to read a few entries anew.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def put(self, key: K, value: V) -> None:
        """Remember, and forget the oldest beyond the size."""
        self[key] = value
        if len(self) > self._size:
            self.popitem(last=False)

    def forget(self, key: K) -> None:
        """Forget one entry, if there is one."""
        self.pop(key, None)


class Recall(Generic[K, V]):
    """A Memory that reads what it does not know, once for all who ask for it at the same time.

    What is forgotten while it is being read goes to those who asked before, and is not remembered; nor is None.
    """

    def __init__(self, size: int, read: Callable[[K], Awaitable[V | None]]) -> None:
        self._memory: Memory[K, V] = Memory(size)
        self._read = read
        self._readings: dict[K, asyncio.Task[V | None]] = {}

    def known(self, key: K) -> V | None:
        """Return what is remembered."""
        return self._memory.get(key)

    async def get(self, key: K) -> V | None:
        """Return what is remembered, or read it."""
        known = self._memory.get(key)
        if known is not None:
            return known
        reading = self._readings.get(key)
        if reading is None:
            reading = self._readings[key] = asyncio.get_running_loop().create_task(self._remember(key))
            reading.add_done_callback(_seen)
        return await asyncio.shield(reading)  # who asked first may be cancelled; the others still wait

    async def _remember(self, key: K) -> V | None:
        reading = asyncio.current_task()
        try:
            value = await self._read(key)
            if value is not None and self._readings.get(key) is reading:
                self._memory.put(key, value)
            return value
        finally:
            if self._readings.get(key) is reading:
                del self._readings[key]

    def forget(self, key: K) -> None:
        """Forget one entry; who asks from now on reads it anew."""
        self._memory.forget(key)
        self._readings.pop(key, None)


def _seen(reading: asyncio.Task[Any]) -> None:
    """Look at the error of a reading: everybody who waited for it may be gone."""
    if not reading.cancelled():
        reading.exception()
