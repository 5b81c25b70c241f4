"""A taxonomy, the InstructLab way: folders of files that are all called qna.yaml, checked and read.

- `parser`: the real parser of the package instructlab-schema, listened to without a word on the screen;
- `places`: where in a file a value stands, and whether the file is small enough to be read;
- `mends`, `unreadable`: for each kind of fault, what to do about it;
- `check`: the verdict on a file, or on every file below a folder;
- `read`: a valid file as data, and a taxonomy of the course to start from.

Source: Sudalairaj et al. 2024, "LAB: Large-Scale Alignment for ChatBots", section 3.1.
"""

from course_helpers.taxonomy.check import Fault, Verdict, check_file, check_taxonomy
from course_helpers.taxonomy.read import (
    Knowledge,
    KnowledgeSeed,
    Seed,
    Skill,
    read_knowledge,
    read_skill,
    start_taxonomy,
)

__all__ = [
    "Fault",
    "Knowledge",
    "KnowledgeSeed",
    "Seed",
    "Skill",
    "Verdict",
    "check_file",
    "check_taxonomy",
    "read_knowledge",
    "read_skill",
    "start_taxonomy",
]
