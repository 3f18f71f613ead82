"""The orders of the control channel."""

import pytest

from sdcluster.errors import ProtocolError
from sdcluster.wire.channel import ADMIT, CONNECTION, MAX_CONNECTIONS_PER_FRAME, decode_order
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
