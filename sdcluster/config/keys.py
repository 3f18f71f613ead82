"""The one table of the keys that a configuration may have."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from sdcluster.config import checks, routing
from sdcluster.config.model import (
    DEFAULT_LISTEN,
    MAX_WORKERS,
    Config,
    ExecReady,
    Interface,
    Replay,
    Scheduling,
)
from sdcluster.config.schema import Check, Schema


@dataclass(frozen=True, slots=True)
class Key:
    """One key: how its value is checked, what it is, and whether a command may have it."""

    check: Check[Any]
    about: str
    """One sentence, for the manual and for editors."""
    default: str = ""
    """What holds without it, where `Config` does not have it in this form."""
    for_command: bool = True


def _of_app(check: Check[Any], about: str) -> Key:
    return Key(check, about, for_command=False)


KEYS: Mapping[str, Key] = {
    "app": _of_app(checks.app, "The app, as MODULE:ATTRIBUTE; with () behind it, what makes it."),
    "agent": _of_app(
        checks.agent, "A function of one process beside the workers, as MODULE:FUNCTION."
    ),
    "exec": Key(checks.command, "A command in place of an app: its program and arguments."),
    "exec_ready": Key(
        checks.choice(*get_args(ExecReady)), "When a command is ready: at READY=1, or once it runs."
    ),
    "interface": _of_app(checks.choice(*get_args(Interface)), "How the app is called."),
    "directory": Key(checks.string, "The folder of the app."),
    "venv": Key(checks.string, "The virtualenv of the app."),
    "environment": Key(checks.environment, "Environment variables of the workers."),
    "environment_file": Key(
        checks.string, "A file of environment variables, as EnvironmentFile= has it."
    ),
    "cache": Key(checks.cache, "Where the cache is that the workers share, as a URL."),
    "listen": Key(checks.listen, "The addresses of the listening sockets.", DEFAULT_LISTEN),
    "workers": Key(checks.workers, 'The number of workers; "max" is one for each CPU.', "max"),
    "ready_workers": Key(
        checks.integer(1, MAX_WORKERS), "How many workers must serve before the start is over."
    ),
    "scheduling": Key(
        checks.choice(*get_args(Scheduling)),
        "Who accepts connections, and how they are spread over the workers.",
        "round-robin",
    ),
    "weights": _of_app(checks.weights, "The share of each slot in new connections."),
    "rebalance": _of_app(
        checks.boolean, "Whether open connections move to workers that have fewer than the others."
    ),
    "preload": _of_app(
        checks.boolean, "Whether the app is imported once, before the workers are forked."
    ),
    "threads": _of_app(checks.integer(1, 1024), "Threads of a worker for a WSGI app."),
    "ready_timeout_s": Key(
        checks.seconds(0.1, 86400), "How long a worker may take to be ready, in seconds."
    ),
    "drain_timeout_s": Key(
        checks.seconds(0.1, 86400),
        "How long a worker that leaves may take to answer what it has, in seconds.",
    ),
    "heartbeat_timeout_s": Key(
        checks.seconds(0, 86400), "How long an event loop may stand still, in seconds."
    ),
    "request_timeout_s": _of_app(
        checks.seconds(0, 86400),
        "The age of a request at which its worker is replaced, in seconds.",
    ),
    "reload_probation_s": Key(
        checks.seconds(0, 3600),
        "How long a new worker must live before the old one of its slot leaves, in seconds.",
    ),
    "max_requests": _of_app(
        checks.integer(0, 2**53), "The number of requests after which a worker is replaced."
    ),
    "max_requests_jitter": _of_app(
        checks.integer(0, 2**53), "The most that is added to max_requests, at random."
    ),
    "max_lifetime_s": Key(
        checks.seconds(0, 86400 * 366), "The age at which a worker is replaced, in seconds."
    ),
    "max_memory_mb": Key(
        checks.integer(0, 2**40),
        "The resident memory at which a worker is replaced, in MB (10^6 bytes).",
    ),
    "max_connections": _of_app(
        checks.integer(0, 2**20), "The most connections that a worker has open."
    ),
    "crash_recovery": _of_app(
        checks.boolean, "Whether connections outlive the worker that has died with them."
    ),
    "replay": _of_app(
        checks.choice(*get_args(Replay)), "Which requests are made again when a worker dies."
    ),
    "replay_max_kb": _of_app(
        checks.replay_max_kb, "How much is kept of each request to make it again, in kibibytes."
    ),
    "sticky": _of_app(routing.sticky, "What keeps a client with its worker."),
    "shard": _of_app(routing.shard, "What of a request says which worker it is for."),
    "handoff_timeout_s": _of_app(
        checks.seconds(0, 3600),
        "How long a request waits for room at the worker that it is for, in seconds.",
    ),
    "proxy_protocol": _of_app(
        checks.boolean, "Whether proxies say who the client is, in the PROXY protocol."
    ),
    "proxy_allow_ips": _of_app(
        routing.proxies, "The peers that must say so: addresses, networks, and unix."
    ),
    "access_log": _of_app(checks.boolean, "Whether each request is logged."),
    "forwarded_allow_ips": _of_app(
        checks.addresses, "The peers whose X-Forwarded headers are believed."
    ),
    "root_path": _of_app(checks.root_path, "The path that the app is below."),
}


def json_schema() -> Schema:
    """Return the JSON Schema of a configuration, for editors."""
    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    properties = {}
    for name, key in KEYS.items():
        default = key.default or defaults.get(name)
        is_stated = isinstance(default, (int, float, str)) and default != ""
        stated = {"default": default} if is_stated else {}
        properties[name] = {"description": key.about, **stated, **key.check.schema}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The configuration of an app served by sdcluster, sdcluster.toml(5)",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
