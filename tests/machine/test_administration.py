"""What `man sdcluster` tells administrators to type, as they type it."""

import re
from pathlib import Path

from service import HELLO, Service

MANUAL = Path(__file__).resolve().parents[2] / "packaging" / "man" / "sdcluster.1"
MIGRATES = """
import os, sys
from pathlib import Path

Path(os.environ["STATE_DIRECTORY"], "migrated").write_text(os.environ["DATABASE"])
"""
TELLS_SECRET = HELLO.replace(
    "{VERSION}", "{open(os.environ['CREDENTIALS_DIRECTORY'] + '/database').read()}"
)


def commands(service: Service, heading: str) -> str:
    """Return what stands to be typed, or written, below a heading of the manual."""
    section = MANUAL.read_text().split(f".SS {heading}\n")[1].partition("\n.S")[0]
    text = section.split(".nf\n")[1].split("\n.fi")[0]
    return (
        re.sub(r"\\f[BIR]", "", text.replace(r"\-", "-"))
        .replace("\\e\n", "\\\n")
        .replace("NAME", service.name)
    )


def test_secret_is_given_as_a_credential(service: Service) -> None:
    """It is root's alone, and the app reads it."""
    text = commands(service, "Secrets")
    path = f"/etc/credstore/{service.name}-database"
    assert path in text
    service.vm.write(path, "open-sesame")
    service.vm.run("chmod", "0600", path)
    service.configure(TELLS_SECRET)
    service.drop_in(text.partition("\n")[2])
    service.start()
    assert service.get().startswith("open-sesame ")
    service.vm.run("rm", path)


def test_command_runs_as_the_service(service: Service) -> None:
    """With its user, its environment file and its folders."""
    service.configure(environment_file=f"/etc/sdcluster/{service.name}.env")
    service.vm.write(f"/etc/sdcluster/{service.name}.env", "DATABASE=sqlite\n")
    service.vm.write(f"/srv/{service.name}/manage.py", MIGRATES)
    service.vm.run("mkdir", "-p", f"/srv/{service.name}/venv/bin")
    service.vm.run("ln", "-s", "/usr/bin/python3", f"/srv/{service.name}/venv/bin/python")
    service.vm.run("sh", "-c", commands(service, "A command as the service"))
    state = f"/var/lib/sdcluster/{service.name}"
    assert service.vm.run("cat", f"{state}/migrated").stdout == "sqlite"
    assert service.vm.run("stat", "-c", "%U", f"{state}/migrated").stdout == "sdcluster\n"
    service.start()
    assert service.get().startswith("one")
    service.vm.run("rm", f"/etc/sdcluster/{service.name}.env")


def test_all_instances_are_steered_at_once(service: Service) -> None:
    """Each of them is reloaded, and restarted."""
    other = Service(service.vm, f"{service.name}-other", service.port + 1000)
    both = (service, other)
    for one in both:
        one.configure()
        one.start()
        one.write_app(HELLO.replace('"one"', '"two"'))
    listed, reload, restart, _ = commands(service, "All instances at once").splitlines()
    assert all(one.unit in service.vm.run("sh", "-c", listed).stdout for one in both)
    service.vm.run("sh", "-c", reload)
    assert all(one.get().startswith("two") for one in both)
    before = [one.pid for one in both]
    service.vm.run("sh", "-c", restart)
    assert all(one.pid != pid for one, pid in zip(both, before, strict=True))
    assert all(one.get().startswith("two") for one in both)
    other.remove()


def test_instance_ends_without_a_trace(service: Service) -> None:
    """No unit, file or socket of it is left."""
    service.configure()
    service.drop_in("[Service]\nNice=1\n")
    service.vm.run("systemctl", "enable", "--now", service.unit)
    assert service.get().startswith("one")
    service.vm.run("sh", "-ec", commands(service, "The end of an instance"))
    units = ("systemctl", "list-units", "--all", "--plain", "--no-legend")
    assert service.vm.run(*units, f"*{service.name}*").stdout == ""
    places = ("/etc", "/run/systemd", "/var/lib/sdcluster", "/run/sdcluster")
    assert service.vm.run("find", *places, "-name", f"*{service.name}*").stdout == ""
    assert service.get() == ""
