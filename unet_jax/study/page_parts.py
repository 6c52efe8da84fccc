"""Parts of a study's HTML pages: the document with its policy, tables that can be sorted, pictures, folded sections."""

from collections.abc import Iterable, Sequence
from html import escape

from unet_jax.report.inline import data_url, script_hash
from unet_jax.study.page_style import SORTING, STYLE

_HASH = script_hash(SORTING)
_POLICY = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_HASH}'"
"""Policy of the page: nothing from elsewhere, and no script but the one that sorts tables."""


def document(title: str, verdict: str, facts: Sequence[tuple[str, str]], sections: Sequence[tuple[str, str]]) -> str:
    """Return a whole page.

    Args:
      title: title of the page, as text.
      verdict: conclusion of the study, as text.
      facts: pairs of text for the table at the top.
      sections: headings as text, and their content as HTML.
    """
    contents = "".join(f'<li><a href="#s{i}">{escape(name)}</a></li>' for i, (name, _) in enumerate(sections))
    cells = "".join(f'<tr><td class="left">{escape(a)}</td><td class="left">{escape(b)}</td></tr>' for a, b in facts)
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict">{escape(verdict)}</p>',
        f'<div class="wide"><table>{cells}</table></div>',
        f"<nav><ul>{contents}</ul></nav>",
        *(f'<h2 id="s{i}">{escape(name)}</h2>\n{content}' for i, (name, content) in enumerate(sections)),
        f"<script>{SORTING}</script>",
    ]
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{escape(title)}</title><style>{STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: bool = False) -> str:
    """Return a table that a click on a heading sorts; a verdict in the last column gets its colour."""
    kind = ' class="left"' if left else ""
    head = "<tr>" + "".join(f"<th{kind}>{escape(cell)}</th>" for cell in header) + "</tr>"
    lines = []
    for row in rows:
        *cells, last = (escape(str(cell)) for cell in row)
        last_kind = kind or (f' class="{last}"' if last in ("better", "worse", "unclear") else "")
        cells = [f"<td{kind}>{cell}</td>" for cell in cells]
        lines.append("<tr>" + "".join(cells) + f"<td{last_kind}>{f'<code>{last}</code>' if left else last}</td></tr>")
    body = "\n".join(lines)
    return f'<div class="wide"><table class="sort"><thead>{head}</thead>\n<tbody>{body}</tbody></table></div>'


def picture(png: bytes, alt: str) -> str:
    """Return a picture that is part of the page."""
    return f'<img alt="{escape(alt)}" src="{data_url("image/png", png)}">'


def folded(name: str, content: str, *, is_open: bool = False) -> str:
    """Return content that a click shows or hides."""
    return f"<details{' open' if is_open else ''}><summary>{escape(name)}</summary>\n{content}\n</details>"


def note(text: str) -> str:
    """Return a paragraph in small print, of text."""
    return f'<p class="note">{escape(text)}</p>'


def listed(lines: Iterable[str]) -> str:
    """Return a list of sentences in small print."""
    return '<ul class="note">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"
