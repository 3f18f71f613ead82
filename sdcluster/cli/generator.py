"""Turns /etc/sdcluster/*.toml into drop-ins for the units, as a systemd.generator(7).

In a user manager, ~/.config/sdcluster/*.toml into drop-ins for the user's units.

One file an app, and the address still belongs to systemd: `listen` becomes ListenStream=. A file
that is wrong yields nothing and harms no other; `sdcluster check` and the service say what is
wrong.
"""

import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from sdcluster.config import textfile
from sdcluster.config.address import Address, parse, to_listen_stream
from sdcluster.config.files import SYSTEM_FOLDER, check_name, user_folder
from sdcluster.config.keys import KEYS
from sdcluster.errors import ConfigError, reason_of

KERNEL_LOG = Path("/dev/kmsg")
"""A generator of the system's has no other log."""


def main(arguments: Sequence[str], folder: Path | None = None) -> int:
    """Write the drop-ins to the first folder of the arguments. Return the exit status, 0.

    `folder` is where the configurations are, if not where the manager that runs this has them.
    """
    if not arguments:
        print("usage: sdcluster-generator FOLDER [FOLDER FOLDER]", file=sys.stderr)
        return 64
    if folder is None:
        folder = user_folder() if _is_users() else SYSTEM_FOLDER
    for file in sorted(folder.glob("*.toml")):
        try:
            check_name(file.stem)
            values = tomllib.loads(textfile.read(file))
            drop_in = socket_drop_in(values, source=file)
            if drop_in:
                _write(Path(arguments[0]), file.stem, drop_in)
        except (OSError, ValueError, RecursionError, ConfigError) as error:
            _log(f"{file}: {reason_of(error)}")
    return 0


def socket_drop_in(values: Mapping[str, object], *, source: Path) -> str:
    """Return the drop-in of the socket unit; empty when the file names no address.

    Raises ValueError when it is not valid.
    """
    addresses = _addresses(values.get("listen"))
    if not addresses:
        return ""
    lines = [f"# From {source}", "[Unit]", f"SourcePath={source}", "", "[Socket]", "ListenStream="]
    copies = 1
    if values.get("scheduling") == "reuseport":
        # A socket per slot, made by systemd: no other user may add one to the port.
        copies = KEYS["workers"].check(values.get("workers", "max"))
        lines.append("ReusePort=yes")
    for address in addresses:
        line = f"ListenStream={to_listen_stream(address)}"
        lines += [line] * (1 if address.family == "unix" else copies)  # No two have one path.
    if addresses[0].name:
        # A socket unit has one name for all its sockets.
        lines.append(f"FileDescriptorName={addresses[0].name}")
    return "\n".join(lines) + "\n"


def _addresses(listen: object) -> list[Address]:
    if isinstance(listen, Mapping):
        return [parse(str(value), name=str(name)) for name, value in listen.items()]
    if listen is None:
        return []
    return [parse(str(one)) for one in (listen if isinstance(listen, list) else [listen])]


def _write(destination: Path, name: str, drop_in: str) -> None:
    sockets = destination / f"sdcluster@{name}.socket.d"
    sockets.mkdir(parents=True, exist_ok=True)
    (sockets / "50-listen.conf").write_text(drop_in)
    service = destination / f"sdcluster@{name}.service.d"
    service.mkdir(parents=True, exist_ok=True)
    unit = f"sdcluster@{name}.socket"
    text = f"[Unit]\nRequires={unit}\nAfter={unit}\n\n[Service]\nSockets={unit}\n"
    (service / "50-socket.conf").write_text(text)


def _is_users() -> bool:
    return os.environ.get("SYSTEMD_SCOPE") == "user"


def _log(text: str) -> None:
    if _is_users():  # Its manager passes it on to the journal.
        print(f"sdcluster-generator: {text}", file=sys.stderr)
        return
    try:
        with open(KERNEL_LOG, "w", encoding="utf-8") as kmsg:
            kmsg.write(f"<4>sdcluster-generator: {text}\n")
    except OSError:
        pass  # A container without one; the service will say it.
