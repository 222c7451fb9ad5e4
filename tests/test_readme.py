"""README.md says what is true."""

from __future__ import annotations

import pathlib
import re

import click
from click.testing import CliRunner

from mpqtool.cli import cli

TEXT = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
SHELL = re.findall(r"^```sh\n(.*?)^```", TEXT, re.S | re.M)


def test_first_two_blocks_are_the_two_commands() -> None:
    main, tests = SHELL[:2]
    assert main.splitlines() == [
        "python3 -m venv .venv",
        ". .venv/bin/activate",
        "pip install .",
        "mpqtool quantize examples/digits.onnx --method impq",
    ]
    assert tests.splitlines() == [". .venv/bin/activate", "pip install -e '.[test]'", "pytest"]


def test_every_command_and_option_named_exists() -> None:
    assert set(re.findall(r"^\| `mpqtool (\w+)", TEXT, re.M)) == set(cli.list_commands(click.Context(cli)))
    runner = CliRunner(env={"COLUMNS": "200"})
    names = ("quantize", "lower", "verify", "bench", "export", "sensitivity")
    shown = "".join(runner.invoke(cli, [name, "--help"]).stdout for name in names)
    for option in set(re.findall(r"--[a-z][a-z-]+", TEXT)) - {"--help"}:
        assert option in shown, option
