"""What a reload changes, in words, and what it may not change. Pure."""

from __future__ import annotations

from portside.config.model import Config, Table


def changes(old: Config, new: Config) -> tuple[str, ...]:
    """What a reload changes, one text per server, service, user or table; empty if nothing does."""
    found: list[str] = []
    for what, before, after in (
        ("server", {s.name: s for s in old.servers}, {s.name: s for s in new.servers}),
        ("service", {s.name: s for s in old.services}, {s.name: s for s in new.services}),
        ("user", {u.name: u for u in old.users}, {u.name: u for u in new.users}),
    ):
        gone = "no new logins" if what == "user" else "it drains"
        found += [f"{what} {name}: added" for name in after if name not in before]
        found += [f"{what} {name}: removed ({gone})" for name in before if name not in after]
        for name in after:
            if name in before and before[name] != after[name]:
                keys = _changed_keys(before[name], after[name])
                found.append(f"{what} {name}: {', '.join(keys)} changed")
    for table in ("portside", "admin", "metrics", "log"):
        if getattr(old, table) != getattr(new, table):
            keys = _changed_keys(getattr(old, table), getattr(new, table))
            found.append(f"[{table}]: {', '.join(keys)} changed")
    return tuple(found)


def _changed_keys(before: Table, after: Table) -> list[str]:
    fields = type(after).model_fields
    return [
        (field.alias or name)
        for name, field in fields.items()
        if getattr(before, name) != getattr(after, name)
    ]


NEEDS_RESTART: tuple[tuple[str, str], ...] = (
    ("portside", "workers"),
    ("admin", "socket"),
    ("admin", "listen"),
    ("metrics", "listen"),
)
"""(table, attribute) that a reload refuses to change."""


def restart_mistakes(old: Config, new: Config) -> tuple[str, ...]:
    """What ``new`` changes that only a restart can; a reload with any of these is refused."""
    return tuple(
        f"[{table}] {attribute} cannot change on reload "
        f"(now {getattr(getattr(old, table), attribute)}, "
        f"new {getattr(getattr(new, table), attribute)}); restart Portside for it"
        for table, attribute in NEEDS_RESTART
        if getattr(getattr(old, table), attribute) != getattr(getattr(new, table), attribute)
    )
