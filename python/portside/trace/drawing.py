"""Sample closes as the article draws them: arrows, what they carry, and the gaps between. Pure."""

from __future__ import annotations

from portside.trace.report import PairReport, Report
from portside.trace.tracker import Close

_MOST = 4


def drawings(report: Report, most: int = _MOST) -> list[list[str]]:
    """Sample closes as lines, the most frequent kinds first; the same arrows only once."""
    kinds = sorted(
        (
            (count, pair, close)
            for pair in report.pairs
            for close, count in pair.closes.items()
            if close in pair.samples
        ),
        key=lambda kind: -kind[0],
    )
    seen: set[tuple[tuple[bool, str], ...]] = set()
    drawn: list[list[str]] = []
    for count, pair, close in kinds:
        shape = tuple((step.from_client, step.what) for step in pair.samples[close].steps)
        if shape in seen or not shape:
            continue
        if len(drawn) == most:
            break
        seen.add(shape)
        drawn.append(_drawing(pair, close, count))
    return drawn


def _drawing(pair: PairReport, close: Close, count: int) -> list[str]:
    sample = pair.samples[close]
    lines = [
        f"{pair.client} port {sample.client_port} and {pair.server}: {close.text}"
        f" ({count:,} of {pair.ended:,} closes)"
    ]
    width = max(len(step.what) for step in sample.steps)
    before = sample.steps[0].time
    for number, step in enumerate(sample.steps):
        gap = f"+{1000 * (step.time - before):.2f} ms" if number else ""
        arrow = "==>" if step.from_client else "<=="
        lines.append(f"  {gap:>12}  client {arrow} {step.what:^{width}} {arrow} server")
        before = step.time
    lines.append(f"  {'':>12}  TIME_WAIT: {_STAYS[close.time_wait_at]}")
    return lines


_STAYS = {
    "client": "stays at the client, with its source port, for 60 s",
    "server": "stays at the server, which costs no source port",
    "both": "stays at both ends; the client's costs it a source port for 60 s",
    "nobody": "stays nowhere",
}
