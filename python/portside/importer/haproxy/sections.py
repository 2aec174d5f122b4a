"""haproxy.cfg as sections of statements: conditions decided, variables expanded, nothing lost.

Every line that is not empty and no comment is in a section's `lines`, also one that an `.if` takes
out; `statements` are those in force. What the words mean is not known here, but for `setenv` and
its kin in `global`, which change what the lines after them say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from portside.errors import Problem
from portside.importer.haproxy.conditions import Facts, NotPlain, holds
from portside.importer.haproxy.shown import shown
from portside.importer.haproxy.words import BadLine, split
from portside.importer.notes import Line

# MAX_LINE_ARGS of HAProxy.
_WORDS_MAX: Final = 64
# 64 words of 256 characters; without a bound a hostile file is slow to read.
_LINE_MAX: Final = 16_384
_NESTED_MAX: Final = 50
_KINDS: Final = frozenset(
    [
        "global",
        "defaults",
        "frontend",
        "backend",
        "listen",
        "peers",
        "resolvers",
        "mailers",
        "userlist",
        "ring",
        "cache",
        "program",
        "http-errors",
        "fcgi-app",
        "log-forward",
        "log-profile",
        "crt-store",
        "traces",
        "acme",
        "healthcheck",
        "haterm",
    ]
)


@dataclass(eq=False, slots=True)
class Statement(Line):
    """A line with its words; none where an `.if` took it out."""

    words: tuple[str, ...] = ()

    @property
    def keyword(self) -> str:
        """The first word."""
        return self.words[0] if self.words else ""


@dataclass(eq=False, slots=True)
class Section:
    """`frontend NAME` and what follows.

    Attributes:
        kind: the first word; "" for what stands before the first section.
        name: the second word, "" without one.
        base: the `defaults` named by `from`.
        head: the line that opens it.
        lines: every line below it, in order.
    """

    kind: str
    name: str
    base: str
    head: Statement
    lines: list[Statement] = field(default_factory=list)

    @property
    def statements(self) -> list[Statement]:
        """The lines in force."""
        return [line for line in self.lines if line.words]

    @property
    def title(self) -> str:
        """What a reader calls it."""
        return f"{self.kind} {self.name}".strip()


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading came to; with problems, the rest is only what could be understood."""

    sections: list[Section]
    problems: list[Problem]


def read(
    files: Iterable[tuple[str, str]], environment: Mapping[str, str], facts: Facts | None
) -> Reading:
    """The sections of some files, in their order.

    Args:
        files: name and text of each, as after each `-f`.
        environment: what variables stand for.
        facts: what a HAProxy here says of itself, for `.if feature(...)`.
    """
    reader = _Reader(dict(environment), facts)
    for name, text in files:
        reader.read_file(name, text)
    return Reading(reader.sections, reader.problems)


@dataclass(slots=True)
class _Block:
    """An `.if` that is open.

    `in_force` of the present branch; None where the condition cannot be decided (`why`).
    """

    opened: Statement
    outer: bool
    in_force: bool | None
    was_true: bool
    why: str


class _Reader:
    def __init__(self, environment: dict[str, str], facts: Facts | None) -> None:
        self.sections: list[Section] = []
        self.problems: list[Problem] = []
        self._environment, self._facts = environment, facts
        self._blocks: list[_Block] = []

    def read_file(self, name: str, text: str) -> None:
        self._section: Section | None = None
        for number, raw in enumerate(text.split("\n"), 1):
            stripped = raw.strip()
            if not stripped or stripped.startswith("#"):
                continue
            line = Statement(name, number, shown(stripped[:_LINE_MAX]))
            if len(raw) > _LINE_MAX:
                message = f"longer than {_LINE_MAX:,} characters: no line for HAProxy"
                self.problems.append(line.problem(message))
            else:
                self._line(line, raw)
        for block in self._blocks:
            self.problems.append(block.opened.problem("this .if has no .endif"))
        self._blocks.clear()

    def _line(self, line: Statement, raw: str) -> None:
        skipped = self._why_skipped()
        is_directive = raw.lstrip().startswith(".")
        if skipped and not is_directive:
            self._keep(line)
            line.dropped(skipped)
            return
        unset: set[str] = set()
        try:
            words = split(raw, self._environment, unset)
        except BadLine as error:
            if not skipped:
                problem = Problem(line.file, line.number, error.column, "", "", str(error))
                self.problems.append(problem)
            return
        if len(words) > _WORDS_MAX:
            self.problems.append(line.problem(f"more than {_WORDS_MAX} words, HAProxy's limit"))
            return
        if not words:
            return
        for name in sorted(unset):
            line.changed(f"${name} is not set here: taken as empty, as HAProxy does", f"${name}")
        if words[0].startswith("."):
            self._directive(line, words)
            return
        line.words = tuple(words)
        if words[0] in _KINDS:
            self._open(line)
        elif self._section is None:
            self.problems.append(line.problem(f'"{words[0]}" stands before the first section'))
        else:
            self._section.lines.append(line)
            if self._section.kind == "global":
                self._set_environment(line)

    def _keep(self, line: Statement) -> None:
        if self._section is None:
            self._section = Section("", "", "", line)
            self.sections.append(self._section)
        self._section.lines.append(line)

    def _open(self, line: Statement) -> None:
        words = list(line.words[1:])
        base = ""
        if "from" in words:
            at = words.index("from")
            base = words[at + 1] if at + 1 < len(words) else ""
            del words[at : at + 2]
        section = Section(line.keyword, words[0] if words else "", base, line)
        if section.kind in ("frontend", "backend", "listen") and not section.name:
            self.problems.append(line.problem(f"this {section.kind} has no name"))
        # `listen NAME ADDRESS`, as HAProxy 1 wrote it, is a section with a bind line.
        section.lines += [
            Statement(line.file, line.number, f"bind {word}", words=("bind", word))
            for word in words[1:]
        ]
        self.sections.append(section)
        self._section = section

    # ---- conditions

    def _why_skipped(self) -> str:
        """Why the present line is not in force; "" when it is."""
        for block in self._blocks:
            if block.in_force is None:
                return f"its .if (line {block.opened.number}) cannot be decided here: {block.why}"
            if not block.in_force:
                return f"not in force: the .if of line {block.opened.number} is not true"
        return ""

    def _directive(self, line: Statement, words: list[str]) -> None:
        keyword, expression = words[0], " ".join(words[1:])
        self._keep(line)
        if keyword == ".if" and len(self._blocks) >= _NESTED_MAX:
            self.problems.append(line.problem(f"more than {_NESTED_MAX} .if in each other"))
        elif keyword == ".if":
            outer = not any(not block.in_force for block in self._blocks)
            block = _Block(line, outer, False, False, "")
            self._blocks.append(block)
            if outer:
                self._decide(block, expression)
            line.carried("decided now, as HAProxy would at its start")
        elif keyword in (".elif", ".else", ".endif"):
            self._close_branch(line, keyword, expression)
        elif keyword in (".alert", ".warning", ".notice", ".diag"):
            if not any(not block.in_force for block in self._blocks):
                if keyword == ".alert":
                    self.problems.append(line.problem(f"the file itself says: {expression}"))
                line.dropped("a message of HAProxy's start")
            else:
                line.dropped(self._why_skipped())
        else:
            self.problems.append(line.problem(f'"{keyword}" is no directive of HAProxy'))

    def _close_branch(self, line: Statement, keyword: str, expression: str) -> None:
        if not self._blocks:
            self.problems.append(line.problem(f"this {keyword} has no .if"))
            return
        block = self._blocks[-1]
        line.carried("decided now, as HAProxy would at its start")
        if keyword == ".endif":
            self._blocks.pop()
        elif block.in_force is None or not block.outer:
            return  # what cannot be decided stays so in its other branches
        elif block.was_true:
            block.in_force = False
        elif keyword == ".else":
            block.in_force = block.was_true = True
        else:
            self._decide(block, expression)

    def _decide(self, block: _Block, expression: str) -> None:
        try:
            block.in_force = holds(expression, self._environment, self._facts)
        except NotPlain as reason:
            block.in_force, block.why = None, str(reason)
        block.was_true = bool(block.in_force)

    # ---- variables

    def _set_environment(self, line: Statement) -> None:
        keyword, *names = line.words
        if keyword in ("setenv", "presetenv") and len(names) >= 2:
            if keyword == "setenv" or names[0] not in self._environment:
                self._environment[names[0]] = names[1]
        elif keyword == "unsetenv":
            for name in names:
                self._environment.pop(name, None)
        elif keyword == "resetenv":
            kept = {name: self._environment[name] for name in names if name in self._environment}
            self._environment.clear()
            self._environment.update(kept)
        else:
            return
        line.carried("used while this file was read")
