"""Reads and checks configurations.

No address is bound here. All that is wrong is told at once, in a `ConfigError` with a line for each
problem.
"""

import difflib
import os
import shutil
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sdcluster.config import checks, textfile
from sdcluster.config.environment_file import EnvironmentFileError, parse_environment_file
from sdcluster.config.files import check_name
from sdcluster.config.keys import KEYS
from sdcluster.config.model import DEFAULT_LISTEN, DISPATCHED, Config
from sdcluster.errors import ConfigError
from sdcluster.wire import cache_url


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
    workers = checked.get("workers") or checks.workers("max")
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
            "listen": checks.listen(DEFAULT_LISTEN),
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
        if cache_url.VARIABLE in environment:
            wrong("cache", f"the environment has {cache_url.VARIABLE} too; keep one of the two")
        environment[cache_url.VARIABLE] = checked["cache"]
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
