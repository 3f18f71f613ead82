"""The configuration of one app: a TOML file or command-line options, validated as a whole.

`KEYS` is the one table of what there is. Nothing is touched and no address is bound here; all that
is wrong is told at once, in a `ConfigError` with a line for each problem.
"""

import contextlib
import difflib
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from sdcluster import cacheurl, cpus, routing, textfile
from sdcluster.address import Address, parse
from sdcluster.environment import EnvironmentFileError, parse_environment_file
from sdcluster.errors import ConfigError

MAX_WORKERS = 1024
MAX_REPLAY_KB = 128
MAX_WEIGHT = 100
DEFAULT_LISTEN = "127.0.0.1:8000"

Scheduling = Literal["round-robin", "least-connections", "least-latency", "shared", "reuseport"]
DISPATCHED = ("round-robin", "least-connections", "least-latency")
"""Where the master accepts, and gives each connection to a worker."""
Interface = Literal["auto", "asgi", "wsgi"]
ExecReady = Literal["notify", "started"]
Replay = Literal["idempotent", "all", "never"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
"""What a unit takes behind its @ without escapes, but for the colon: RUNTIME_DIRECTORY is a list of
paths with colons between, and StateDirectory= has another meaning for it, see systemd.exec(5)."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One app's configuration, complete and valid. Times in seconds; 0 is off for a limit."""

    name: str
    source: str
    """What messages call it: the file, or `command line`."""
    app: str = ""
    agent: str = ""
    """The function of the agent, `MODULE:FUNCTION`; empty when there is none."""
    exec: tuple[str, ...] = ()
    exec_ready: ExecReady = "notify"
    script: tuple[str, ...] = ()
    """A program that uses the library: `FILE` or `-m`, `MODULE`; then its arguments."""
    script_folder: str = ""
    """Where its module is looked for first; empty for `directory`."""
    interpreter_options: tuple[str, ...] = ()
    """For such a program: what its own interpreter was started with, `-O` say."""
    interface: Interface = "auto"
    directory: Path
    venv: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    listen: tuple[Address, ...]
    listen_given: bool
    """Whether the user named the addresses; else they are the default."""
    workers: int
    ready_workers: int
    scheduling: Scheduling
    weights: tuple[int, ...] = ()
    """By slot; 1 for those beyond."""
    rebalance: bool = False
    preload: bool = True
    threads: int = 4
    ready_timeout_s: float = 60.0
    drain_timeout_s: float = 30.0
    heartbeat_timeout_s: float = 30.0
    request_timeout_s: float = 0.0
    reload_probation_s: float = 0.2
    max_requests: int = 0
    max_requests_jitter: int = 0
    max_lifetime_s: float = 0.0
    max_memory_mb: int = 0
    max_connections: int = 0
    crash_recovery: bool = True
    replay: Replay = "idempotent"
    replay_max_kb: int = 64
    sticky: routing.Sticky | None = None
    shard: routing.Shard | None = None
    handoff_timeout_s: float = 1.0
    proxy_protocol: bool = False
    proxy_allow_ips: tuple[str, ...] = ("127.0.0.0/8", "::1/128", routing.UNIX)
    access_log: bool = False
    forwarded_allow_ips: str = ""
    root_path: str = ""

    @property
    def is_command(self) -> bool:
        """Whether the workers are a command of the user's choice, and no Python app."""
        return bool(self.exec)

    @property
    def is_dispatched(self) -> bool:
        """Whether the master accepts, and gives each connection to a worker."""
        return self.scheduling in DISPATCHED


SYSTEM_FOLDER = Path("/etc/sdcluster")
"""Where the system's configurations are."""


def config_path(name: str) -> Path:
    """Return where the configuration of an instance is. Raises `ConfigError` for a bad name.

    Users who are not root have their own, and else those of the system.
    """
    check_name(name)
    file = f"{name}.toml"
    if given := os.environ.get("SDCLUSTER_CONFIG_DIR"):
        return Path(given, file)
    own = user_folder() / file
    return own if os.geteuid() and own.exists() else SYSTEM_FOLDER / file


def user_folder() -> Path:
    """Return where a user's configurations are: below $XDG_CONFIG_HOME, or ~/.config."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path(os.environ.get("HOME", "/"), ".config")
    return Path(home, "sdcluster")


def python(config: Config) -> str:
    """Return the interpreter that runs the app."""
    # Not resolved: the link in the virtualenv is what makes it the virtualenv's.
    return str(config.venv / "bin" / "python") if config.venv else sys.executable


def load(
    path: Path, *, name: str | None = None, overrides: Mapping[str, object] | None = None
) -> Config:
    """Read and check a file; `overrides` come from options and win. Raises `ConfigError`."""
    try:
        values = tomllib.loads(textfile.read(path))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; write one there, with at least 'app'") from None
    except textfile.UnreadableError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from error
    name = name or path.stem
    folder = path.resolve().parent
    home = Path("/srv") / name
    default = home if folder == Path("/etc/sdcluster") and home.is_dir() else folder
    return _build(values, overrides or {}, source=str(path), name=name, base=folder, home=default)


def from_options(options: Mapping[str, object], *, name: str, directory: Path) -> Config:
    """Check command-line options alone. Raises `ConfigError`."""
    return _build({}, options, source="command line", name=name, base=directory, home=directory)


# The checkers: a value in, the value to use out, ValueError with what would be right.


def _integer(low: int, high: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{_show(value)} is not a whole number from {low} to {high}")
        return value

    return check


def _seconds(low: float, high: float) -> Callable[[object], float]:
    def check(value: object) -> float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not low <= float(str(value)) <= high:
            raise ValueError(f"{_show(value)} is not a number of seconds from {low:g} to {high:g}")
        return float(str(value))

    return check


def _weights(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_WORKERS:
        raise ValueError(f"{_show(value)} is not a list of whole numbers, such as [2, 1, 1]")
    return tuple(_integer(1, MAX_WEIGHT)(one) for one in value)


def _replay_max_kb(value: object) -> int:
    kb = _integer(4, MAX_REPLAY_KB)(value)
    if kb % 4:
        raise ValueError(f"{kb} is not a multiple of 4")
    return kb


def _choice(*choices: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{_show(value)} is none of {', '.join(choices)}{hint}")
        return str(value)

    return check


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{_show(value)} is not true or false")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{_show(value)} is not a text")
    return value


def _workers(value: object) -> int:
    if value == "max":
        return min(cpus.usable(), MAX_WORKERS)
    if type(value) is not int or not 1 <= value <= MAX_WORKERS:
        raise ValueError(
            f"{_show(value)} is not a number of workers; give a whole number from 1 to "
            f'{MAX_WORKERS}, or "max"'
        )
    return value


def _app(value: object) -> str:
    text = _text(value)
    module, colon, attribute = text.partition(":")
    attribute = attribute.removesuffix("()")
    parts = [*module.split("."), *attribute.split(".")]
    is_file = module.endswith(".py") or "/" in module
    if is_file or not colon or not all(part.isidentifier() for part in parts):
        hint = "; it is a module, not a file" if is_file else ""
        raise ValueError(
            f"{_show(value)} is not MODULE:ATTRIBUTE, such as hello:app, or hello:make() for a "
            f"factory{hint}"
        )
    return text


def _agent(value: object) -> str:
    text = str(value)
    with contextlib.suppress(ValueError):
        if not text.endswith(")"):
            return _app(value)
    hint = "; name the function, without ()" if text.endswith(")") else ""
    raise ValueError(f"{_show(value)} is not MODULE:FUNCTION, such as hello:agent{hint}")


def _command(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ValueError(f'{_show(value)} is a text; write a list, such as ["node", "server.js"]')
    if not isinstance(value, list) or not value:
        raise ValueError(f'{_show(value)} is not a list of texts, such as ["node", "server.js"]')
    return tuple(_text(word) for word in value)


def _listen(value: object) -> tuple[Address, ...]:
    if isinstance(value, Mapping):
        found = [_named(name, address) for name, address in value.items()]
    else:
        found = [_address(one) for one in (value if isinstance(value, list) else [value])]
    if not found:
        raise ValueError("no address; leave the key out for the default, " + DEFAULT_LISTEN)
    for index, address in enumerate(found):
        twice = [other for other in found[:index] if str(other) == str(address)]
        if twice and address.port + bool(address.path):
            raise ValueError(f"{address} is there twice")
    return tuple(found)


def _named(name: object, value: object) -> Address:
    text = str(name)
    if not text:
        raise ValueError("a socket has an empty name; give it one, or write a list of addresses")
    return _address(value, name=text)


def _address(value: object, *, name: str = "") -> Address:
    if type(value) is int:
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"{_show(value)} is not an address")
    return parse(value, name=name)


def _addresses(value: object) -> str:
    words = value if isinstance(value, list) else [value]
    return ",".join(_text(word) for word in words)


def _environment(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{_show(value)} is not a table, such as {{ NAME = 'value' }}")
    for name, text in value.items():
        if not _VARIABLE.fullmatch(str(name)):
            raise ValueError(f"{name!r} is no name of a variable")
        if not isinstance(text, str) or "\0" in text:
            raise ValueError(f"{name} = {_show(text)} is not a text; put it in quotes")
    return dict(value)


def _cache(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("is not a text, such as lmdb:///srv/hello/cache?size_mb=256")
    cacheurl.parse(value)
    return value


def _root_path(value: object) -> str:
    text = _text(value)
    if not text.startswith("/") or text.endswith("/"):
        raise ValueError(f"{_show(value)} is not a path such as /api, without a slash at its end")
    return text


@dataclass(frozen=True, slots=True)
class Key:
    """One key: how its value is checked, and whether a command may have it."""

    check: Callable[[object], Any]
    for_command: bool = True


KEYS: Mapping[str, Key] = {
    "app": Key(_app, for_command=False),
    "agent": Key(_agent, for_command=False),
    "exec": Key(_command),
    "exec_ready": Key(_choice(*get_args(ExecReady))),
    "interface": Key(_choice(*get_args(Interface)), for_command=False),
    "directory": Key(_text),
    "venv": Key(_text),
    "environment": Key(_environment),
    "environment_file": Key(_text),
    "cache": Key(_cache),
    "listen": Key(_listen),
    "workers": Key(_workers),
    "ready_workers": Key(_integer(1, MAX_WORKERS)),
    "scheduling": Key(_choice(*get_args(Scheduling))),
    "weights": Key(_weights, for_command=False),
    "rebalance": Key(_boolean, for_command=False),
    "preload": Key(_boolean, for_command=False),
    "threads": Key(_integer(1, 1024), for_command=False),
    "ready_timeout_s": Key(_seconds(0.1, 86400)),
    "drain_timeout_s": Key(_seconds(0.1, 86400)),
    "heartbeat_timeout_s": Key(_seconds(0, 86400)),
    "request_timeout_s": Key(_seconds(0, 86400), for_command=False),
    "reload_probation_s": Key(_seconds(0, 3600)),
    "max_requests": Key(_integer(0, 2**53), for_command=False),
    "max_requests_jitter": Key(_integer(0, 2**53), for_command=False),
    "max_lifetime_s": Key(_seconds(0, 86400 * 366)),
    "max_memory_mb": Key(_integer(0, 2**40)),
    "max_connections": Key(_integer(0, 2**20), for_command=False),
    "crash_recovery": Key(_boolean, for_command=False),
    "replay": Key(_choice(*get_args(Replay)), for_command=False),
    "replay_max_kb": Key(_replay_max_kb, for_command=False),
    "sticky": Key(routing.sticky, for_command=False),
    "shard": Key(routing.shard, for_command=False),
    "handoff_timeout_s": Key(_seconds(0, 3600), for_command=False),
    "proxy_protocol": Key(_boolean, for_command=False),
    "proxy_allow_ips": Key(routing.proxies, for_command=False),
    "access_log": Key(_boolean, for_command=False),
    "forwarded_allow_ips": Key(_addresses, for_command=False),
    "root_path": Key(_root_path, for_command=False),
}


_MADE_OF_SEVERAL = frozenset(
    {"directory", "venv", "environment", "environment_file", "cache", "ready_workers"}
)
"""The keys whose value is not taken as it is."""


def _build(
    values: Mapping[str, object],
    overrides: Mapping[str, object],
    *,
    source: str,
    name: str,
    base: Path,
    home: Path,
) -> Config:
    check_name(name)
    problems: list[str] = []
    checked: dict[str, Any] = {}
    for key, value in values.items():
        _check_key(f"{source}: {key}", key, value, checked, problems)
    for key, value in overrides.items():
        where = "MODULE:ATTR" if key == "app" else f"--{key.replace('_', '-')}"
        _check_key(where, key, value, checked, problems)
    if problems:
        raise ConfigError(problems)

    def wrong(key: str, text: str) -> None:
        problems.append(f"{source}: {key}: {text}")

    if "app" in overrides:
        checked.pop("exec", None)
    command: tuple[str, ...] = checked.get("exec", ())
    if command and "app" in checked:
        wrong("exec", "there is 'app' too; keep one of the two")
    if not command and "app" not in checked:
        wrong("app", "is missing; give app = 'MODULE:ATTRIBUTE', or exec = ['COMMAND', …]")
    if command:
        _check_command_keys(checked, wrong)
    elif "exec_ready" in checked:
        wrong("exec_ready", "is for 'exec' only")
    directory = _directory(checked, base, home, wrong)
    venv = _venv(checked, directory, wrong)
    environment = _all_environment(checked, directory, wrong)
    if command and not _executable(command[0], directory, venv, environment):
        wrong("exec", f"{command[0]!r} is no program: not in PATH and not in {directory}")
    workers = checked.get("workers") or _workers("max")
    ready_workers = checked.get("ready_workers", workers)
    if ready_workers > workers:
        wrong("ready_workers", f"{ready_workers} is more than the {workers} workers there are")
    if checked.get("max_requests_jitter") and not checked.get("max_requests"):
        wrong("max_requests_jitter", "does nothing without max_requests; give both")
    if "sticky" in checked and "shard" in checked:
        wrong("shard", "there is 'sticky' too; a request can be for one worker only")
    if "handoff_timeout_s" in checked and not {"sticky", "shard"} & checked.keys():
        wrong("handoff_timeout_s", "does nothing without sticky or shard; give one of them")
    _check_balance(checked, wrong)
    if "proxy_allow_ips" in checked and not checked.get("proxy_protocol"):
        wrong("proxy_allow_ips", "does nothing without proxy_protocol = true; give both")
    if problems:
        raise ConfigError(problems)
    plain = {key: value for key, value in checked.items() if key not in _MADE_OF_SEVERAL}
    return Config(
        **{
            "scheduling": "shared" if command else "round-robin",
            "heartbeat_timeout_s": 0.0 if command else 30.0,
            "listen": _listen(DEFAULT_LISTEN),
            **plain,
            "workers": workers,
        },
        name=name,
        source=source,
        directory=directory,
        venv=venv,
        environment=environment,
        listen_given="listen" in checked,
        ready_workers=ready_workers,
    )


def _check_key(
    where: str, key: str, value: object, checked: dict[str, Any], problems: list[str]
) -> None:
    known = KEYS.get(key)
    if known is None:
        near = difflib.get_close_matches(key, KEYS, 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        problems.append(f"{where}: unknown key{hint}")
        return
    try:
        checked[key] = known.check(value)
    except ValueError as error:
        problems.append(f"{where}: {error}")


def _check_balance(checked: Mapping[str, Any], wrong: Callable[[str, str], None]) -> None:
    scheduling, rebalance = checked.get("scheduling"), checked.get("rebalance")
    if "weights" in checked and scheduling in ("shared", "reuseport") and not rebalance:
        wrong("weights", f"do nothing with {scheduling}, unless rebalance = true")
    for key in ("sticky", "shard"):
        if rebalance and key in checked:
            wrong("rebalance", f"cannot work with {key!r}: a connection goes where its requests go")


def _check_command_keys(checked: Mapping[str, Any], wrong: Callable[[str, str], None]) -> None:
    for key in checked:
        if key != "app" and not KEYS[key].for_command:
            wrong(key, "is for Python apps, and does nothing with 'exec'; remove it")
    scheduling = checked.get("scheduling")
    if scheduling in DISPATCHED:
        wrong(
            "scheduling",
            f"{scheduling} hands accepted connections to Python workers; a command accepts by "
            "itself: choose shared or reuseport",
        )


def _directory(
    checked: Mapping[str, Any], base: Path, home: Path, wrong: Callable[[str, str], None]
) -> Path:
    given = checked.get("directory")
    directory = home if given is None else base / given
    # Resolved: a generation must not change when a symlink is switched to the next release.
    resolved = Path(os.path.realpath(directory))
    if not os.path.isdir(resolved):
        what = "is not a directory" if os.path.exists(resolved) else "does not exist"
        wrong("directory", f"{directory} {what}, or cannot be looked into")
    return resolved


def _venv(
    checked: Mapping[str, Any], directory: Path, wrong: Callable[[str, str], None]
) -> Path | None:
    given: str | None = checked.get("venv")
    if given is None:
        return None
    venv = directory / given
    if not os.access(venv / "bin" / "python", os.X_OK):
        wrong("venv", f"{venv} has no bin/python; make it with: python3 -m venv {venv}")
    return venv


def _all_environment(
    checked: Mapping[str, Any], directory: Path, wrong: Callable[[str, str], None]
) -> dict[str, str]:
    environment: dict[str, str] = {}
    given: str | None = checked.get("environment_file")
    if given is not None:
        path = directory / given.removeprefix("-")
        try:
            environment |= parse_environment_file(textfile.read(path))
        except FileNotFoundError:
            if not given.startswith("-"):
                wrong("environment_file", f"{path} does not exist; '-' before it makes that right")
        except textfile.UnreadableError as error:
            wrong("environment_file", f"{path} {error}")
        except EnvironmentFileError as error:
            wrong("environment_file", f"{path}: {error}")
    environment |= checked.get("environment", {})
    if "cache" in checked:
        if cacheurl.VARIABLE in environment:
            wrong("cache", f"the environment has {cacheurl.VARIABLE} too; keep one of the two")
        environment[cacheurl.VARIABLE] = checked["cache"]
    return environment


def _executable(
    program: str, directory: Path, venv: Path | None, environment: Mapping[str, str]
) -> bool:
    if "/" in program:
        return os.access(directory / program, os.X_OK)
    path = environment.get("PATH", os.environ.get("PATH", os.defpath))
    if venv is not None:
        path = f"{venv / 'bin'}{os.pathsep}{path}"
    return shutil.which(program, path=path) is not None


def check_name(name: str) -> None:
    """Raise `ConfigError` unless an instance can be called `name`."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name for an instance: ASCII letters, digits and _ . -, at most 64, "
            "without a dot or dash at the start, and no colon"
        )


def _show(value: object) -> str:
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= 60 else text[:57] + "…"
