"""The secret of an instance that its cookies are signed with.

It is the same after a restart, so that clients stay with their worker, and on each machine that is
given the same credential.
"""

import functools
import os
from pathlib import Path

CREDENTIAL = "cookie-secret"
"""The name of the credential, see LoadCredential= in systemd.exec(5)."""
MACHINE_ID = Path("/etc/machine-id")
MAX_BYTES = 64 * 1024

_PURPOSE = b"sdcluster cookie "


def cookie_secret(name: str) -> str:
    """Return the secret of an instance, in hexadecimal digits.

    It is made from the credential; without one from the machine's id, which is not to leave the
    machine, see machine-id(5); and without that it lasts as long as this process.
    """
    import hmac  # Here, as it takes megabytes of memory, and most instances have no cookies.

    return hmac.digest(_source(), _PURPOSE + name.encode(), "sha256").hex()


def _source() -> bytes:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    given = [Path(folder) / CREDENTIAL] if folder else []
    for path in (*given, MACHINE_ID):
        try:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES).strip()
        except OSError:
            continue
        if content:
            return content
    return _random()


@functools.cache
def _random() -> bytes:
    return os.urandom(32)
