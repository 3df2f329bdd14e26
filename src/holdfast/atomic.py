"""Files that are replaced whole, or not at all."""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import contextmanager, suppress

from holdfast import _core
from holdfast._base import Timeout, check_bool, default_timeout, resolve_timeout
from holdfast._planted import is_planted
from holdfast._temporary import rescue_paths, sweep, temporary_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType
    from typing import IO, Any, Generic, Literal, TypeVar, overload

    from holdfast.locks import FileLock

    Kind = TypeVar("Kind", str, bytes)

    class _OfKind(Generic[Kind]): ...

else:

    class _OfKind:
        """Generic, without typing."""

        __slots__ = ()
        __class_getitem__ = classmethod(type(list[int]))


class AtomicFile(_OfKind["Kind"]):
    """What atomic_write() returns: a context manager that gives the file to write to."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        mode: str,
        *,
        encoding: str | None,
        newline: str | None,
        overwrite: bool,
        durable: bool,
        lock: bool | Literal["git"],
        timeout: float | None,
        dangling: bool,
        follow: bool = True,
    ) -> None:
        if mode not in ("w", "wt", "wb"):
            raise ValueError(f"mode must be 'w' or 'wb', because the file is written anew, not {mode!r}")
        if lock not in (False, True, "git"):
            raise ValueError(f"lock must be False, True or 'git', not {lock!r}")
        for name, switch in (("overwrite", overwrite), ("durable", durable), ("dangling", dangling)):
            check_bool(name, switch)
        given = os.fspath(path)
        self._path = given if isinstance(given, str) else os.fsdecode(given)
        _core.encode(self._path)  # refuses what no file name can be
        self._mode = mode
        self._text: dict[str, Any] = {} if mode == "wb" else {"encoding": encoding, "newline": newline}
        self._flags = (_core.DURABLE if durable else 0) | (0 if overwrite else _core.NO_REPLACE)
        self._dangling = dangling
        self._follow = follow
        self._git = lock == "git"
        self._lock: FileLock | None = None
        self._locking = lock is True
        if timeout is None:
            timeout = default_timeout() if self._locking else 0.0
        self._timeout = resolve_timeout(timeout, True)
        self._new = _core.NewFile()
        self._file: IO[Any] | None = None
        self._target = self._scratch = ""
        self._existed = self._denied = False
        self._process = 0

    def __enter__(self) -> IO[Kind]:
        self._claim()
        try:
            self._begin()
            # Whoever closes the file early has written it, and the descriptor is still open to be synced.
            file: IO[Any] = os.fdopen(self._new.descriptor, self._mode, closefd=False, **self._text)
            self._file = file
            return file
        except BaseException:
            self._discard()
            raise

    def _claim(self) -> None:
        if self._process:
            raise RuntimeError("this atomic_write() has been used already; call it again")
        self._process = os.getpid()

    def _begin(self) -> None:
        # Absolute: the directory may be changed in the block.
        self._target = os.path.abspath(target_of(self._path, self._dangling) if self._follow else self._path)
        if self._locking:
            from holdfast.locks import FileLock

            self._lock = FileLock(self._target + ".lock", timeout=self._timeout)
            self._lock.acquire()
        # Not more open than the file it replaces, until it gets the permissions of that.
        self._existed = _is_replacing(self._target, self._flags)
        mode = 0o600 if self._existed else 0o666
        if self._git:
            self._scratch = self._target + ".lock"
            self._create_git_lock(mode)
        else:
            sweep(os.path.dirname(self._target))
            self._scratch = temporary_path(self._target)
            self._check(self._new.create(self._scratch, mode))

    def _create_git_lock(self, mode: int) -> None:
        """Create the file that git takes for a lock, waiting for it if asked to."""
        deadline, nap = _core.deadline(self._timeout), 0.001
        while (rc := self._new.create(self._scratch, mode)) == -errno.EEXIST:
            if self._timeout == 0 or _core.now() >= deadline:
                text = "git or another program has the file, or left this lock behind when it died; then remove it."
                raise Timeout(self._scratch, timeout=self._timeout, holders=[], otherwise=text)
            time.sleep(nap)
            nap = min(nap * 2, 0.05)
        self._check(rc)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            self._discard()

    def _commit(self) -> None:
        if self._process != os.getpid():
            raise RuntimeError(
                f"{self._path!r} is being replaced by the process that began it; a forked child must not end its block"
            )
        if self._file is not None:
            with self._naming_the_file():
                self._file.close()  # which writes what is left in its buffer
        rc = _core.patiently(self._replace, *_core.IN_USE)
        rescued = self._rescue()
        if rescued:
            raise _rescued_error(self._target, rescued)
        self._check(rc)

    def _replace(self) -> int:
        rc = self._new.replace(self._scratch, self._target, self._flags)
        self._denied = rc == _core.BUSY and os.name == "posix"
        if rc in (0, _core.NOT_DURABLE):
            self._scratch = ""
        return rc

    def write(self, content: Any) -> None:
        """Make this the whole content of the file.

        >>> from holdfast import atomic_write
        >>> atomic_write("settings.json").write('{"theme": "dark"}')
        """
        if self._text:
            with self as file, self._naming_the_file():
                file.write(content)
            return
        self._claim()
        try:
            self._begin()
            with self._naming_the_file():
                _write_all(self._new.descriptor, memoryview(content).cast("B"))
            self._commit()
        finally:
            self._discard()

    @contextmanager
    def _naming_the_file(self) -> Generator[None]:
        """Say which file it is that cannot be written. Python says only that there is no space left."""
        try:
            yield
        except OSError as error:
            raise _core.replace_error(-(error.errno or errno.EIO), self._target) from error

    def _check(self, rc: int) -> None:
        if rc != 0:
            raise _core.replace_error(rc, self._target)

    def _discard(self) -> None:
        """Close what is open, and remove the temporary file if it is still there."""
        mine = self._process == os.getpid()
        created = self._new.exists
        try:
            if self._file is not None:
                if not mine:
                    _disconnect(self._file)
                _close_quietly(self._file)
            # An exception from a signal handler may have come after the rename: then it may be somebody else's by now.
            ours = created and mine and bool(self._scratch) and _is_named(self._new.descriptor, self._scratch)
            unwanted = ours and not self._rescue()
            self._new.close()
            if unwanted:
                _core.remove_file(self._scratch)
        finally:
            if self._lock is not None and mine:
                self._lock.release()

    def _rescue(self) -> str:
        """Give the new content another name if the old one is lost: that name, or nothing.

        A server of SMB denies to replace a file that somebody has open. Linux' client removes it then and tries again;
        and nothing can have its name until it is closed.
        """
        if not (self._denied and self._existed and _is_lost(self._target)):
            return ""
        # Where it cannot have another name, it has this one until the process has ended.
        name = next(filter(self._is_moved_to, rescue_paths(self._target)), self._scratch)
        self._scratch = ""
        return name

    def _is_moved_to(self, name: str) -> bool:
        return self._new.replace(self._scratch, name, self._flags | _core.NO_REPLACE) in (0, _core.NOT_DURABLE)


class Rescued(PermissionError):
    """The old content of a file is lost, and the new one is in the file `rescued`."""

    rescued = ""


def _rescued_error(path: str, rescued: str) -> Rescued:
    text = (
        "another program has the file open, so the file server did not replace it, but removed it. The new content is "
        f"in {rescued!r}; the old is lost when that program closes it. Close it there; if there is no file of this "
        "name then, rename that one to it"
    )
    error = Rescued(errno.EACCES, text, path)
    error.rescued = rescued
    return error


def _write_all(descriptor: int, content: memoryview) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _is_lost(path: str) -> bool:
    """Whether there is nothing at a path, or, as Linux shows over SMB, a file that has no name any more."""
    try:
        return os.lstat(path).st_nlink == 0
    except FileNotFoundError:
        return True
    except OSError:
        return False  # nobody knows


def _is_named(descriptor: int, path: str) -> bool:
    """Whether a path names an open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


def _disconnect(file: IO[Any]) -> None:
    """Let what is left in a forked child's copy of the buffer go nowhere: the parent writes it."""
    if not file.closed:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())
        os.close(nowhere)


def _close_quietly(file: IO[Any]) -> None:
    """Close a file whose content is not wanted any more, or has been written already."""
    with suppress(OSError, ValueError):  # it could not write the rest of its buffer, and is closed all the same
        file.close()


def target_of(path: str, dangling: bool) -> str:
    """The file that a path means, at the end of all links."""
    if not os.path.islink(path):
        return path
    # There are no directories for all on Windows, and links are kept in a spelling of their own.
    target = os.path.realpath(path) if os.name == "nt" else _end_of_links(path)
    if os.path.islink(target):
        raise OSError(errno.ELOOP, "the path leads through links that lead to each other; mend the links", path)
    if not dangling and not os.path.lexists(target):
        text = (
            f"the path is a link to {target!r}, which does not exist; mend the link, or pass dangling=True to create it"
        )
        raise FileNotFoundError(errno.ENOENT, text, path)
    return target


def _end_of_links(path: str) -> str:
    """What links lead to, as far as the system would follow them.

    Each is judged before it is followed, and what is no link then is the end: there may be another one at any moment.
    """
    end = path
    for _ in range(40):
        try:
            found = os.lstat(end)
        except OSError:
            break
        if not stat.S_ISLNK(found.st_mode):
            break
        if is_planted(end, found):
            text = "the path leads through a link that somebody else put into a directory for all; remove the link"
            raise PermissionError(errno.EACCES, text, path)
        end = os.path.join(os.path.dirname(end), os.readlink(end))
    directory, name = os.path.split(end)
    return os.path.join(os.path.realpath(directory), name)


def _is_replacing(target: str, flags: int) -> bool:
    """Whether there is a file to be replaced. An error if it cannot be."""
    try:
        status = os.lstat(target)
    except FileNotFoundError:
        return False
    if flags & _core.NO_REPLACE:
        raise _core.replace_error(-errno.EEXIST, target)
    if not stat.S_ISREG(status.st_mode):
        raise _core.replace_error(_core.NOT_A_FILE, target)
    return True


if TYPE_CHECKING:

    @overload
    def atomic_write(
        path: str | os.PathLike[str],
        mode: Literal["w", "wt"] = "w",
        *,
        encoding: str | None = "utf-8",
        newline: str | None = None,
        overwrite: bool = True,
        durable: bool = True,
        lock: bool | Literal["git"] = False,
        timeout: float | None = None,
        dangling: bool = False,
    ) -> AtomicFile[str]: ...

    @overload
    def atomic_write(
        path: str | os.PathLike[str],
        mode: Literal["wb"],
        *,
        encoding: str | None = "utf-8",
        newline: str | None = None,
        overwrite: bool = True,
        durable: bool = True,
        lock: bool | Literal["git"] = False,
        timeout: float | None = None,
        dangling: bool = False,
    ) -> AtomicFile[bytes]: ...


def atomic_write(
    path: str | os.PathLike[str],
    mode: str = "w",
    *,
    encoding: str | None = "utf-8",
    newline: str | None = None,
    overwrite: bool = True,
    durable: bool = True,
    lock: bool | Literal["git"] = False,
    timeout: float | None = None,
    dangling: bool = False,
) -> AtomicFile[Any]:
    """Write a file that takes the place of `path` when the with block ends, whole, or not at all.

    The file is written beside `path` under a name of its own. An exception in the block, a full disk, or the death of
    the process leave the old file as it was; what a dead process left is removed by the next writer. The new file gets
    the permissions of the old one, its owner, extended attributes and access control list where that is allowed. A link
    is followed, unless it leads nowhere: `dangling=True` creates what it names. One that somebody else put into a
    sticky directory for all, such as /tmp, is an error.

    `durable=True` has the file on the disk first, so that a power cut leaves the old one or the new one. With
    `overwrite=False` a file that exists is a FileExistsError, also one that came to exist meanwhile. `lock=True` holds
    `FileLock(path + ".lock")` during the block, waiting `timeout` seconds for it (10, or HOLDFAST_TIMEOUT).
    `lock="git"` creates `path + ".lock"`, writes into it and renames it, as git does: git then leaves the file alone,
    and while git is at it, a Timeout is raised, at once or after `timeout` seconds.

    >>> from holdfast import atomic_write
    >>> with atomic_write("settings.json") as file:
    ...     written = file.write('{"theme": "dark"}')
    """
    return AtomicFile(
        path,
        mode,
        encoding=encoding,
        newline=newline,
        overwrite=overwrite,
        durable=durable,
        lock=lock,
        timeout=timeout,
        dangling=dangling,
    )


def replacing(path: str, durable: bool = True) -> AtomicFile[bytes]:
    """atomic_write() for a file of the package's own. Anybody can foresee its name: a link in its place is an error."""
    return AtomicFile(
        path,
        "wb",
        encoding=None,
        newline=None,
        overwrite=True,
        durable=durable,
        lock=False,
        timeout=None,
        dangling=False,
        follow=False,
    )


def write_text(
    path: str | os.PathLike[str],
    text: str,
    *,
    encoding: str = "utf-8",
    newline: str | None = None,
    overwrite: bool = True,
    durable: bool = True,
    lock: bool | Literal["git"] = False,
    timeout: float | None = None,
    dangling: bool = False,
) -> None:
    """Make `text` the content of a file, whole or not at all, as with atomic_write().

    >>> from holdfast import write_text
    >>> write_text("settings.json", '{"theme": "dark"}')
    """
    atomic_write(
        path,
        encoding=encoding,
        newline=newline,
        overwrite=overwrite,
        durable=durable,
        lock=lock,
        timeout=timeout,
        dangling=dangling,
    ).write(text)


def write_bytes(
    path: str | os.PathLike[str],
    data: bytes | bytearray | memoryview,
    *,
    overwrite: bool = True,
    durable: bool = True,
    lock: bool | Literal["git"] = False,
    timeout: float | None = None,
    dangling: bool = False,
) -> None:
    """Make `data` the content of a file, whole or not at all, as with atomic_write().

    >>> from holdfast import write_bytes
    >>> write_bytes("picture.png", bytes(8))
    """
    atomic_write(path, "wb", overwrite=overwrite, durable=durable, lock=lock, timeout=timeout, dangling=dangling).write(
        data
    )
