"""What is shipped with the package: small models, their tokenizers, prompts, quizzes, glossary, tables, translations.

Every file is listed in ``manifest.json`` with its size and SHA-256 and is compared with it before it is used, so a
half-finished download or a bad disk is named at once and not found out in the middle of a lesson.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
"""The folder in which everything lies that is shipped."""
MANIFEST = HERE / "manifest.json"

RESTORE = (
    "Restore it with `git checkout -- course_helpers/assets` in a clone, or reinstall the package; "
    "`python tools/train_small_models.py` rebuilds the models from the reviews. After a change that is meant, "
    "`python tools/make_manifest.py` enters it."
)


class AssetError(RuntimeError):
    """A shipped file is missing or damaged; the message says which and how to restore it."""


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(path: Path, size: int, digest: str) -> None:
    """Compare one file with its entry in the manifest.

    Args:
        path: of the file.
        size: in bytes, as it must be.
        digest: its SHA-256 in hexadecimal, as it must be.

    Raises:
        AssetError: the file is missing, has another size, or other contents.
    """
    if not path.is_file():
        raise AssetError(f"{path} is missing. {RESTORE}")
    found = path.stat().st_size
    if found != size:
        raise AssetError(f"{path} is damaged: it has {found:,} bytes instead of {size:,}. {RESTORE}")
    if sha256(path) != digest:
        raise AssetError(f"{path} is damaged: its SHA-256 is not the one in {MANIFEST.name}. {RESTORE}")


def listed() -> dict[str, dict[str, Any]]:
    """Every shipped file, as its path below this folder → size and SHA-256.

    Returns:
        Size as "bytes" and digest as "sha256", by path.

    Raises:
        AssetError: the manifest itself is missing or damaged.
    """
    if not MANIFEST.is_file():
        raise AssetError(f"{MANIFEST} is missing. {RESTORE}")
    try:
        files = json.loads(MANIFEST.read_text(encoding="utf-8"))["files"]
        whole = all(isinstance(e["bytes"], int) and isinstance(e["sha256"], str) for e in files.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        files, whole = {}, False
    if not (files and whole):
        raise AssetError(f"{MANIFEST} is damaged: it is no list of files with their sizes and SHA-256. {RESTORE}")
    return files


def asset(name: str) -> Path:
    """Path of a shipped file or folder, its contents checked.

    Args:
        name: a folder, such as ``"policy"`` or ``"judge"``, or a file, such as ``"prompts.json"`` or
            ``"quizzes/00.yaml"``.

    Returns:
        Its path.

    Raises:
        AssetError: a file is missing or damaged.
        KeyError: nothing of that name is shipped.
    """
    files = listed()
    mine = {path: entry for path, entry in files.items() if path == name or path.startswith(f"{name}/")}
    if not mine:
        shipped = sorted({path.split("/")[0] for path in files})
        raise KeyError(f"nothing called {name!r} is shipped; there is {', '.join(shipped)}")
    for path, entry in mine.items():
        check(HERE / path, entry["bytes"], entry["sha256"])
    return HERE / name
