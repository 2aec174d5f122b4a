"""Forms that a value may take in the file: one or a list, a name or a table, "auto" or a range.

Each turns what the file may say into the one shape the model keeps, and says what was expected.
Validators of pydantic; pure.
"""

from __future__ import annotations

import re
from typing import Final

from portside.config.units import bad_value

# Below the kernel's 32768-60999 and above the ports of usual daemons: nobody is starved.
AUTO_PORTS: Final = (12000, 29999)
_PORTS_FORM: Final = '"auto" (12000-29999) or "lo-hi" within 1024-65535'


def one_or_many(value: object) -> object:
    """A single value as a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def listen_list(value: object) -> object:
    """Addresses as tables `{ address }`, and one as a list of one."""
    items = value if isinstance(value, list | tuple) else [value]
    return [{"address": item} if isinstance(item, str) else item for item in items]


def member_list(value: object) -> object:
    """Names of servers as tables `{ name }`."""
    if not isinstance(value, list | tuple):
        raise bad_value('a list of servers, such as ["db1", { name = "db2", backup = true }]')
    return [{"name": item} if isinstance(item, str) else item for item in value]


def check_or_false(value: object) -> object:
    """None for false; true is refused because it says nothing."""
    if value is True:
        raise bad_value('false or a table such as { interval = "1s" }', "checks are on by default")
    return None if value is False else value


def workers(value: object) -> object:
    """A number of threads, or "auto"."""
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise bad_value('"auto" or a number of threads from 1')


def port_range(value: object) -> tuple[int, int]:
    """First and last port."""
    if value == "auto":
        return AUTO_PORTS
    if isinstance(value, tuple):
        return value
    match = re.fullmatch(r"(\d{1,5})\s*-\s*(\d{1,5})", value) if isinstance(value, str) else None
    if match is None:
        raise bad_value(_PORTS_FORM)
    low, high = int(match[1]), int(match[2])
    if not 1024 <= low <= high <= 65535:
        raise bad_value(_PORTS_FORM, "the first port must not be above the last" * (low > high))
    return low, high


def write_port_range(value: tuple[int, int] | None) -> str | None:
    """The text of a range, for dumps."""
    return value and f"{value[0]}-{value[1]}"


def function_name(value: object) -> str:
    """The name of a Python function."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", value):
        return value
    raise bad_value('"package.module:function"')


def server_version(value: object) -> str:
    """A version as servers tell it: digits first, since clients compare it."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,3}\.\d{1,3}\.\d{1,3}[!-~]{0,50}", value):
        return value
    raise bad_value('a version such as "8.0.36" or "5.5.5-10.11.6-MariaDB"')


def log_sampling(value: object) -> str:
    """Which sessions are logged."""
    if isinstance(value, str) and re.fullmatch(r"all|errors|1/[1-9]\d{0,8}", value):
        return value
    raise bad_value('"all", "errors" or "1/N" such as "1/100"')


def file_mode(value: object) -> str:
    """An octal mode."""
    if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3}", value):
        return value
    hint = f'did you mean "0{value:o}"?' if isinstance(value, int) and 0 < value < 0o1000 else ""
    raise bad_value('an octal mode as a text, such as "0660"', hint)


def absolute_path(value: object) -> str:
    """A path that does not depend on where the process was started."""
    if isinstance(value, str) and value.startswith("/") and "\0" not in value:
        return value
    raise bad_value("an absolute path")
