"""Varlink (varlink.org): JSON objects ended by a NUL byte, with calls, replies and errors.

The control socket speaks it, so `varlinkctl` is a client too. A call with `more` may get several
replies; all but the last have `continues` set.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sdcluster.errors import ProtocolError

MAX_MESSAGE_BYTES = 64 * 1024

INTERFACE = "io.sdcluster.Control"

DESCRIPTION = """\
# Steer one sdcluster instance.
interface io.sdcluster.Control

# In slot -1 is the agent. With `sticky` or `shard`, `wrong` counts the requests that it has served
# although they were for the worker of another slot.
type Worker (
  slot: int,
  worker: int,
  pid: int,
  generation: int,
  state: string,
  connections: int,
  requests: int,
  wrong: int,
  uptime_s: float,
  status: string
)

type Exit (slot: int, worker: int, reason: string, status: string)

# The state of the instance and of each of its workers; `restarts` and `wrong` are since the start.
method Status() -> (
  name: string,
  pid: int,
  state: string,
  status: string,
  generation: int,
  wanted: int,
  ready: int,
  restarts: int,
  wrong: int,
  scheduling: string,
  listen: []string,
  workers: []Worker,
  last_exits: []Exit
)

# Replace the workers with new code, one at a time. With `more`, a reply for each step.
method Reload() -> (event: string, message: string, done: int, total: int, generation: int)

# Change the number of workers. Exactly one of the two.
method Scale(workers: ?int, delta: ?int) -> (workers: int)

# The reload did not complete; the old code serves.
error ReloadFailed (reason: string)

# The cluster does not serve yet: it could not start, and is tried again. Reload tries at once.
error NotStarted (reason: string)

# The cluster is stopping.
error Stopping ()

# So many of this user's wait for a reload that one more cannot.
error TooManyCallers ()

# With fewer workers there would be a socket that nobody accepts on.
error TooFewWorkers (fewest: int)
"""

SERVICE_INTERFACE = "org.varlink.service"

SERVICE_DESCRIPTION = """\
# What every Varlink service says of itself.
interface org.varlink.service

# Who this is, and which interfaces it has.
method GetInfo() -> (
  vendor: string,
  product: string,
  version: string,
  url: string,
  interfaces: []string
)

# Describe an interface, in the text that this is.
method GetInterfaceDescription(interface: string) -> (description: string)

error InterfaceNotFound (interface: string)

error MethodNotFound (method: string)

error MethodNotImplemented (method: string)

error InvalidParameter (parameter: string)
"""

INVALID_PARAMETER = "org.varlink.service.InvalidParameter"
METHOD_NOT_FOUND = "org.varlink.service.MethodNotFound"
INTERFACE_NOT_FOUND = "org.varlink.service.InterfaceNotFound"


@dataclass(frozen=True, slots=True)
class Call:
    """A method call, named in full: `io.sdcluster.Control.Status`."""

    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    more: bool = False
    oneway: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, or an error when `error` names one."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    continues: bool = False
    error: str = ""


def encode(message: Call | Reply) -> bytes:
    """Serialize a message, with its closing NUL."""
    values: dict[str, Any] = {}
    if isinstance(message, Call):
        values["method"] = message.method
    elif message.error:
        values["error"] = message.error
    values["parameters"] = dict(message.parameters)
    for flag in ("more", "oneway", "continues"):
        if getattr(message, flag, False):
            values[flag] = True
    return json.dumps(values).encode() + b"\0"


def decode_call(data: bytes) -> Call:
    """Read a call, given without its NUL. Raises `ProtocolError`."""
    values = _object(data)
    method = values.get("method")
    if not isinstance(method, str) or "." not in method:
        raise ProtocolError("a call without a method")
    return Call(
        method=method,
        parameters=_parameters(values),
        more=values.get("more") is True,
        oneway=values.get("oneway") is True,
    )


def decode_reply(data: bytes) -> Reply:
    """Read a reply, given without its NUL. Raises `ProtocolError`."""
    values = _object(data)
    error = values.get("error", "")
    if not isinstance(error, str):
        raise ProtocolError("the error of a reply is not a string")
    return Reply(_parameters(values), continues=values.get("continues") is True, error=error)


class Splitter:
    """Cuts a byte stream into messages at the NUL bytes; holds at most one message's bytes."""

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._limit = max_message_bytes
        self._rest = b""

    @property
    def is_empty(self) -> bool:
        """Whether nothing has come of the next message."""
        return not self._rest

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that `data` completes. Raises `ProtocolError` for one too large."""
        *messages, self._rest = (self._rest + data).split(b"\0")
        if len(self._rest) > self._limit or any(len(one) > self._limit for one in messages):
            raise ProtocolError(f"message of more than {self._limit} bytes")
        return messages


def _object(data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("message is not JSON") from error
    if not isinstance(values, dict):
        raise ProtocolError("message is not a JSON object")
    return values


def _parameters(values: dict[str, Any]) -> dict[str, Any]:
    parameters = values.get("parameters", {})
    if not isinstance(parameters, dict):
        raise ProtocolError("parameters are not a JSON object")
    return parameters
