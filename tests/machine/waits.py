"""New clients, one every 20 ms, beside connections that ask nothing whole; how long each waits.

    python3 tests/machine/waits.py PORT SECONDS

Before, it opens a connection that is silent, one with half a head, one with half a body and one
that is kept alive, and prints `open`. After, the first two send what is missing, and the last one
another request. It prints what came of all of that as JSON.
"""

import contextlib
import json
import socket
import sys
import threading
import time

INTERVAL_S = 0.02
TIMEOUT_S = 40.0
GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
POST = b"POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n01234"


def dial(port: int) -> socket.socket:
    """Connect."""
    return socket.create_connection(("127.0.0.1", port), TIMEOUT_S)


def answer(client: socket.socket) -> str:
    """Return the status of an answer; `closed`, or what befell the connection."""
    data = b""
    try:
        while b"\r\n\r\n" not in data:
            more = client.recv(65536)
            if not more:
                return "closed"
            data += more
    except OSError as error:
        return type(error).__name__
    return data.split()[1].decode()


def ask(client: socket.socket, data: bytes) -> str:
    """Send the rest of a request, and return what comes of it."""
    try:
        client.sendall(data)
    except OSError as error:
        return type(error).__name__
    return answer(client)


def main(port: int, seconds: float) -> None:
    """Come, wait, and tell."""
    silent, head, body, kept = (dial(port) for _ in range(4))
    head.sendall(GET[:20])
    body.sendall(POST)
    assert ask(kept, GET) == "200"
    print("open", flush=True)
    waits: list[float] = []
    lost: list[str] = []

    def come() -> None:
        since = time.monotonic()
        got = "refused"
        with contextlib.suppress(OSError), dial(port) as client:
            got = ask(client, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        waits.append(time.monotonic() - since)
        if got != "200":
            lost.append(got)

    end = time.monotonic() + seconds
    threads = []
    while time.monotonic() < end:
        threads.append(threading.Thread(target=come))
        threads[-1].start()
        time.sleep(INTERVAL_S)
    for thread in threads:
        thread.join()
    found = {
        "requests": len(waits),
        "longest_s": round(max(waits), 3),
        "lost": lost,
        "silent": ask(silent, GET),
        "head": ask(head, GET[20:]),
        "body": answer(body),
        "kept": ask(kept, GET),
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
