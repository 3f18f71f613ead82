"""Makes, from a seed, what is sent and what is done to the server. Pure.

The same seed makes the same plan: which bytes a client sends in which pieces, and which faults come
after which pauses. When they meet each other is up to the machine.
"""

import string
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from random import Random

from fuzz.configurations import Client, Configuration, Faults
from fuzz.exchange import Framing, Kind, Request, Shape
from fuzz.proxyheader import header

KEYS = (*(f"k{number}" for number in range(30)), "k 30", "kä31", "k-32.x")
USERS = 40
MAX_REQUESTS_PER_CONNECTION = 10
MAX_CHUNKS = 200
KEPT_BYTES = 64 * 1024
"""What the server keeps of a request, by default, to have it served by another worker."""

_METHODS = ("GET",) * 6 + ("POST",) * 4 + ("PUT",) * 3 + ("DELETE", "HEAD", "OPTIONS", "PATCH")
_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True, slots=True)
class Step:
    """What is sent in one go; with several requests they are pipelined."""

    pause_ms: int
    requests: tuple[Request, ...]
    cuts: tuple[tuple[float, int], ...]
    """Where what is sent is cut, as a part of it, and the pause in ms at each."""
    leaves_after: int = 0
    """Bytes of the answer's body after which the client goes away; 0 when it does not."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection, from the first byte to the last."""

    preface: bytes
    """What a proxy says before."""
    client: str
    """Who the client is then; empty when the preface does not say."""
    source: str
    """The address that it comes from, of the network 127.0.0.0/8."""
    steps: tuple[Step, ...]


class Deed(StrEnum):
    """What is done to the server."""

    KILL = "kill a worker"
    KILL_TWO = "kill two workers"
    KILL_KEEPER = "kill a keeper"
    KILL_MOLD = "kill the mold"
    END = "end a worker"
    RELOAD = "reload"
    SCALE = "scale"


@dataclass(frozen=True, slots=True)
class Fault:
    """One deed, after a pause; `choice`, from 0 to 1, says to whom, or how much."""

    pause_s: float
    deed: Deed
    choice: float


_DEEDS = {
    Faults.NONE: (),
    Faults.KILLS: (Deed.KILL, Deed.KILL, Deed.KILL_TWO),
    Faults.KEEPERS: (Deed.KILL_KEEPER, Deed.KILL),
    Faults.MOLDS: (Deed.KILL_MOLD, Deed.KILL),
    Faults.RELOADS: (Deed.RELOAD, Deed.RELOAD, Deed.KILL),
    Faults.SCALING: (Deed.SCALE, Deed.SCALE, Deed.KILL),
    Faults.ENDS: (Deed.END,),
    Faults.ALL: tuple(Deed),
}


def faults(config: Configuration, random: Random) -> Iterator[Fault]:
    """Yield what is done to the server, for ever; nothing for some configurations."""
    deeds = _DEEDS[config.faults]
    while deeds:
        yield Fault(random.uniform(0.05, 0.5), random.choice(deeds), random.random())


def connections(config: Configuration, random: Random, *, prefix: str) -> Iterator[Connection]:
    """Yield what one client does, a connection after the other. Ids begin with `prefix`."""
    number = 0
    while True:
        preface, client = b"", ""
        if config.client is Client.PROXY:
            preface, client = header(random)
        steps = []
        for _ in range(random.randint(1, MAX_REQUESTS_PER_CONNECTION)):
            step = _step(config, random, prefix=f"{prefix}-{number}")
            number += len(step.requests)
            steps.append(step)
            if step.leaves_after or not all(one.is_kept_alive for one in step.requests):
                break
        source = str(IPv4Address("127.0.0.0") + random.randint(1, 60))
        yield Connection(preface, client, source, tuple(steps))


def _step(config: Configuration, random: Random, *, prefix: str) -> Step:
    count = random.choice((2, 2, 3)) if random.random() < 0.12 else 1
    requests = [
        _request(config, random, f"{prefix}.{index}", is_last=index == count - 1)
        for index in range(count)
    ]
    first = requests[0]
    leaves_after = 0
    if first.shape.kind is Kind.ENDLESS:
        leaves_after = random.randint(1, 20_000)
    elif count == 1 and first.method != "HEAD" and random.random() < 0.02:
        leaves_after = 1
    pause_ms = random.randint(1, 400) if random.random() < 0.15 else random.randint(0, 10)
    return Step(pause_ms, tuple(requests), _cuts(random), leaves_after)


def _cuts(random: Random) -> tuple[tuple[float, int], ...]:
    if random.random() < 0.6:
        return ()
    places = sorted(random.random() for _ in range(random.choice((1, 1, 2, 3, 8))))
    # Often within the head, whatever comes behind it.
    places = [place**3 for place in places] if random.random() < 0.5 else places
    return tuple(
        (place, random.randint(20, 120) if random.random() < 0.2 else random.randint(0, 5))
        for place in places
    )


def _request(config: Configuration, random: Random, identity: str, *, is_last: bool) -> Request:
    method = random.choice(_METHODS)
    version = "1.0" if is_last and random.random() < 0.04 else "1.1"
    size, framing = 0, Framing.NONE
    if method in _WITH_BODY and random.random() < 0.85:
        size = _size(random, largest=200_000)
        framing = Framing.LENGTH
        if version == "1.1" and random.random() < 0.4:
            framing = Framing.CHUNKED
    is_alone = identity.endswith(".0") and is_last
    expects = bool(size) and version == "1.1" and is_alone and random.random() < 0.15
    closes = is_last and random.random() < 0.15
    # Who closes with something unread resets, and the client may not get the answer: tcp(7).
    is_read = expects or closes or version == "1.0"
    shape = _shape(config, random, is_alone=is_alone and method != "HEAD", is_read=is_read)
    segments: tuple[str, ...] = ()
    if random.random() < 0.85:
        words = (_word(random) for _ in range(random.randint(0, 3)))
        segments = (random.choice(KEYS), *words)
    query = [(_word(random), _word(random)) for _ in range(random.randint(0, 2))]
    if random.random() < 0.85:
        query.insert(random.randint(0, len(query)), ("key", random.choice(KEYS)))
    cookies = [(_word(random), _word(random)) for _ in range(random.randint(0, 2))]
    if random.random() < 0.85:
        cookies.append(("key", _ascii_key(random)))
    return Request(
        id=identity,
        method=method,
        version=version,
        segments=segments,
        query=tuple(query),
        headers=tuple(_headers(config, random)),
        cookies=tuple(cookies),
        size=size,
        framing=framing,
        chunks=_chunks(random, size),
        expects=expects,
        closes=closes,
        has_idempotency_key=method in ("POST", "PATCH") and random.random() < 0.15,
        shape=shape,
        user=random.randrange(USERS) if random.random() < 0.9 else None,
    )


def _shape(config: Configuration, random: Random, *, is_alone: bool, is_read: bool) -> Shape:
    kind = random.choice((Kind.LENGTH,) * 5 + (Kind.CHUNKED,) * 3 + (Kind.EMPTY,))
    size = 0 if kind is Kind.EMPTY else _size(random, largest=300_000)
    count = random.choice((1, 1, 1, 2, 5))
    pause_ms = random.randint(1, 60) if count > 1 and random.random() < 0.3 else 0
    late = random.random()
    delay_ms = random.randint(100, 400) if late < 0.03 else random.randint(1, 50)
    if late > 0.2:
        delay_ms = 0
    if is_alone and random.random() < 0.02:
        # Few, as one keeps a thread of four busy.
        kind, size, count, pause_ms = Kind.ENDLESS, random.randint(100, 5000), 1, 0
    return Shape(
        kind=kind,
        size=size,
        count=count,
        pause_ms=pause_ms,
        delay_ms=delay_ms,
        status=204 if kind is Kind.EMPTY and random.random() < 0.3 else _status(random),
        reads=is_read or config.interface == "wsgi" or random.random() < 0.93,
    )


def _status(random: Random) -> int:
    return random.choice((200,) * 8 + (201, 404, 500))


def _size(random: Random, *, largest: int) -> int:
    """Return a number of bytes, small ones most often."""
    return int(random.choice((0, 10, 1000, 1000, 20_000, largest)) * random.random())


def _chunks(random: Random, size: int) -> tuple[int, ...]:
    """Return the sizes of chunks, not so small that there are thousands of them."""
    smallest = 1 + size // MAX_CHUNKS
    return tuple(smallest + _size(random, largest=30_000) for _ in range(random.randint(1, 4)))


def _headers(config: Configuration, random: Random) -> Iterator[tuple[str, str]]:
    if random.random() < 0.85:
        yield random.choice(("X-Key", "x-key")), _ascii_key(random)
    if config.client is Client.FORWARDED and random.random() < 0.9:
        yield "X-Forwarded-For", address(random)
    for number in range(random.choice((0, 0, 1, 3, 20))):
        yield f"X-Extra-{number}", _word(random)
    if random.random() < 0.06:
        yield "X-Extra-Long", random.choice(string.ascii_letters) * random.randint(1000, 12_000)


def address(random: Random) -> str:
    """Return one of some addresses."""
    number = random.randint(1, 40)
    v6 = str(IPv6Address("2001:db8::") + number)
    return v6 if random.random() < 0.3 else str(IPv4Address("203.0.113.0") + number)


def _ascii_key(random: Random) -> str:
    return random.choice([key for key in KEYS if key.isascii()])


def _word(random: Random) -> str:
    return "".join(random.choices(string.ascii_lowercase + string.digits, k=random.randint(1, 12)))
