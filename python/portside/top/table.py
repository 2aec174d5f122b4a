"""The table of ``portside top``: one line per row, and the chosen line stays chosen.

Redrawn every second, so it changes cells where it can and is made anew only when lines come, go or
change places. Knows widths and texts, nothing of what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text
from textual.coordinate import Coordinate
from textual.widgets import DataTable

from portside.top import order
from portside.top.order import Board, Line, Order


@dataclass(frozen=True)
class _Shape:
    """What the rows on the screen were made for; while it stays, only cells are changed."""

    view: str = ""
    heads: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


class LineTable(DataTable[Text]):
    """Shows the lines of one board at a time."""

    def __init__(self) -> None:
        super().__init__(id="table", cursor_type="row", cell_padding=0)
        self._shape = _Shape()

    def show_lines(
        self, view: str, board: Board, lines: Sequence[Line], by: Order, widths: Mapping[int, int]
    ) -> None:
        """Draws ``lines`` in the columns that ``widths`` names."""
        heads = tuple(order.head_of(board.columns, at, by, wide) for at, wide in widths.items())
        rows = [[_cell(board, line, at, wide) for at, wide in widths.items()] for line in lines]
        shape = _Shape(view, heads, tuple(line.key for line in lines))
        before, self._shape = self._shape, shape
        if shape == before:
            self._change(rows)
            return
        cursor, scroll = self.cursor_row, self.scroll_y
        chosen = before.keys[cursor] if 0 <= cursor < len(before.keys) else ""
        self.clear(columns=True)
        for head in heads:
            self.add_column(Text(head, "bold"), width=len(head) + order.GAP)
        self.add_rows(rows)
        if before.view == shape.view and shape.keys:
            # The same line stays chosen; when it is gone, the one that took its place.
            is_there = chosen in shape.keys
            self.move_cursor(row=shape.keys.index(chosen) if is_there else cursor, scroll=False)
            self.scroll_to(y=scroll, animate=False)

    def _change(self, rows: Sequence[Sequence[Text]]) -> None:
        for at, row in enumerate(rows):
            for column, cell in enumerate(row):
                where = Coordinate(at, column)
                if self.get_cell_at(where) != cell:
                    self.update_cell_at(where, cell)


def _cell(board: Board, line: Line, at: int, width: int) -> Text:
    field = line.fields[at]
    if field.draw is not None:
        return Text.assemble(*field.draw(width))
    text = order.clip(field.text, width, right=board.columns[at].right)
    return Text(text, field.style)
