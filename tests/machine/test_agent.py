"""The agent of a service: one process more in the unit, which the workers ask and hear."""

from service import Service, versions

APP = """
import json
import os

from sdcluster import cluster

VERSION = "one"
users = "none"

@cluster.on_message
def told(message):
    global users
    users = message

async def app(scope, receive, send):
    assert scope["type"] == "http"
    answer = await cluster.agent.request(scope["path"])
    body = f"{VERSION} {users} {answer}\\n".encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

def agent():
    print("the agent starts")
    cluster.every(0.1)(lambda: cluster.broadcast(len(cluster.workers)))
    cluster.on_request(lambda worker, path: f"{VERSION} {path} {os.getpid()}")
"""


def agent_pid(service: Service) -> int:
    """Return the agent's pid."""
    (found,) = [one["pid"] for one in service.status()["workers"] if one["slot"] < 0]
    return int(found)


def test_agent_answers_and_tells_every_worker(service: Service) -> None:
    """It is in the sandbox of the unit, and what it prints is an entry of its own process."""
    service.configure(APP, agent="app:agent")
    service.start()
    assert service.get("/here").endswith(f" one /here {agent_pid(service)}\n")
    service.wait_get("one 2 one")
    (printed,) = service.journal("MESSAGE=the agent starts")
    assert int(printed["_PID"]) == agent_pid(service)
    (serves,) = service.journal("SDCLUSTER_SLOT=agent")
    assert "the agent, gen 1) serves" in serves["MESSAGE"]
    assert "2/2 workers ready" in service.show("StatusText")["StatusText"]


def test_nothing_is_lost_when_the_agent_is_reloaded(service: Service) -> None:
    """Every request asks it, before, meanwhile and after."""
    service.configure(APP, agent="app:agent")
    service.start()
    with service.under_load(close=True) as result:
        service.write_app(APP.replace('"one"', '"two"'))
        service.systemctl("reload")
        service.vm.run("kill", "-TERM", str(agent_pid(service)))
        service.systemctl("reload")
    assert result.lost == 0, result
    assert versions(result) == {"one", "two"}


def test_agent_that_fails_fails_the_start_and_the_reload(service: Service) -> None:
    """`systemctl` says so, and a service that runs goes on."""
    broken = APP.replace('    print("the agent starts")', '    raise OSError("no database")')
    service.configure(broken, agent="app:agent")
    service.drop_in("[Service]\nRestart=no\n")
    assert service.systemctl("start", check=False).returncode != 0
    assert "app:agent failed: OSError: no database" in service.show("StatusText")["StatusText"]
    service.systemctl("reset-failed")
    service.write_app(APP)
    service.start()
    pid = agent_pid(service)
    service.write_app(broken)
    assert service.systemctl("reload", check=False).returncode != 0
    assert agent_pid(service) == pid
    assert service.get("/").startswith("one ")
