"""Whose a request is."""

import logging
from typing import Any

import pytest

from sdcluster.wire import rendezvous
from sdcluster.worker.http.gate import Message
from sdcluster.worker.http.routing import ByCookie, ByKey, client_ip, request_key

SECRET = "00" * 32


def scope(*headers: tuple[str, str], **others: Any) -> Message:
    """Return a request's scope."""
    raw = [(name.encode(), value.encode()) for name, value in headers]
    return {"type": "http", "path": "/", "query_string": b"", "headers": raw, **others}


def cookie_of(slot: int, *, secret: str = SECRET, secure: str = "auto") -> ByCookie:
    """Return the rule of the worker of a slot."""
    return ByCookie(slot, name="at", attributes="Path=/", secure=secure, secret=secret)


async def issue(rule: ByCookie, scheme: str = "http", kind: str = "http.response.start") -> str:
    """Return the Set-Cookie header of a worker that answers first."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    own = [(b"set-cookie", b"session=1")]
    claimed = rule.claim(scope(scheme=scheme), send)
    await claimed({"type": kind, "status": 200, "headers": own})
    await claimed({"type": "http.response.body"})
    assert sent[1] == {"type": "http.response.body"}
    assert sent[0]["headers"][0] == own[0]
    return str(sent[0]["headers"][1][1].decode())


def run(coroutine: Any) -> Any:
    """Run a coroutine that waits for nothing."""
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    return ended.value.value


def value(slot: int, secret: str = SECRET) -> str:
    """Return the cookie of a slot."""
    return str(run(issue(cookie_of(slot, secret=secret))).partition(";")[0])


# By cookie.


def test_cookie_names_the_slot_that_has_put_it_in() -> None:
    """Whichever worker reads it, and whichever other cookies there are."""
    rule = cookie_of(0)
    assert rule.slot(scope(("cookie", f"a=b; {value(3)}; c=d")), 4) == 3
    assert rule.slot(scope(("cookie", "a=b"), ("cookie", value(2))), 4) == 2


@pytest.mark.parametrize(
    "text",
    [
        "at=3",
        "at=3.",
        "at=3.88b4bb5c16192ddef4f0f2d2208535a1",
        value(3).replace("3.", "2."),
        value(3)[:-1],
        value(3) + "0",
        value(3, "11" * 32),
        value(3).replace("3.", "03."),
        "at=.",
        "at=-1.00",
        "at=99999.00",
        "at=\u0663.00",
        "at",
        "ta" + value(3)[2:],
    ],
)
def test_cookie_that_is_not_ours_is_none(text: str) -> None:
    """Forged, foreign, cut or changed."""
    assert cookie_of(0).slot(scope(("cookie", text)), 4) is None


def test_true_cookie_counts_beside_a_false_one() -> None:
    """Of the same name, of another path say."""
    assert cookie_of(0).slot(scope(("cookie", f"at=1.00; {value(3)}")), 4) == 3


def test_slot_that_is_gone_is_none() -> None:
    """There are three by now, 0 to 2."""
    assert cookie_of(0).slot(scope(("cookie", value(3))), 3) is None


@pytest.mark.parametrize(
    ("secure", "scheme", "expected"),
    [
        ("auto", "http", False),
        ("auto", "https", True),
        ("auto", "wss", True),
        ("always", "http", True),
        ("never", "https", False),
    ],
)
def test_cookie_is_secure(secure: str, scheme: str, expected: bool) -> None:
    """Or not, as browsers keep it from http then."""
    issued = run(issue(cookie_of(1, secure=secure), scheme))
    assert issued.startswith("at=1.") and "; Path=/" in issued
    assert issued.endswith("; Secure") == expected


def test_websocket_gets_its_cookie_when_it_is_accepted() -> None:
    """As that is its response."""
    assert run(issue(cookie_of(1), "ws", "websocket.accept")).startswith("at=1.")


# By key.


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (("192.0.2.7", 5), b"192.0.2.7"),
        (("::ffff:192.0.2.7", 5), b"192.0.2.7"),
        (("2001:DB8::7", 5), b"2001:db8::7"),
        (("fe80::1%eth0", 5), b"fe80::1"),
        (("", 0), None),
        (None, None),
    ],
)
def test_address_is_a_key(client: tuple[str, int] | None, expected: bytes | None) -> None:
    """The port is not part of it."""
    assert client_ip(scope(client=client)) == expected


REQUEST = scope(
    ("x-tenant", "acme"),
    ("x-tenant", "other"),
    ("cookie", "a=1; user=tom"),
    path="/shop/42/",
    query_string=b"user=j%C3%BCrgen&user=tom&empty=",
)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("header:X-Tenant", b"acme"),
        ("header:X-Other", None),
        ("path:1", "shop"),
        ("path:2", "42"),
        ("path:3", None),
        ("path:4", None),
        ("query:user", "jürgen"),
        ("query:empty", None),
        ("query:other", None),
        ("cookie:user", b"tom"),
        ("cookie:other", None),
    ],
)
def test_part_of_a_request_is_a_key(by: str, expected: object) -> None:
    """The first of that name."""
    assert request_key(by)(REQUEST) == expected


@pytest.mark.parametrize(
    ("root", "path", "expected"),
    [
        ("/api", "/api/shop/42", "shop"),
        ("/api", "/shop/42", "shop"),
        ("/api", "/apis/42", "apis"),
        ("/api", "/api", None),
        ("/api/v1", "/api/v1/shop", "shop"),
        ("/api/", "/api/shop", "shop"),
        ("", "/api/shop", "api"),
    ],
)
def test_path_counts_behind_the_root_path(root: str, path: str, expected: str | None) -> None:
    """The engine may have put that before the path, or a proxy have left it there, or not."""
    assert request_key("path:1")(scope(path=path, root_path=root)) == expected


def test_query_of_too_many_fields_has_no_key() -> None:
    """It is cut off nowhere, and is no error."""
    assert request_key("query:user")(scope(query_string=b"user=1&" * 10_000)) in ("1", None)


def test_key_belongs_to_its_owner() -> None:
    """As text or as bytes; where there is no key, to nobody."""
    rule = ByKey(request_key("header:x-tenant"), what="shard")
    assert rule.slot(REQUEST, 7) == rendezvous.owner("acme", 7)
    assert rule.slot(scope(), 7) is None


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (lambda _: 5, "shop:key returns a int, and no str, bytes or None"),
        (lambda scope: scope["missing"], "shop:key raises this"),
    ],
)
def test_function_that_fails_is_told_once(
    key: Any, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its requests are nobody's."""
    rule = ByKey(key, what="shop:key")
    with caplog.at_level(logging.ERROR, "sdcluster"):
        assert [rule.slot(REQUEST, 4) for _ in range(3)] == [None] * 3
    (record,) = caplog.records
    assert text in record.getMessage()
    assert bool(record.exc_info) == ("raises" in text)
