"""Whose a key is: rendezvous hashing, also called highest random weight.

Each slot has a weight for the key, and the highest wins. So a slot more takes its share of the
keys, and no key goes from one old slot to another.

Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998.
"""

import functools
from hashlib import blake2b


def owner(key: str | bytes, slots: int) -> int:
    """Return which of the slots 0 to `slots - 1` a key belongs to; the same in every process.

    Raises ValueError when there are none.
    """
    return _owner(key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key, slots)


@functools.lru_cache(4096)
def _owner(key: bytes, slots: int) -> int:
    hashed = blake2b(key, digest_size=16)

    def weight(slot: int) -> bytes:
        weighed = hashed.copy()
        weighed.update(slot.to_bytes(4, "little"))
        return weighed.digest()

    return max(range(slots), key=weight)
