"""The command line: grammar only.

Each command imports its own file when it runs, so that `portside show` does not pay for the data
plane nor `portside check` for the admin interface. (The functions are `_run` and not `run` because
`portside.cli.run` is that file.) What a command does, prints and returns is its
file's business; what every command shares is here: exit codes, and how errors are shown.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from portside.errors import ConfigError, ExitCode, PortsideError

_SUBJECTS = ("services", "servers", "ports", "sessions", "events", "config")
_Command = TypeVar("_Command", bound=Callable[..., Any])

_config_file = click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("/etc/portside/portside.toml"),
    show_default=True,
    help="The configuration file.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


def _at_an_instance(command: _Command) -> _Command:
    option = click.option(
        "-a",
        "--admin",
        envvar="PORTSIDE_ADMIN",
        metavar="ADDRESS",
        help="Where the instance listens: a socket's path or host:port.  [$PORTSIDE_ADMIN]",
    )
    return option(command)


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from portside import _core

        click.echo(f"portside {_core.version()}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """A load balancer for MySQL and MariaDB that does not run out of source ports.

    Exit codes: 0 good, 1 the answer is no or the input is wrong, 2 usage, 70 our fault.
    """


@cli.command("run")
@_config_file
def _run(config: Path) -> int:
    """Run the balancer, in the foreground."""
    from portside.cli import run as command

    return command.main(config)


@cli.command("check")
@_config_file
@click.option("--schema", is_flag=True, help="Print the JSON Schema of a configuration file.")
@click.option("--connect", is_flag=True, help="Log in from every source address to every server.")
@_json
def _check(config: Path, schema: bool, connect: bool, as_json: bool) -> int:
    """Check a configuration: every mistake at once, with its line."""
    from portside.cli import check as command

    return command.main(config, schema=schema, connect=connect, as_json=as_json)


@cli.command("import")
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path)
)
@click.option("--report", is_flag=True, help="Print what became of each line, not the result.")
@click.option(
    "--port-offset",
    default=0,
    metavar="N",
    type=click.IntRange(0, 64511),
    help="Listen N ports higher, to run beside HAProxy.",
)
@click.option("--no-haproxy", is_flag=True, help="Do not ask the HAProxy here for its opinion.")
@_json
def _import(
    files: tuple[Path, ...],
    report: bool,
    port_offset: int,
    no_haproxy: bool,
    as_json: bool,
) -> int:
    """Turn haproxy.cfg or proxysql.cnf into a portside.toml, on standard output."""
    from portside.cli import import_ as command

    options = command.Options(report, port_offset, not no_haproxy, as_json)
    return command.main(files, options)


@cli.command("show")
@click.argument("what", required=False, type=click.Choice(_SUBJECTS))
@click.argument("server", required=False)
@click.option("--origin", is_flag=True, help="config: say where each value came from.")
@_at_an_instance
@_json
def _show(
    what: str | None, server: str | None, origin: bool, admin: str | None, as_json: bool
) -> int:
    """Show a running instance; without a subject, one page. SERVER belongs to ports."""
    from portside.cli import show as command

    if origin and what != "config":
        raise click.UsageError("--origin belongs to: portside show config --origin")
    if server is not None and what != "ports":
        raise click.UsageError("a server's name belongs to: portside show ports SERVER")
    return command.main(what, admin, as_json, origin, server)


def _verb(name: str, help_text: str, *arguments: str, dry_run: bool = False) -> None:
    """Adds a command that changes a running instance; they differ in their arguments only."""

    def verb(admin: str | None, as_json: bool, **given: Any) -> int:  # noqa: ANN401
        from portside.cli import runtime

        options = {"json": as_json, "dry_run": given.pop("dry_run", False)}
        return runtime.main(name, [given[key] for key in arguments], admin, options)

    command = _json(_at_an_instance(verb))
    if dry_run:
        command = click.option("--dry-run", is_flag=True, help="Only say what would change.")(
            command
        )
    for argument in reversed(arguments):
        command = click.argument(argument, metavar=_METAVARS.get(argument))(command)
    cli.command(name, help=help_text)(command)


_METAVARS = {"member": "SERVICE/SERVER", "number": "N"}

_verb("drain", "Give a server no new sessions; running ones go on.", "server")
_verb("maint", "Drain a server and end its sessions between two commands.", "server")
_verb("ready", "Take a server back after drain or maint.", "server")
_verb("weight", 'Set a weight until further notice; N or "file".', "member", "number")
_verb("pause", "Let a service's new clients wait in its queue.", "service")
_verb("resume", "End a pause.", "service")
_verb("kill", "End one session.", "session")
_verb("switch", "Make a server the one that a service uses (failback).", "service", "server")
_verb("reload", "Read the configuration file again.", dry_run=True)


@cli.command("explain")
@click.argument("code", required=False)
@_json
def _explain(code: str | None, as_json: bool) -> int:
    """Say what a status word, event or termination reason means; all of them without CODE."""
    from portside.cli import explain as command

    return command.main(code, as_json)


@cli.command("demo")
@click.option("--seconds", default=20, show_default=True, type=click.IntRange(1, 3600))
@click.option("--keep", is_flag=True, help="Leave everything running and say how to connect.")
def _demo(seconds: int, keep: bool) -> int:
    """A real MariaDB primary, two replicas, a PHP-like load, and Portside in front."""
    from portside.cli import demo as command

    return command.main(seconds, keep)


@cli.command("lab")
@click.argument("strategies", nargs=-1, metavar="[STRATEGY]...")
@click.option("--quick", is_flag=True, help="Narrow port ranges; ends within 60 s.")
@click.option("--server", type=click.Choice(["sink", "mariadb"]), default="sink", show_default=True)
@click.option("--delay", default=None, help='Proxy to database, each way, as "250us"; or "none".')
@click.option("--connections", type=click.IntRange(1), help="At most so many per strategy.")
@click.option("--html", type=click.Path(path_type=Path), help="Write one self-contained page.")
@click.option("--svg", type=click.Path(path_type=Path), help="Write the picture.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write every figure.")
@click.option("--list", "list_only", is_flag=True, help="List the strategies and exit.")
@click.option("--clean", is_flag=True, help="Remove what a crashed lab left behind and exit.")
def _lab(  # noqa: PLR0917 (click passes each by name)
    strategies: tuple[str, ...],
    quick: bool,
    server: str,
    delay: str | None,
    connections: int | None,
    html: Path | None,
    svg: Path | None,
    json_file: Path | None,
    list_only: bool,
    clean: bool,
) -> int:
    """The article's experiment in network namespaces: every strategy under the same load."""
    from portside.cli import lab as command

    if list_only:
        return command.list_strategies()
    if clean:
        return command.clean()
    delay_us = command.read_delay(delay)
    return command.main(
        command.Options(strategies, quick, server, delay_us, connections, html, svg, json_file)
    )


def run_command(arguments: list[str] | None = None) -> int:
    """Runs one command line and returns its exit code; prints every error as sentences."""
    try:
        return int(cli.main(arguments, prog_name="portside", standalone_mode=False) or 0)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except click.Abort:
        return 130  # 128 + SIGINT, as a shell says it
    except ConfigError as error:
        count = len(error.problems)
        click.echo(f"{error}\n{count} mistake{'' if count == 1 else 's'}", err=True)
        return ExitCode.NO
    except PortsideError as error:
        click.echo(f"portside: {error}", err=True)
        return ExitCode.NO
    except BrokenPipeError:
        # The reader has seen enough (head, less); Python would complain while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.GOOD
    except Exception as error:  # whatever it is, the user gets a sentence and a code
        if os.environ.get("PORTSIDE_DEBUG") == "1":
            traceback.print_exc()
        name = type(error).__name__
        click.echo(
            f"portside: a fault of ours: {name}: {error}. Run it again with PORTSIDE_DEBUG=1 and"
            " report what it prints.",
            err=True,
        )
        return ExitCode.OUR_FAULT


def main() -> NoReturn:
    """The entry point of the `portside` command."""
    sys.exit(run_command())
