"""The shared cache inside the sandbox of the unit, with Debian's LMDB."""

from service import Service

COUNTER = """
from sdcluster import cache

async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = f"{cache.incr('hits')}\\n".encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


def check(service: Service, after: int, requests: int = 8) -> None:
    """See that the next requests are counted on, whichever worker answers them."""
    numbers = [int(service.get()) for _ in range(requests)]
    assert numbers == list(range(after + 1, after + requests + 1))


def test_all_workers_of_a_service_count_together(service: Service) -> None:
    """A reload and a killed worker change no count; a restart begins anew."""
    service.configure(COUNTER, workers=3)
    service.start()
    check(service, 0)
    service.systemctl("reload")
    check(service, 8)
    service.vm.run("kill", "-KILL", str(service.worker_pids()[0]))
    check(service, 16)
    service.systemctl("restart")
    check(service, 0)
