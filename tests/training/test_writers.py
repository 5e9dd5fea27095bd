"""The progress line: redrawn on a terminal, and nothing else is ever written on it."""

import io

from training.writers import Clock, Progress

CLOCK = Clock(0.0, 5, 0, 0.0)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_on_a_terminal_is_redrawn_until_it_ends():
    out = Terminal()
    progress = Progress("run", 3, out=out)
    progress.end()
    assert out.getvalue() == ""
    progress._interval = 0
    for step in (1, 2):
        progress.show(step, CLOCK, {"loss": 1.0}, {})
    assert out.getvalue().count("\r") == 2
    assert "\n" not in out.getvalue()
    progress.end()
    progress.end()
    out.write("Something else.\n")
    progress.show(3, CLOCK, {"loss": 1.0}, {"top1": 50.0})
    progress.end()
    lines = out.getvalue().split("\n")
    assert [line.rpartition("\r")[2].split("  ")[1] for line in (lines[0], lines[2])] == ["2/3", "3/3"]
    assert lines[1] == "Something else."
    assert lines[3:] == [""]


def test_elsewhere_lines_are_appended():
    out = io.StringIO()
    progress = Progress("run", 2, out=out, interval=0)
    for step in (1, 2):
        progress.show(step, CLOCK, {"loss": 1.0}, {})
    progress.end()
    assert [line.split("  ")[1] for line in out.getvalue().splitlines()] == ["1/2", "2/2"]
