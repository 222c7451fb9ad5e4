"""The command line: one short module per command, each loaded when it is called."""

from __future__ import annotations

__all__ = ["cli", "main"]

import importlib
import logging
import sys
from collections.abc import Sequence
from typing import Any

import rich_click as click

from mpqtool.errors import OptionError, UnsupportedOpError, user_error

_COMMANDS = ("quantize", "lower", "verify", "inspect", "sensitivity", "bench", "export", "report", "doctor")
_TALKATIVE = ("onnx_ir", "onnxscript")
"""Libraries whose warnings, about steps of ours, would stand between the lines of a command."""
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class _Group(click.RichGroup):
    """Loads a command when it is asked for, and shows an expected error without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{cmd_name}").command
        return command

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:  # type: ignore[override]
        for library in _TALKATIVE:
            logging.getLogger(library).setLevel(logging.ERROR)
        extra["standalone_mode"] = False  # click's own would draw a box around errors, and exit 1 on Ctrl-C
        try:
            code = super().main(args, prog_name or "mpqtool", **extra)
        except click.ClickException as error:
            error.show(file=sys.stderr)
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            click.echo(_interrupted(args), err=True)
            sys.exit(_INTERRUPTED)
        except Exception as error:
            expected = user_error(error) or (error if isinstance(error, OSError) else None)
            if expected is None:
                raise
            click.echo(f"mpqtool: {_message(expected)}", err=True)
            sys.exit(2 if isinstance(expected, OptionError) else 1)
        sys.exit(code if isinstance(code, int) else 0)


def _message(error: BaseException) -> str:
    """One line; of several operators that cannot be imported each keeps the line it has."""
    lines = str(error).splitlines() if isinstance(error, UnsupportedOpError) else [str(error)]
    return "\n  ".join(" ".join(line.split()) for line in lines)


def _interrupted(args: Sequence[str] | None) -> str:
    given = list(sys.argv[1:] if args is None else args)
    if given[:1] == ["quantize"] and not {"ptq", "--method=ptq"} & {*given}:  # it has nothing to go on from
        return "mpqtool: interrupted. Go on from the last epoch: give the same command again with --resume."
    return "mpqtool: interrupted"


@click.group(
    "mpqtool",
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: mpqtool quantize examples/digits.onnx --method impq",
)
@click.version_option(package_name="mpqtool", message="%(prog)s %(version)s")
def cli() -> None:
    """Float ONNX in, verified mixed-precision integer ONNX out."""


def main() -> None:
    """Run the command line: the entry point of the script ``mpqtool``."""
    cli.main()
