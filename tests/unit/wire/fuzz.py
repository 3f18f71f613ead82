"""Rubbish for decoders: as much in each run, and the same, from a seeded generator."""

import random
from collections.abc import Iterator

RUNS = 300

_ALPHABET = 'aé=\n\0"\\\x1b\u2028\U0001f40d\udce9\ud83d 1{[:,'


def texts(max_size: int = 12) -> Iterator[str]:
    """Yield texts with everything that is awkward in them, lone surrogates included."""
    draw = random.Random(0)
    for _ in range(RUNS):
        yield "".join(draw.choices(_ALPHABET, k=draw.randint(0, max_size)))


def byte_strings(*samples: bytes) -> Iterator[bytes]:
    """Yield arbitrary bytes, and `samples` with some bytes changed, added or removed."""
    draw = random.Random(0)
    for _ in range(RUNS):
        yield draw.randbytes(draw.randint(0, 40))
        data = bytearray(draw.choice(samples))
        for _ in range(draw.randint(1, 3)):
            at = draw.randint(0, len(data))
            data[at : at + draw.randint(0, 2)] = draw.randbytes(draw.randint(0, 2))
        yield bytes(data)


def json_objects(keys: list[str]) -> Iterator[dict[str, object]]:
    """Yield objects with some of `keys` and values of every type."""
    draw = random.Random(0)
    for _ in range(RUNS):
        some = draw.sample(keys, draw.randint(0, len(keys)))
        yield {key: _json_value(draw, depth=2) for key in some}


def _json_value(draw: random.Random, *, depth: int) -> object:
    plain: list[object] = [None, True, 0, -1, 10**400, 1.5, float("nan"), float("inf"), "", "asgi"]
    choice = draw.randint(0, len(plain) + 2)
    if choice < len(plain):
        return plain[choice]
    if choice == len(plain) or depth == 0:
        return "".join(draw.choices(_ALPHABET, k=4))
    inner = [_json_value(draw, depth=depth - 1) for _ in range(draw.randint(0, 2))]
    return (
        inner if choice == len(plain) + 1 else {str(index): one for index, one in enumerate(inner)}
    )
