"""The documentation's site: every page has a place in it, and it builds without a warning."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"


def test_every_page_is_in_the_menu_once():
    menus = re.findall(r"```\{toctree\}\n(?::.*\n)*\n((?:\w+\n)+)```", (DOCS / "index.md").read_text())
    listed = [name for menu in menus for name in menu.split()]
    assert sorted(listed) == sorted(path.stem for path in DOCS.glob("*.md") if path.stem != "index")


@pytest.mark.slow
def test_the_site_builds_and_its_pages_link_to_each_other(tmp_path):
    if importlib.util.find_spec("sphinx") is None or importlib.util.find_spec("myst_parser") is None:
        pytest.skip("Sphinx is not installed: pip install -e '.[docs]'")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", tmp_path / "site"]
    built = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    pages = {path.name: path.read_text() for path in (tmp_path / "site").glob("*.html")}
    for name, text in pages.items():
        links = {re.split("[#?]", link)[0] for link in re.findall(r'href="([^":]+)"', text)}
        missing = [link for link in links if link and not (tmp_path / "site" / link).exists()]
        assert not missing, name
    assert "models.Outputs" in pages["api.html"]
    assert "SoftLogits" in pages["methods.html"]
    assert "searchindex.js" in pages["search.html"]
