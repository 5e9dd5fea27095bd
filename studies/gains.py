"""Writes the table of published gains in docs/choosing.md.

    python -m studies.gains

A gain is the top-1 of a method on a pair of networks less that of SoftLogits on this pair (RepDistiller's table). The
table has the mean over pairs of one family and over pairs of two families, for each row of `configs/published.py`.
"""

import pathlib
import re
import statistics

from configs import published
from studies import command
from studies.compare import markdown

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "choosing.md"
MARKS = "<!-- gains -->\n", "<!-- end -->"
LEAST = 2  # pairs
TITLES = ["method", "pairs of one family", "mean", "worst, best", "pairs of two families", "mean", "worst, best"]


def one_family(pair: str) -> bool:
    """Whether teacher and student of "TEACHER,STUDENT" are networks of one family."""
    teacher, student = (re.match("[A-Za-z]+", arch)[0] for arch in pair.split(","))
    return teacher == student


def gains() -> dict[str, tuple[list[float], list[float]]]:
    """Returns row of a table -> its gains on pairs of one family, and of two families; best mean first."""
    base = published.top1("SoftLogits")
    found = {}
    for table in published.TABLES:
        for name, row in table.rows.items():
            pairs = [(pair, top1) for pair, top1 in zip(table.pairs, row, strict=True) if top1 == top1 and pair in base]
            both = [[top1 - base[pair] for pair, top1 in pairs if one_family(pair) == same] for same in (True, False)]
            name += ", standardize=True" * ("standardize=True" in table.source)
            if name != "SoftLogits" and len(pairs) >= LEAST:
                found[name] = tuple(both)
    return dict(sorted(found.items(), key=lambda item: -statistics.mean(item[1][0])))


def _cells(values: list[float]) -> list[str]:
    if not values:
        return ["", "", ""]
    return [str(len(values)), f"{statistics.mean(values):+.2f}", f"{min(values):+.2f}, {max(values):+.2f}"]


def table() -> str:
    """Returns the table as Markdown."""
    return markdown(TITLES, [[name, *_cells(same), *_cells(other)] for name, (same, other) in gains().items()])


def page(text: str) -> str:
    """Returns the text of the page with today's table between its marks."""
    before, _, rest = text.partition(MARKS[0])
    return before + MARKS[0] + table() + "\n" + MARKS[1] + rest.partition(MARKS[1])[2]


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(PAGE.read_text()))


if __name__ == "__main__":
    command.call(command.parser(__doc__), main)
