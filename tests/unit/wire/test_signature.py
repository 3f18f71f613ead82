"""What requests have in common that would do the same to a worker."""

from sdcluster.wire.signature import is_repeatable, seed, sign

GET = seed("GET", repeatable=True)


def test_requests_of_one_method_and_path_have_one_signature() -> None:
    """Those of another method or path have another."""
    known = sign(GET, "/a")
    assert sign(seed("GET", repeatable=True), "/a") == known
    assert known not in (sign(GET, "/b"), sign(seed("HEAD", repeatable=True), "/a"))


def test_signature_says_whether_the_request_may_be_made_again() -> None:
    """In its lowest bit; the rest is that of any other."""
    may, must_not = (sign(seed("POST", repeatable=one), "/") for one in (True, False))
    assert is_repeatable(may) and not is_repeatable(must_not)
    assert may - must_not == 1


def test_signature_is_a_word() -> None:
    """Whatever the hash is."""
    assert all(0 <= sign(GET, str(path)) < 1 << 64 for path in range(1000))
