"""The page itself: one HTML text with its styles and its few lines of script, that asks nobody for anything."""

from __future__ import annotations

import html
from collections.abc import Sequence

from .content import Section

__all__ = ["page"]

# with this a browser itself refuses whatever would leave the page
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'"

STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --soft: #6b7280; --paper: #f9fafb; --card: #ffffff; --line: #d1d5db;
  --accent: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e7eb; --soft: #9ca3af; --paper: #111827; --card: #1f2937;
  --line: #374151; --accent: #fb923c; } }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
main, header, nav { max-width: 72rem; margin: 0 auto; padding: 0 1rem; }
h1 { margin: 1.5rem 0 .25rem; font-size: 1.6rem; overflow-wrap: anywhere; }
h2 { margin: 0 0 .75rem; font-size: 1.2rem; }
h3 { margin: 1rem 0 .25rem; font-size: 1rem; }
nav { padding-top: .5rem; padding-bottom: .5rem; display: flex; flex-wrap: wrap; gap: .25rem .9rem; }
a { color: var(--accent); text-decoration: none; }
section { margin: 1rem 0; padding: 1rem; background: var(--card); border: 1px solid var(--line); border-radius: .6rem; }
ul { margin: .5rem 0; padding-left: 1.2rem; }
li, p { overflow-wrap: anywhere; }
.note { color: var(--soft); font-size: .9rem; }
.grid { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
.grid.small { grid-template-columns: repeat(auto-fit, minmax(min(100%, 13rem), 1fr)); }
.grid.wide { grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); }
figure { margin: 0; padding: .4rem; background: #ffffff; border-radius: .4rem; text-align: center; }
figure + .note { margin-top: .5rem; }
.grid + figure { margin-top: .75rem; }
img { max-width: 100%; height: auto; }
.scroll { overflow: auto; max-height: 32rem; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
th { position: sticky; top: 0; background: var(--card); }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--accent); }
td:last-child { text-align: left; }
pre { overflow: auto; font-size: .8rem; }
"""

SCRIPT = """
for (const image of document.images) {
  const shown = () => image.parentElement.classList.add(image.naturalWidth > 0 ? "shown" : "broken");
  if (image.complete) shown(); else { image.onload = shown; image.onerror = shown; }
}
for (const button of document.querySelectorAll("th button")) button.onclick = () => {
  const column = button.parentElement.cellIndex, body = button.closest("table").tBodies[0];
  const up = button.dataset.order !== "up";
  button.dataset.order = up ? "up" : "down";
  const key = row => { const text = row.cells[column].textContent, number = parseFloat(text);
    return isNaN(number) ? text : number; };
  const rows = [...body.rows].sort((one, other) => {
    const a = key(one), b = key(other);
    const order = typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
    return up ? order : -order;
  });
  body.append(...rows);
};
"""


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """A whole HTML document.

    Args:
        title: Heading and name of the page, as text.
        subtitle: A line below it, as text.
        sections: In order; the navigation links to each.
    """
    links = "".join(f'<a href="#{part.name}">{html.escape(part.title)}</a>' for part in sections)
    parts = "".join(
        f'<section id="{part.name}"><h2>{html.escape(part.title)}</h2>{part.body}</section>' for part in sections
    )
    name = html.escape(title)
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head><body><header><h1>{name}</h1>"
        f'<p class="note">{html.escape(subtitle)}</p></header><nav>{links}</nav><main>{parts}</main>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )
