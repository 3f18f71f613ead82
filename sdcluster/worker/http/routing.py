"""Sends a request to the worker that it is for: an ASGI app in front of the app.

A rule says whose the request is. When that is another slot, its connection is handed over before
the app sees it, and goes on there; per request, as a proxy's connection is shared by many users.
What cannot be handed over is refused. It is served here only if there is nobody to serve it there,
and counts as wrong.
"""

import contextlib
import hmac
import logging
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any, Protocol, cast
from urllib.parse import parse_qsl

from sdcluster.wire import rendezvous
from sdcluster.wire.frames import Prepare
from sdcluster.worker.http.gate import App, Message, Receive, Send
from sdcluster.worker.http.passing import Passed, pass_on
from sdcluster.worker.http.strays import Strays
from sdcluster.worker.moving import request_connection
from sdcluster.worker.moving.refusals import Refusal, beginning

MAX_KEY_BYTES = 4096

_SIGNATURE_BYTES = 16
_REQUESTS = ("http", "websocket")

KeyFunction = Callable[[Message], object]
"""Returns a str or bytes; None when the request has none."""

logger = logging.getLogger("sdcluster")


class Rule(Protocol):
    """Whose a request is."""

    def slot(self, scope: Message, slots: int) -> int | None:
        """Return the slot, of as many as there are; None when it is nobody's."""

    def claim(self, scope: Message, send: Send) -> Send:
        """Return what answers a request that was nobody's, and is ours from now on."""


class Router:
    """Stands before the app `app`, in the worker of `slot`; `slots` tells how many there are.

    A request that is handed over waits for `timeout_s` at most. `strays` are told of what is not
    served where it belongs.
    """

    def __init__(
        self,
        app: App,
        rule: Rule,
        *,
        slot: int,
        slots: Callable[[], int],
        timeout_s: float,
        strays: Strays,
    ) -> None:
        self._app = app
        self._rule = rule
        self._slot = slot
        self._slots = slots
        self._timeout_s = timeout_s
        self.strays = strays

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] in _REQUESTS:
            slot = self._rule.slot(scope, self._slots())
            if slot is None:
                send = self._rule.claim(scope, send)
            elif not await self._is_to_stay(slot, scope):
                if scope["type"] == "websocket":
                    await send({"type": "websocket.close"})
                return  # To the engine, the client has gone.
            connection = request_connection.current()
            if connection is not None:
                connection.stay()
        await self._app(scope, receive, send)

    async def _is_to_stay(self, slot: int, scope: Message) -> bool:
        """Tell whether a request of a slot is to be served here; if not, see to it."""
        connection = request_connection.current()
        refusal: Refusal | None = None
        if connection is not None and connection.is_overlong:
            refusal = Refusal.TOO_LONG  # Wherever it has come to: it is refused always, or never.
        elif slot != self._slot:
            match await pass_on(connection, slot, timeout_s=self._timeout_s):
                case Passed.ON:
                    return False
                case Passed.NOWHERE:
                    self.strays.wrong()
                case Passed.LATE:
                    refusal = Refusal.BUSY
                case Passed.TIED:
                    refusal = Refusal.TIED
        if connection is None or refusal is None:
            return True
        self.strays.refused(refusal)
        connection.refuse(refusal, beginning(scope))
        return False


class ByCookie:
    """The worker that has answered a client first, by a signed cookie that it has put in."""

    def __init__(self, slot: int, *, name: str, attributes: str, secure: str, secret: str) -> None:
        """`secure` is `auto`, `always` or `never`; `secret` is of hexadecimal digits."""
        self._name = name.encode()
        self._secure = secure
        self._secret = bytes.fromhex(secret)
        self._cookie = f"{name}={self._value(slot)}; {attributes}".encode()

    def slot(self, scope: Message, slots: int) -> int | None:
        for name, value in _cookies(scope):
            if name == self._name:
                text = value.decode("latin-1")
                number = text.partition(".")[0]
                if number.isdecimal() and len(number) <= 4 and number.isascii():
                    slot = int(number)
                    if hmac.compare_digest(value, self._value(slot).encode()) and slot < slots:
                        return slot
        return None

    def _value(self, slot: int) -> str:
        signature = blake2b(b"slot %d" % slot, key=self._secret, digest_size=_SIGNATURE_BYTES)
        return f"{slot}.{signature.hexdigest()}"

    def claim(self, scope: Message, send: Send) -> Send:
        cookie = self._cookie
        is_secure = scope.get("scheme") in ("https", "wss")
        if self._secure == "always" or (self._secure == "auto" and is_secure):
            cookie += b"; Secure"

        async def claiming(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                headers = [*message.get("headers", ()), (b"set-cookie", cookie)]
                message = {**message, "headers": headers}
            await send(message)

        return claiming


class ByKey:
    """The owner of the request's key."""

    def __init__(self, key: KeyFunction, *, what: str) -> None:
        """`what` is what messages call the function."""
        self._key = key
        self._what = what
        self._has_failed = False

    def slot(self, scope: Message, slots: int) -> int | None:
        try:
            key = self._key(scope)
        except Exception:
            self._tell_once("raises this", has_traceback=True)
            return None
        if isinstance(key, (str, bytes)):
            return rendezvous.owner(key[:MAX_KEY_BYTES], slots)
        if key is not None:
            self._tell_once(f"returns a {type(key).__name__}, and no str, bytes or None")
        return None

    def _tell_once(self, what: str, *, has_traceback: bool = False) -> None:
        if not self._has_failed:
            self._has_failed = True
            text = "%s %s, and not only this once maybe; such requests are served where they are"
            logger.error(text, self._what, what, exc_info=has_traceback)

    def claim(self, _scope: Message, send: Send) -> Send:
        return send


def client_ip(scope: Message) -> bytes | None:
    """Return the address of the client; None when it has none, as over a Unix socket."""
    client = scope.get("client")
    if not client or not client[0]:
        return None
    address: str = client[0].partition("%")[0].lower()
    return address.removeprefix("::ffff:").encode()  # IPv4 over an IPv6 socket, RFC 4291, 2.5.5.2.


def request_key(by: str) -> KeyFunction:
    """Return the function that finds `header:NAME`, `path:NUMBER`, `query:NAME` or `cookie:NAME`.

    It returns None where a request has no such part, or an empty one.
    """
    kind, _, text = by.partition(":")
    name = text.encode("latin-1", "replace")
    if kind == "header":
        wanted = name.lower()
        return lambda scope: next((v for n, v in scope["headers"] if n == wanted and v), None)
    if kind == "cookie":
        return lambda scope: next((v for n, v in _cookies(scope) if n == name and v), None)
    if kind == "query":
        return lambda scope: next((v for n, v in _query(scope) if n == text and v), None)
    number = int(text)

    def segment(scope: Message) -> str | None:
        parts = _path(scope).split("/")
        return (parts[number] or None) if number < len(parts) else None

    return segment


def _path(scope: Message) -> str:
    """Return the path behind the app's own, `root_path`, which it may begin with: that varies."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path.removeprefix(root) if f"{path}/".startswith(f"{root}/") else path


def _cookies(scope: Message) -> Iterator[tuple[bytes, bytes]]:
    for header, value in scope["headers"]:
        if header == b"cookie":
            for part in value.split(b";"):
                name, _, content = part.partition(b"=")
                yield name.strip(), content.strip()


def _query(scope: Message) -> list[tuple[str, str]]:
    with contextlib.suppress(ValueError):  # Too many fields, say.
        return parse_qsl(scope["query_string"].decode("latin-1"), errors="surrogateescape")
    return []


def rule(prepare: Prepare, slot: int, function: KeyFunction | None) -> Rule | None:
    """Return the rule that the config says; None when each request is for whoever gets it.

    `function` is the app's own, if the config names one.
    """
    if prepare.sticky == "cookie":
        return ByCookie(
            slot,
            name=prepare.cookie_name,
            attributes=prepare.cookie_attributes,
            secure=prepare.cookie_secure,
            secret=prepare.cookie_secret,
        )
    if prepare.sticky == "client-ip":
        return ByKey(client_ip, what="sticky")
    if function is not None:
        return ByKey(function, what=prepare.shard_function)
    if prepare.shard_by:
        return ByKey(request_key(prepare.shard_by), what="shard")
    return None


def routed(
    app: Any,
    found: Rule | None,
    *,
    slot: int,
    slots: Callable[[], int],
    timeout_s: float,
    strays: Strays,
) -> App:
    """Return the app with a router before it, when there is a rule."""
    if found is None:
        return cast(App, app)
    return Router(app, found, slot=slot, slots=slots, timeout_s=timeout_s, strays=strays)
