"""Copies a tree that its owner may change, or make hostile, while it is copied.

``rsync --link-dest`` does the same by path names: a folder that becomes a symbolic link between two of its calls would
lead it into the home of somebody else, and all homes have the same owner. Here everything goes by descriptor.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from idl_hub.homes import safe
from idl_hub.homes.snapshots_tree import Budget, entries, kept_mode, same

if TYPE_CHECKING:
    from idl_hub.homes.safe import Owner

_BLOCK_BYTES = 2**20
_ENDS_ALL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""What is about the place to copy to, and not about one file."""
_CANNOT_LINK = {errno.EMLINK, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP}
_TOLD_FAULTS = 5


@dataclass(slots=True)
class Tally:
    """What was copied."""

    entries: int = 0
    """Files, folders and links; those that another copy lent, too."""
    copied_bytes: int = 0
    fault_count: int = 0
    faults: list[str] = field(default_factory=list)
    """The first things that could not be read, and why."""

    def fault(self, parts: tuple[str, ...], error: OSError) -> None:
        """Note what could not be read."""
        self.fault_count += 1
        if len(self.faults) < _TOLD_FAULTS:
            name = "/".join(parts).encode(errors="surrogateescape").decode(errors="replace")
            self.faults.append(f"{name}: {error.strerror or error}")


class Copier:
    """Copies files, folders and links.

    Parameters
    ----------
    owner
        Who owns the copies; None: who owns the originals, as far as we may say so.
    links
        An empty folder beside the copies, which keeps files with several names from being copied for each of them.
    """

    def __init__(self, budget: Budget, *, owner: Owner | None = None, links: int | None = None) -> None:
        self.tally = Tally()
        self._budget = budget
        self._owner = owner
        self._links = links

    def tree(self, source: int, target: int, before: int | None = None, parts: tuple[str, ...] = ()) -> None:
        """Copy all of a folder into another one, which is empty.

        What cannot be read is noted in `tally`; the rest goes on.

        Parameters
        ----------
        before
            An earlier copy of `source` on the same disk: what did not change since becomes a further name of its file.
        parts
            Where `source` lies in its home.

        Raises
        ------
        OSError
            The disk to copy to is full or cannot be written to.
        TooMuchError
            The budget is spent.
        """
        for name, found in entries(source, parts):
            try:
                self.entry(name, found, source, target, before, parts)
            except (FileNotFoundError, NotADirectoryError, safe.NotAFileError):
                continue  # gone, or made into something else, meanwhile
            except OSError as error:
                if error.errno in _ENDS_ALL:
                    raise
                if error.errno == errno.ELOOP:
                    continue  # made into a link meanwhile
                self.tally.fault((*parts, name), error)
        self._finish(target, os.fstat(source))

    def entry(
        self,
        name: str,
        found: os.stat_result,
        source: int,
        target: int,
        before: int | None = None,
        parts: tuple[str, ...] = (),
        new_name: str = "",
    ) -> None:
        """Copy one entry of a folder; raises as `tree` does, and `OSError` when it cannot be read."""
        self._budget.spend(entries=1)
        self.tally.entries += 1
        if stat.S_ISDIR(found.st_mode):
            self._folder(name, source, target, before, parts, new_name or name)
        elif before is None or not self._lend(name, found, source, target, before):
            if stat.S_ISLNK(found.st_mode):
                self._link(name, found, source, target, new_name or name)
            else:
                self._file(name, source, target, new_name or name)

    def _folder(
        self, name: str, source: int, target: int, before: int | None, parts: tuple[str, ...], new_name: str
    ) -> None:
        with safe.held(safe.open_folder(source, (name,))) as below:
            os.mkdir(new_name, 0o700, dir_fd=target)
            with safe.held(safe.open_folder(target, (new_name,))) as made:
                earlier = _folder_in(before, name)
                try:
                    self.tree(below, made, earlier, (*parts, name))
                finally:
                    if earlier is not None:
                        os.close(earlier)

    def _lend(self, name: str, found: os.stat_result, source: int, target: int, before: int) -> bool:
        """Give an unchanged file's earlier copy one more name."""
        if not same(name, source, found, before):
            return False
        try:
            os.link(name, name, src_dir_fd=before, dst_dir_fd=target, follow_symlinks=False)
        except OSError as error:
            if error.errno in _CANNOT_LINK:
                return False
            raise
        if found.st_nlink > 1:
            self._remember(found, name, target)
        return True

    def _link(self, name: str, found: os.stat_result, source: int, target: int, new_name: str) -> None:
        os.symlink(os.readlink(name, dir_fd=source), new_name, dir_fd=target)
        owner = self._owner or safe.Owner(found.st_uid, found.st_gid)
        with suppress(PermissionError):  # where we are not root, all is ours
            os.chown(new_name, owner.uid, owner.gid, dir_fd=target, follow_symlinks=False)
        os.utime(new_name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=target, follow_symlinks=False)

    def _file(self, name: str, source: int, target: int, new_name: str) -> None:
        with safe.held(safe.open_file(source, (name,))) as original:
            found = os.fstat(original)
            if found.st_nlink > 1 and self._is_known(found, new_name, target):
                return
            with safe.held(safe.new_file(target, new_name, safe.Owner(os.geteuid(), os.getegid()))) as copy:
                try:
                    found = self._steady_content(original, copy, found)
                    self._finish(copy, found)
                except BaseException:
                    os.unlink(new_name, dir_fd=target)
                    raise
        if found.st_nlink > 1:
            self._remember(found, new_name, target)

    def _steady_content(self, original: int, copy: int, found: os.stat_result) -> os.stat_result:
        """Copy what is in a file, twice where somebody wrote meanwhile; return its state before the copy."""
        now = self._content(original, copy, found)
        if (now.st_size, now.st_mtime_ns) == (found.st_size, found.st_mtime_ns):
            return found
        os.ftruncate(copy, 0)
        self._content(original, copy, now)
        return now  # if it was written again, its time differs from this one: the next copy takes it anew

    def _content(self, original: int, copy: int, found: os.stat_result) -> os.stat_result:
        """Copy what is in a file, its holes as holes; return its state afterwards."""
        position = 0
        while position < found.st_size:
            try:
                position = os.lseek(original, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break  # nothing but a hole is left
            end = min(os.lseek(original, position, os.SEEK_HOLE), found.st_size)
            position = self._stretch(original, copy, position, end)
            if position < end:
                break  # somebody made it shorter
        os.ftruncate(copy, min(found.st_size, os.fstat(original).st_size))
        return os.fstat(original)

    def _stretch(self, original: int, copy: int, position: int, end: int) -> int:
        while position < end:
            block = os.pread(original, min(_BLOCK_BYTES, end - position), position)
            if not block:
                break
            self._budget.spend(size_bytes=len(block))
            self.tally.copied_bytes += len(block)
            view = memoryview(block)
            while view:
                written = os.pwrite(copy, view, position)
                view, position = view[written:], position + written
        return position

    def _finish(self, made: int, found: os.stat_result) -> None:
        """Give it owner, mode and times of the original."""
        owner = self._owner or safe.Owner(found.st_uid, found.st_gid)
        now = os.fstat(made)
        if (now.st_uid, now.st_gid) != (owner.uid, owner.gid):
            try:
                os.fchown(made, owner.uid, owner.gid)
            except PermissionError:
                if self._owner is not None or os.geteuid() == 0:
                    raise
        os.fchmod(made, kept_mode(found))
        os.utime(made, ns=(found.st_atime_ns, found.st_mtime_ns))

    def _is_known(self, found: os.stat_result, name: str, target: int) -> bool:
        """Give the copy of a file with several names one more of them, if there is a copy."""
        if self._links is None:
            return False
        try:
            os.link(_number(found), name, src_dir_fd=self._links, dst_dir_fd=target, follow_symlinks=False)
        except OSError as error:
            if error.errno in {errno.ENOENT, *_CANNOT_LINK}:
                return False
            raise
        return True

    def _remember(self, found: os.stat_result, name: str, target: int) -> None:
        if self._links is not None:
            with suppress(FileExistsError):
                os.link(name, _number(found), src_dir_fd=target, dst_dir_fd=self._links, follow_symlinks=False)


def _number(found: os.stat_result) -> str:
    return f"{found.st_dev}-{found.st_ino}"


def _folder_in(folder: int | None, name: str) -> int | None:
    if folder is None:
        return None
    try:
        return safe.open_folder(folder, (name,))
    except OSError:
        return None  # it was something else then
