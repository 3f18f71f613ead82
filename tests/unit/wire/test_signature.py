"""What requests have in common that would do the same to a worker."""

from sdcluster.wire.signature import is_repeatable, sign


def test_requests_of_one_method_and_path_have_one_signature() -> None:
    """Those of another method or path have another."""
    known = sign("GET", "/a", repeatable=True)
    assert sign("GET", "/a", repeatable=True) == known
    others = [sign("GET", "/b", repeatable=True), sign("HEAD", "/a", repeatable=True)]
    assert known not in others


def test_signature_says_whether_the_request_may_be_made_again() -> None:
    """In its lowest bit; the rest is that of any other."""
    may, must_not = (sign("POST", "/", repeatable=one) for one in (True, False))
    assert is_repeatable(may) and not is_repeatable(must_not)
    assert may - must_not == 1


def test_signature_is_a_word() -> None:
    """Whatever the hash is."""
    signatures = [sign("GET", str(path), repeatable=bool(path % 2)) for path in range(1000)]
    assert all(0 <= one < 1 << 64 for one in signatures)
