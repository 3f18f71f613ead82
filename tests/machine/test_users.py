"""Instances of a user's own, with `systemctl --user`."""

import json
from collections.abc import Iterator

import load
import pytest
from machine import Machine
from service import HELLO
from waiting import wait_until

USER = "ada"
HOME = f"/home/{USER}"
PORT = 8300
CONFIG = {
    "app": "app:app",
    "directory": f"{HOME}/shop",
    "workers": 2,
    "listen": f"127.0.0.1:{PORT}",
}


class User:
    """A user of the machine, whose manager goes on after a logout."""

    def __init__(self, vm: Machine) -> None:
        self.vm = vm
        vm.run("useradd", "--create-home", "--shell", "/bin/sh", USER)
        # As a service: logind of 257 does not know processes that come from outside of the machine.
        vm.run("systemd-run", "--wait", "--pipe", "--quiet", "loginctl", "enable-linger", USER)
        self.uid = vm.run("id", "-u", USER).stdout.strip()
        wait_until(lambda: self.run("systemctl --user is-system-running", check=False), "a manager")

    def run(self, command: str, *, check: bool = True) -> str:
        """Run a command as the user, in a session of its own; return what it says."""
        given = f"export XDG_RUNTIME_DIR=/run/user/{self.uid}; {command}"
        return self.vm.run("runuser", "-l", USER, "-c", given, check=check).stdout

    def write(self, path: str, text: str) -> None:
        """Write a file in the user's home."""
        self.vm.write(f"{HOME}/{path}", text)
        self.vm.run("chown", "-R", f"{USER}:", HOME)

    def get(self) -> str:
        """Ask the instance."""
        url = f"http://127.0.0.1:{PORT}/"
        return self.vm.run("curl", "-s", "-m", "10", url, check=False).stdout


@pytest.fixture
def user(vm: Machine) -> Iterator[User]:
    """Return a user with an app and its configuration, and nothing that runs."""
    one = User(vm)
    one.write("shop/app.py", HELLO)
    lines = [f"{key} = {json.dumps(value)}" for key, value in CONFIG.items()]
    one.write(".config/sdcluster/shop.toml", "\n".join(lines) + "\n")
    one.run("systemctl --user daemon-reload")
    yield one
    print(vm.run("journalctl", "--no-pager", f"_UID={one.uid}", check=False).stdout)
    vm.run("systemd-run", "--wait", "--pipe", "--quiet", "loginctl", "disable-linger", USER)
    vm.run("systemctl", "stop", f"user@{one.uid}.service")
    vm.run("userdel", "--remove", USER)


def test_instance_of_a_user_serves_and_is_reloaded_without_a_loss(vm: Machine, user: User) -> None:
    """On sockets of the user manager's, with nobody logged in; the command finds it by its name."""
    user.run("sdcluster check shop")
    user.run("systemctl --user enable --now sdcluster@shop")
    assert user.run("systemctl --user is-active sdcluster@shop.socket") == "active\n"
    assert user.get().startswith("one ")
    url, prefix = f"http://127.0.0.1:{PORT}/", vm.on_loopback()
    with (
        load.running(url, close=False, prefix=prefix) as kept,
        load.running(url, close=True, prefix=prefix) as anew,
    ):
        user.write("shop/app.py", HELLO.replace('"one"', '"two"'))
        user.run("systemctl --user reload sdcluster@shop")
        user.run("systemctl --user restart sdcluster@shop")
    for result in (kept, anew):
        assert result.requests > 100
        assert result.lost == 0, result.errors
    assert user.get().startswith("two ")
    assert json.loads(user.run("sdcluster status shop --json"))["state"] == "running"
    sessions = vm.run("loginctl", "list-sessions", "--no-legend").stdout.splitlines()
    assert [line for line in sessions if USER in line and "manager" not in line] == []
    user.run("systemctl --user disable --now sdcluster@shop")
    wait_until(lambda: user.get() == "", "its socket is closed")


def test_first_client_of_a_user_starts_the_service(user: User) -> None:
    """The socket is the manager's."""
    user.run("systemctl --user start sdcluster@shop.socket")
    assert user.get().startswith("one ")


def test_mistake_of_a_user_is_told_by_the_check(user: User) -> None:
    """As it is for the system's instances."""
    user.write(".config/sdcluster/shop.toml", 'app = "app:app"\nworker = 2\n')
    said = user.run("sdcluster check shop 2>&1", check=False)
    assert f"{HOME}/.config/sdcluster/shop.toml: worker: unknown key; did you mean workers?" in said
