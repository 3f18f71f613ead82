"""What is planned from a seed."""

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from fuzz.answers import AnswerReader
from fuzz.configurations import Client, Configuration, Faults
from fuzz.exchange import Framing, Kind, Request, framed_body, head
from fuzz.plan import Connection, Deed, Step, connections, faults
from fuzz.proxyheader import header

from sdcluster.wire import proxy_protocol

TESTS = Path(__file__).resolve().parent.parent.parent
PLAIN = Configuration()


def planned(config: Configuration = PLAIN, count: int = 300) -> list[Connection]:
    """Return the first connections of a plan."""
    return list(itertools.islice(connections(config, Random(1), prefix="c"), count))


def steps() -> Iterator[Step]:
    """Yield the steps of a plan."""
    for connection in planned():
        yield from connection.steps


def requests() -> list[Request]:
    """Return the requests of a plan."""
    return [request for step in steps() for request in step.requests]


def test_seed_says_what_is_planned() -> None:
    """In another process as well, whose hashes are others."""
    code = (
        "import itertools\nfrom random import Random\nfrom fuzz.plan import *\n"
        "made = connections(Configuration(), Random(1), prefix='c')\n"
        "print(list(itertools.islice(made, 20)))"
    )
    environment = {"PYTHONPATH": f"{TESTS}:{TESTS.parent}", "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-B", "-c", code]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(planned(count=20))


def test_no_id_is_there_twice() -> None:
    """By it executions are counted."""
    ids = [request.id for request in requests()]
    assert len(ids) == len(set(ids)) > 1000


@pytest.mark.parametrize("framing", Framing)
def test_each_framing_is_planned(framing: Framing) -> None:
    """With and without keep-alive; pipelined and not."""
    some = [request for request in requests() if request.framing is framing]
    assert any(request.closes for request in some)
    assert any(not request.closes for request in some)


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_of_answer_is_planned(kind: Kind) -> None:
    """The odd ones too."""
    assert any(request.shape.kind is kind for request in requests())


def test_odd_requests_are_planned() -> None:
    """HTTP/1.0, Expect, keys for what may not be repeated, pipelines, long heads, unread bodies."""
    some = requests()
    assert any(request.version == "1.0" for request in some)
    assert any(request.expects for request in some)
    assert any(request.has_idempotency_key for request in some)
    assert any(not request.shape.reads and request.size for request in some)
    assert any(len(head(request, {})) > 8000 for request in some)
    assert any(request.size > 100_000 for request in some)
    assert {len(step.requests) for step in steps()} == {1, 2, 3}
    assert any(step.cuts for step in steps())
    assert any(step.leaves_after for step in steps())


def test_only_the_last_request_of_a_connection_ends_it() -> None:
    """What is behind it would never be answered."""
    for connection in planned():
        *before, last = [one for step in connection.steps for one in step.requests]
        assert all(request.is_kept_alive for request in before)
        assert all(step.leaves_after == 0 for step in connection.steps[:-1])
        assert last.shape.kind is not Kind.ENDLESS or connection.steps[-1].leaves_after


def test_body_is_framed_as_the_head_says() -> None:
    """Told by the parser of responses, whose bodies are framed in the same way."""
    for request in requests():
        lines = head(request, {}).split(b"\r\n")[1:]
        framed = b"\r\n".join((b"HTTP/1.1 200 OK", *lines)) + framed_body(request)
        reader = AnswerReader("GET")
        rest = reader.feed(framed)
        if request.framing is Framing.NONE:
            assert not request.size
        else:
            assert rest == b""
            assert reader.answer().body == request.body()


def test_faults_are_those_of_the_configuration() -> None:
    """All of them, or none."""
    every = faults(Configuration(faults=Faults.ALL), Random(1))
    assert {one.deed for one in itertools.islice(every, 200)} == set(Deed)
    assert not list(faults(Configuration(faults=Faults.NONE), Random(1)))


def test_proxy_says_who_the_client_is() -> None:
    """In both versions, and as the server reads it."""
    random = Random(1)
    made = [header(random) for _ in range(400)]
    for data, client in made:
        found = proxy_protocol.parse(data)
        assert isinstance(found, proxy_protocol.Header)
        assert found.length == len(data)
        assert (found.client[0] if found.client else "") == client
    assert {data[:5] for data, _ in made} == {b"PROXY", b"\r\n\r\n\0"}
    assert any(not client for _, client in made)
    proxied = planned(Configuration(client=Client.PROXY), 10)
    assert all(connection.preface for connection in proxied)
