"""What cannot start says why, with the right exit status, and leaves the rest to systemd."""

from service import HELLO, Service


def test_bad_config_ends_with_ex_config_and_no_restart(service: Service) -> None:
    """Exit status 78 is final: starting again does not mend a file."""
    service.configure(scheduling="fair")
    assert service.systemctl("start", check=False).returncode != 0
    assert service.show("ExecMainStatus", "NRestarts", "ActiveState") == {
        "ExecMainStatus": "78",
        "NRestarts": "0",
        "ActiveState": "failed",
    }
    (entry,) = [one for one in service.journal() if "scheduling" in str(one["MESSAGE"])]
    policies = "round-robin, least-connections, least-latency, shared, reuseport"
    assert f"'fair' is none of {policies}" in entry["MESSAGE"]
    assert entry["PRIORITY"] == "3"


def test_missing_config_is_told(service: Service) -> None:
    """An instance without a file fails with the path of the file to write."""
    assert service.systemctl("start", check=False).returncode != 0
    assert f"/etc/sdcluster/{service.name}.toml: no such file" in service.story()


def test_an_app_that_does_not_load_is_told_with_its_traceback(service: Service) -> None:
    """It stands in the journal at each try, with the reason and the time of the next one."""
    service.configure("import nowhere\n")
    service.vm.run("systemctl", "start", "--no-block", service.unit)
    service.wait_text("2 tries have failed: cannot import 'app': ModuleNotFoundError")
    story = service.story()
    assert 'File "/srv/' in story
    assert "ModuleNotFoundError: No module named 'nowhere'" in story
    assert "; the next try is in " in story


def test_an_address_in_use_is_told_with_errno(service: Service) -> None:
    """Without its socket unit the master binds itself, and says which address is taken."""
    service.configure()
    service.start()
    other = Service(service.vm, f"{service.name}-2", service.port)
    try:
        other.configure()
        script = "[Service]\nSockets=\n[Unit]\nRequires=\nAfter=\n"
        other.drop_in(script)
        other.vm.run("rm", "-rf", f"/run/systemd/generator/{other.unit}.d")
        other.drop_in("[Service]\nRestart=no\n")
        assert other.systemctl("start", check=False).returncode != 0
    finally:
        print(other.story())
        other.remove()
    assert service.get().startswith("one")


def test_a_worker_that_never_boots_does_not_hold_a_start_for_ever(service: Service) -> None:
    """One slot crashes at each boot: TimeoutStartSec ends the start, nothing else extends it."""
    source = "import os\nif os.environ['SDCLUSTER_SLOT'] == '1': os._exit(7)\n" + HELLO
    service.configure(source, preload=False)
    service.drop_in("[Service]\nTimeoutStartSec=4\nRestart=no\n")
    assert service.systemctl("start", check=False).returncode != 0
    assert service.show("Result")["Result"] == "timeout"
    assert "exit status 7" in service.story()
