"""From one chip to a pod: a distillation on 1 to 256 chips of a TPU v5e as its compiler sees it, resumable.

    python -m benchmarks.pods [--only "8 chips, 1"] [--show]

ResNet-34 to ResNet-18, SoftLogits, streamed images of 224x224, bfloat16, 128 images a chip. A row is a number of chips,
and how many of them share the statistics of a batch norm (`batch_norm_chips`; 0: all). `pods.json` beside this
file has the rows that are made. Each call makes the missing ones, then the table and the picture of docs/scale.md;
`--show` makes the table and the picture alone. The compiler is the extra `aot`.

The compiler gives cycles to all instructions but the all-reduces. So a predicted update takes

    cycles / (cycles a second) + 2 (n - 1) / n * bytes / BANDWIDTH + all-reduces * 2 * hops * HOP

seconds on n chips. Nothing in the sum runs at the same time, which is the worst case.
"""

import json
import pathlib

from benchmarks import everything
from files import write_whole
from registry import unknown
from studies import command, compare
from studies.targets import KINDS, Target

FILE = pathlib.Path(__file__).with_name("pods.json")
PAGE = everything.PAGE.with_name("scale.md")
PICTURE = PAGE.with_name("pods.png")
BEGIN, END = "<!-- pods -->", "<!-- end of pods -->"
IMAGES = 128  # of a chip
NETWORKS = ["--student_arch", "ResNet18", "--teacher_arch", "ResNet34"]
DATA = ["--data", "imagenet_part", "--image_size", "224"]
# Chips -> (target, hops of the longest way between two chips). Only a side of 16 chips is a ring.
SLICES = {1: ("v5e:2x4", 0), 8: ("v5e:2x4", 1 + 3), 64: ("v5e:8x8", 7 + 7), 256: ("v5e:16x16", 8 + 8)}
BANDWIDTH = 51.2e12 / 256  # bytes a second and chip: Google's "all-reduce bandwidth per pod", docs/scale.md
HOP = 1e-6  # seconds; docs/scale.md has the source
GROUPS = {0: "all chips", 1: "each chip"}


def rows() -> dict[str, tuple[int, int]]:
    """Name of a row -> (chips, batch_norm_chips)."""
    found = [(1, 0), *((chips, group) for chips in SLICES if chips > 1 for group in GROUPS)]
    return {f"{chips} chip{'s' * (chips > 1)}, {group}": (chips, group) for chips, group in found}


def flags(chips: int, group: int) -> list[str]:
    """The flags of `benchmarks.compiled` for a row."""
    more = ["--more", json.dumps({"batch_norm_chips": group})] if group else []
    size = ["--target", SLICES[chips][0], "--chips", str(chips), "--batch_size", str(IMAGES * chips)]
    return [*NETWORKS, *DATA, *size, *more]


def made() -> dict[str, dict]:
    """Name of a row -> its facts."""
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def reduced(facts: dict) -> dict[str, int]:
    """The "count" and the "bytes" of the all-reduces of an update; one chip has none."""
    return facts["collectives"].get("all-reduce", {"count": 0, "bytes": 0})


def seconds(chips: int, facts: dict) -> tuple[float, float]:
    """(computing, all-reduces) of a predicted update, in seconds."""
    own = reduced(facts)
    moved = 2 * (chips - 1) / chips * own["bytes"] / BANDWIDTH
    return facts["estimated_cycles"] / KINDS["v5e"].hertz, moved + own["count"] * 2 * SLICES[chips][1] * HOP


def efficiencies(found: dict[str, dict]) -> dict[str, float]:
    """Name of a row -> the time of an update on one chip, divided by its own; empty without the row of one chip."""
    times = {name: sum(seconds(rows()[name][0], facts)) for name, facts in found.items() if "error" not in facts}
    alone = times.get("1 chip, 0")
    return {name: alone / time for name, time in times.items()} if alone else {}


def table(found: dict[str, dict]) -> str:
    """The rows that are made, as Markdown."""
    titles = ["chips", "statistics of", "arguments", "temporaries", "M cycles", "all-reduces", "their bytes"]
    titles += ["computing", "reducing", "efficiency"]
    cells, shares = [], efficiencies(found)
    for name, (chips, group) in rows().items():
        facts = found.get(name)
        if facts is None:
            continue
        if "error" in facts:
            cells.append([chips, GROUPS[group], facts["error"].replace("|", "/"), *[""] * 7])
            continue
        own = reduced(facts)
        times = [f"{1e3 * part:.2f} ms" for part in seconds(chips, facts)]
        sizes = [f"{facts[f'{part}_bytes'] / 1e6:,.0f} MB" for part in ("arguments", "temporaries")]
        share = f"{100 * shares[name]:.1f} %" if name in shares else ""
        counts = [f"{facts['estimated_cycles'] / 1e6:.1f}", own["count"], f"{own['bytes'] / 1e6:.1f} MB"]
        cells.append([chips, GROUPS[group] if chips > 1 else "the chip", *sizes, *counts, *times, share])
    return compare.markdown(titles, cells)


def plot(found: dict[str, dict], path: pathlib.Path) -> None:
    """Draws the predicted efficiency over the chips, a line for each grouping of the statistics."""
    figure, axes = compare.figure(6)
    shares = efficiencies(found)
    for colour, (group, title) in zip(compare.COLOURS, GROUPS.items(), strict=False):
        points = [(c, shares[name]) for name, (c, own) in rows().items() if name in shares and (c == 1 or own == group)]
        axes.plot(*zip(*points, strict=True), "o-", color=colour, label=f"statistics of {title}")
    axes.axhline(0.9, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", xlabel="chips (v5e)", ylabel="predicted efficiency", ylim=(0, 1.05))
    axes.set_xticks(list(SLICES), [str(chips) for chips in SLICES])
    axes.minorticks_off()
    axes.legend(frameon=False, loc="lower left")
    figure.savefig(path, dpi=100)


def main(only: list[str], show: bool) -> int:
    """Makes the rows that are missing, the table and the picture; returns how many rows failed."""
    failed = 0
    for name in only:
        if name not in rows():
            raise unknown("row", name, rows())
    for name, row in rows().items():
        found = made()
        if show or name in found or (only and name not in only):
            continue
        Target(SLICES[row[0]][0]).check_compiler()
        facts = everything.ask(flags(*row))
        failed += "error" in facts
        write_whole(FILE, json.dumps({**found, name: facts}, indent=0, sort_keys=True) + "\n")
        print(f"{name}: {facts.get('error') or 'compiles'}", flush=True)
    everything.write(PAGE, BEGIN, END, table(made()))
    if efficiencies(made()):
        plot(made(), PICTURE)
    return failed


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("--only", type=lambda text: text.split(";"), default=[], help="these rows alone, joined by ;")
    parser.add_argument("--show", action="store_true", help="compile nothing")
    command.call(parser, main)
