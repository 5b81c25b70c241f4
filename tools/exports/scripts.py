"""Command lines as shell scripts: one setting a line, checked against the names that the program accepts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

PUBLISHED = Path(__file__).with_name("published")
FOLDER = "$FOLDER"  # stands for the script's own folder, wherever it is moved
HEAD = """#!/usr/bin/env bash
# {title}
# For {program} {release}. GPUS says how many of this machine's GPUs to use; further settings may follow the command.
set -euo pipefail
FOLDER="$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)"
case "$FOLDER" in
*[!A-Za-z0-9_./-]*)
    echo "$FOLDER: only letters, digits and _ . / - may stand in this path; move the folder" >&2
    exit 1
    ;;
esac
GPUS="${{GPUS:-1}}"

"""


@lru_cache(maxsize=2)
def published(program: str) -> dict[str, Any]:
    """The settings that a release of verl or OpenRLHF accepts.

    Args:
        program: "verl" or "openrlhf".

    Returns:
        source, release, and "settings" (verl) or "flags" (OpenRLHF) of each of its commands.
    """
    return json.loads((PUBLISHED / f"{program}.json").read_text(encoding="utf-8"))


def quoted(value: object) -> str:
    """A value as one word of the shell, in which $FOLDER and $GPUS alone are replaced.

    Raises:
        ValueError: the text has a sign that would mean something within double quotes.
    """
    text = str(value)
    if "$FOLDER" not in text and text != "$GPUS":
        return shlex.quote(text)
    if any(sign in text.replace("$FOLDER", "").replace("$GPUS", "") for sign in '"$`\\'):
        raise ValueError(f'{text!r} holds a sign that the shell would read as its own; leave out " $ ` and \\')
    return f'"{text}"'


def script(program: str, title: str, command: str, words: Sequence[str]) -> str:
    """A shell script that runs one command.

    Args:
        program: "verl" or "openrlhf".
        title: its first line, a comment.
        command: what is run, without settings.
        words: the settings, each ready for the shell.

    Returns:
        The script's text; what its user adds comes last, and so wins.
    """
    name = {"verl": "verl", "openrlhf": "OpenRLHF"}[program]
    head = HEAD.format(title=title, program=name, release=published(program)["release"])
    return head + " \\\n    ".join([command, *words, '"$@"']) + "\n"


def settings_words(command: str, settings: Mapping[str, object]) -> list[str]:
    """verl's settings as words ``name=value``; a leading + adds an entry to a dictionary that has none.

    Raises:
        ValueError: verl knows no such setting.
    """
    known = set(published("verl")["settings"][command])
    for name in settings:
        plain = name.removeprefix("+")
        added_to = plain.rsplit(".", 1)[0]
        if not (added_to in known if name.startswith("+") else plain in known):
            raise ValueError(f"{command} of verl {published('verl')['release']} has no setting {plain!r}")
    return [f"{name}={quoted(value)}" for name, value in settings.items()]


def flag_words(command: str, flags: Mapping[str, object]) -> list[str]:
    """OpenRLHF's flags as words; a flag without a value has None.

    Raises:
        ValueError: OpenRLHF knows no such flag, it takes another number of values, or none like this one.
    """
    known = published("openrlhf")["flags"][command]
    for name, value in flags.items():
        if name not in known:
            raise ValueError(f"{command} of OpenRLHF {published('openrlhf')['release']} has no flag {name!r}")
        takes = known[name]
        if (takes == 0) != (value is None) or (isinstance(takes, list) and value not in takes):
            raise ValueError(f"{command}: {name} {value} does not fit; it takes {takes} value(s)")
    return [name if value is None else f"{name} {quoted(value)}" for name, value in flags.items()]


def write_script(path: Path, text: str) -> None:
    """Write a script that can be run."""
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
