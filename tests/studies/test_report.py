"""The report page on runs whose numbers are known."""

import json
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest
from test_explaining import TEACHER, disturbed

import data
from registry import UserError
from studies import report, report_page

CONFIG = {
    "dataset": "Digits",
    "data": "",
    "data_dir": "",
    "transfer": "Labels",
    "student_arch": "CNN",
    "student_options": {},
    "train_epoch": 2,
    "batch_size": 64,
    "seed": 0,
    "teacher_sha256": None,
}
SOFT = {"transfer": "Offline", "distiller": "SoftLogits", "teacher_arch": "CNN", "teacher_param": TEACHER}


def write_run(path: pathlib.Path, tops: dict[int, float], noise: float, **config) -> None:
    """Writes a finished run; `tops` is seed -> last top-1. The weights are the test teacher's with noise."""
    numbers = {"parameters": 1234, "seconds": 6.0, "steps": 36, "best_on": "test"}
    for seed, top1 in tops.items():
        folder = path / f"s{seed}"
        disturbed(folder / "last", noise, seed)
        terms = {"cross_entropy": 1.0, "share/cross_entropy": 0.25, "SoftLogits": 2.0, "share/SoftLogits": 0.75}
        rows = [
            {"kind": "train", "epoch": 1.0, "loss": 3.0, **(terms if config else {})},
            {"kind": "test", "epoch": 1.0, "top1": 50.0, "ece": 3.0},
            {"kind": "test", "epoch": 2.0, "top1": top1, "ece": 2.0},
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        own = {"last": {"epoch": 2}, "best": {"epoch": 2, "top1": top1 + 1}, **numbers}
        (folder / "summary.json").write_text(json.dumps(own))
    whole = {"last": {"epoch": 2}, "best": {"epoch": 2}, **numbers, "seeds": list(tops)}
    (path / "summary.json").write_text(json.dumps(whole))
    (path / "config.json").write_text(json.dumps({**CONFIG, **config}))
    (path / "env.json").write_text(json.dumps({"command": "python train_w_kd.py --a <b>", "devices": ["cpu"]}))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two runs that compare and one with another budget; the folder of their report."""
    root = tmp_path_factory.mktemp("runs")
    write_run(root / "labels", {0: 90.0, 1: 92.0, 2: 91.0}, 0.5)
    write_run(root / "soft_1", {1: 95.0, 2: 93.0, 3: 99.0}, 0.2, **SOFT)
    write_run(root / "longer", {0: 97.0}, 0.05, train_epoch=4)
    report.main([root / "labels", root / "soft_1", root / "longer"], root / "report", map="CAM")
    return root


def tables(markdown: str) -> list[list[list[str]]]:
    """Returns the tables of a page: rows of cells."""
    found = re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE)
    return [[[cell.strip() for cell in line.split("|")[1:-1]] for line in one.splitlines()] for one in found]


@pytest.mark.slow
def test_the_report_pairs_seeds_and_sets_other_budgets_apart(made):
    text = (made / "report" / "report.md").read_text()
    results, costs = tables(text)[:2]
    assert [row[0] for row in results[2:]] == ["labels", "soft\\_1"]
    soft = dict(zip(results[0], results[3], strict=True))
    assert soft["last top-1"] == "95.67 ± 3.06"
    # seeds 1 and 2: 95 - 92 and 93 - 91; t(0.975, 1) = 12.706, deviation 0.7071
    assert soft["against labels alone"] == "+2.50 ± 6.35 (n = 2)"
    assert soft["ECE"] == "2.00 ± 0.00"
    assert dict(zip(costs[0], costs[3], strict=True))["seconds a seed"] == "2.0"
    assert "Set apart, because these runs have another budget (train_epoch 4, not 2)." in text
    assert tables(text)[4][2][:2] == ["longer", "Labels"]


@pytest.mark.slow
def test_what_the_teacher_knows_is_counted_from_the_networks_answers(made):
    text = (made / "report" / "report.md").read_text()
    (counts,) = (table for table in tables(text) if table[0][1] == "teacher right, student wrong")
    test = data.load("Digits").test
    from studies.evaluation import answers

    teacher, student = (
        z.argmax(axis=1) == test.labels
        for z in answers([TEACHER, str(made / "labels" / "s0")], data.load("Digits"), ["", ""], "network")
    )
    assert counts[2] == ["labels", str((teacher & ~student).sum()), str((student & ~teacher).sum())]
    assert (teacher & ~student).any()


@pytest.mark.slow
def test_the_page_is_one_file_that_loads_nothing(made):
    page = (made / "report" / "index.html").read_text()
    assert "<script" not in page
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "--a &lt;b&gt;" in page
    assert page.count("<svg") == page.count("</svg>") > 2
    assert "#000000" not in page


@pytest.mark.slow
def test_a_browser_shows_the_page_at_400_pixels(made, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    page = (made / "report" / "index.html").read_text()
    page = re.sub(r"<meta http-equiv.*>", "", page).replace("<html", '<html style="width: 400px"', 1)
    count = """<script>
    const far = [...document.querySelectorAll("body *")].filter(e => !e.closest(".wide") || e.matches(".wide"))
        .filter(e => e.getBoundingClientRect().right > 400.5).map(e => e.tagName);
    const drawn = [...document.querySelectorAll("svg, img")].every(e => e.getBoundingClientRect().height > 50);
    document.body.innerHTML = "FAR " + far.join(",") + " DRAWN " + drawn;
    </script></body>"""
    (tmp_path / "narrow.html").write_text(page.replace("</body>", count))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    flags += ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,900"]
    ran = subprocess.run(
        [browser, *flags, "--dump-dom", f"file://{tmp_path}/narrow.html"], capture_output=True, text=True, timeout=120
    )
    assert "FAR  DRAWN true" in ran.stdout
    ran = subprocess.run(
        [browser, *flags, "--dump-dom", f"file://{made}/report/index.html"], capture_output=True, text=True, timeout=120
    )
    assert "Where they look" in ran.stdout
    assert ":CONSOLE" not in ran.stderr


@pytest.mark.slow
def test_a_teacher_that_has_moved_is_told_and_the_rest_is_reported(made, tmp_path):
    write_run(tmp_path / "soft", {0: 95.0}, 0.05, **{**SOFT, "teacher_param": str(tmp_path / "gone")})
    report.main([tmp_path / "soft"], tmp_path / "report", map="CAM")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "The teacher of soft is left out" in text
    assert "What the teacher knows" not in text


def test_mistakes_are_told_before_anything_is_written(tmp_path):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text("{}")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    cases = [
        ([tmp_path / "nothing"], tmp_path / "report", "holds no run"),
        ([tmp_path / "half"], tmp_path / "report", "is not finished"),
        ([tmp_path / "half", tmp_path / "half"], tmp_path / "report", "named twice"),
        ([tmp_path / "half"], tmp_path / "out", "something else than a report"),
    ]
    for runs, out, message in cases:
        with pytest.raises(UserError, match=message):
            report.main(runs, out)
    assert not (tmp_path / "report").exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_names_are_as_short_as_they_can_be():
    paths = [pathlib.Path(path) for path in ("/a/soft/run", "/a/hard/run", "/b/at")]
    assert report.names_of(paths[:2]) == ["soft/run", "hard/run"]
    assert report.names_of(paths[1:]) == ["run", "at"]


def test_words_are_shown_as_they_are():
    page = report_page.MarkdownIt("commonmark", {"html": False})
    words = r"a_b_c *x* <b> [l](u) `c` ~ & \ |"
    shown = page.render(report_page.text(words))
    for entity, letter in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        shown = shown.replace(entity, letter)
    assert shown == f"<p>{words}</p>\n"


def test_black_follows_the_page():
    figure = report.report_pictures.Figure()
    figure.subplots().plot([0, 1], [0, 1], color="black")
    page = report_page.Page("A page")
    page.picture(figure, "caption")
    assert page._pictures["1.svg"][0].count(b"#000000") > 3
    shown = report_page.themed(page._pictures["1.svg"][0].decode(), "caption")
    assert "#000000" not in shown
    assert "currentColor" in shown


def test_a_difference_without_common_seeds_is_none():
    rows = [np.array([90.0, 91.0]), np.array([92.0])]
    runs = [
        report.Run(type("Row", (), {"last": lambda self, values=values: values})(), {}, {}, seeds)
        for values, seeds in zip(rows, ([0, 1], [7]), strict=True)
    ]
    assert report.difference(runs[1], runs[0]) == "no common seed"
    assert report.difference(runs[0], runs[0]) == report.difference(runs[0], None) == ""
