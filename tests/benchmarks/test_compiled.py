"""The table of everything that targets' compilers say, and the recipe of a row."""

import json

import pytest

import distiller
import models
import transfer
from benchmarks import compiled, everything
from configs.resolve import resolve
from registry import UserError
from studies import targets


def test_every_method_strategy_and_network_has_a_row():
    rows = everything.rows()
    assert rows.keys() >= {*distiller.names(), *(f"--transfer {name}" for name in transfer.names())}
    networks = {name for name in models.names() if name != "Projected" and not models.is_detector(name)}
    assert rows.keys() >= {f"{role} {name}" for role in ("student", "teacher") for name in networks}


@pytest.mark.parametrize("strategy", ["Offline", "Labels", "Mutual"])
def test_a_row_is_a_recipe_that_resolves(strategy, tmp_path):
    keys = {"student_arch": "CNN", "teacher_arch": "CNN", "distiller": "AT", "image_size": 16}
    config, notes = resolve(compiled.recipe(tmp_path, "cifar10", transfer=strategy, **keys))
    assert notes == []
    assert (bool(config.teacher_param), config.dataset) == (strategy == "Offline", "studies.stand_ins:cifar10")


def test_the_table_compares_with_softlogits_and_says_what_does_not_compile():
    facts = {"estimated_cycles": 1_000_000, "kernels": 200, "temporaries_bytes": 3 * 2**20}
    dear = {**facts, "estimated_cycles": 4_000_000, "kernels": 150}
    found = {"v5e:2x4": {"SoftLogits": facts, "AT": dear}, "h200": {"SoftLogits": facts, "AT": {"error": "no | way"}}}
    lines = everything.table(found).splitlines()
    assert lines[2] == "| SoftLogits | 1.00 | 1.00 | 3 MiB | 200 | 1.00 | 3 MiB |"
    assert lines[3] == "| AT | 4.00 | **4.00** | 3 MiB | no / way |  |  |"
    assert len(lines) == 4


def test_a_rows_failure_is_kept_and_the_page_is_written(tmp_path, monkeypatch):
    page = tmp_path / "accelerators.md"
    page.write_text(f"before\n{everything.BEGIN}\n{everything.END}\nafter\n")
    monkeypatch.setattr(everything, "FILE", tmp_path / "compiled.json")
    monkeypatch.setattr(everything, "PAGE", page)
    monkeypatch.setattr(everything, "ask", lambda flags: {"error": "it ends"})
    monkeypatch.setattr(targets, "compiler_is_here", lambda platform: platform == "gpu")
    assert everything.run("h200", ["AT"]) == 1
    assert json.loads(everything.FILE.read_text()) == {"h200": {"AT": {"error": "it ends"}}}
    assert "| AT |  |  |  | it ends |  |  |" in page.read_text()
    assert everything.run("h200", ["AT"]) == 0  # made already


@pytest.mark.parametrize(
    ("target", "row", "message"),
    [
        ("v5e", "AT", "Unknown target 'v5e'. Did you mean 'v5e:2x4'"),
        ("h200", "At", "Unknown row 'At'. Did you mean 'AT'"),
        ("v5e:2x4", "AT", "v5e:2x4 has a compiler of its own, which is not installed"),
    ],
)
def test_a_mistake_is_no_rows_failure(target, row, message, monkeypatch, tmp_path):
    monkeypatch.setattr(everything, "FILE", tmp_path / "compiled.json")
    monkeypatch.setattr(targets, "compiler_is_here", lambda platform: platform == "gpu")
    with pytest.raises(UserError, match=message):
        everything.run(target, [row])
    assert not everything.FILE.exists()
