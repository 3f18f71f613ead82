"""The orders of the control channel, and what comes back over it."""

import pytest

from sdcluster.core import handing, quarantine, states, verdict
from sdcluster.errors import ProtocolError
from sdcluster.wire import channel, scoreboard
from sdcluster.wire.channel import (
    ADMIT,
    CONNECTION,
    KEPT,
    LEDGER,
    MAX_CONNECTIONS_PER_FRAME,
    MAX_HANDOFF_BYTES,
    MAX_MOVES,
    MAX_PROXIED_BYTES,
    MAX_TOTAL_BYTES,
    MAX_UNANSWERED_BYTES,
    Handoff,
    Terms,
    decode_arrival,
    decode_handoff,
    decode_kept,
    decode_move,
    decode_order,
    encode_handoff,
    encode_kept,
    encode_move,
)
from unit.wire.fuzz import byte_strings


@pytest.mark.parametrize("count", [1, 2, MAX_CONNECTIONS_PER_FRAME])
def test_frame_says_how_many_connections_are_attached(count: int) -> None:
    """One byte stands for one descriptor."""
    assert decode_order(CONNECTION * count, count) == count


def test_admission_brings_no_connection() -> None:
    """The worker may accept by itself from then on."""
    assert decode_order(ADMIT, 0) == 0


@pytest.mark.parametrize(
    ("data", "attached"),
    [
        (b"", 0),
        (CONNECTION, 0),
        (CONNECTION, 2),
        (CONNECTION * 2, 1),
        (ADMIT, 1),
        (ADMIT * 2, 0),
        (CONNECTION + ADMIT, 2),
        (b"x", 1),
    ],
)
def test_frame_that_does_not_fit_its_descriptors_is_refused(data: bytes, attached: int) -> None:
    """Bytes and descriptors must tell the same."""
    with pytest.raises(ProtocolError, match=f"with {attached} descriptors"):
        decode_order(data, attached)


def test_any_bytes_are_an_order_or_a_protocol_error() -> None:
    """No other error, and never a count that is not attached."""
    for data in byte_strings(ADMIT, CONNECTION * 3):
        for attached in (0, 1, 3, len(data)):
            try:
                assert decode_order(data, attached) == attached
            except ProtocolError:
                pass  # As it should be.


HANDOFFS = [
    Handoff(),
    Handoff(
        unanswered=b"GET / HTTP/1.1\r\n\r\n",
        slot=3,
        terms=Terms.STAND_IN,
        hops=2,
        crashes=1,
        deaths=4,
        serial=2**32 - 1,
        consumed=MAX_TOTAL_BYTES,
        written=MAX_TOTAL_BYTES,
        proxied=b"PROXY 192.0.2.1 443",
    ),
    Handoff(unanswered=b"x", consumed=1, proxied=b"PROXY UNKNOWN"),
    Handoff(unanswered=b"x", consumed=1, terms=Terms.ANSWERED),
    Handoff(
        unanswered=b"x" * MAX_UNANSWERED_BYTES,
        consumed=MAX_UNANSWERED_BYTES,
        proxied=b"PROXY " + b"y" * (MAX_PROXIED_BYTES - 12) + b" 65535",
    ),
]


@pytest.mark.parametrize("handoff", HANDOFFS)
def test_connection_comes_as_it_went(handoff: Handoff) -> None:
    """With all that the next worker needs; the largest fits the room for it."""
    frame = encode_handoff(handoff)
    assert len(frame) <= MAX_HANDOFF_BYTES
    assert decode_handoff(frame, 1) == handoff
    assert decode_arrival(frame + b"what was there before") == (handoff, len(frame))


def test_what_is_counted_does_not_overflow() -> None:
    """More hops or crashes than can be told are as many as can."""
    handoff = decode_handoff(encode_handoff(Handoff(hops=1000, crashes=256, deaths=257)), 1)
    assert (handoff.hops, handoff.crashes, handoff.deaths) == (255, 255, 255)


@pytest.mark.parametrize(
    "handoff",
    [
        Handoff(unanswered=b"x" * (MAX_UNANSWERED_BYTES + 1)),
        Handoff(proxied=b"x" * (MAX_PROXIED_BYTES + 1)),
    ],
)
def test_connection_with_too_much_is_not_sent(handoff: Handoff) -> None:
    """Nobody would take it."""
    with pytest.raises(ProtocolError, match="a connection with"):
        encode_handoff(handoff)


FRAME = encode_handoff(HANDOFFS[1])


@pytest.mark.parametrize(
    ("data", "attached", "message"),
    [
        (FRAME, 0, "with 0 descriptors"),
        (FRAME, 2, "with 2 descriptors"),
        (b"", 1, "of 0 bytes"),
        (FRAME[:20], 1, "of 20 bytes"),
        (FRAME[:-1], 1, "no sense"),
        (FRAME + b"x", 1, "are what it says"),
        (LEDGER + FRAME[1:], 1, "no sense"),
        (FRAME[:4] + bytes([MAX_PROXIED_BYTES + 1]) + FRAME[5:] + b"x" * 200, 1, "no sense"),
        (FRAME[:5] + bytes([max(Terms) + 1]) + FRAME[6:], 1, "no sense"),
        (FRAME[:6] + b"\xfd\xff\xff\xff" + FRAME[10:], 1, "no sense"),
        (FRAME[:14] + b"\xff\xff\xff\xff" + FRAME[18:], 1, "no sense"),
    ],
)
def test_handoff_that_is_wrong_is_refused(data: bytes, attached: int, message: str) -> None:
    """Each way of being wrong."""
    with pytest.raises(ProtocolError, match=message):
        decode_handoff(data, attached)


@pytest.mark.parametrize(
    "handoff",
    [
        Handoff(unanswered=b"xy", consumed=1),
        Handoff(consumed=MAX_TOTAL_BYTES + 1),
        Handoff(written=2**64 - 1),
        Handoff(crashes=2, deaths=1),
        Handoff(proxied=b"PROXY 192.0.2.1 port"),
        Handoff(proxied=b"PROXY 192.0.2.1 1000000"),
        Handoff(proxied=b"PROXY 192.0.2.1  1"),
        Handoff(proxied=b"192.0.2.1"),
        Handoff(proxied=b"PROXY UNKNOWN\n"),
    ],
)
def test_connection_that_cannot_be_is_refused(handoff: Handoff) -> None:
    """Whoever takes it writes these numbers down, and does sums with them."""
    with pytest.raises(ProtocolError, match="cannot be"):
        decode_handoff(encode_handoff(handoff), 1)


def test_any_bytes_are_a_handoff_or_a_protocol_error() -> None:
    """No other error."""
    for data in byte_strings(FRAME, encode_handoff(Handoff())):
        try:
            decode_handoff(data, 1)
        except ProtocolError:
            pass  # As it should be.


@pytest.mark.parametrize("numbers", [[0], [9, 70000], [*range(MAX_CONNECTIONS_PER_FRAME)]])
def test_keeper_says_the_number_of_each_connection(numbers: list[int]) -> None:
    """They are those of the dead worker's descriptors."""
    assert decode_kept(encode_kept(numbers), len(numbers)) == tuple(numbers)


@pytest.mark.parametrize(
    ("data", "attached"),
    [
        (encode_kept([]), 0),
        (encode_kept([1]), 2),
        (encode_kept([1, 2]), 1),
        (encode_kept([1]) + b"x", 1),
        (KEPT, 1),
        (encode_kept([*range(17)]), 17),
    ],
)
def test_numbers_that_do_not_fit_their_descriptors_are_refused(data: bytes, attached: int) -> None:
    """One for each, and no more than a frame may carry."""
    with pytest.raises(ProtocolError, match="of a dead worker"):
        decode_kept(data, attached)


@pytest.mark.parametrize(("count", "slot"), [(1, 0), (MAX_MOVES, 1023)])
def test_order_to_move_says_how_many_and_where(count: int, slot: int) -> None:
    """It comes back as it was."""
    assert decode_move(encode_move(count, slot), 0) == (count, slot)


def test_no_more_are_moved_at_a_time_than_may_be() -> None:
    """The rest is for another order."""
    assert decode_move(encode_move(2**40, 3), 0) == (MAX_MOVES, 3)


@pytest.mark.parametrize(
    ("data", "attached"),
    [
        (encode_move(1, 1), 1),
        (encode_move(0, 1), 0),
        (encode_move(1, 1)[:-1], 0),
        (encode_move(1, 1) + b"x", 0),
        (b"x" + encode_move(1, 1)[1:], 0),
        (b"m\xff\xff\0\0\0\0", 0),
        (b"m", 0),
    ],
)
def test_order_to_move_that_makes_no_sense_is_refused(data: bytes, attached: int) -> None:
    """Bytes of another size, no connections, too many, or some attached."""
    with pytest.raises(ProtocolError, match="order to move"):
        decode_move(data, attached)


def test_any_bytes_are_an_order_to_move_or_a_protocol_error() -> None:
    """No other error."""
    for data in byte_strings(encode_move(7, 2)):
        try:
            count, slot = decode_move(data, 0)
        except ProtocolError:
            continue
        assert 0 < count <= MAX_MOVES and slot >= 0


def test_limits_are_those_that_the_core_goes_by() -> None:
    """It imports nothing of this: so the numbers stand in two places, and are the same."""
    assert verdict.MAX_TOTAL_BYTES == MAX_TOTAL_BYTES
    told = decode_handoff(encode_handoff(Handoff(hops=1000)), attached=1)
    assert told.hops == handing.MAX_TOLD_HOPS
    assert states.QUARANTINE == channel.QUARANTINE
    assert quarantine.MAX_SIGNATURES == scoreboard.MAX_SIGNATURES
