"""A page of Markdown with pictures, written as Markdown and as one HTML file."""

import base64
import io
import pathlib
import re

import matplotlib
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from files import write_whole

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { max-width: 62rem; margin: 0 auto; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1, h2, h3 { line-height: 1.2; margin: 2em 0 .5em; }
h1:first-child { margin-top: .5em; }
h1 + h2 { margin-top: .5em; }
.wide { overflow-x: auto; margin: 1em 0; }
table { border-collapse: collapse; font-size: .9em; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .3em .7em; text-align: left; border-bottom: 1px solid var(--line); }
th { vertical-align: bottom; min-width: 4em; }
td { white-space: nowrap; }
pre { padding: .7em; overflow-x: auto; background: var(--soft); border-radius: .4em; font-size: .85em; }
figure { margin: 1em 0; }
figure svg, figure img { display: block; height: auto; max-width: 100%; min-width: min(34rem, 100%); }
figure img { background: white; border-radius: .4em; }
figcaption { font-size: .9em; opacity: .8; }
@media (max-width: 40rem) { figure svg, figure img { min-width: 34rem; max-width: none; } }
@media print { body { max-width: none; } h2, h3 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def text(words: str) -> str:
    """Returns words so that Markdown shows them as they are."""
    return re.sub(r"([\\`*_{}\[\]<>|~&])", r"\\\1", str(words)).replace("\n", " ")


class Page:
    """Collects the parts of a page.

    Attributes:
        title: the first heading.
    """

    def __init__(self, title: str):
        self.title = title
        self._parts = [f"# {text(title)}"]
        self._pictures: dict[str, tuple[bytes, str]] = {}  # file -> content, caption

    def add(self, *parts: str) -> None:
        """Adds headings, paragraphs or tables in Markdown; empty ones are left out."""
        self._parts += [part for part in parts if part]

    def picture(self, figure: Figure, caption: str) -> None:
        """Adds a picture. A figure of lines becomes SVG, a figure with images PNG."""
        kind = "png" if any(axes.images for axes in figure.axes) else "svg"
        content, name = io.BytesIO(), f"{len(self._pictures) + 1}.{kind}"
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
            figure.savefig(content, format=kind, dpi=120, metadata=metadata)
        self._pictures[name] = content.getvalue(), caption
        self._parts.append(f"![{text(caption)}]({name})")

    def write(self, html: pathlib.Path, markdown: pathlib.Path) -> None:
        """Writes the HTML file, the Markdown file, and the Markdown file's pictures beside it."""
        source = "\n\n".join(self._parts) + "\n"
        for name, (content, _) in self._pictures.items():
            write_whole(markdown.parent / name, content)
        write_whole(markdown, source)
        body = MarkdownIt("commonmark", {"html": False}).enable("table").render(source)
        body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
        body = re.sub(r'<p><img src="([0-9]+\.(?:png|svg))" alt="([^"]*)" /></p>', self._inline, body)
        title = body[body.index("<h1>") + 4 : body.index("</h1>")]
        write_whole(html, PAGE.format(title=title, style=STYLE, body=body))

    def _inline(self, found: re.Match) -> str:
        """Returns the HTML of a picture with its bytes inside."""
        name, caption = found.groups()
        content = self._pictures[name][0]
        if name.endswith("png"):
            inside = f'<img alt="{caption}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'
        else:
            inside = themed(content.decode(), caption)
        return f'<figure><div class="wide">{inside}</div><figcaption>{caption}</figcaption></figure>'


def themed(svg: str, caption: str) -> str:
    """Returns an SVG whose black is the page's text colour and whose white is transparent."""
    svg = svg[svg.index("<svg") :]
    svg = svg.replace("fill: #ffffff", "fill: none").replace("#000000", "currentColor")
    svg = re.sub(r"<text ", '<text fill="currentColor" ', svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{caption}" ', 1)
