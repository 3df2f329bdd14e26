"""The error of a save that would undo somebody else's."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast._changes import Change


class StateConflict(RuntimeError):
    """A file is not what was expected, because somebody else has changed it. It was left alone.

    `path` is the file; `expected` and `found` are revisions, which are equal when another program changed the file and
    not its revision. `by` is the change that led to what was found, if a history knows it.

    >>> from holdfast import StateConflict, StateFile
    >>> state = StateFile("state.json")
    >>> mine = state.load()
    >>> state.save({"theme": "dark"})
    1
    >>> try:
    ...     state.save({"theme": "light"}, expect=mine)
    ... except StateConflict as conflict:
    ...     print(conflict.expected, conflict.found)
    0 1
    """

    def __init__(self, path: str, expected: int, found: int, by: Change | None = None) -> None:
        super().__init__(path, expected, found, by)
        self.path = path
        self.expected = expected
        self.found = found
        self.by = by

    def __str__(self) -> str:
        if self.expected == self.found:
            what = f"was changed since by another program, which left its revision at {self.found}"
        else:
            what = f"is at revision {self.found}, and not at {self.expected} as expected"
        by = self.by if self.by and self.by.pid else None
        who = f" (process {by.pid} on {by.host}, {by.time:%Y-%m-%d %H:%M:%S} UTC)" if by else ""
        return (
            f"{self.path!r} {what}{who}, and was left alone. Load it and make the change again, or let update() do that"
        )


class DocumentConflict(StateConflict):
    """A document that this store was to write has been changed by another process, which was not overwritten.

    `key` is the document's key. `expected` and `found` are revisions as in DocumentStore.revision().

    >>> from holdfast import DocumentConflict, StateConflict
    >>> issubclass(DocumentConflict, StateConflict)
    True
    """

    by: None

    def __init__(self, path: str, expected: int, found: int, key: str = "") -> None:
        super().__init__(path, expected, found)
        self.args = (path, expected, found, key)
        self.key = key

    def __reduce__(self) -> tuple[Callable[..., DocumentConflict], tuple[str, int, int, str]]:
        return type(self), (self.path, self.expected, self.found, self.key)

    def __str__(self) -> str:
        return (
            f"the document {self.key!r} ({self.path}) was changed by another process since this store saw it, and was "
            "left as that wrote it. Read it again and repeat the change, or decide such cases with on_conflict="
        )
