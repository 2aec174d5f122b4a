"""The same connection attempt by four client programs: what each of them shows of an ERR packet.

``attempt`` returns error number and text as the program reports them, or None when it logged in.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable

import pymysql

from tests.support.servers import APP_PASSWORD, APP_USER, peers_bin

Error = tuple[int, str]
Attempt = Callable[[str, int], Error | None]

# "ERROR 1040 (HY000): text"; the state stands there whether the packet had one or not.
_CLI_ERROR = re.compile(r"^ERROR (\d+) \((\w+)\)(?: at line \d+)?: (.*)$", re.MULTILINE | re.DOTALL)

_PHP = """
mysqli_report(MYSQLI_REPORT_OFF);
[, $host, $port, $user, $password] = $argv;
$link = @mysqli_connect($host, $user, $password, "", (int) $port);
if ($link) { exit(0); }
fwrite(STDERR, mysqli_connect_errno() . " " . mysqli_connect_error());
exit(1);
"""


def _cli(command: list[str]) -> Error | None:
    done = subprocess.run(
        [*command, f"--user={APP_USER}", f"--password={APP_PASSWORD}", "-e", "SELECT 1"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if done.returncode == 0:
        return None
    found = _CLI_ERROR.search(done.stderr)
    assert found is not None, done.stderr
    return int(found[1]), found[3].strip()


def mariadb(host: str, port: int) -> Error | None:
    return _cli(["mariadb", "--no-defaults", "--skip-ssl", f"--host={host}", f"--port={port}"])


def mariadb_tls(host: str, port: int) -> Error | None:
    return _cli(["mariadb", "--no-defaults", "--ssl", f"--host={host}", f"--port={port}"])


def mysql9(host: str, port: int) -> Error | None:
    program = str(peers_bin() / "mysql9")
    return _cli([program, "--no-defaults", "--protocol=tcp", f"--host={host}", f"--port={port}"])


def pymysql_(host: str, port: int) -> Error | None:
    try:
        with pymysql.connect(host=host, port=port, user=APP_USER, password=APP_PASSWORD):
            return None
    except pymysql.MySQLError as error:
        return error.args[0], error.args[1]


def php(host: str, port: int) -> Error | None:
    done = subprocess.run(
        ["php", "-r", _PHP, host, str(port), APP_USER, APP_PASSWORD],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if done.returncode == 0:
        return None
    number, _, text = done.stderr.partition(" ")
    return int(number), text.strip()


PROGRAMS: dict[str, Attempt] = {
    "mariadb": mariadb,
    "mariadb-tls": mariadb_tls,
    "mysql9": mysql9,
    "pymysql": pymysql_,
    "php": php,
}


def missing(name: str) -> str | None:
    """Why a program cannot be used here, or None."""
    if name == "mysql9":
        return None if (peers_bin() / "mysql9").exists() else f"no mysql9 in {peers_bin()}"
    if name == "php":
        if shutil.which("php") is None:
            return "php is not installed: apt-get install php-cli php-mysql"
        modules = subprocess.run(["php", "-m"], capture_output=True, text=True, check=False).stdout
        return None if "mysqli" in modules else "php has no mysqli: apt-get install php-mysql"
    if name.startswith("mariadb") and shutil.which("mariadb") is None:
        return "mariadb is not installed: apt-get install mariadb-client-core"
    return None
