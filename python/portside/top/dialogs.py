"""What ``portside top`` asks before it changes something, and its page of keys."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static


class Confirm(ModalScreen[bool]):
    """One sentence; only y is a yes, so that a hand that slips changes nothing."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes"),
        Binding("n,escape,enter,q", "answer(False)", "no"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        """The sentence and the keys."""
        with Vertical(classes="dialog"):
            yield Static(self._question, markup=False)
            yield Static("y: do it    any of n, Esc, Enter: leave it", classes="hint", markup=False)

    def action_answer(self, yes: bool) -> None:
        """Ends it."""
        self.dismiss(yes)


class Ask(ModalScreen[str | None]):
    """One line of text; None when it is left with Esc."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "leave it")]

    def __init__(self, question: str, given: str) -> None:
        super().__init__()
        self._question, self._given = question, given

    def compose(self) -> ComposeResult:
        """The question above the field."""
        with Vertical(classes="dialog"):
            yield Static(self._question, markup=False)
            yield Input(self._given, select_on_focus=True)
            yield Static("Enter: go on    Esc: leave it", classes="hint", markup=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Ends it with what was typed."""
        self.dismiss(event.value.strip())

    def action_leave(self) -> None:
        """Ends it without."""
        self.dismiss(None)


class Choose(ModalScreen[str | None]):
    """One of a few names; None when it is left with Esc."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "leave it")]

    def __init__(self, question: str, names: list[str]) -> None:
        super().__init__()
        self._question, self._names = question, names

    def compose(self) -> ComposeResult:
        """The question above the names."""
        with Vertical(classes="dialog"):
            yield Static(self._question, markup=False)
            yield OptionList(*self._names, markup=False)
            yield Static("Enter: choose    Esc: leave it", classes="hint", markup=False)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Ends it with the name."""
        self.dismiss(self._names[event.option_index])

    def action_leave(self) -> None:
        """Ends it without."""
        self.dismiss(None)


HELP = """\
1 to 5, Tab   services, servers, ports, sessions, events
arrows, PgDn  move; what does not fit stands below the table
s, S          sort by the next column; the other way round
/             filter: lines that hold every word; Esc ends it
z             hold the screen still; again: go on

d m r         drain, maint, ready the server of the line
w             set its weight in a service (a number, or "file")
p             pause or resume the service of the line
k             cut the session of the line
              each asks first, and says what it would do

q             leave; the instance is not touched"""


class Help(ModalScreen[None]):
    """Every key."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,question_mark", "dismiss", "close")
    ]

    def compose(self) -> ComposeResult:
        """The page."""
        with Vertical(classes="dialog"):
            yield Static(HELP, markup=False)
