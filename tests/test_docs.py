"""The documentation: its examples run and print what it shows, its links lead somewhere, and no public name is missing.

A page is read from top to bottom, in a directory of its own. A block of Python runs in the page's one namespace; one
with a title is a file of that name. A block of `sh` is run if it starts such a file; what it starts "in a second
terminal" runs until the page ends. A block of `text` below one of these is what it prints. `<!-- no-run: why -->` above
a block says that it is only to be looked at.
"""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from functools import partialmethod
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

import holdfast
import holdfast.aio
from holdfast import JsonlFile
from support import PATIENCE

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
WITH_EXAMPLES = [page for page in PAGES if "```python" in page.read_text("utf-8")]
SHOWS_OUTPUT = sys.platform == "linux"  # other systems do not tell who holds a lock, and have other paths

FENCE = re.compile(
    r"^(?P<mark><!-- no-run: [^>]+ -->\n+)?"
    r'^(?P<indent> *)```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<source>.*?)^(?P=indent)```$',
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def loaded(file):
    """A Python file that is no part of a package, as a module."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PARTS = loaded(DOCS / "_tools" / "examples.py")


# ---------------------------------------------------------------------------------------------------------------------
# Examples


class Block(NamedTuple):
    """A block of code: where it begins, and what it prints according to the page."""

    language: str
    title: str | None
    source: str
    line: int
    shown: str | None
    runs: bool


def blocks_of(page):
    text = page.read_text("utf-8")
    for fence, below in pairwise([*FENCE.finditer(text), None]):
        shows = below is not None and below["language"] == "text" and not text[fence.end() : below.start()].strip()
        yield Block(
            language=fence["language"],
            title=fence["title"],
            source=re.sub(f"^{fence['indent']}", "", fence["source"], flags=re.MULTILINE),
            line=text.count("\n", 0, fence.start("source")) + 1,
            shown=below["source"] if shows else None,
            runs=fence["mark"] is None,
        )


def normal(text):
    """What is printed, without what is different each time. A page may break a long line."""
    return re.sub(r"\bpid \d+", "pid 4711", " ".join(text.replace(sys.executable, "python").split()))


class Reader:
    """Somebody who does what a page says."""

    def __init__(self, directory, capsys):
        self.directory = directory
        self.capsys = capsys
        self.names = {"__name__": "__main__"}
        self.files = set()
        self.second_terminal = []

    def read(self, page):
        try:
            for block in blocks_of(page):
                if block.runs:
                    printed = self.do(block, page)
                    if block.shown is not None and printed is not None and SHOWS_OUTPUT:
                        assert normal(printed) == normal(block.shown), f"{page}, line {block.line}"
        finally:
            for process in self.second_terminal:
                process.communicate("\n", timeout=PATIENCE)

    def do(self, block, page):
        """Do what a block says. Returns what that prints, or None if it is nothing to be done."""
        if block.language == "python" and block.title:
            (self.directory / block.title).write_text(block.source, "utf-8")
            self.files.add(block.title)
            return None
        if block.language == "python":
            return self.run(block, page)
        if block.language == "sh" and self.files & {*block.source.split()}:
            return "".join(map(self.start, block.source.splitlines()))
        return None

    def run(self, block, page):
        source = PARTS.INCLUDE.sub(lambda found: imports(found["file"], found["names"].split(", ")), block.source)
        source = source.replace("/var/lib/app", self.directory.as_posix())
        self.capsys.readouterr()
        # An error names the page and its line.
        exec(compile("\n" * (block.line - 1) + source, page, "exec", dont_inherit=True), self.names)
        return self.capsys.readouterr().out

    def start(self, line):
        command, _, comment = line.partition("  # ")
        settings, _, arguments = command.partition("python ")
        process = subprocess.Popen(
            [sys.executable, *shlex.split(arguments)],
            cwd=self.directory,
            env={**os.environ, "PYTHONIOENCODING": "utf-8", **dict(each.split("=") for each in settings.split())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        if comment == "in a second terminal":
            self.second_terminal.append(process)
            return process.stdout.readline()
        printed, _ = process.communicate(timeout=PATIENCE)
        if process.returncode != 0:
            assert printed.startswith("Traceback"), printed
            printed = printed.splitlines()[-1]  # which is what a page shows of an error
        return printed.replace(str(self.directory), "/home/jo")


def imports(file, names):
    """What gives a page the names of which it shows the source."""
    return f"from {Path(file).stem} import {', '.join({name.partition('.')[0]: 0 for name in names})}"


@pytest.fixture
def reader(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Not syspath_prepend(): the invalidate_caches() that it calls fails in Python 3.11.9.
    monkeypatch.setattr(sys, "path", [str(PARTS.EXAMPLES), *sys.path])
    monkeypatch.delenv("HOLDFAST_TIMEOUT", raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # those of a pytest that a page starts are none of its
    # Nobody writes here to a log that is followed for ever.
    monkeypatch.setattr(JsonlFile, "follow", partialmethod(JsonlFile.follow, timeout=0.05))
    yield Reader(tmp_path, capsys)
    if "holdfast.filelock" in sys.modules:
        sys.modules["holdfast.filelock"].uninstall()


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name_of)
def test_the_examples_of_a_page_work_and_print_what_it_shows(page, reader):
    if page.name == "chat-events.md":
        pytest.importorskip("pydantic")
    reader.read(page)


@pytest.mark.skipif(not SHOWS_OUTPUT, reason="the pages show the output of Linux")
def test_output_that_a_page_shows_wrongly_is_noticed(reader, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nprint(1)\n```\n\n```text\n2\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md, line 4"):
        reader.read(page)


def test_a_program_that_fails_is_noticed(reader, tmp_path):
    page = tmp_path / "page.md"
    page.write_text('```python title="a.py"\nraise SystemExit("no")\n```\n\n```sh\npython a.py\n```\n')
    with pytest.raises(AssertionError, match="no"):
        reader.read(page)


# ---------------------------------------------------------------------------------------------------------------------
# Parts of the example programs


def test_parts_of_an_example_are_shown_as_they_are_in_it():
    shown = PARTS.on_page_markdown("```python\n# from examples/project_state.py: go_back, add_task\n```\n")
    assert shown.startswith("```python\ndef go_back(project: StateFile[Data], revision: int) -> int:\n    ")
    assert "\n\n\ndef add_task(project: StateFile[Data], title: str) -> int:\n    " in shown
    assert shown.endswith("\n    return project.update(add)\n```\n")


def test_a_method_is_shown_without_the_indentation_of_its_class():
    assert PARTS.part("session_store.py", ["Sessions.close"]).startswith("def close(self) -> None:\n    ")


def test_a_part_that_an_example_does_not_have_is_an_error():
    with pytest.raises(LookupError, match=r"project_state\.py has no go_forth"):
        PARTS.part("project_state.py", ["go_forth"])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_shows_all_parts_that_it_asks_for(page):
    assert "# from examples/" not in PARTS.on_page_markdown(page.read_text("utf-8"))


# ---------------------------------------------------------------------------------------------------------------------
# Links and names


def anchors_of(page):
    """The anchors of a page's headings, as Markdown makes them."""
    headings = HEADING.findall(FENCE.sub("", page.read_text("utf-8")))
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_links_of_a_page_lead_to_what_exists(page):
    for link in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        path, _, anchor = link.partition("#")
        if ":" in path:
            continue  # elsewhere
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link
        assert page == ROOT / "README.md" or target.is_relative_to(DOCS), f"{link} is not in the site"


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=name_of)
def test_a_page_of_the_site_is_in_its_navigation(page):
    assert f": {page.relative_to(DOCS).as_posix()}\n" in (ROOT / "mkdocs.yml").read_text("utf-8")


def test_the_page_of_evidence_has_the_tables_of_the_runs_that_were_kept():
    sys.path.append(str(ROOT / "tools"))
    import evidence

    text = (DOCS / "evidence.md").read_text("utf-8")
    assert evidence.page(text) == text


def documented():
    pages = "".join(page.read_text("utf-8") for page in (DOCS / "reference").glob("*.md"))
    return re.findall(r"^::: (\S+)$", pages, re.MULTILINE)


def test_the_reference_has_every_public_name_once():
    names = [name.rpartition(".")[2] for name in documented()]
    assert {*holdfast.__all__, *holdfast.aio.__all__} <= {*names}
    assert len(names) == len({*names})


def test_the_reference_has_no_name_that_does_not_exist():
    for name in documented():
        assert pkgutil.resolve_name(name)
