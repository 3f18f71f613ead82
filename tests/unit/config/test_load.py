"""The configuration: what is taken, what is refused, and what is said about it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import at_once

from sdcluster.config import cpus
from sdcluster.config.address import Address
from sdcluster.config.files import check_name, config_path
from sdcluster.config.keys import KEYS
from sdcluster.config.load import from_options, load
from sdcluster.config.model import Config, python
from sdcluster.config.routing import Shard, Sticky
from sdcluster.errors import EX_CONFIG, ConfigError

APP = "app = 'shop:app'\n"
COMMAND = "exec = ['/bin/sh']\n"

Load = Callable[..., Config]


@pytest.fixture(autouse=True)
def four_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the machine have four CPUs."""
    monkeypatch.setattr(cpus, "usable", lambda: 4)


@pytest.fixture
def read(tmp_path: Path) -> Load:
    """Write `shop.toml` in the test's folder and load it."""

    def read(text: str, **arguments: Any) -> Config:
        path = tmp_path / "shop.toml"
        path.write_text(text)
        return load(path, **arguments)

    return read


def problems(action: Callable[[], object]) -> list[str]:
    """Return the problems that are told, without the path before them."""
    with pytest.raises(ConfigError) as caught:
        action()
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert caught.value.exit_status == EX_CONFIG
    return [one.rpartition("shop.toml: ")[2] for one in caught.value.problems]


# What is taken.


def test_app_alone_is_a_complete_configuration(read: Load, tmp_path: Path) -> None:
    """Everything else has a default."""
    assert read(APP) == Config(
        name="shop",
        source=str(tmp_path / "shop.toml"),
        app="shop:app",
        agent="",
        exec=(),
        exec_ready="notify",
        interface="auto",
        directory=tmp_path,
        venv=None,
        environment={},
        listen=(Address("tcp", "127.0.0.1", 8000, ""),),
        listen_given=False,
        workers=4,
        ready_workers=4,
        scheduling="round-robin",
        weights=(),
        rebalance=False,
        preload=True,
        threads=4,
        ready_timeout_s=60.0,
        drain_timeout_s=30.0,
        heartbeat_timeout_s=30.0,
        request_timeout_s=0.0,
        reload_probation_s=0.2,
        max_requests=0,
        max_requests_jitter=0,
        max_lifetime_s=0.0,
        max_memory_mb=0,
        max_connections=0,
        crash_recovery=True,
        replay="idempotent",
        replay_max_kb=64,
        sticky=None,
        shard=None,
        handoff_timeout_s=1.0,
        proxy_protocol=False,
        proxy_allow_ips=("127.0.0.0/8", "::1/128", "unix"),
        access_log=False,
        forwarded_allow_ips="",
        root_path="",
    )


def test_command_has_defaults_of_its_own(read: Load) -> None:
    """A command accepts by itself, and need not know how to send WATCHDOG=1."""
    config = read(COMMAND)
    assert config.is_command and config.exec == ("/bin/sh",)
    assert (config.scheduling, config.heartbeat_timeout_s) == ("shared", 0.0)
    assert not read(APP).is_command


TAKEN = [
    ("agent = 'shop.jobs:agent'", "agent", "shop.jobs:agent"),
    ("interface = 'wsgi'", "interface", "wsgi"),
    ("app = 'shop.web:make.app()'", "app", "shop.web:make.app()"),
    ("environment = { A = '1', _b = '' }", "environment", {"A": "1", "_b": ""}),
    ("cache = 'lmdb:///c'", "environment", {"SDCLUSTER_CACHE": "lmdb:///c"}),
    ("listen = 80", "listen", (Address("tcp6", "::", 80, ""),)),
    ("listen = '[::1]:80'", "listen", (Address("tcp6", "::1", 80, ""),)),
    (
        "listen = [80, '/run/shop.sock']",
        "listen",
        (Address("tcp6", "::", 80, ""), Address("unix", "", 0, "/run/shop.sock")),
    ),
    (
        "listen = ['127.0.0.1:0', '127.0.0.1:0']",
        "listen",
        (Address("tcp", "127.0.0.1", 0, ""), Address("tcp", "127.0.0.1", 0, "")),
    ),
    (
        "listen = { http = 80, admin = '@shop' }",
        "listen",
        (Address("tcp6", "::", 80, "", "http"), Address("unix", "", 0, "@shop", "admin")),
    ),
    ("listen = 80", "listen_given", True),
    ("workers = 3", "workers", 3),
    ("workers = 3", "ready_workers", 3),
    ("workers = 'max'", "workers", 4),
    ("ready_workers = 1", "ready_workers", 1),
    ("scheduling = 'reuseport'", "scheduling", "reuseport"),
    ("scheduling = 'least-latency'", "scheduling", "least-latency"),
    ("weights = [2, 1, 100]", "weights", (2, 1, 100)),
    ("weights = [2]\nscheduling = 'least-connections'", "weights", (2,)),
    ("weights = [2]\nscheduling = 'shared'\nrebalance = true", "weights", (2,)),
    ("rebalance = true", "rebalance", True),
    ("preload = false", "preload", False),
    ("threads = 1", "threads", 1),
    ("ready_timeout_s = 0.5", "ready_timeout_s", 0.5),
    ("drain_timeout_s = 10", "drain_timeout_s", 10.0),
    ("heartbeat_timeout_s = 0", "heartbeat_timeout_s", 0.0),
    ("request_timeout_s = 20", "request_timeout_s", 20.0),
    ("reload_probation_s = 0", "reload_probation_s", 0.0),
    ("max_requests = 1000", "max_requests", 1000),
    ("max_requests_jitter = 100\nmax_requests = 1000", "max_requests_jitter", 100),
    ("max_lifetime_s = 86400", "max_lifetime_s", 86400.0),
    ("max_memory_mb = 512", "max_memory_mb", 512),
    ("max_connections = 100", "max_connections", 100),
    ("crash_recovery = false", "crash_recovery", False),
    ("replay = 'never'", "replay", "never"),
    ("replay_max_kb = 128", "replay_max_kb", 128),
    ("sticky = 'client-ip'", "sticky", Sticky(by="client-ip")),
    ("sticky = { by = 'cookie', name = 'at' }", "sticky", Sticky(by="cookie", name="at")),
    ("shard = 'shop:key'", "shard", Shard(function="shop:key")),
    ("shard = { by = 'path:1' }", "shard", Shard(by="path:1")),
    ("handoff_timeout_s = 0\nsticky = 'cookie'", "handoff_timeout_s", 0.0),
    ("handoff_timeout_s = 2.5\nshard = 'shop:key'", "handoff_timeout_s", 2.5),
    ("proxy_protocol = true", "proxy_protocol", True),
    (
        "proxy_allow_ips = ['10.0.0.1', 'unix']\nproxy_protocol = true",
        "proxy_allow_ips",
        ("10.0.0.1/32", "unix"),
    ),
    ("access_log = true", "access_log", True),
    ("forwarded_allow_ips = '127.0.0.1'", "forwarded_allow_ips", "127.0.0.1"),
    ("forwarded_allow_ips = ['10.0.0.1', '10.0.0.2']", "forwarded_allow_ips", "10.0.0.1,10.0.0.2"),
    ("root_path = '/api'", "root_path", "/api"),
]


@pytest.mark.parametrize(("line", "attribute", "expected"), TAKEN, ids=[one[0] for one in TAKEN])
def test_key_is_taken(read: Load, line: str, attribute: str, expected: object) -> None:
    """Each key with a good value, in each of its forms."""
    text = line if line.startswith("app") else APP + line
    value = getattr(read(text), attribute)
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize("value", ["notify", "started"])
def test_command_says_how_its_readiness_is_known(read: Load, value: str) -> None:
    """By READY=1, or because it runs."""
    assert read(f"{COMMAND}exec_ready = '{value}'").exec_ready == value


def test_every_key_has_a_good_and_a_bad_example_here() -> None:
    """No key is added without tests."""
    elsewhere = {"exec", "exec_ready", "directory", "venv", "environment_file"}
    good = {line.split(" ")[0] for line, _, _ in TAKEN} | elsewhere
    bad = {line.split(" ")[0] for line, _ in REFUSED}
    assert good == bad == set(KEYS)


# What is refused.

REFUSED = [
    ("app = 1", "1 is not a text"),
    ("app = ''", "'' is not a text"),
    ("app = 'shop'", "'shop' is not MODULE:ATTRIBUTE, such as hello:app"),
    ("app = 'shop.py:app'", "it is a module, not a file"),
    ("app = 'shop.py'", "it is a module, not a file"),
    ("app = 'shop:'", "'shop:' is not"),
    ("app = ':app'", "':app' is not"),
    ("app = 'shop:make(1)'", "'shop:make(1)' is not"),
    ("agent = 'shop'", "'shop' is not MODULE:FUNCTION, such as hello:agent"),
    ("agent = 'shop:agent()'", "name the function, without ()"),
    ("agent = 1", "1 is not MODULE:FUNCTION, such as hello:agent"),
    ("exec = 'node server.js'", 'is a text; write a list, such as ["node", "server.js"]'),
    ("exec = []", "[] is not a list of texts"),
    ("exec = ['/bin/sh', 1]", "1 is not a text"),
    ("exec = ['none-such']", "'none-such' is no program: not in PATH and not in"),
    ("exec = ['./none-such']", "'./none-such' is no program"),
    ("exec_ready = 'starting'", "'starting' is none of notify, started; did you mean 'started'?"),
    ("interface = 'agsi'", "'agsi' is none of auto, asgi, wsgi; did you mean 'asgi'?"),
    ("interface = 'x'", "'x' is none of auto, asgi, wsgi"),
    ("interface = ['asgi']", "['asgi'] is none of auto, asgi, wsgi"),
    ("directory = 1", "1 is not a text"),
    ("directory = 'none'", "none does not exist"),
    ("directory = 'shop.toml'", "is not a directory"),
    ("venv = true", "true is not a text"),
    ("venv = 'none'", "none has no bin/python; make it with: python3 -m venv"),
    ("environment = 'A=1'", "'A=1' is not a table, such as { NAME = 'value' }"),
    ("environment = { A = 1 }", "A = 1 is not a text; put it in quotes"),
    ('environment = { A = "\\u0000" }', "is not a text"),
    ("environment = { 'A-B' = '1' }", "'A-B' is no name of a variable"),
    ("cache = 1", "is not a text, such as lmdb:///srv/hello/cache?size_mb=256"),
    ("cache = ''", "is not a text, such as"),
    ("cache = 'http://host'", "a cache is lmdb://, redis://, valkey:// or unix://, and not http"),
    ("cache = 'lmdb:///c?size_mb=big'", "size_mb is a number of megabytes from 1 to 1000000"),
    ("cache = 'redis://h?on_error=mis'", "on_error is raise or miss, not 'mis'"),
    ("environment_file = 1", "1 is not a text"),
    ("environment_file = 'none'", "none does not exist; '-' before it makes that right"),
    ("environment_file = '.'", "is a directory, not a file"),
    ("listen = 1.5", "1.5 is not an address"),
    ("listen = true", "true is not an address"),
    ("listen = []", "no address; leave the key out for the default, 127.0.0.1:8000"),
    ("listen = {}", "no address"),
    ("listen = 'shop:80'", "'shop' is not an IP address"),
    ("listen = [80, '[::]:80']", "[::]:80 is there twice"),
    ("listen = ['/run/s', '/run/s']", "/run/s is there twice"),
    ("listen = { '' = 80 }", "a socket has an empty name"),
    ("listen = { 'a:b' = 80 }", "'a:b' is no name for a socket"),
    ("listen = { a = [80] }", "[80] is not an address"),
    ("workers = 0", '0 is not a number of workers; give a whole number from 1 to 1024, or "max"'),
    ("workers = 1025", "1025 is not a number of workers"),
    ("workers = 'all'", "'all' is not a number of workers"),
    ("workers = true", "true is not a number of workers"),
    ("ready_workers = 0", "0 is not a whole number from 1 to 1024"),
    ("ready_workers = 5", "5 is more than the 4 workers there are"),
    (
        "scheduling = 'random'",
        "'random' is none of round-robin, least-connections, least-latency, shared, reuseport",
    ),
    ("scheduling = 'least-connection'", "did you mean 'least-connections'?"),
    ("weights = 2", "2 is not a list of whole numbers, such as [2, 1, 1]"),
    ("weights = []", "[] is not a list of whole numbers, such as [2, 1, 1]"),
    ("weights = [1, 0]", "0 is not a whole number from 1 to 100"),
    ("weights = [101]", "101 is not a whole number from 1 to 100"),
    ("weights = [2]\nscheduling = 'shared'", "do nothing with shared, unless rebalance = true"),
    ("rebalance = 1", "1 is not true or false"),
    ("rebalance = true\nsticky = 'cookie'", "cannot work with 'sticky'"),
    ("rebalance = true\nshard = 'shop:key'", "cannot work with 'shard'"),
    ("preload = 1", "1 is not true or false"),
    ("threads = 1.0", "1.0 is not a whole number from 1 to 1024"),
    ("ready_timeout_s = 0", "0 is not a number of seconds from 0.1 to 86400"),
    ("drain_timeout_s = '30'", "'30' is not a number of seconds"),
    ("heartbeat_timeout_s = true", "true is not a number of seconds"),
    ("request_timeout_s = nan", "nan is not a number of seconds"),
    ("reload_probation_s = 3601", "3601 is not a number of seconds from 0 to 3600"),
    ("max_requests = -1", "-1 is not a whole number"),
    ("max_requests_jitter = true", "true is not a whole number"),
    ("max_requests_jitter = 5", "does nothing without max_requests; give both"),
    ("max_lifetime_s = inf", "inf is not a number of seconds"),
    ("max_memory_mb = '1G'", "'1G' is not a whole number"),
    ("max_connections = [1]", "[1] is not a whole number"),
    ("crash_recovery = 1", "1 is not true or false"),
    ("replay = 'always'", "'always' is none of idempotent, all, never"),
    ("replay_max_kb = 129", "129 is not a whole number from 4 to 128"),
    ("replay_max_kb = 6", "6 is not a multiple of 4"),
    ("sticky = 'cookies'", "by = 'cookies' is none of cookie, client-ip"),
    ("sticky = true", "True is none of cookie or client-ip, nor a table"),
    ("sticky = { name = 'at' }", "the table does not say by what: cookie or client-ip"),
    ("sticky = { by = 'cookie', names = 'at' }", "unknown key 'names'; did you mean name?"),
    ("sticky = { by = 'client-ip', name = 'at' }", "name is for cookies only"),
    ("sticky = { by = 'cookie', name = 'a b' }", "name = 'a b' is no name of a cookie"),
    ("sticky = { by = 'cookie', path = '/;x' }", "path = '/;x' is no path of a cookie"),
    ("sticky = { by = 'cookie', domain = 'a b' }", "domain = 'a b' is no domain"),
    ("sticky = { by = 'cookie', max_age_s = -1 }", "max_age_s = -1 is not a whole number"),
    ("sticky = { by = 'cookie', same_site = 'Lax' }", "same_site = 'Lax' is none of lax, "),
    (
        "sticky = { by = 'cookie', same_site = 'none', secure = 'never' }",
        "browsers take no cookie with same_site = 'none' that is not secure",
    ),
    ("shard = 'header:'", "'header:' is not MODULE:FUNCTION; for a part of the request write"),
    ("shard = 5", "5 is no table, such as"),
    ("shard = {}", "the table does not say by what: header:X-Tenant, path:1, "),
    ("shard = { by = 'path:0' }", "'path:0' is none of header:X-Tenant, path:1, query:user"),
    ("shard = { by = 'body:user' }", "'body:user' is none of header:X-Tenant"),
    ("shard = { by = 'path:1', key = 1 }", "the table has an unknown key 'key'"),
    ("shard = 'shop:key'\nsticky = 'cookie'", "there is 'sticky' too"),
    ("handoff_timeout_s = -1", "-1 is not a number of seconds from 0 to 3600"),
    ("handoff_timeout_s = 2", "does nothing without sticky or shard; give one of them"),
    ("proxy_protocol = 1", "1 is not true or false"),
    ("proxy_allow_ips = '10.0.0.1/8'", "'10.0.0.1/8' is no address, no"),
    ("proxy_allow_ips = []", "nobody is named"),
    ("proxy_allow_ips = 'unix'", "does nothing without proxy_protocol = true; give both"),
    ("access_log = 'yes'", "'yes' is not true or false"),
    ("forwarded_allow_ips = [1]", "1 is not a text"),
    ("root_path = 'api'", "'api' is not a path such as /api, without a slash at its end"),
    ("root_path = '/api/'", "'/api/' is not a path"),
]


@pytest.mark.parametrize(("line", "message"), REFUSED, ids=[one[0] for one in REFUSED])
def test_value_that_is_wrong_is_refused(read: Load, line: str, message: str) -> None:
    """Each key says what is wrong with its value, and what would be right."""
    key = line.split(" ")[0]
    begin = {"app": "", "exec": "", "exec_ready": COMMAND}.get(key, APP)
    (problem,) = problems(lambda: read(begin + line))
    assert problem.startswith(f"{key}: ") and message in problem


def test_problem_is_told_with_the_file_and_the_key(read: Load, tmp_path: Path) -> None:
    """So that it is found at once."""
    with pytest.raises(ConfigError) as caught:
        read(APP + "threads = 0")
    assert str(caught.value) == (
        f"{tmp_path}/shop.toml: threads: 0 is not a whole number from 1 to 1024"
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("worker = 2", "worker: unknown key; did you mean workers?"),
        ("drain_timeout = 2", "drain_timeout: unknown key; did you mean drain_timeout_s?"),
        ("zzz = 2", "zzz: unknown key"),
    ],
)
def test_unknown_key_is_refused_with_the_nearest_one(read: Load, line: str, problem: str) -> None:
    """A typing error does not silently do nothing."""
    assert problems(lambda: read(APP + line)) == [problem]


def test_all_problems_are_told_at_once(read: Load) -> None:
    """Nobody mends a file one error at a time."""
    told = problems(lambda: read("app = 'shop'\nworker = 2\nthreads = 0\nlisten = 'x'"))
    assert [one.split(":")[0] for one in told] == ["app", "worker", "threads", "listen"]
    told = problems(lambda: read("directory = 'none'\nready_workers = 9\nmax_requests_jitter = 1"))
    keys = [one.split(":")[0] for one in told]
    assert keys == ["app", "directory", "ready_workers", "max_requests_jitter"]


def test_long_value_is_shown_shortened(read: Load) -> None:
    """A message stays a line."""
    (problem,) = problems(lambda: read(f"app = '{'x' * 500}'"))
    assert "xxx… is not MODULE:ATTRIBUTE" in problem and len(problem) < 200


# App or command.


def test_there_is_an_app_or_a_command_and_not_both(read: Load) -> None:
    """What runs must be clear."""
    assert problems(lambda: read("workers = 1")) == [
        "app: is missing; give app = 'MODULE:ATTRIBUTE', or exec = ['COMMAND', …]"
    ]
    assert problems(lambda: read(APP + COMMAND)) == [
        "exec: there is 'app' too; keep one of the two"
    ]


@pytest.mark.parametrize("scheduling", ["round-robin", "least-connections", "least-latency"])
def test_command_that_the_master_would_accept_for_is_refused_with_the_reason(
    read: Load, scheduling: str
) -> None:
    """A program that is not ours cannot be handed connections."""
    assert problems(lambda: read(COMMAND + f"scheduling = '{scheduling}'")) == [
        f"scheduling: {scheduling} hands accepted connections to Python workers; a command accepts "
        "by itself: choose shared or reuseport"
    ]


def test_keys_for_python_apps_are_refused_with_a_command(read: Load) -> None:
    """A key that does nothing is a misunderstanding."""
    told = problems(lambda: read(COMMAND + "threads = 2\npreload = false\nworkers = 2"))
    assert told == [
        "threads: is for Python apps, and does nothing with 'exec'; remove it",
        "preload: is for Python apps, and does nothing with 'exec'; remove it",
    ]


def test_exec_ready_is_refused_with_an_app(read: Load) -> None:
    """And the other way round."""
    assert problems(lambda: read(APP + "exec_ready = 'notify'")) == [
        "exec_ready: is for 'exec' only"
    ]


def test_command_is_looked_for_where_it_will_be(
    read: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the app's directory, its virtualenv, and the PATH that it is given."""
    monkeypatch.setenv("PATH", "/none")
    for folder in ("venv/bin", "tools"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("run", "venv/bin/python", "venv/bin/serve", "tools/serve2"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    assert read("exec = ['./run']").exec == ("./run",)
    assert read("exec = ['serve']\nvenv = 'venv'").exec == ("serve",)
    assert read(f"exec = ['serve2']\nenvironment = {{ PATH = '{tmp_path}/tools' }}").is_command
    assert len(problems(lambda: read("exec = ['run']"))) == 1
    monkeypatch.delenv("PATH")
    assert read("exec = ['sh']").is_command


# Places.


def test_directory_is_that_of_the_file_or_relative_to_it(read: Load, tmp_path: Path) -> None:
    """Wherever the master was started."""
    (tmp_path / "app").mkdir()
    assert read(APP).directory == tmp_path
    assert read(APP + "directory = 'app'").directory == tmp_path / "app"
    assert read(APP + f"directory = '{tmp_path}/app'").directory == tmp_path / "app"


def test_directory_is_resolved_when_it_is_read(read: Load, tmp_path: Path) -> None:
    """A generation stays with its release when the symlink is switched to the next."""
    for release in ("one", "two"):
        (tmp_path / release).mkdir()
    current = tmp_path / "current"
    current.symlink_to("one")
    config = read(APP + "directory = 'current'")
    current.unlink()
    current.symlink_to("two")
    assert config.directory == tmp_path / "one"
    assert read(APP + "directory = 'current'").directory == tmp_path / "two"


def test_virtualenv_is_relative_to_the_directory_and_has_the_interpreter(
    read: Load, tmp_path: Path
) -> None:
    """Its python is a link, and must not be resolved, or it is not the virtualenv's any more."""
    (tmp_path / "app/venv/bin").mkdir(parents=True)
    (tmp_path / "app/venv/bin/python").symlink_to("/bin/sh")
    config = read(APP + "directory = 'app'\nvenv = 'venv'")
    assert config.venv == tmp_path / "app/venv"
    assert python(config) == f"{tmp_path}/app/venv/bin/python"
    assert os.path.isabs(python(read(APP)))


def test_environment_file_is_read_and_the_table_wins(read: Load, tmp_path: Path) -> None:
    """The file is relative to the directory."""
    (tmp_path / "env").write_text("# secrets\nA=1\nB='2 3'\n")
    config = read(APP + "environment_file = 'env'\nenvironment = { A = '4' }")
    assert config.environment == {"A": "4", "B": "2 3"}


def test_environment_file_that_is_wrong_is_refused_with_its_line(
    read: Load, tmp_path: Path
) -> None:
    """By its own name, and with the number of the line."""
    (tmp_path / "env").write_text("A=1\nB\n")
    (problem,) = problems(lambda: read(APP + "environment_file = 'env'"))
    assert problem == f"environment_file: {tmp_path}/env: line 2: 'B' is not NAME=VALUE"
    (tmp_path / "env").write_bytes(b"A=\xff")
    (problem,) = problems(lambda: read(APP + "environment_file = 'env'"))
    assert "env is not UTF-8 text (byte 2)" in problem


def test_fifo_in_the_place_of_a_file_is_not_waited_for(read: Load, tmp_path: Path) -> None:
    """A reload of it would hold up the master."""
    os.mkfifo(tmp_path / "fifo")
    with at_once():
        (problem,) = problems(lambda: read(APP + "environment_file = '-fifo'"))
        assert problem == f"environment_file: {tmp_path}/fifo is a FIFO, not a file"
        with pytest.raises(ConfigError, match=f"^{tmp_path}/fifo: is a FIFO, not a file$"):
            load(tmp_path / "fifo")


@pytest.mark.parametrize("also", ["environment = {{ {} = '' }}", "environment_file = 'env'"])
def test_cache_is_told_once(read: Load, tmp_path: Path, also: str) -> None:
    """By its own key or by its variable, wherever that is set."""
    (tmp_path / "env").write_text("SDCLUSTER_CACHE=redis://host\n")
    text = f"{APP}cache = 'redis://host'\n{also.format('SDCLUSTER_CACHE')}"
    assert problems(lambda: read(text)) == [
        "cache: the environment has SDCLUSTER_CACHE too; keep one of the two"
    ]


def test_environment_file_may_be_missing_when_it_says_so(read: Load) -> None:
    """A dash before the name, as in a unit."""
    assert read(APP + "environment_file = '-none'").environment == {}


# Options.


def test_options_win_over_the_file(read: Load) -> None:
    """What is typed now is meant."""
    config = read(APP + "workers = 2", overrides={"workers": 3, "listen": ["80"]})
    assert (config.workers, config.listen_given) == (3, True)


def test_app_given_as_an_option_replaces_a_command(read: Load) -> None:
    """Only one of the two can run."""
    config = read("exec = ['none-such']", overrides={"app": "shop:app"})
    assert (config.app, config.exec, config.scheduling) == ("shop:app", (), "round-robin")


def test_options_alone_are_a_configuration(tmp_path: Path) -> None:
    """`sdcluster run shop:app` needs no file."""
    config = from_options({"app": "shop:app"}, name="shop", directory=tmp_path)
    assert (config.name, config.source) == ("shop", "command line")
    assert config.directory == tmp_path


def test_problem_with_an_option_is_told_as_it_was_typed(tmp_path: Path) -> None:
    """Options have dashes; the app has no name of its own."""
    options = {"app": "shop", "ready_timeout_s": 0.0, "unheard_of": 1}
    with pytest.raises(ConfigError) as caught:
        from_options(options, name="shop", directory=tmp_path)
    assert [one.split(": ")[0] for one in caught.value.problems] == [
        "MODULE:ATTR",
        "--ready-timeout-s",
        "--unheard-of",
    ]


# Files and names.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"app = ", "is not valid TOML: "),
        (b"app = 'a'\napp = 'b'", "is not valid TOML: "),
        (b"app = " + b"[" * 5000, "is not valid TOML: "),
        (b"app = '\xff'", "is not UTF-8 text (byte 7)"),
    ],
)
def test_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """With the place, where there is one, and never with a traceback."""
    path = tmp_path / "shop.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_file_that_cannot_be_read_is_told_as_such(tmp_path: Path) -> None:
    """Missing, a folder, or not to be reached."""
    with pytest.raises(ConfigError, match="no such file; write one there, with at least 'app'"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is a directory, not a file"):
        load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be read: Not a directory"):
        load(tmp_path / "file" / "shop.toml")


def test_instance_is_named_after_its_file_or_as_it_is_told(read: Load) -> None:
    """shop.toml is shop."""
    assert read(APP).name == "shop"
    assert read(APP, name="shop_2").name == "shop_2"


@pytest.mark.parametrize("name", ["a", "shop-1.web_2", "_a", "x" * 64])
def test_name_of_an_instance_is_that_of_a_unit(name: str) -> None:
    """What systemd takes behind the @ without escapes."""
    check_name(name)


@pytest.mark.parametrize(
    "name", ["", ".a", "-a", "a b", "a/b", "../a", "a:b", ":", "é", "a\n", "x" * 65]
)
def test_name_that_is_none_is_refused(name: str) -> None:
    """It becomes part of paths and units."""
    with pytest.raises(ConfigError, match="is no name for an instance"):
        check_name(name)
    with pytest.raises(ConfigError, match="is no name for an instance"):
        config_path(name)


def test_colon_in_a_name_is_refused_with_the_reason() -> None:
    """It would end the path in RUNTIME_DIRECTORY, and name a link in StateDirectory=."""
    with pytest.raises(ConfigError, match="and no colon"):
        check_name("shop:2")


@pytest.mark.parametrize("variable", ["HOME", "XDG_CONFIG_HOME"])
def test_configuration_of_an_instance_is_the_users_or_the_systems_or_as_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    """Root has those of the system."""
    for one in ("SDCLUSTER_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(one, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    systems = Path("/etc/sdcluster/shop.toml")
    assert config_path("shop") == systems
    users = (tmp_path if variable == "XDG_CONFIG_HOME" else tmp_path / ".config") / "sdcluster"
    users.mkdir(parents=True)
    (users / "shop.toml").touch()
    assert config_path("shop") == users / "shop.toml"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert config_path("shop") == systems
    monkeypatch.setenv("SDCLUSTER_CONFIG_DIR", "/srv/etc")
    assert config_path("shop") == Path("/srv/etc/shop.toml")
