"""The journal tells the story, each process for itself."""

import re

import pytest
from service import HELLO, Service

LOGGING = """
import logging, sys
log = logging.getLogger("shop")
""" + HELLO.replace(
    "    body =",
    """    if scope["path"] == "/log":
        print("printed line")
        print("error line", file=sys.stderr)
        log.warning("stock is low\\nsecond line")
        log.info("not shown by default?")
    body =""",
)


def test_every_event_has_a_message_id_that_the_catalog_explains(service: Service) -> None:
    """Start, crash, reload and stop are entries with MESSAGE_ID, explained by `journalctl -x`."""
    service.configure()
    service.start()
    service.vm.run("kill", "-KILL", str(service.worker_pids()[0]))
    service.wait_show(StatusText="2/2 workers ready, gen 1, 0 connections, 1 restarts")
    service.systemctl("reload")
    service.write_app("def")
    service.systemctl("reload", check=False)
    service.systemctl("stop")
    entries = [one for one in service.journal() if "MESSAGE_ID" in one]
    own = [one for one in entries if "SDCLUSTER_INSTANCE" in one]
    assert len({one["MESSAGE_ID"] for one in own}) >= 9
    assert {one["SDCLUSTER_INSTANCE"] for one in own} == {service.name}
    catalog = service.vm.run("journalctl", "--list-catalog").stdout
    for message_id in {one["MESSAGE_ID"] for one in own}:
        assert message_id in catalog
    explained = service.vm.run("journalctl", "-x", "--no-pager", "-u", service.unit).stdout
    assert "Subject: The new code is live" in explained
    assert f"systemctl reload\nsdcluster@{service.name}" in re.sub(r"\n░░ ", "\n", explained)


def test_worker_entries_name_slot_worker_and_generation(service: Service) -> None:
    """The entry of a worker that serves has its fields."""
    service.configure()
    service.start()
    (entry,) = service.journal("SDCLUSTER_SLOT=1")
    assert entry["SDCLUSTER_GENERATION"] == "1"
    assert entry["SDCLUSTER_WORKER"] in ("1", "2")
    assert int(entry["_PID"]) == service.pid


@pytest.mark.parametrize("preload", [True, False])
def test_handlers_that_the_app_has_set_up_send_to_the_journal(
    service: Service, preload: bool
) -> None:
    """`logging.basicConfig` in the app gives entries with a priority, imported early or late."""
    service.configure("import logging; logging.basicConfig()\n" + LOGGING, preload=preload)
    service.start()
    pid = service.get("/log").split()[1]
    entries = {str(one["MESSAGE"]): one for one in service.journal(f"_PID={pid}")}
    (logged,) = [one for text, one in entries.items() if "stock is low" in text]
    assert logged["PRIORITY"] == "4"
    assert logged["LOGGER"] == "shop"


def test_the_apps_output_arrives_with_its_pid_and_priority(service: Service) -> None:
    """`print` and `logging` are entries of the worker's own process."""
    service.configure(LOGGING)
    service.start()
    pid = service.get("/log").split()[1]
    entries = {str(one["MESSAGE"]): one for one in service.journal(f"_PID={pid}")}
    assert "printed line" in entries
    assert "error line" in entries
    logged = entries["stock is low\nsecond line"]
    assert logged["PRIORITY"] == "4"
    assert logged["LOGGER"] == "shop"
    assert logged["SDCLUSTER_INSTANCE"] == service.name
    assert logged["SDCLUSTER_GENERATION"] == "1"
    assert {"SDCLUSTER_SLOT", "SDCLUSTER_WORKER"} <= logged.keys()
