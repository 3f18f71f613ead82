"""The journal's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): fields to a datagram.

For master and workers: sd_journal_send(3) waits when the journal does, and the workers have the
standard library alone.
"""

from collections.abc import Mapping

SOCKET_PATH = "/run/systemd/journal/socket"


def encode(fields: Mapping[str, str]) -> bytes:
    """Serialize `fields`. Names are upper-case ASCII, digits and `_`; values are any text.

    What is no Unicode in a text is escaped: the journal shows other bytes as a blob.
    """
    parts: list[bytes] = []
    for name, value in fields.items():
        data = value.encode("utf-8", "backslashreplace")
        if b"\n" in data:
            parts.append(b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data))
        else:
            parts.append(b"%s=%s\n" % (name.encode(), data))
    return b"".join(parts)
