"""What becomes of a request whose worker has died."""

import pytest

from sdcluster.worker.moving.replay import (
    MAX_CRASHES,
    MAX_DEATHS,
    Fate,
    Policy,
    fate,
    fitting,
    request_line,
)


def request(method: str, *headers: str) -> bytes:
    """Return a request's head."""
    lines = (f"{method} / HTTP/1.1", "Host: test", *headers, "", "")
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize("policy", ["idempotent", "all", "never"])
@pytest.mark.parametrize("data", [b"", b"POS", request("POST"), request("GET"), b"\0\xff"])
@pytest.mark.parametrize("deaths", [0, 1, MAX_DEATHS])
def test_what_no_app_has_seen_is_served(policy: Policy, data: bytes, deaths: int) -> None:
    """Whatever it is, and however many workers have died before their app was at work on it."""
    assert fate(data, crashes=0, deaths=deaths, policy=policy) is Fate.SERVED


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"])
def test_idempotent_request_is_served_again(method: str) -> None:
    """RFC 9110, 9.2.2; an empty line before it is none of it."""
    for data in (request(method), b"\r\n" + request(method)):
        assert fate(data, crashes=1, deaths=1, policy="idempotent") is Fate.SERVED


@pytest.mark.parametrize("method", ["POST", "PATCH", "GETS", "get", ""])
def test_other_request_is_not_served_twice(method: str) -> None:
    """It may have been carried out. Methods are case-sensitive: RFC 9110, 9.1."""
    assert fate(request(method), crashes=1, deaths=1, policy="idempotent") is Fate.CLOSED


@pytest.mark.parametrize("header", ["Idempotency-Key: 1", "IDEMPOTENCY-KEY:1", "idempotency-key :"])
def test_request_may_ask_for_it(header: str) -> None:
    """By a header, not by what is in its body."""
    data = request("POST", header)
    assert fate(data, crashes=1, deaths=1, policy="idempotent") is Fate.SERVED
    data = request("POST", "Content-Length: 30") + f"\r\n{header}\r\n".encode()
    assert fate(data, crashes=1, deaths=1, policy="idempotent") is Fate.CLOSED


def test_policy_may_be_all_or_nothing() -> None:
    """Whatever the request is."""
    assert fate(request("POST"), crashes=1, deaths=1, policy="all") is Fate.SERVED
    assert fate(request("GET"), crashes=1, deaths=1, policy="never") is Fate.CLOSED


@pytest.mark.parametrize("policy", ["idempotent", "all", "never"])
def test_request_of_death_is_refused(policy: Policy) -> None:
    """It does not take down one worker after the other."""
    data = request("GET")
    crashes = MAX_CRASHES + 1
    assert fate(data, crashes=crashes, deaths=crashes, policy=policy) is Fate.REFUSED
    assert fate(data, crashes=0, deaths=MAX_DEATHS + 1, policy=policy) is Fate.REFUSED


def test_request_is_named_by_its_first_line() -> None:
    """Nothing that is in it can do harm in a log, or fill it."""
    assert request_line(b"\r\nGET /a HTTP/1.1\r\nHost: b\r\n\r\n") == "GET /a HTTP/1.1"
    assert request_line(b"GET /\x1b[31m\xff\0") == "GET /?[31m\xff?"
    assert len(request_line(b"x" * 10_000)) == 200


@pytest.mark.parametrize(
    ("request_", "response"),
    [
        (b"HEAD / HTTP/1.1\r\n\r\n", b"HTTP/1.1 502 Bad\r\na: b\r\n\r\n"),
        (b"\r\nHEAD / HTTP/1.1\r\n\r\n", b"HTTP/1.1 502 Bad\r\na: b\r\n\r\n"),
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 502 Bad\r\na: b\r\n\r\nBad"),
    ],
)
def test_response_to_head_has_no_body(request_: bytes, response: bytes) -> None:
    """Whatever else it says."""
    assert fitting(b"HTTP/1.1 502 Bad\r\na: b\r\n\r\nBad", request_) == response
