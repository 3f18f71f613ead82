"""The secret of an instance that its cookies are signed with.

It is random, and kept with the instance: it is the same after a restart, so that clients stay with
their worker. Machines that are given the same credential have the same one.
"""

import functools
import os
import secrets
import stat
from pathlib import Path

from sdcluster.errors import ListenError
from sdcluster.system import runtime
from sdcluster.system.folders import make_private

CREDENTIAL = "cookie-secret"
"""The name of the credential, see LoadCredential= in systemd.exec(5); and of the file."""
SYSTEM = Path("/var/lib/sdcluster")
MAX_BYTES = 64 * 1024

_PURPOSE = b"sdcluster cookie "
_SECRET_BYTES = 32


@functools.cache
def cookie_secret(name: str) -> str:
    """Return the secret of an instance, in hexadecimal digits; as long as this process it stays.

    It is made from the credential; without one it is in a file of the service's StateDirectory=, or
    of the user's own state, which is made when it is missing. Where none can be kept there, it is
    in the runtime folder, and ends with that.
    """
    import hmac  # Here, as it takes megabytes of memory, and most instances have no cookies.

    source = _credential()
    if source is None:
        for folder in (_state(name), _runtime(name)):
            try:
                if folder is not None:
                    source = _kept(folder)
                    break
            except OSError:
                continue  # It cannot be written to, say.
    return hmac.digest(source or new_secret(), _PURPOSE + name.encode(), "sha256").hex()


def new_secret() -> bytes:
    """Return one that nobody has."""
    return secrets.token_bytes(_SECRET_BYTES)


def _credential() -> bytes | None:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return None
    try:
        with (Path(folder) / CREDENTIAL).open("rb") as file:
            return file.read(MAX_BYTES).strip() or None
    except OSError:
        return None


def _state(name: str) -> Path | None:
    """Return the folder for what outlives the service; None when it is not known where."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given and os.environ.get("SDCLUSTER_INSTANCE", name) == name:
        return Path(os.path.realpath(given))  # With DynamicUser= it is a link.
    state = os.environ.get("XDG_STATE_HOME", "")
    if not state and os.geteuid() == 0:
        return SYSTEM / name
    home = os.environ.get("HOME", "")
    state = state or (home and f"{home}/.local/state")
    return Path(state) / "sdcluster" / name if state else None


def _runtime(name: str) -> Path | None:
    try:
        return runtime.directory(name)
    except ListenError:
        return None


def _kept(folder: Path) -> bytes:
    """Return the secret in a folder; a new one when there is none that nobody else can know.

    Raises OSError.
    """
    above = 0o755 if folder.parent == SYSTEM else 0o700
    make_private(folder, above=above, is_strict=False)  # The file is looked at in any case.
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return _read(place) or _written(place)
    finally:
        os.close(place)


def _read(place: int) -> bytes | None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(CREDENTIAL, flags, dir_fd=place)
    except OSError:
        return None  # It is missing, or no file: then it is replaced.
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        is_private = stat.S_ISREG(found.st_mode) and not found.st_mode & 0o077
        content = file.read(MAX_BYTES) if is_private and found.st_uid == os.geteuid() else b""
    return content if len(content) == _SECRET_BYTES else None


def _written(place: int) -> bytes:
    """Put a new secret there, in one piece: a master that dies meanwhile leaves no half of it."""
    secret = new_secret()
    draft = f".{CREDENTIAL}-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(draft, flags, 0o600, dir_fd=place)
    try:
        with open(fd, "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(fd)
        os.rename(draft, CREDENTIAL, src_dir_fd=place, dst_dir_fd=place)
    except OSError:
        os.unlink(draft, dir_fd=place)
        raise
    return secret
