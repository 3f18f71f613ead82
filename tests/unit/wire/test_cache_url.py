"""The URL of a cache: what is taken, what is refused, and what is said about it."""

import pytest

from sdcluster.wire.cache_url import CacheUrl, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", CacheUrl()),
        ("lmdb://", CacheUrl()),
        ("lmdb://?size_mb=1", CacheUrl(size_mb=1.0)),
        ("lmdb:///srv/a%20b", CacheUrl(folder="/srv/a b")),
        (
            "lmdb:///c?size_mb=1.5&on_error=miss",
            CacheUrl(folder="/c", size_mb=1.5, on_error="miss"),
        ),
        ("redis://host", CacheUrl(remote="redis://host")),
        ("rediss://me:p%40ss@host:1/2", CacheUrl(remote="rediss://me:p%40ss@host:1/2")),
        ("valkey://[::1]:1/?on_error=raise", CacheUrl(remote="valkey://[::1]:1/")),
        (
            "unix:///run/r.sock?db=1&on_error=miss&password=a%26b",
            CacheUrl(remote="unix:///run/r.sock?db=1&password=a%26b", on_error="miss"),
        ),
        ("unix://me:word@/run/r.sock", CacheUrl(remote="unix://me:word@/run/r.sock")),
    ],
)
def test_url_is_taken(text: str, expected: CacheUrl) -> None:
    """In parts; what is not ours is left to the client of Redis."""
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http://secret@host", "a cache is lmdb://, redis://, valkey:// or unix://, and not http"),
        ("redis://[", "that is no host, or no port"),
        ("redis://:secret@host:port", "that is no host, or no port"),
        ("redis://:secret@host:99999", "that is no host, or no port"),
        ("redis://:secret@host/name", "/name is no database of Redis: that is a number"),
        ("redis://:secret@host?on_error=ignore", "on_error is raise or miss, not 'ignore'"),
        ("redis://h?on_error=miss&on_error=miss", "the URL of the cache has on_error twice"),
        ("unix://run/r.sock", "a cache behind a socket is unix:///PATH, three slashes"),
        ("unix://", "a cache behind a socket is unix:///PATH, three slashes"),
        ("lmdb://folder/cache", "an embedded cache is lmdb:///FOLDER, three slashes"),
        ("folder", "an embedded cache is lmdb:///FOLDER, three slashes"),
        ("lmdb:///c?mb=1", "'mb=1' is none of size_mb=NUMBER and on_error=miss"),
        ("lmdb:///c?size_mb=1&size_mb=2", "has size_mb twice"),
        *(
            (f"lmdb:///c?size_mb={size}", "size_mb is a number of megabytes from 1 to 1000000")
            for size in ("", "big", "0", "-1", "nan", "inf", "1e7")
        ),
    ],
)
def test_url_that_is_wrong_is_told(text: str, reason: str) -> None:
    """With what would be right, and without what is secret."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # The reason is compared below.
        parse(text)
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)
