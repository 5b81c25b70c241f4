"""Folders that are written whole or not at all, and what is said when a disk or a folder refuses.

Most of what a learner keeps is small and is written beside its place and renamed. A model is a folder of several large
files, written by libraries whose errors say little; `whole_folder` and `writing` are for those.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from course_helpers.translation import N_, SpokenError, _

UNFINISHED = ".unfinished"  # one name: what a kill left behind is taken away by the next save
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
# How safetensors and torch say that a disk is full; both have errors of their own, without a number.
FULL_IN_WORDS = ("No space left on device", "Disk quota exceeded", "File too large", "PytorchStreamWriter failed")

FREE_SPACE = N_("Free some space on that disk and do the same again.")
ANOTHER_FOLDER = N_("Choose a folder that you may write to, or work in a copy of the course that is your own.")


class WriteError(SpokenError, OSError):
    """A disk or a folder refuses what is to be kept; the message says which, why, and what to do."""


def is_full(error: BaseException) -> bool:
    """Whether an error, or one that led to it, says that there is no space left."""
    while error is not None:
        if getattr(error, "errno", None) in NO_SPACE or any(words in str(error) for words in FULL_IN_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def advice(error: BaseException) -> str:
    """What to do about an error of a disk or a folder, in the language of the moment; "" for any other error."""
    if is_full(error):
        return _(FREE_SPACE)
    return _(ANOTHER_FOLDER) if getattr(error, "errno", None) in NOT_ALLOWED else ""


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what a full disk or a read-only folder does to the block into a sentence; other errors stay as they are.

    Args:
        path: what is written, for the message.

    Raises:
        WriteError: the disk is full, or the folder cannot be written to.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        if is_full(error):
            words = N_(
                "{file} cannot be written: the disk is full. What was kept before is whole. Free some space on that "
                "disk and do the same again."
            )
            raise WriteError(words, file=path) from error
        if getattr(error, "errno", None) in NOT_ALLOWED:
            words = N_(
                "{file} cannot be written: {reason}. Choose a folder that you may write to, or work in a copy of the "
                "course that is your own."
            )
            raise WriteError(words, file=path, reason=error.strerror) from error
        raise


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A hidden folder to write into; when the block ends well, its files take their places in `folder` one by one.

    An interrupt, a kill or a full disk thus leaves every file of an older save as it was, and no half file beside them.

    Args:
        folder: made if it is not there.

    Yields:
        Where to write.

    Raises:
        WriteError: the disk is full, or the folder cannot be written to.
    """
    folder = Path(folder)
    was_there = folder.is_dir()
    unfinished = folder / UNFINISHED
    with writing(folder):
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            yield unfinished
            for path in sorted(unfinished.iterdir()):
                os.replace(path, folder / path.name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
            if not was_there:
                with suppress(OSError):  # it stays where there is something in it
                    folder.rmdir()
