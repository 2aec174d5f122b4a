"""The page of ``--html``: the picture, the table and the sentences, self-contained. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from portside.lab.picture import svg
from portside.lab.report import About, html_rows, notes, sentences
from portside.lab.run import Result
from portside.lab.scale import Scale

_STYLE = """
body { font: 15px/1.5 Helvetica, Arial, sans-serif; color: #222; max-width: 1080px;
  margin: 2em auto; padding: 0 1em; background: #fff }
svg { width: 100%; height: auto }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 13px; width: 100% }
th, td { padding: 4px 8px; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child, td:first-child, th:nth-child(3), td:nth-child(3), th:last-child, td:last-child
  { text-align: left }
tr.ours { background: #e8f6f1 }
dt { font-weight: bold; margin-top: .6em }
dd { margin: 0 0 0 1.2em }
footer, .notes { color: #666; font-size: 13px }
"""


def html(results: Sequence[Result], scale: Scale, about: About) -> str:
    """One page that needs nothing else."""
    headings, rows = html_rows(results)
    head = "".join(f"<th>{escape(one)}</th>" for one in headings)
    body = "\n".join(
        f"<tr{' class=' + chr(34) + 'ours' + chr(34) if result.strategy.is_ours else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for result, row in zip(results, rows, strict=True)
    )
    said = "\n".join(f"<p>{escape(one)}</p>" for one in sentences(results, scale))
    small = "\n".join(f"<p>{escape(one)}</p>" for one in notes(results, scale))
    what = "\n".join(
        f"<dt>{escape(result.strategy.title)}</dt><dd>{escape(result.strategy.what)}</dd>"
        for result in results
    )
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>portside lab</title>
<style>{_STYLE}</style>
<h1>Source ports and TIME_WAIT, measured</h1>
{said}
{svg(results, scale, about)}
<h2>Each strategy under the same load</h2>
<p>web, proxy and db: the most TIME_WAIT sockets seen at a time on each host.</p>
<div class="wide"><table>
<tr>{head}</tr>
{body}
</table></div>
<div class="notes">{small}</div>
<h2>What they are</h2>
<dl>
{what}
</dl>
<footer><p>{escape(about.footer)}</p></footer>
</html>
"""
