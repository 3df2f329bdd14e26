"""What somebody else has put into a directory that is for all, such as /tmp, to have us write to it."""

from __future__ import annotations

import os
import stat
import sys


def is_planted(path: str, found: os.stat_result | None = None, owner: int = -1) -> bool:
    """Whether a file or link in such a directory is neither ours, nor the directory's owner's, nor `owner`'s.

    Linux, told so by fs.protected_symlinks and fs.protected_regular, refuses the same, but only to programs that leave
    it to the system to follow links and to create files. Where the directory is not sticky, whoever owns a file does
    not tell who put it there. A second name of a file is always refused: whoever gave it that need not own the file.
    `found` is what the system says of the file, if it has been asked already.

    >>> from holdfast._planted import is_planted
    >>> is_planted(".")
    False
    """
    if sys.platform == "win32":
        return False
    directory = os.stat(os.path.dirname(path) or os.curdir)
    if not directory.st_mode & stat.S_IWOTH:
        return False
    found = found or os.lstat(path)
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        return True
    return bool(directory.st_mode & stat.S_ISVTX) and found.st_uid not in (os.geteuid(), directory.st_uid, owner)
