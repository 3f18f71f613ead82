"""What an answer must be."""

import json
from dataclasses import replace
from random import Random
from urllib.parse import parse_qsl

import pytest
from fuzz import expected
from fuzz.answers import Answer
from fuzz.configurations import Configuration, Routing
from fuzz.exchange import Framing, Kind, Request, Shape

from sdcluster.wire import rendezvous

CONFIG = Configuration()
REQUEST = Request(
    id="7",
    method="PUT",
    segments=("k 1", "ä"),
    query=(("key", "k/2"), ("a", "b c")),
    headers=(("x-key", "k3"), ("X-Extra-1", "e"), ("X-Extra-0", "f")),
    cookies=(("other", "o"), ("key", "k4")),
    size=10,
    framing=Framing.LENGTH,
    shape=Shape(size=100),
)


def right(request: Request = REQUEST, *, wrong: str = "") -> Answer:
    """Return the right answer, but for one thing that is told."""
    told = {**expected.echo(request, CONFIG, "1.2.3.4"), "slot": 0, "pid": 1}
    told |= {wrong: "wrong"} if wrong else {}
    headers = {"x-echo": json.dumps(told)}
    return Answer(request.shape.status, headers, expected.body(request), is_last=False)


def test_right_answer_is_right() -> None:
    """Nothing differs."""
    assert expected.differences(REQUEST, right(), CONFIG, "1.2.3.4") == []


@pytest.mark.parametrize("name", [*expected.echo(REQUEST, CONFIG, "")])
def test_each_thing_that_is_told_has_to_be_right(name: str) -> None:
    """The difference is named."""
    (text,) = expected.differences(REQUEST, right(wrong=name), CONFIG, "1.2.3.4")
    assert text.startswith(f"{name}: 'wrong', not ")


def test_answer_to_another_request_is_wrong() -> None:
    """By its id, and by its body, which is the id's."""
    other = replace(REQUEST, id="8")
    found = expected.differences(REQUEST, right(other), CONFIG, "1.2.3.4")
    assert [text.partition(":")[0] for text in found] == ["id", "digest", "body"]


@pytest.mark.parametrize("at", [0, 50, 99])
def test_one_wrong_byte_is_found(at: int) -> None:
    """Wherever it is."""
    answer = right()
    body = bytearray(answer.body)
    body[at] ^= 1
    (text,) = expected.differences(REQUEST, replace(answer, body=bytes(body)), CONFIG, "1.2.3.4")
    assert text == f"body: 100 bytes, not 100; they differ at {at}"


@pytest.mark.parametrize("size", [99, 101])
def test_wrong_length_is_found(size: int) -> None:
    """Too short, and too long."""
    answer = replace(right(), body=(right().body + b"x")[:size])
    (text,) = expected.differences(REQUEST, answer, CONFIG, "1.2.3.4")
    assert text.startswith(f"body: {size} bytes, not 100")


def test_wrong_status_is_found() -> None:
    """It is asked for, as all else."""
    answer = replace(right(), status=201)
    assert expected.differences(REQUEST, answer, CONFIG, "1.2.3.4") == ["status: 201, not 200"]


def test_part_of_an_answer_may_be_what_it_begins_with() -> None:
    """And nothing else."""
    answer = replace(right(), body=right().body[:40])
    assert not expected.differences(REQUEST, answer, CONFIG, "1.2.3.4", is_whole=False)
    answer = replace(right(), body=right().body[1:40])
    assert expected.differences(REQUEST, answer, CONFIG, "1.2.3.4", is_whole=False)


def test_endless_answer_repeats_itself() -> None:
    """It ends anywhere."""
    request = replace(REQUEST, shape=Shape(kind=Kind.ENDLESS, size=100))
    answer = right(request)
    answer = replace(answer, body=answer.body * 3 + answer.body[:10])
    assert not expected.differences(request, answer, CONFIG, "1.2.3.4")
    answer = replace(answer, body=answer.body + b"?")
    assert expected.differences(request, answer, CONFIG, "1.2.3.4")


def test_answer_to_head_has_no_body() -> None:
    """Nor has one that is empty."""
    request = replace(REQUEST, method="HEAD")
    assert expected.differences(request, right(request), CONFIG, "1.2.3.4")
    answer = replace(right(request), body=b"")
    assert not expected.differences(request, answer, CONFIG, "1.2.3.4")
    assert expected.body(replace(REQUEST, shape=Shape(kind=Kind.EMPTY))) == b""


def test_body_that_the_app_does_not_read_is_unknown_to_it() -> None:
    """The answer is another then."""
    request = replace(REQUEST, shape=replace(REQUEST.shape, reads=False))
    echo = expected.echo(request, CONFIG, "")
    assert (echo["size"], echo["digest"]) == (0, "unread")
    assert expected.body(request) != expected.body(REQUEST)


@pytest.mark.parametrize("told", ["", "nonsense", "[]"])
def test_answer_of_another_app_tells_nothing(told: str) -> None:
    """Nor does one of the server itself."""
    answer = Answer(200, {"x-echo": told} if told else {}, b"", is_last=False)
    assert expected.told_by(answer) == {}


def test_query_is_quoted_so_that_it_comes_back() -> None:
    """Spaces and slashes too."""
    assert tuple(parse_qsl(REQUEST.query_string)) == REQUEST.query


@pytest.mark.parametrize(
    ("routing", "key"),
    [
        (Routing.ANYBODYS, None),
        (Routing.COOKIE, None),
        (Routing.CLIENT, "1.2.3.4"),
        (Routing.BY_HEADER, "k3"),
        (Routing.BY_PATH, "k 1"),
        (Routing.BY_QUERY, "k/2"),
        (Routing.BY_COOKIE, "k4"),
        (Routing.BY_FUNCTION, "3k"),
    ],
)
def test_each_routing_has_its_key(routing: Routing, key: str | None) -> None:
    """And a request without one is anybody's."""
    config = replace(CONFIG, routing=routing)
    assert expected.key(REQUEST, config, "1.2.3.4") == key
    bare = Request(id="1")
    assert expected.key(bare, config, "") in (None, "")
    assert expected.slot(bare, config, "", None, 3) is None


def test_owner_is_the_servers() -> None:
    """Computed in another way."""
    random = Random(1)
    for _ in range(500):
        key, slots = f"key {random.random()}", random.randint(1, 9)
        assert expected.owner(key, slots) == rendezvous.owner(key, slots)


@pytest.mark.parametrize(
    ("cookie", "slot"),
    [(None, None), ("2." + "a" * 32, 2), ("3." + "a" * 32, None), ("2.a", None), ("x", None)],
)
def test_sticky_cookie_says_whose_a_request_is(cookie: str | None, slot: int | None) -> None:
    """Unless that slot is gone."""
    config = replace(CONFIG, routing=Routing.COOKIE)
    assert expected.slot(REQUEST, config, "", cookie, 3) == slot


def test_trusted_proxy_says_who_the_client_is() -> None:
    """Else it is the peer."""
    request = replace(REQUEST, headers=(("X-Forwarded-For", "9.9.9.9"),))
    assert expected.client_of(request, "1.2.3.4") == "9.9.9.9"
    assert expected.client_of(REQUEST, "1.2.3.4") == "1.2.3.4"
