"""The screen of ``portside top``: draws boards, listens to keys, asks before it acts.

Decides nothing about an instance: what is shown comes from ``boards``, its order from ``order``,
what a key does from ``actions``; every look and every verb happens in another thread, so that a
slow or vanished instance never holds the screen up. Flow: ``Feed`` -> ``Seen`` or ``Lost`` ->
``_draw``.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import ClassVar

from rich.text import Text
from textual import events, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import DataTable, Input, Static

from portside.admin.client import AdminClient
from portside.cli.show import duration
from portside.errors import PortsideError
from portside.top import actions, boards, order
from portside.top.boards import NAMES
from portside.top.dialogs import Ask, Choose, Confirm, Help
from portside.top.feed import Feed, act
from portside.top.frames import Frame, History
from portside.top.order import Board, Line, Order
from portside.top.table import LineTable

SAID_S = 10.0
"""How long a sentence stands: long enough to be read twice."""
MOST_LINES = 500
"""Drawn at a time: more take so long each second that keys feel it."""
KEYS = "1-5 view  s sort  / filter  d drain  m maint  r ready  w weight  ? keys  q quit"


@dataclass
class Seen(Message):
    """A look that was answered."""

    view: str
    frame: Frame


@dataclass
class Lost(Message):
    """A look that was not."""

    reason: str


@dataclass
class Said(Message):
    """What a verb has done, or why not."""

    text: str
    good: bool


class Top(App[None]):
    """The live view of one instance.

    Args:
        client: of the instance; it has answered once.
        first: that answer.
        every_s: the time between two looks.
        ascii_only: the terminal cannot show the blocks of the strips.
    """

    ENABLE_COMMAND_PALETTE = False
    CSS_PATH = "top.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(at), f"view('{name}')") for at, name in enumerate(NAMES, 1)),
        Binding("tab", "turn(1)", priority=True),
        Binding("shift+tab", "turn(-1)", priority=True),
        Binding("s", "sort"),
        Binding("S", "reverse"),
        Binding("slash", "filter"),
        Binding("escape", "unfilter"),
        Binding("z", "hold"),
        *(Binding(key, f"verb('{key}')") for key in actions.VERBS),
        Binding("w", "weight"),
        Binding("question_mark,h", "help"),
        Binding("q", "quit"),
        Binding("ctrl+c", "quit", priority=True),
    ]

    def __init__(
        self, client: AdminClient, first: Frame, every_s: float, *, ascii_only: bool = False
    ) -> None:
        super().__init__()
        self._client = client
        self._history = History()
        self._history.add(first)
        self._frame = first
        self._heard = time.monotonic()
        self._view = NAMES[0]
        self._orders = {name: Order() for name in NAMES}
        self._makes = boards.views(ascii_only=ascii_only)
        self._board = Board((), ())
        self._lines: list[Line] = []
        self._found = 0
        """Lines that the filter left; the first ``MOST_LINES`` of them are ``_lines``."""
        self._lost = ""
        self._said = (float("-inf"), Text())
        self._held = False
        self._feed = Feed(
            client,
            every_s,
            lambda view, frame: self._post(Seen(view, frame)),
            lambda reason: self._post(Lost(reason)),
        )

    def compose(self) -> ComposeResult:
        """Lines of text round a table."""
        for name in ("head", "alerts", "views"):
            yield Static(id=name, markup=False)
        yield LineTable()
        yield Static(id="detail", markup=False)
        yield Input(id="filter", placeholder="words that a line must hold; Esc ends the filter")
        yield Static(id="said", markup=False)
        yield Static(KEYS, id="keys", markup=False)

    def on_mount(self) -> None:
        """Draws what is known and begins to look."""
        self._table.focus()
        self._take(self._view)
        self._feed.start()
        self.set_interval(1.0, self._draw_said)

    def on_unmount(self) -> None:
        """Ends the feed."""
        self._feed.stop()

    def _post(self, message: Message) -> None:
        # From another thread; when the screen has just ended there is nobody to tell.
        if self.is_running:
            self.post_message(message)

    @property
    def _table(self) -> LineTable:
        return self.query_one(LineTable)

    @property
    def _line(self) -> Line | None:
        at = self._table.cursor_row
        return self._lines[at] if 0 <= at < len(self._lines) else None

    # ---- what comes in

    def on_seen(self, message: Seen) -> None:
        """Takes a frame."""
        news = "It answers again." if self._lost else ""
        self._lost = ""
        self._heard = time.monotonic()
        if self._history.add(message.frame):
            news = f"The instance was started anew; its pid is {message.frame.status['pid']}."
        if news:
            self._say(news, "green")
        if not self._held:
            self._frame = message.frame
            self._take(message.view)

    def on_lost(self, message: Lost) -> None:
        """Keeps what was seen last and says since when it is old."""
        self._lost = message.reason
        self._draw_texts()

    def on_said(self, message: Said) -> None:
        """Shows a verb's sentence and what has become of the instance."""
        self._say(message.text, "green" if message.good else "bold red")
        self._feed.show(self._view)

    def _say(self, text: str, style: str = "") -> None:
        self._said = (time.monotonic(), Text(text, style))
        self._draw_said()

    def _take(self, view: str) -> None:
        # An answer to a view that has been left meanwhile has no rows for the present one.
        if view == self._view:
            self._board = self._makes[view](self._frame, self._history.rates())
            by = self._orders[view]
            if by.column is not None and by.column >= len(self._board.columns):
                self._orders[view] = replace(by, column=None)  # a reload took the pools away
            self._draw()

    # ---- what is drawn

    def on_resize(self, _: events.Resize) -> None:
        """Fits the columns anew."""
        self._draw()

    def _draw(self) -> None:
        if not self.query(LineTable):  # resized before it is there
            return
        found = order.arrange(self._board, self._orders[self._view])
        self._lines, self._found = found[:MOST_LINES], len(found)
        # One column is the scrollbar's.
        widths = order.fit(replace(self._board, lines=tuple(self._lines)), self.size.width - 1)
        by = self._orders[self._view]
        self._table.show_lines(self._view, self._board, self._lines, by, widths)
        self._draw_texts()

    def _draw_texts(self) -> None:
        status = self._frame.status
        stale = "dim" if self._lost else ""
        head = boards.headline(status, self._history.rates())
        self._write("head", Text(head, stale))
        alerts = status["alerts"]
        more = f"  (+{len(alerts) - 1})" if len(alerts) > 1 else ""
        room = max(10, self.size.width - len(more))
        text = order.clip(f"! {alerts[0]}", room).rstrip() + more if alerts else "no alerts"
        self._write("alerts", Text(text, stale or ("bold red" if alerts else "green")))
        self._write("views", self._views())
        self._draw_detail()
        self._draw_said()

    def _views(self) -> Text:
        by = self._orders[self._view]
        text = Text()
        for at, name in enumerate(NAMES, 1):
            text.append(f" {at} {name} ", "reverse" if name == self._view else "")
        if by.words:
            text.append(f"  / {by.words}", "yellow")
        if self._found > len(self._lines):
            text.append(f"  first {len(self._lines)} of {self._found:,}", "yellow")
        if self._held:
            text.append("  held: z goes on", "yellow")
        return text

    def _draw_detail(self) -> None:
        line, by = self._line, self._orders[self._view]
        if self._lost:
            text = self._lost
        elif line is not None:
            text = line.detail
        elif by.words and self._board.lines:
            text = f"No line holds: {by.words}. Esc ends the filter."
        else:
            text = self._board.empty
        self._write("detail", Text(text))

    def _draw_said(self) -> None:
        moment, said = self._said
        if self._lost:
            ago = duration(time.monotonic() - self._heard)
            said = Text(f"No answer for {ago}, trying again.", "bold red")
        elif time.monotonic() - moment > SAID_S:
            said = Text()
        self._write("said", said)

    def _write(self, name: str, text: Text) -> None:
        if name != "detail":  # the only one with room for more than a line
            text.truncate(max(1, self.size.width), overflow="ellipsis")
        self.query_one(f"#{name}", Static).update(text)

    def on_data_table_row_highlighted(self, _: DataTable.RowHighlighted) -> None:
        """Says more about the line under the cursor."""
        self._draw_detail()

    # ---- keys

    def action_view(self, name: str) -> None:
        """Opens a view; its rows come with the next look, which is made at once."""
        if name == self._view:
            return
        self._view = name
        self._held = False
        self._close_filter()
        # What the status tells is there already; other rows were not asked for yet.
        known = self._makes[name](self._frame, self._history.rates())
        self._board = replace(known, empty="Asking the instance.")
        self._draw()
        self._feed.show(name)

    def action_turn(self, step: int) -> None:
        """Opens the next view, or the one before."""
        if len(self.screen_stack) == 1:
            self.action_view(NAMES[(NAMES.index(self._view) + step) % len(NAMES)])

    def action_sort(self) -> None:
        """Sorts by the next column on the screen; after the last as the instance tells it."""
        self._sort(self._orders[self._view].next_column(len(self._board.columns)))

    def action_reverse(self) -> None:
        """Turns the order round."""
        by = self._orders[self._view]
        self._sort(replace(by, descending=not by.descending))

    def _sort(self, by: Order) -> None:
        self._orders[self._view] = by
        way = ", descending" if by.descending else ""
        name = "as the instance tells it" if by.column is None else "by "
        if by.column is not None:
            name += self._board.columns[by.column].head
        self._say(f"Sorted {name}{way}.")
        self._draw()

    def action_filter(self) -> None:
        """Opens the field for the filter."""
        field = self.query_one("#filter", Input)
        field.display = True
        field.value = self._orders[self._view].words
        field.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filters while it is typed."""
        if event.input.id == "filter" and event.input.display:
            self._set_words(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keeps the filter."""
        if event.input.id == "filter":
            self._close_filter()

    def action_unfilter(self) -> None:
        """Ends the filter."""
        self._close_filter()
        self._set_words("")

    def _close_filter(self) -> None:
        self.query_one("#filter", Input).display = False
        self._table.focus()

    def _set_words(self, words: str) -> None:
        self._orders[self._view] = replace(self._orders[self._view], words=words)
        self._draw()

    def action_hold(self) -> None:
        """Holds the screen still, or lets it go on."""
        self._held = not self._held
        self._draw_texts()

    def action_help(self) -> None:
        """Shows every key."""
        self.push_screen(Help())

    # ---- verbs

    @work
    async def action_verb(self, key: str) -> None:
        """Asks, and does what ``key`` stands for to the line under the cursor."""
        found = actions.action(key, self._line, self._frame.status)
        if isinstance(found, str):
            self._say(found, "yellow")
            return
        await self._confirm(found)

    @work
    async def action_weight(self) -> None:
        """Asks for a weight, asks again, and sets it."""
        found = actions.members(self._line, self._frame.status)
        if not found:
            self._say("w sets the weight of a server in a service: choose a line of one.", "yellow")
            return
        names = list(found)
        name: str | None = names[0]
        if len(names) > 1:
            name = await self.push_screen_wait(Choose("The weight in which service?", names))
        if name is None:
            return
        row = found[name]
        question = f'Weight of {name} (now {row["weight"]}, file {row["file_weight"]}), or "file":'
        given = await self.push_screen_wait(Ask(question, str(row["weight"])))
        if given is None:
            return
        try:
            wanted = actions.weight(name, row, given)
        except PortsideError as error:
            self._say(str(error), "bold red")
            return
        await self._confirm(wanted)

    async def _confirm(self, wanted: actions.Action) -> None:
        if await self.push_screen_wait(Confirm(wanted.question)):
            self._say(f"portside {wanted.verb} {' '.join(wanted.args)}: asked for")
            threading.Thread(target=self._do, args=(wanted,), daemon=True).start()
        else:
            self._say("Nothing was changed.")

    def _do(self, wanted: actions.Action) -> None:
        try:
            said = Said(act(self._client, wanted.verb, wanted.args), True)
        except PortsideError as error:
            said = Said(str(error), False)
        self._post(said)
