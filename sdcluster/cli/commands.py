"""The `sdcluster` command: options in, exit status out. What it does lives elsewhere."""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn, get_args

import click

from sdcluster import __version__
from sdcluster.cli.plain_text import plain
from sdcluster.config.files import check_name, config_path
from sdcluster.config.load import from_options, load
from sdcluster.config.model import Config, Scheduling
from sdcluster.errors import EX_USAGE, ConfigError, SdclusterError

_SCHEDULING = get_args(Scheduling)


click.UsageError.exit_code = EX_USAGE  # Where click has 2; all of ours are from sysexits.h(3head).


class _Group(click.Group):
    """Turns our errors into a message and an exit status, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SdclusterError as error:
            _fail(error)


def _fail(error: SdclusterError) -> NoReturn:
    problems = error.problems if isinstance(error, ConfigError) else (str(error),)
    for problem in problems:
        # Under systemd the prefix gives the journal entry its priority, see sd-daemon(3).
        prefix = "<3>" if "JOURNAL_STREAM" in os.environ else ""
        lines = f"sdcluster: {plain(problem)}".replace("\n", f"\n{prefix}")
        click.echo(f"{prefix}{lines}", err=True)
    sys.exit(error.exit_status)


def _end(status: int) -> NoReturn:
    """Exit at once: the next start waits for what the interpreter would tidy up."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # Nobody reads it; or it was closed.
            stream.flush()
    os._exit(status)


def _checked_name(_ctx: click.Context, _parameter: click.Parameter, name: str) -> str:
    check_name(name)
    return name


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="sdcluster %(version)s")
def main() -> None:
    """Serve Python apps on every core, the systemd way."""


@main.command()
@click.argument("app", metavar="MODULE:ATTR", required=False)
@click.option("--listen", "-l", multiple=True, metavar="ADDR", help="HOST:PORT, [V6]:PORT, /PATH.")
@click.option("--workers", "-w", metavar="N|max", help="Worker processes; max: one a CPU.")
@click.option("--scheduling", type=click.Choice(_SCHEDULING), help="Who accepts connections.")
@click.option("--directory", "-d", metavar="DIR", help="Where the app is. Default: here.")
@click.option("--venv", metavar="DIR", help="The app's virtualenv.")
@click.option("--name", metavar="NAME", help="The instance's name. Default: the module's.")
@click.option("--config", "config_file", metavar="FILE", help="A TOML file; options override it.")
@click.option("--agent", metavar="MODULE:FUNC", help="One process beside the workers.")
@click.option("--preload/--no-preload", default=None, help="Import before the fork, or after.")
@click.option("--access-log", is_flag=True, default=None, help="Log every request.")
def run(app: str | None, name: str | None, config_file: str | None, **given: Any) -> None:
    """Serve MODULE:ATTR in the foreground. No systemd is needed.

    SIGTERM and SIGINT drain and end it, a second one ends it at once. SIGHUP and SIGUSR2 replace
    the workers with new code, one at a time. SIGTTIN adds a worker, SIGTTOU removes one.
    """
    options = {key: value for key, value in given.items() if value not in (None, ())}
    if "listen" in options:
        options["listen"] = list(options["listen"])
    if "workers" in options and options["workers"].isdecimal():
        options["workers"] = int(options["workers"])
    if app is not None:
        options["app"] = app
    if app is None and config_file is None:
        raise click.UsageError("give MODULE:ATTR, or --config FILE")

    here = Path.cwd()

    def read() -> Config:
        if config_file is not None:
            return load(Path(config_file), name=name, overrides=options)
        module = str(app).partition(":")[0].rpartition(".")[2]
        return from_options(options, name=name or module or "app", directory=here)

    config = read()

    def say_where(addresses: list[str]) -> None:
        _say(f"sdcluster {__version__}: {config.name}, master pid {os.getpid()}")
        _say(f"listening on {', '.join(addresses)}")

    from sdcluster.master.service.instance import Instance  # The other commands do without it.
    from sdcluster.master.service.main import serve as serve_cluster

    unread = [config]
    instance = Instance(
        name=config.name,
        read=lambda: unread.pop() if unread else read(),
        on_listening=say_where,
        on_ready=lambda: _say("ready"),
    )
    _end(serve_cluster(instance))


def _say(text: str) -> None:
    """Print for whoever reads it; a cluster does not wait for them, nor stop when nobody does."""
    from sdcluster.master.host.output import Output

    stdout = Output(1)
    stdout.write(f"{text}\n")
    stdout.close()


@main.command()
@click.argument("name", callback=_checked_name)
def serve(name: str) -> None:
    """Serve NAME as configured in /etc/sdcluster/NAME.toml. What the unit starts.

    A service whose start fails is tried again: by itself, after a wait that grows, if systemd would
    only start it once more. `systemctl status` tells why, and when the next try is.
    """
    from sdcluster.master.service.instance import Instance
    from sdcluster.master.service.main import serve as serve_cluster

    path = config_path(name)
    instance = Instance(name=name, read=lambda: load(path, name=name), file=path)
    _end(serve_cluster(instance, may_wait=True))


@main.command()
@click.argument("name", callback=_checked_name)
def reload(name: str) -> None:
    """Replace the workers of NAME with new code, one at a time, and wait for it.

    Exits with 0 when the new code serves. Else the reason is told, and the old code serves on,
    unless it cannot be forked any more: then the new code stays, and that is told too.
    """
    from sdcluster.cli import display
    from sdcluster.cli.control_client import Master, understanding

    with Master(name, timeout_s=None) as master, understanding(name):
        display.show_reload(master.call_more("Reload"))


@main.command()
@click.argument("name", callback=_checked_name)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(name: str, as_json: bool) -> None:
    """Show the workers of NAME: where each is on its way, and what it has done."""
    from sdcluster.cli.control_client import Master, understanding

    with Master(name) as master, understanding(name):
        reply = {**master.call("Status"), "version": master.version()}
    if as_json:
        click.echo(json.dumps(reply, indent=2))
    else:
        from sdcluster.cli import display

        with understanding(name):
            display.show_status(reply)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("name", callback=_checked_name)
@click.argument("workers", metavar="N|+N|-N")
def scale(name: str, workers: str) -> None:
    """Run N workers from now on, or N more, or N fewer. A reload of a changed file overrides it."""
    from sdcluster.cli.control_client import Master, understanding

    try:
        number = int(workers)
    except ValueError:
        raise click.BadParameter(f"{workers!r} is not N, +N or -N") from None
    key = "delta" if workers[0] in "+-" else "workers"
    with Master(name) as master, understanding(name):
        reply = master.call("Scale", **{key: number})
        click.echo(f"{name}: {reply['workers']} workers")


@main.command()
@click.argument("target", metavar="NAME|FILE")
def check(target: str) -> None:
    """Validate a configuration, and import its app in a process of its own. Binds nothing.

    Root's check of NAME imports the app as the user that its service runs as.
    """
    from sdcluster.master.service.check import check_app, service_user

    is_file = "/" in target or target.endswith(".toml")
    config = load(Path(target) if is_file else config_path(target))
    user = None if is_file or config.is_command else service_user(config.name)
    if user is not None:
        click.echo(f"importing {config.app} as the user {user.pw_name}, like the service")
    try:
        interface = check_app(config, user=user)
    except SdclusterError:
        if user is not None:
            click.echo(f"sdcluster: as the user {user.pw_name}, in {config.directory}:", err=True)
        raise
    click.echo(f"{config.source}: OK, {config.app or ' '.join(config.exec)} ({interface})")
