"""Reads from the documentation's pages what tests can check: commands, links, files and tables."""

import functools
import importlib.util
import itertools
import pathlib
import re
import shlex
import subprocess
import sys

import data
import distiller
import explain
import models
import transfer
from configs import default

ROOT = pathlib.Path(__file__).parent.parent
PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
NAMES = {  # flag -> names that the library knows; "module:attribute" is somebody's own
    "distiller": distiller.names,
    "transfer": transfer.names,
    "dataset": data.names,
    "map": explain.names,
    "arch": models.names,
    "student_arch": models.names,
    "teacher_arch": models.names,
}
OTHERS = ("Direction", "Cosine", "ImageNet", "A", "B", "")  # what a reader makes, what only `convert` knows, stand-ins


def parts(page: str) -> tuple[str, str]:
    """(the prose of a page, its code blocks without a language: what a reader types)."""
    cut = re.split(r"^ *```(\w*)\n", PAGES[page], flags=re.MULTILINE)  # prose, language, block, "", prose, ...
    blocks = zip(cut[1::4], cut[2::4], strict=True)
    return "\n".join(cut[0::4]), "\n".join(block for language, block in blocks if not language)


def code(page: str, part: str) -> str:
    """The first Python block of a page that has `part` in it."""
    return next(block for block in re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL) if part in block)


def commands(page: str) -> list[list[str]]:
    """Each `python ...` of a page, in a block or between backticks, as words, from the program on."""
    prose, blocks = parts(page)
    texts = re.findall(r"(?:^|\s)python ((?:[^\n\\]|\\\n)*)", blocks)
    texts = [text.replace("\\\n", " ").partition("  #")[0] for text in texts]
    texts = [text[:-1] if text.count('"') % 2 else text for text in texts]  # the last one of a shell's own string
    texts += re.findall(r"`python ([^`]*)`", prose)
    return [shlex.split(text) for text in texts if not text.startswith(("-c ", "- "))]


def problems(words: list[str]) -> list[str]:
    """What in a command does not exist: its program, a flag, a recipe, a key of recipes, a name."""
    program, arguments = (words[1], words[2:]) if words[0] == "-m" else (words[0], words[1:])
    if words[0] == "-m" and program == "pytest":
        return []
    try:
        shown = flags(program)
    except FileNotFoundError:
        return [program]
    found = []
    for word, following in itertools.pairwise([*arguments, ""]):
        flag, _, value = word.partition("=")
        if not flag.startswith("--"):
            continue
        name, value = flag[2:], value or following
        if name.startswith("config."):
            found += [word] if name.split(".")[1] not in default.get_config() else []
        elif not re.search(rf"--{name}\b", shown):
            found.append(word)
        if name == "config" and not (ROOT / value.partition(":")[0]).is_file():
            found.append(value)
        if name in NAMES:
            known = {*NAMES[name](), *OTHERS}
            found += [part for part in re.split("[+,]", value) if ":" not in part and part not in known]
    return found


@functools.cache
def flags(program: str) -> str:
    """Text that has every flag of a program in it: its help, or its module's source, which costs no start."""
    if program.endswith(".py"):
        if not (ROOT / program).is_file():
            raise FileNotFoundError(program)
        call = [sys.executable, program, "--help"]
        return subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    package = ROOT / program.partition(".")[0]
    if not package.is_dir() or not importlib.util.find_spec(program):
        raise FileNotFoundError(program)
    return "\n".join(path.read_text() for path in package.glob("*.py"))


def links(page: str) -> list[str]:
    """The targets of a page's links that are files, from the repository's root."""
    folder = "" if page == "README.md" else "docs/"
    found = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]) if "//" not in link]
    return [folder + link for link in found if link]


def anchors(page: str) -> list[str]:
    """The headings of its own that a page links to and does not have."""
    heads = re.findall(r"^#+ (.*)$", parts(page)[0], re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
    return [anchor for anchor in re.findall(r"\]\(#([^)]+)\)", PAGES[page]) if anchor not in slugs]


def named_files(page: str) -> list[str]:
    """The files and folders of the project that stand between backticks."""
    rooms = "configs|distiller|transfer|models|tasks|data|training|pretrained|deploy|explain|studies|benchmarks|docs"
    rooms += "|tests"
    return re.findall(rf"`((?:{rooms})/[\w./]*|\w+\.(?:py|md))`", PAGES[page])


def rows(page: str, head: str) -> list[list[str]]:
    """The rows of the first table of a page whose header row begins with `head`."""
    table = PAGES[page][PAGES[page].index(f"\n{head}") + 1 :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in table]
