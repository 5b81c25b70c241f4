"""How much memory there is, what is said when it does not suffice, and what glibc does with what is given back."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from course_helpers.translation import _

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)
TWO_GIGABYTES = 2**31 - 1
# What torch and the system say when there is no memory left; torch has a class of its own for a GPU only.
# oneDNN's words are whole: with more behind them they are about an operation that it does not know.
NO_MEMORY = re.compile(
    "can't allocate memory|Cannot allocate memory|not enough memory|out of memory|bad_alloc"
    "|could not create a primitive$"
)
# Gigabytes at the peak of each lesson at small scale, as README.md has them.
LESSONS = {"00": 1, "01": 1, "02": 1, "03": 2, "04": 2, "05": 3, "06": 2, "07": 2}
# Limits of containers: version 2 and version 1 of control groups, seen from inside.
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def keep_freed_memory() -> bool:
    """Let this process keep large blocks that are freed, and use them again.

    By default glibc hands every large block back to the system and asks for it anew: a step of PPO on a small model
    frees and takes the same tens of megabytes over and over, and spends an eighth (bf16: a quarter) of its time while
    the system clears pages. Same effect as the variables ``MALLOC_MMAP_MAX_=0`` and ``MALLOC_TRIM_THRESHOLD_``, for
    those who started Python without them. It holds for the whole process, and nothing is computed differently.

    Returns:
        Whether there was a glibc that took the settings.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # musl does neither
        return False
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, TWO_GIGABYTES))


class NotEnoughMemoryError(MemoryError):
    """The memory does not suffice; the message says what is as it was, and what takes less."""


def is_short_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on a CPU or a GPU."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and NO_MEMORY.search(str(error)) is not None


@contextmanager
def enough_memory_for(what: str, remedy: str) -> Iterator[None]:
    """Turn what a lack of memory does to the block into a sentence; other errors stay as they are.

    Args:
        what: the block's work, as the subject of a sentence: "this step".
        remedy: what is left as it was, and what would take less, in full sentences.

    Raises:
        NotEnoughMemoryError: there is not enough memory.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, NotEnoughMemoryError) or not is_short_of_memory(error):
            raise
        told = NotEnoughMemoryError(f"The memory does not suffice for {what}. {remedy}")
        # A traceback keeps its frames' variables alive, and with them the very tensors that were too many.
        raise told from error.with_traceback(None)


def memory_of_this_machine() -> float:
    """Gigabytes (10⁹ bytes) that this process may use at most: the machine's, or less where a container sets a limit.

    Returns:
        The figure.
    """
    import psutil

    found = [float(psutil.virtual_memory().total)]
    for place in map(Path, LIMITS):
        try:
            found.append(float(place.read_text()))
        except (OSError, ValueError):  # no such limit; or "max", which is none
            continue
    return min(found) / 1e9


def memory_for_lessons(gigabytes: float | None = None) -> str:
    """Which lessons this machine's memory suffices for, in a sentence.

    Args:
        gigabytes: of memory; what `memory_of_this_machine` finds when None.

    Returns:
        The sentence, in the language of the moment.
    """
    have = memory_of_this_machine() if gigabytes is None else gigabytes
    known = f"{have:.1f}"
    if short := [f"{number} ({needed} GB)" for number, needed in LESSONS.items() if needed > have]:
        words = _("{have} GB of memory: too little for {lessons}; close other programs, or use a larger machine")
        return words.format(have=known, lessons=", ".join(short))
    return _("{have} GB of memory: enough for every lesson").format(have=known)
