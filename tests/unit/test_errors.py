"""The errors and their exit statuses."""

import errno
import os

import pytest

from sdcluster import errors
from sdcluster.errors import AppError, ConfigError, SdclusterError, reason_of

ALL = [
    one
    for one in vars(errors).values()
    if isinstance(one, type) and one.__module__ == errors.__name__
]


@pytest.mark.parametrize("error", ALL, ids=lambda one: one.__name__)
def test_every_error_belongs_to_the_tree_and_has_an_exit_status(
    error: type[SdclusterError],
) -> None:
    """So that a command can catch one, and systemd can show the other."""
    assert issubclass(error, SdclusterError)
    assert 64 <= error.exit_status <= 78


def test_problems_of_a_config_are_told_one_a_line() -> None:
    """One problem may be given as it is."""
    assert str(ConfigError(["one", "two"])) == "one\ntwo"
    assert ConfigError("one").problems == ("one",)


def test_traceback_of_an_app_is_kept_apart_from_the_reason() -> None:
    """The reason is a line, and the traceback is for those who look for it."""
    error = AppError("cannot import 'shop'", "Traceback …")
    assert (str(error), error.detail) == ("cannot import 'shop'", "Traceback …")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no frame"), "no frame"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"), "No such file or di"),
        (OSError("AF_UNIX path too long"), "AF_UNIX path too long"),
        (OSError(errno.EMFILE, ""), os.strerror(errno.EMFILE)),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_reason_of_an_error_is_never_success(error: Exception, reason: str) -> None:
    """Some have an error number, some a text alone, some nothing but their name."""
    assert reason_of(error).startswith(reason)
