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

from portside.counted import counted
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
@click.option("--pool", is_flag=True, help="proxysql.cnf: pool mode, with its accounts.")
@click.option("--no-haproxy", is_flag=True, help="Do not ask the HAProxy here for its opinion.")
@_json
def _import(  # noqa: PLR0917 (click passes each by name)
    files: tuple[Path, ...],
    report: bool,
    port_offset: int,
    pool: bool,
    no_haproxy: bool,
    as_json: bool,
) -> int:
    """Turn haproxy.cfg or proxysql.cnf into a portside.toml, on standard output."""
    from portside.cli import import_ as command

    options = command.Options(report, port_offset, not no_haproxy, as_json, pool)
    return command.main(files, options)


@cli.command("show")
@click.argument("what", required=False, type=click.Choice(_SUBJECTS))
@click.argument("server", required=False)
@click.option("--origin", is_flag=True, help="config: say where each value came from.")
@click.option("-f", "--follow", is_flag=True, help="events: go on as they happen.")
@_at_an_instance
@_json
def _show(  # noqa: PLR0917 (click passes each by name)
    what: str | None,
    server: str | None,
    origin: bool,
    follow: bool,
    admin: str | None,
    as_json: bool,
) -> int:
    """Show a running instance; without a subject, one page. SERVER belongs to ports."""
    from portside.cli import show as command

    if origin and what != "config":
        raise click.UsageError("--origin belongs to: portside show config --origin")
    if follow and what != "events":
        raise click.UsageError("--follow belongs to: portside show events --follow")
    if server is not None and what != "ports":
        raise click.UsageError("a server's name belongs to: portside show ports SERVER")
    if follow:
        return command.follow_events(admin, as_json)
    return command.main(what, admin, as_json, origin, server)


@cli.command("top")
@click.option("-d", "--delay", default="1s", show_default=True, help="Time between two looks.")
@click.option("--once", is_flag=True, help="One page, as when the output is no terminal.")
@_at_an_instance
def _top(delay: str, once: bool, admin: str | None) -> int:
    """Watch a running instance live: sort, filter, drain, set weights."""
    from portside.cli import top as command

    return command.main(admin, delay, once)


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
_verb("kill", "End one session, by its ID or CONNECTION_ID.", "session")
_verb("switch", "Make a server the one that a service uses (failback).", "service", "server")
_verb("reload", "Read the configuration file again.", dry_run=True)


@cli.command("explain")
@click.argument("code", required=False)
@_json
def _explain(code: str | None, as_json: bool) -> int:
    """Say what a status word, event or termination reason means; all of them without CODE."""
    from portside.cli import explain as command

    return command.main(code, as_json)


@cli.command("trace")
@click.option(
    "--port",
    "ports",
    type=click.IntRange(1, 65535),
    multiple=True,
    default=(3306,),
    show_default=True,
    help="Where servers listen; may be given again.",
)
@click.option("--for", "duration", default="10s", show_default=True, help="How long to watch.")
@click.option("-i", "--interface", default="", help="Only this interface.  [default: all]")
@click.option(
    "--read", metavar="FILE", default="", help="Read a pcap or pcapng file instead; - is stdin."
)
@click.option("--samples", type=click.IntRange(0, 50), default=4, show_default=True)
@_json
def _trace(  # noqa: PLR0917 (click passes each by name)
    ports: tuple[int, ...], duration: str, interface: str, read: str, samples: int, as_json: bool
) -> int:
    """Who closes first, live, per pair of hosts: who keeps the TIME_WAIT, and what to change.

    Needs root or CAP_NET_RAW, but for --read. Exit code 1: no close was seen.
    """
    from portside.cli import trace as command
    from portside.cli.duration import read_seconds

    if read and interface:
        raise click.UsageError("--read and --interface exclude each other")
    source = click.get_current_context().get_parameter_source("duration")
    if read and source is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--read and --for exclude each other: a file is read to its end")
    seconds = read_seconds("--for", duration)
    return command.main(command.Options(ports, seconds, interface, read, samples, as_json))


@cli.command("plan")
@click.option("--rate", type=float, help="New connections a second, all destinations together.")
@click.option("--hold", "hold_s", metavar="TIME", help="How long one is open.  [default: 10ms]")
@click.option("--addresses", type=int, metavar="N", help="Source addresses.  [default: 1]")
@click.option(
    "--range", "ports", metavar="LO-HI", help="Ports of each, or how many.  [default: 32768-60999]"
)
@click.option("--destinations", type=int, metavar="N", help="ip:port of servers.  [default: 1]")
@click.option("--time-wait", "time_wait_s", metavar="TIME", help="Its length.  [default: 60s]")
@click.option(
    "--close",
    type=click.Choice(["fin", "eof", "eof-reset", "linger2", "reset-now"]),
    help="Who closes first, as close.to_server.  [default: fin]",
)
@click.option(
    "--chooser",
    type=click.Choice(["connect", "bind", "own"]),
    help="Who chooses: the kernel in connect() or bind(), or the program.  [default: connect]",
)
@click.option("--timestamps/--no-timestamps", default=None, help="TCP timestamps at both ends.")
@click.option("--tw-reuse/--no-tw-reuse", default=None, help="net.ipv4.tcp_tw_reuse = 1.")
@click.option("--pool", type=int, metavar="N", help="Sessions share N connections per destination.")
@click.option("--writes", metavar="SHARE", help='Share of the sessions that write, as "60%".')
@click.option("--web-servers", type=int, metavar="N", help="Hosts that the clients are on.")
@click.option("--this-host", is_flag=True, help="Range, timestamps and tcp_tw_reuse of this host.")
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The ports and closes of a configuration file.",
)
@click.option("--running", is_flag=True, help="Those of a running instance, and its rate.")
@_at_an_instance
@_json
def _plan(
    this_host: bool,
    config: Path | None,
    running: bool,
    admin: str | None,
    as_json: bool,
    **given: Any,  # noqa: ANN401
) -> int:
    """How many source ports a load needs, the safe rate, the cliff, and what to change first.

    Exit code 1: they are not enough. Options win over a file or an instance.
    """
    from portside.cli import plan as command

    # $PORTSIDE_ADMIN alone does not mean that an instance is to be asked.
    source = click.get_current_context().get_parameter_source("admin")
    asked = running or source is click.core.ParameterSource.COMMANDLINE
    if asked and config is not None:
        raise click.UsageError("--config and --running exclude each other")
    options = command.Options(given, config, asked, admin, this_host, as_json)
    return command.main(options)


@cli.command("demo")
@click.option("--seconds", default=20, show_default=True, type=click.IntRange(1, 3600))
@click.option("--keep", is_flag=True, help="Leave everything running and say how to connect.")
def _demo(seconds: int, keep: bool) -> int:
    """A real MariaDB primary, two replicas, a PHP-like load, and Portside in front."""
    from portside.cli import demo as command

    return command.main(seconds, keep)


@cli.command("lab")
@click.argument("strategies", nargs=-1, metavar="[STRATEGY]...")
@click.option(
    "--quick",
    is_flag=True,
    help="Narrow port ranges; ends within 60 s. With --facts: some of them.",
)
@click.option("--server", type=click.Choice(["sink", "mariadb"]), default="sink", show_default=True)
@click.option("--delay", default=None, help='Proxy to database, each way, as "250us"; or "none".')
@click.option("--connections", type=click.IntRange(1), help="At most so many per strategy.")
@click.option("--html", type=click.Path(path_type=Path), help="Write one self-contained page.")
@click.option("--svg", type=click.Path(path_type=Path), help="Write the picture.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write every figure.")
@click.option("--facts", is_flag=True, help="Check on this kernel what Portside rests on.")
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
    facts: bool,
    list_only: bool,
    clean: bool,
) -> int:
    """The article's experiment in network namespaces: every strategy under the same load."""
    from portside.cli import lab as command

    if list_only:
        return command.list_strategies()
    if clean:
        return command.clean()
    if facts:
        if strategies or server != "sink" or delay or connections or html or svg:
            raise click.UsageError("--facts goes with --quick and --json only.")
        return command.facts(quick, json_file)
    delay_us = command.read_delay(delay)
    return command.main(
        command.Options(strategies, quick, server, delay_us, connections, html, svg, json_file)
    )


@cli.command("doctor")
@click.option("-v", "--verbose", is_flag=True, help="Evidence, every cure, notices.")
@_json
@click.option(
    "--sysctl-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='Write the recommended settings, each with its reason; "-" prints them.',
)
@click.option(
    "--fail-on",
    type=click.Choice(["warning", "critical"]),
    default="critical",
    show_default=True,
    help="From which severity on the exit code is 1.",
)
@click.option("--ssh", metavar="HOST,HOST", help="Examine these hosts instead of this one.")
@click.option("--mysql", metavar="USER@HOST", help="Ask this server for its counters, too.")
@click.option(
    "--mysql-password-file",
    type=click.Path(path_type=Path),
    help="Else $PORTSIDE_MYSQL_PASSWORD, else a prompt.",
)
def _doctor(  # noqa: PLR0917 (click passes each by name)
    verbose: bool,
    as_json: bool,
    sysctl_file: Path | None,
    fail_on: str,
    ssh: str | None,
    mysql: str | None,
    mysql_password_file: Path | None,
) -> int:
    """Why this host runs out of source ports, what time is left, what to do. Needs no instance."""
    from portside.cli import doctor as command

    if as_json and sysctl_file is not None:
        raise click.UsageError("--json and --sysctl-file exclude each other")
    if ssh is not None and (mysql or sysctl_file):
        raise click.UsageError("--mysql and --sysctl-file are for this host: not with --ssh")
    hosts = tuple(host.strip() for host in ssh.split(",")) if ssh is not None else ()
    return command.main(
        command.Options(verbose, as_json, sysctl_file, fail_on, hosts, mysql, mysql_password_file)
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
        click.echo(f"{error}\n{counted(len(error.problems), 'mistake')}", err=True)
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
