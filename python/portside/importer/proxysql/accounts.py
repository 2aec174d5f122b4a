"""ProxySQL's mysql_users as `[[user]]` tables of pool mode.

A password is never copied: each account's is asked for in a variable of its own. Pure; what it
knows of a password is only whether it is stored as a hash.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from portside.importer.draft import Account, Keys
from portside.importer.proxysql.hostgroups import Row

_HASH: Final = re.compile(r"\*[0-9A-Fa-f]{40}")
# ProxySQL's own default, which no account was given on purpose.
_NO_LIMIT: Final = 10_000
_VARIABLE: Final = "PORTSIDE_PASSWORD_"


def accounts(rows: Sequence[Row]) -> list[Account]:
    """The accounts by name; rows of the same name are one account's two sides.

    ProxySQL has a frontend's password and a backend's: where they are two rows, the second is
    `server_password`.
    """
    found: dict[str, Account] = {}
    taken: set[str] = set()
    for row in rows:
        name = row.text("username")
        if not name or row.text("active") in ("0", "False"):
            row.line.dropped("active = 0: ProxySQL does not use it" if name else "it has no name")
            continue
        account = found.setdefault(name, Account(name, {}, []))
        account.lines.append(row.line)
        _password(row, account, taken)
        _keys(row, account.keys)
        row.line.carried("[[user]]")
    return [one for one in found.values() if _can_log_in(one)]


def _password(row: Row, account: Account, taken: set[str]) -> None:
    is_front = row.text("frontend") not in ("0", "False")
    is_back = row.text("backend") not in ("0", "False")
    is_hash = _HASH.fullmatch(row.text("password")) is not None
    if is_front:
        key = "password_hash" if is_hash else "password"
    elif is_back and not is_hash:
        key = "server_password"
    else:
        row.line.dropped("a hash logs in to no server: set server_password", "password")
        return
    variable = _free(account.name + ("" if is_front else "_SERVER"), taken)
    account.keys[key] = {"env": variable}
    row.line.changed(f"not copied: it is asked for in ${variable}", "password")


def _free(name: str, taken: set[str]) -> str:
    wanted = _VARIABLE + re.sub(r"[^A-Z0-9]", "_", name.upper())
    variable, number = wanted, 2
    while variable in taken:
        variable, number = f"{wanted}_{number}", number + 1
    taken.add(variable)
    return variable


def _keys(row: Row, keys: Keys) -> None:
    if schema := row.text("default_schema"):
        keys["schema"] = schema
    limit = row.number("max_connections", default=_NO_LIMIT)
    if 0 < limit < _NO_LIMIT:
        keys["max_connections"] = limit
    for name, why in _NOTES.items():
        if row.text(name) in ("1", "True"):
            row.line.dropped(why, name)


_NOTES: Final = {
    "use_ssl": "ATTENTION, nothing demands TLS of this account's clients: [tls] with required ="
    " true demands it of a service's",
    "fast_forward": "a service in relay mode is what fast_forward is: its clients log in at the"
    " database itself",
    "schema_locked": "an account may change its schema as far as its GRANTs let it",
}


def _can_log_in(account: Account) -> bool:
    if "password" in account.keys or "password_hash" in account.keys:
        return True
    for line in account.lines:
        line.dropped("no client can log in with it: it is a backend's only")
    return False
