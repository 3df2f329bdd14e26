"""The docstrings as pages: their examples become blocks of code."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_EXAMPLE = re.compile(r"^>>> .*?(?=\n\n(?!>>>)|\Z)", re.MULTILINE | re.DOTALL)
_FLAGS = re.compile(r"  # doctest: .*$", re.MULTILINE)


class Examples(Extension):
    """Each paragraph that begins with a prompt is an example, which Markdown would take for a quotation."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called by griffe for each object of the package."""
        # A method that inherits its docstring shares it, so it may have been here.
        if obj.docstring is not None and "```" not in obj.docstring.value:
            text = _FLAGS.sub("", obj.docstring.value)
            obj.docstring.value = _EXAMPLE.sub(lambda example: f"```pycon\n{example[0]}\n```", text)
