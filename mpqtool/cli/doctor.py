"""``mpqtool doctor``."""

from __future__ import annotations

__all__ = ["command"]

import rich_click as click

from .common import echo_json, echo_table, json_option


@click.command("doctor", epilog="Example: mpqtool doctor --json")
@json_option
def command(as_json: bool) -> None:
    """Tell which versions are installed, which providers really work, and what the CPU can do."""
    from mpqtool.health import examine

    found = examine()
    if as_json:
        echo_json(found)
        return
    echo_table([(name, version or "not installed") for name, version in found["versions"].items()])
    click.echo()
    for name, state in found["providers"].items():
        click.echo(f"{name}: {'works' if state['works'] else state['reason']}")
    click.echo()
    click.echo(f"CPU: {found['cpu']['model']}")
    for name, present in found["cpu"]["features"].items():
        click.echo(f"  {name}: {'unknown' if present is None else 'yes' if present else 'no'}")
    click.echo(found["cpu"]["meaning"])
    for problem in found["problems"]:
        click.echo(f"problem: {problem}", err=True)
