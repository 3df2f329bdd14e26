"""Parts of the example programs in the pages: what a page shows is the program that the tests run.

The line `# from examples/project_state.py: add_task, go_back` in a block of code shows these functions or classes. A
name such as `Sessions.close` is that of a method.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
INCLUDE = re.compile(r"^# from examples/(?P<file>\w+\.py): (?P<names>[\w., ]+)$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for each page."""
    return INCLUDE.sub(lambda found: part(found["file"], found["names"].split(", ")), markdown)


def part(file: str, names: list[str]) -> str:
    """The source of some functions, classes and methods of an example."""
    source = (EXAMPLES / file).read_text("utf-8")
    return "\n\n\n".join(_definition(source, file, name) for name in names)


def _definition(source: str, file: str, name: str) -> str:
    node: ast.AST = ast.parse(source)
    for word in name.split("."):
        found = [each for each in ast.iter_child_nodes(node) if getattr(each, "name", None) == word]
        if not found:
            raise LookupError(f"{file} has no {name}, which a page in docs shows")
        node = found[0]
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return textwrap.dedent("\n".join(source.splitlines()[first - 1 : node.end_lineno]))
