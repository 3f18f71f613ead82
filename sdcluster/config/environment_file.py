"""Reads files of environment variables, in the form of EnvironmentFile= in systemd.exec(5)."""

import re
import shlex

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class EnvironmentFileError(ValueError):
    """The file has a line that is not NAME=VALUE."""


def parse_environment_file(text: str) -> dict[str, str]:
    r"""Return the variables. Raises `EnvironmentFileError` with the line's number.

    Empty lines and lines that begin with `#` or `;` are skipped, a backslash at the end continues
    a line, values may be quoted.
    """
    variables: dict[str, str] = {}
    logical, start = "", 0
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        if not logical:
            start = number
            if line.lstrip().startswith(("#", ";")):
                continue
        if line.endswith("\\"):
            logical += line[:-1]
            continue
        logical += line
        if logical.strip():
            if "\0" in logical:
                raise EnvironmentFileError(f"line {start}: a NUL is in no variable")
            name, value = _assignment(logical.strip(), start)
            variables[name] = value
        logical = ""
    return variables


def _assignment(line: str, number: int) -> tuple[str, str]:
    name, separator, value = line.partition("=")
    name = name.strip()
    if not separator or not _NAME.fullmatch(name):
        raise EnvironmentFileError(f"line {number}: {line[:40]!r} is not NAME=VALUE")
    value = value.strip()
    if value[:1] in ("'", '"'):
        try:
            words = shlex.split(value)
        except ValueError as error:
            raise EnvironmentFileError(f"line {number}: {str(error).lower()}") from error
        value = " ".join(words)
    return name, value
