"""From one chip to a pod: the arithmetic of the prediction, the rows that resume, and the page."""

import json

import pytest

from benchmarks import everything, pods
from configs.resolve import resolve
from registry import UserError
from studies import targets

HERTZ = targets.KINDS["v5e"].hertz


def facts(milliseconds, count=0, size=0):
    own = {"all-reduce": {"count": count, "bytes": size}} if count else {}
    return {"estimated_cycles": milliseconds * 1e-3 * HERTZ, "collectives": own} | {
        "arguments_bytes": 10**8,
        "temporaries_bytes": 2 * 10**9,
    }


def test_a_predicted_update_computes_then_reduces():
    computing, reducing = pods.seconds(8, facts(20, count=36, size=24_000_000))
    assert computing == pytest.approx(0.020)
    # 2 * 7 / 8 of 24 MB at 200 GB/s, and 36 times there and back over 4 hops of a microsecond
    assert reducing == pytest.approx(2 * 7 / 8 * 24e6 / 200e9 + 36 * 8e-6)
    found = {"1 chip, 0": facts(20), "8 chips, 1": facts(24, count=1)}
    assert pods.efficiencies(found) == pytest.approx({"1 chip, 0": 1.0, "8 chips, 1": 20 / 24.008})
    assert pods.efficiencies({"8 chips, 1": facts(24)}) == {}


@pytest.mark.parametrize("name", pods.rows())
def test_a_row_is_a_recipe_with_128_images_a_chip(name):
    chips, group = pods.rows()[name]
    given = dict(zip(flags := pods.flags(chips, group), flags[1:], strict=False))
    recipe = {"dataset": f"studies.stand_ins:{given['--data']}", "batch_size": int(given["--batch_size"])}
    recipe |= {"transfer": "Labels", "student_arch": given["--student_arch"], **json.loads(given.get("--more", "{}"))}
    config, notes = resolve(recipe, (), chips)
    assert notes == []
    assert (config.batch_size, config.batch_norm_chips) == (128 * chips, group)
    assert config.batch_size <= 50_000


def test_rows_resume_and_the_page_has_table_and_picture(tmp_path, monkeypatch):
    for name in ("FILE", "PAGE", "PICTURE"):
        monkeypatch.setattr(pods, name, tmp_path / getattr(pods, name).name)
    pods.PAGE.write_text(f"before\n{pods.BEGIN}\n{pods.END}\nafter\n")
    monkeypatch.setattr(targets, "compiler_is_here", lambda platform: True)
    asked = []
    answers = iter([facts(20), {"error": "no | way"}, facts(25, count=2, size=10**6)])
    monkeypatch.setattr(everything, "ask", lambda flags: asked.append(flags) or next(answers))
    assert pods.main(["1 chip, 0", "8 chips, 0"], show=False) == 1
    assert pods.main(["8 chips, 0", "8 chips, 1"], show=False) == 0
    assert len(asked) == 3
    before, *lines, after = pods.PAGE.read_text().splitlines()
    assert (before, after) == ("before", "after")
    assert lines[3].endswith("| 100.0 % |")
    assert "no / way" in lines[4]
    assert "| 8 | each chip | 100 MB | 2,000 MB |" in lines[5]
    assert lines[5].endswith("| 79.9 % |")
    assert pods.PICTURE.stat().st_size > 1000
    with pytest.raises(UserError, match="Unknown row '8 chips'"):
        pods.main(["8 chips"], show=False)
