"""The demo's table: figures in, text out."""

from __future__ import annotations

import io

from portside.demo.client import Figures
from portside.demo.report import (
    PathResult,
    ServiceResult,
    error_text,
    final_table,
    live_table,
    plain_line,
    share_text,
)
from rich.console import Console

READ = ServiceResult(
    "read",
    Figures(sessions_per_s=1234.4, sessions_failed=3, p50_us=1500, p99_us=20_500),
    {"db1": 5, "db2": 46, "db3": 49},
    {"db1": 1, "db2": 10, "db3": 10},
)


def _text(renderable: object) -> str:
    output = io.StringIO()
    Console(file=output, width=160).print(renderable)
    return output.getvalue()


def test_share_stands_beside_the_weight():
    assert share_text(READ) == "db1 5.0% (4.8)  db2 46.0% (47.6)  db3 49.0% (47.6)"


def test_a_server_without_a_session_is_shown_too():
    result = ServiceResult("write", Figures(), {}, {"db1": 1})
    assert share_text(result) == "db1 0.0% (100.0)"


def test_direct_has_no_weights():
    assert share_text(ServiceResult("read", Figures(), {"db2": 7})) == "db2 100.0%"


def test_table_has_figures_aborted_clients_and_time_wait_per_host():
    path = PathResult("Portside", [READ], 2, {"web": 1, "proxy": 20_000, "db": 3})
    text = _text(final_table([path]))
    for part in ("Portside", "1,234", "1.5", "20.5", "+2", "1 / 20,000 / 3"):
        assert part in text


def test_no_time_wait_column_on_loopback():
    assert "TIME_WAIT" not in _text(final_table([PathResult("direct", [READ], 0, None)]))


def test_live_views_name_path_rate_and_errors():
    assert "direct: 4 s left" in _text(live_table("direct", [READ], 4.2))
    assert plain_line("direct", [READ]) == "direct: read 1,234/s, 3 errors"


def test_errors_keep_kind_number_and_text():
    errors = [{"kind": "local", "errno": 99, "text": "Cannot assign", "count": 1200}]
    assert error_text(Figures(errors=errors)) == ["1,200 x local 99: Cannot assign"]
