"""What is made of the table of keys: an overview in the manual, and a JSON Schema for editors.

python packaging/overview.py    writes both; the tests tell when they are not as they should be
"""

import json
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from sdcluster.config.keys import KEYS, json_schema  # noqa: E402

MANUAL = CHECKOUT / "packaging" / "man" / "sdcluster.toml.5"
SCHEMA = CHECKOUT / "packaging" / "examples" / "sdcluster.schema.json"
HEAD = ".SH OVERVIEW\n"


def main() -> None:
    """Write both."""
    MANUAL.write_text(with_overview(MANUAL.read_text()))
    SCHEMA.write_text(schema())


def with_overview(manual: str) -> str:
    """Return the manual with the overview of the keys as it should be."""
    before, _, behind = manual.partition(HEAD)
    rest = behind[behind.index(".SH ") :]
    lines = [line for name, key in KEYS.items() for line in _entry(name, key.about)]
    return before + HEAD + "\n".join([".PD 0", *lines, ".PD", rest])


def _entry(name: str, about: str) -> list[str]:
    return [".TP 22", f".B {name}", about.replace("-", "\\-")]


def schema() -> str:
    """Return the JSON Schema as a file has it."""
    return json.dumps(json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    main()
