"""Every method, strategy and network as a target's compiler sees it: the table of docs/accelerators.md, resumable.

Each row is a process of its own (`benchmarks.compiled`), because a compiler may end its process. `compiled.json` beside
this file has the rows that are made.
"""

import json
import pathlib
import re
import subprocess
import sys

import distiller
import models
import transfer
from files import write_whole
from registry import unknown
from studies.methods_table import NETWORKS
from studies.targets import Target

FILE = pathlib.Path(__file__).with_name("compiled.json")
PAGE = pathlib.Path(__file__).parent.parent / "docs" / "accelerators.md"
BEGIN, END = "<!-- every row -->", "<!-- end -->"
TARGETS = ("v5e:2x4", "h200")
DEAR = 3.0  # a row beyond so many times SoftLogits is marked
HEAD = "| | v5e: M cycles | times SoftLogits | temporaries | H200: kernels | times SoftLogits | temporaries |"
SECONDS = 1800  # the longest compilation


def rows() -> dict[str, list[str]]:
    """Name of a row -> the flags of `benchmarks.compiled`."""
    found = {"SoftLogits": []}
    for name in distiller.names():
        vit = ["--student_arch", "ViT_Ti", "--teacher_arch", "ViT_Ti"] if name in NETWORKS else []
        found[name] = ["--distiller", name, *vit]
    own = {"backbone": "ResNet8", "width": 64}  # SimKD's student ends in the teacher's classifier
    more = {"student_options": own, "init_head": "teacher", "freeze": "classifier"}
    found["SimKD"] += ["--student_arch", "Projected", "--more", json.dumps(more)]
    for name in transfer.names():
        found[f"--transfer {name}"] = ["--transfer", name]
    for name in models.names():
        if name != "Projected" and not models.is_detector(name):
            found[f"student {name}"] = ["--student_arch", name]
            found[f"teacher {name}"] = ["--teacher_arch", name]
    return found


def made() -> dict[str, dict]:
    """Target -> name of a row -> its facts, or {"error": a line}."""
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def run(target: str, only: list[str]) -> int:
    """Makes the rows of a target that are missing, and the table. Returns how many failed.

    Args:
        target: one of `TARGETS`.
        only: names of rows; empty: all.

    Raises:
        UserError: an unknown target or row, or the target's compiler is not installed.
    """
    failed, wanted = 0, rows()
    for kind, name, known in (("target", target, TARGETS), *(("row", name, wanted) for name in only)):
        if name not in known:
            raise unknown(kind, name, known)
    Target(target).check_compiler()
    for name, flags in wanted.items():
        found = made()
        if name in found.get(target, {}) or (only and name not in only):
            continue
        facts = ask(["--target", target, "--student_arch", "ResNet8", "--teacher_arch", "ResNet20", *flags])
        failed += "error" in facts
        found.setdefault(target, {})[name] = facts
        write_whole(FILE, json.dumps(found, indent=0, sort_keys=True) + "\n")
        print(f"{target} {name}: {facts.get('error') or 'compiles'}", flush=True)
    write(PAGE, BEGIN, END, table(made()))
    return failed


def ask(flags: list[str]) -> dict:
    """Calls `benchmarks.compiled` with these flags. Returns the facts, or {"error": a line}."""
    command = [sys.executable, "-m", "benchmarks.compiled", "--json", *flags]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, cwd=PAGE.parent.parent)
    except subprocess.TimeoutExpired:
        return {"error": f"takes more than {SECONDS} s to compile"}
    if not done.returncode:
        return json.loads(done.stdout.splitlines()[-1])
    lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
    errors = [line for line in lines if line.startswith("Error: ")]
    return {"error": (errors or lines)[-1].removeprefix("Error: ")[:200]}


def table(found: dict[str, dict]) -> str:
    """The rows that are made, as Markdown."""
    lines = [HEAD, "|---" * 7 + "|"]
    for name in rows():
        if not any(name in found.get(target, {}) for target in TARGETS):
            continue
        cells = []
        for target, key in zip(TARGETS, ("estimated_cycles", "kernels"), strict=True):
            cells += _cells(found.get(target, {}), name, key)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(rows: dict[str, dict], name: str, key: str) -> list[str]:
    """Number, its ratio to SoftLogits', temporaries."""
    facts, unit = rows.get(name), rows.get("SoftLogits", {}).get(key)
    if facts is None:
        return ["", "", ""]
    if "error" in facts:
        return [facts["error"].replace("|", "/"), "", ""]
    number = facts[key]
    ratio = number / unit if unit else float("nan")
    shown = f"{number / 1e6:.2f}" if key == "estimated_cycles" else f"{number}"
    mark = "**" if ratio > DEAR else ""
    return [shown, f"{mark}{ratio:.2f}{mark}", f"{facts['temporaries_bytes'] / 2**20:,.0f} MiB"]


def write(page: pathlib.Path, begin: str, end: str, text: str) -> None:
    """Writes the text between two lines of a page."""
    pattern = re.compile(rf"{begin}\n.*?{end}", re.DOTALL)
    page.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", page.read_text()))
