"""The manual pages tell of everything there is, and of nothing else."""

import dataclasses
import re
import tomllib
from pathlib import Path

import click
import jsonschema
import overview
import pytest

from sdcluster import __version__, errors
from sdcluster.cli.commands import main
from sdcluster.config.keys import KEYS, json_schema
from sdcluster.config.load import load
from sdcluster.config.model import Config

MANUALS = Path(__file__).resolve().parent.parent.parent / "packaging" / "man"
COMMAND = (MANUALS / "sdcluster.1").read_text()
CONFIG = (MANUALS / "sdcluster.toml.5").read_text()
EXAMPLE = (MANUALS.parent / "examples" / "example.toml").read_text()


def plain(text: str) -> str:
    r"""Return roff without its fonts and escapes: `\fB\-\-json\fR` is `--json`."""
    return re.sub(r"\\f[BIR]|\\&", "", text).replace(r"\-", "-")


def test_config_manual_has_every_key_and_no_other() -> None:
    """Each key stands behind `.TP` in bold, once."""
    tagged = re.findall(r"^\.TP\n\.B ([a-z_]+)$", CONFIG, re.MULTILINE)
    choices = {"shared", "reuseport"}  # What `scheduling` may be is tagged in the same way.
    assert sorted(set(tagged) - choices) == sorted(KEYS)
    assert len(tagged) == len(set(tagged))


def test_what_is_made_of_the_table_of_keys_is_as_the_table_is() -> None:
    """Else: python packaging/overview.py."""
    assert overview.with_overview(CONFIG) == CONFIG
    assert overview.SCHEMA.read_text() == overview.schema()


def test_schema_lets_pass_what_the_example_has() -> None:
    """And not what is wrong in it: the check and the schema are one rule."""
    validator = jsonschema.Draft202012Validator(json_schema())
    example = tomllib.loads(re.sub(r"(?m)^#(?=[a-z_]+ = )", "", EXAMPLE))
    assert not list(validator.iter_errors(example))
    for key in KEYS:
        assert list(validator.iter_errors({key: None})), key
    for key, value in (("worker", 2), ("workers", 0), ("scheduling", "x"), ("listen", [])):
        assert list(validator.iter_errors({key: value})), key


@pytest.mark.parametrize("name", main.commands)
def test_command_manual_has_every_command_and_option(name: str) -> None:
    """Each command has a synopsis and a section, each option its own paragraph."""
    command = main.commands[name]
    assert f".B sdcluster {name}\n" in COMMAND
    assert f".SS {name}\n" in COMMAND
    section = plain(COMMAND.split(f".SS {name}\n")[1].split("\n.S")[0])
    for option in command.params:
        if isinstance(option, click.Option):
            for flag in (*option.opts, *option.secondary_opts):
                assert flag in section, f"{name} {flag}"


def test_command_manual_has_no_option_that_is_gone() -> None:
    """What the manual calls an option is one."""
    known = {
        flag
        for command in main.commands.values()
        for option in command.params
        for flag in (*option.opts, *option.secondary_opts)
    }
    ours = re.sub(r"(?ms)^\.SH ADMINISTRATION$.*?(?=^\.SH )", "", COMMAND)  # Has those of others.
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", plain(ours)))
    assert named <= known


def test_command_manual_has_every_exit_status() -> None:
    """Each status that a command ends with is explained, and no other."""
    statuses = {
        one.exit_status
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, errors.SdclusterError)
    } - {errors.EX_PROTOCOL}  # What a peer does wrong never ends a command by itself.
    told = set(re.findall(r"^\.TP\n(\d+)$", COMMAND, re.MULTILINE))
    assert told == {str(status) for status in (0, errors.EX_USAGE, *statuses)}


@pytest.mark.parametrize("manual", [COMMAND, CONFIG], ids=["sdcluster.1", "sdcluster.toml.5"])
def test_manuals_are_of_this_version(manual: str) -> None:
    """The title line names the version of the package."""
    assert f'"sdcluster {__version__}"' in manual.splitlines()[0]


def test_example_of_a_configuration_has_every_key_with_its_default() -> None:
    """A key that has one as it stands there; the others have something that may stand there."""
    example = tomllib.loads(re.sub(r"(?m)^#(?=[a-z_]+ = )", "", EXAMPLE))
    assert example.keys() == KEYS.keys()
    checked = {key: KEYS[key].check(value) for key, value in example.items()}
    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    needs_another = {
        *("exec", "weights", "sticky", "shard", "agent", "app", "venv"),
        *("root_path", "forwarded_allow_ips"),
    }
    for key in checked.keys() - needs_another:
        if key in defaults and defaults[key] is not dataclasses.MISSING:
            assert checked[key] == defaults[key], key


def test_example_of_a_configuration_is_one(tmp_path: Path) -> None:
    """It serves the app beside it."""
    (tmp_path / "hello.py").write_text((MANUALS.parent / "examples" / "hello.py").read_text())
    (tmp_path / "hello.toml").write_text(EXAMPLE)
    assert load(tmp_path / "hello.toml").app == "hello:app"
