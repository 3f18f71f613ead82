"""What every kind of cache can do with bytes: the small interface behind the large one."""

from collections.abc import Sequence
from typing import Protocol

MAX_KEY_BYTES = 480
"""Below the 511 that LMDB takes, with room for ours."""
OWN = b"\0"
"""How the keys of locks begin: `clear` leaves them, and they make room for nothing."""


class Store(Protocol):
    """Keys and values in bytes. `ttl_s` is in seconds; None is for ever.

    Each call is atomic for all processes that share the store. Raises `CacheError` when the store
    cannot be reached or has no room.
    """

    is_local: bool
    """Whether all who share it are processes of this machine."""

    @property
    def locks(self) -> "Store":
        """The store that locks are in: one that raises `CacheError` when it fails."""

    def get(self, key: bytes) -> bytes | None:
        """Return a value, or None when there is none."""

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the values of the keys that are there."""

    def set(self, key: bytes, value: bytes, ttl_s: float | None) -> None:
        """Write a value, whatever was there."""

    def add(self, key: bytes, value: bytes, ttl_s: float | None) -> bool:
        """Write a value if there is none; tell whether it was written."""

    def replace(self, key: bytes, old: bytes, new: bytes, ttl_s: float | None) -> bool:
        """Write a value if `old` is there; tell whether it was written."""

    def delete(self, key: bytes, *, only: bytes | None = None) -> bool:
        """Remove a value, with `only` if it is that one; tell whether it was removed."""

    def touch(self, key: bytes, ttl_s: float | None) -> bool:
        """Let a value live from now on for `ttl_s`; tell whether it is there."""

    def incr(
        self, key: bytes, delta: int, ttl_s: float | None, *, create: bool = True
    ) -> int | None:
        """Add to a decimal number, 0 if there is none; `ttl_s` is for a new one.

        Returns None when what is there is no such number, or nothing and none is to be created.
        """

    def clear(self, prefix: bytes) -> int:
        """Remove every key that begins with `prefix`, but no lock; return how many there were."""

    def close(self) -> None:
        """Release what is held."""
