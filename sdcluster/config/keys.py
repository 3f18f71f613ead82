"""The one table of the keys that a configuration may have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from sdcluster.config import checks, routing
from sdcluster.config.model import MAX_WORKERS, ExecReady, Interface, Replay, Scheduling


@dataclass(frozen=True, slots=True)
class Key:
    """One key: how its value is checked, and whether a command may have it."""

    check: Callable[[object], Any]
    for_command: bool = True


KEYS: Mapping[str, Key] = {
    "app": Key(checks.app, for_command=False),
    "agent": Key(checks.agent, for_command=False),
    "exec": Key(checks.command),
    "exec_ready": Key(checks.choice(*get_args(ExecReady))),
    "interface": Key(checks.choice(*get_args(Interface)), for_command=False),
    "directory": Key(checks.string),
    "venv": Key(checks.string),
    "environment": Key(checks.environment),
    "environment_file": Key(checks.string),
    "cache": Key(checks.cache),
    "listen": Key(checks.listen),
    "workers": Key(checks.workers),
    "ready_workers": Key(checks.integer(1, MAX_WORKERS)),
    "scheduling": Key(checks.choice(*get_args(Scheduling))),
    "weights": Key(checks.weights, for_command=False),
    "rebalance": Key(checks.boolean, for_command=False),
    "preload": Key(checks.boolean, for_command=False),
    "threads": Key(checks.integer(1, 1024), for_command=False),
    "ready_timeout_s": Key(checks.seconds(0.1, 86400)),
    "drain_timeout_s": Key(checks.seconds(0.1, 86400)),
    "heartbeat_timeout_s": Key(checks.seconds(0, 86400)),
    "request_timeout_s": Key(checks.seconds(0, 86400), for_command=False),
    "reload_probation_s": Key(checks.seconds(0, 3600)),
    "max_requests": Key(checks.integer(0, 2**53), for_command=False),
    "max_requests_jitter": Key(checks.integer(0, 2**53), for_command=False),
    "max_lifetime_s": Key(checks.seconds(0, 86400 * 366)),
    "max_memory_mb": Key(checks.integer(0, 2**40)),
    "max_connections": Key(checks.integer(0, 2**20), for_command=False),
    "crash_recovery": Key(checks.boolean, for_command=False),
    "replay": Key(checks.choice(*get_args(Replay)), for_command=False),
    "replay_max_kb": Key(checks.replay_max_kb, for_command=False),
    "sticky": Key(routing.sticky, for_command=False),
    "shard": Key(routing.shard, for_command=False),
    "handoff_timeout_s": Key(checks.seconds(0, 3600), for_command=False),
    "proxy_protocol": Key(checks.boolean, for_command=False),
    "proxy_allow_ips": Key(routing.proxies, for_command=False),
    "access_log": Key(checks.boolean, for_command=False),
    "forwarded_allow_ips": Key(checks.addresses, for_command=False),
    "root_path": Key(checks.root_path, for_command=False),
}
