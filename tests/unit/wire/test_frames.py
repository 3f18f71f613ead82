"""The frames of the mold channel."""

import json
from dataclasses import fields
from typing import Any

import pytest

from sdcluster.errors import ProtocolError
from sdcluster.wire.frames import (
    MAX_DETAIL_CHARS,
    MAX_FRAME_BYTES,
    PROTOCOL,
    UPGRADED,
    Fork,
    Forked,
    ForkFailed,
    Order,
    Prepare,
    Prepared,
    PrepareFailed,
    Report,
    decode_order,
    decode_report,
    encode,
    is_for_agent,
)
from unit.wire.fuzz import byte_strings, json_objects

ORDERS: list[Order] = [
    Prepare(name="shop", generation=1),
    Prepare(
        name="shop",
        generation=7,
        app="shop.web:make()",
        interface="wsgi",
        command=("node", "server.js"),
        preload=False,
        threads=8,
        heartbeat_interval_s=0.5,
        drain_timeout_s=12.5,
        track_requests=True,
        track_latency=True,
        engine_path=("/usr/lib/python3/dist-packages",),
        listener_names=("http", "admin"),
    ),
    Fork(worker=3, slot=1),
    Fork(worker=3, slot=1, notify_socket="/run/shop/notify-3", watchdog_usec=30_000_000),
]

REPORTS: list[Report] = [
    Prepared(interface="asgi"),
    Prepared(interface="exec"),
    PrepareFailed(reason="no module 'shop'", detail="Traceback …\n"),
    Forked(worker=3, pid=4711),
    ForkFailed(worker=3, reason="no memory"),
]


def raw(kind: str, **values: Any) -> bytes:
    """Return a frame as somebody else would write it."""
    return json.dumps({"kind": kind, **values}).encode()


@pytest.mark.parametrize("order", ORDERS, ids=lambda one: type(one).__name__)
def test_order_arrives_as_it_was_sent(order: Order) -> None:
    """Every field of an order survives the way to the mold."""
    assert decode_order(encode(order)) == order


@pytest.mark.parametrize("report", REPORTS, ids=lambda one: type(one).__name__)
def test_report_arrives_as_it_was_sent(report: Report) -> None:
    """Every field of a report survives the way to the master."""
    assert decode_report(encode(report)) == report


@pytest.mark.parametrize("report", REPORTS, ids=lambda one: type(one).__name__)
def test_report_is_no_order(report: Report) -> None:
    """Each direction has its own kinds of frame."""
    with pytest.raises(ProtocolError, match="unknown frame"):
        decode_order(encode(report))


@pytest.mark.parametrize("order", ORDERS, ids=lambda one: type(one).__name__)
def test_order_is_no_report(order: Order) -> None:
    """A mold cannot give orders."""
    with pytest.raises(ProtocolError, match="unknown frame"):
        decode_report(encode(order))


@pytest.mark.parametrize("agent", [True, False])
@pytest.mark.parametrize("value", ["", '"agent": true', '\\"agent": true', "'agent': true"])
def test_order_for_the_agent_is_known_by_its_bytes(agent: bool, value: str) -> None:
    """Whatever the texts in it are."""
    order = Fork(worker=1, slot=0, agent=agent, environment=(f"A={value}", f"{value}=A"))
    assert is_for_agent(encode(order)) is agent


def test_command_in_another_encoding_arrives_as_it_was_sent() -> None:
    """A word that is not UTF-8 is a surrogate-escaped text in Python, and stays so."""
    order = Prepare(name="shop", generation=1, command=("/srv/caf\udce9",))
    assert decode_order(encode(order)) == order


def test_report_with_text_in_another_encoding_is_made_fit_for_the_journal() -> None:
    """What a mold reports is logged, and what is logged must be UTF-8."""
    data = encode(PrepareFailed(reason="no file 'caf\udce9'", detail="\ud800"))
    assert decode_report(data) == PrepareFailed(reason="no file 'caf?'", detail="?")


def test_largest_report_of_a_failure_fits_in_a_frame() -> None:
    """A traceback of the longest allowed size is never lost, whatever it is written in."""
    for char in ("\U0001f40d", "é", '"', "\0"):
        report = PrepareFailed(reason=char * 4096, detail=char * MAX_DETAIL_CHARS)
        assert decode_report(encode(report)) == report


def test_frame_that_is_too_large_is_not_sent() -> None:
    """The sender finds out before the channel does."""
    with pytest.raises(ProtocolError, match=r"Prepare frame of \d+ bytes"):
        encode(Prepare(name="shop", generation=1, root_path="/" * MAX_FRAME_BYTES))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b" " * (MAX_FRAME_BYTES + 1), "frame of more than"),
        (b"", "not JSON"),
        (b"\xff\xff\xff", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"1" * 5000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "unknown frame 'None'"),
        (raw("Forked2"), "unknown frame 'Forked2'"),
        (json.dumps({"kind": ["Forked"]}).encode(), "unknown frame"),
        (raw("Forked", worker=1), "Forked: a field is missing"),
        (raw("Forked", worker=1, pid=2, uid=0), "Forked: unknown field 'uid'"),
        (raw("Forked", worker="1", pid=2), "Forked: worker has a value of the wrong type"),
        (raw("Forked", worker=True, pid=2), "Forked: worker has a value of the wrong type"),
        (raw("Forked", worker=1.0, pid=2), "Forked: worker has a value of the wrong type"),
        (raw("Prepared", interface="cgi"), "Prepared: interface has a value of the wrong type"),
        (raw("Prepared", interface=[]), "Prepared: interface has a value of the wrong type"),
    ],
)
def test_report_that_is_wrong_is_refused(data: bytes, message: str) -> None:
    """Each way of being wrong has its text, and none has a traceback."""
    with pytest.raises(ProtocolError, match=message):
        decode_report(data)


@pytest.mark.parametrize(
    "values",
    [
        {"command": "node"},
        {"command": ["node", 1]},
        {"preload": 1},
        {"drain_timeout_s": "1"},
        {"drain_timeout_s": True},
        {"drain_timeout_s": 10**400},
    ],
    ids=str,
)
def test_order_with_a_value_of_the_wrong_type_is_refused(values: dict[str, Any]) -> None:
    """Types are checked field by field, numbers that fit no float included."""
    (field,) = values
    with pytest.raises(ProtocolError, match=f"Prepare: {field} has a value of the wrong type"):
        decode_order(raw("Prepare", protocol=PROTOCOL, name="shop", generation=1, **values))


@pytest.mark.parametrize(
    "values",
    [
        {"protocol": PROTOCOL + 1, "name": "shop", "generation": 1},
        {"protocol": PROTOCOL + 1, "something": "new"},
        {"protocol": str(PROTOCOL)},
        {"name": "shop", "generation": 1},
    ],
    ids=["number", "fields", "type", "none"],
)
def test_order_of_another_version_is_told_as_such(values: dict[str, Any]) -> None:
    """Whatever else is in it: a master that was started before an upgrade has sent it."""
    with pytest.raises(ProtocolError) as caught:
        decode_order(raw("Prepare", **values))
    assert str(caught.value) == UPGRADED


def test_whole_number_of_seconds_is_taken_as_seconds() -> None:
    """JSON does not tell 30 from 30.0."""
    order = decode_order(
        raw("Prepare", protocol=PROTOCOL, name="shop", generation=1, drain_timeout_s=30)
    )
    assert isinstance(order, Prepare)
    assert order.drain_timeout_s == 30.0 and isinstance(order.drain_timeout_s, float)


def test_any_bytes_are_a_frame_or_a_protocol_error() -> None:
    """A mold that writes rubbish into its channel harms nobody else."""
    samples = [encode(frame) for frame in (*ORDERS, *REPORTS)]
    for data in byte_strings(*samples):
        for decode in (decode_order, decode_report):
            try:
                decode(data)
            except ProtocolError:
                pass  # As it should be.


@pytest.mark.parametrize("frame", [*ORDERS, *REPORTS], ids=lambda one: type(one).__name__)
def test_any_values_are_a_frame_or_a_protocol_error(frame: Order | Report) -> None:
    """Types are checked, and what a report says can be encoded in UTF-8."""
    for values in json_objects([field.name for field in fields(frame)]):
        data = raw(type(frame).__name__, **values)
        try:
            decode_order(data)
        except ProtocolError:
            pass  # As it should be.
        try:
            str(decode_report(data)).encode()
        except ProtocolError:
            pass  # As it should be.
