"""YAML of others: no class, no bomb, no file without end, nothing named twice."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import pytest
import yaml

from course_helpers.assets import HERE
from course_helpers.quizzes import read_quiz
from course_helpers.runs import settings
from course_helpers.runs.folder import RunFolder, settings_in
from course_helpers.teacher.lexicon import read_lexicon
from course_helpers.yaml_text import MOST_BYTES, read_yaml, read_yaml_file

pytestmark = pytest.mark.timeout(60)
LEVELS = 9  # of aliases: 10⁹ values


def laughs(name: str = "a") -> str:
    """Ten lines that stand for 10⁹ values."""
    lines = [f"{name}0: &{name}0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, LEVELS):
        lines.append(f"{name}{level}: &{name}{level} [{', '.join([f'*{name}{level - 1}'] * 10)}]")
    return "\n".join(lines) + "\n"


BAD = {
    "aliases of aliases": (laughs(), "stands for too much: it repeats parts of itself with & and *; write them out."),
    "a list that holds itself": ("a: &a [*a]\n", "stands for too much"),
    "merge keys of merge keys": ("a: &a {x: 1}\nb: {<<: *a, <<: *a}\n", "has '<<' twice, the second time at line 2"),
    "lists in lists": ("a: " + "[" * 2000 + "]" * 2000, "is nested too deeply"),
    "a name twice": ("beta: 1\nsteps: 2\nbeta: 3\n", "has 'beta' twice, the second time at line 3: keep one of them."),
    "a name twice within": ("a:\n  - b: 1\n    b: 2\n", "has 'b' twice, the second time at line 3"),
    "no such day": ("a: 2024-13-45\n", "holds a value that cannot be"),
    "a number without end": (f"a: {'9' * 10_000}\n", "holds a value that cannot be"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_said_in_a_sentence_and_soon(case, tmp_path):
    text, words = BAD[case]
    began, before = time.process_time(), memory()
    with pytest.raises(ValueError, match=r"settings\.yaml") as caught:
        read_yaml(text, "settings.yaml")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300
    assert time.process_time() - began < 20
    assert memory() - before < 200e6


def memory() -> float:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir", "!!python/name:os.x"]
)
def test_a_tag_builds_nothing(tag, tmp_path):
    with pytest.raises(yaml.YAMLError, match="could not determine a constructor"):
        read_yaml(f"a: {tag} [{tmp_path / 'made'}]\n", "x")
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_is_what_yaml_reads():
    text = "a: [1, 2.5, true, null, text]\nb: &b {c: 2024-01-02}\nd: *b\ne: {<<: *b, f: 1}\n'1': x\n1: y\n"
    assert read_yaml(text, "x") == yaml.safe_load(text)
    assert read_yaml("", "x") is None
    for path in sorted((Path(settings.__file__).parents[2] / "configs").rglob("*.yaml")):
        assert read_yaml_file(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


def test_a_file_without_end_is_not_opened(tmp_path):
    path = tmp_path / "settings.yaml"
    with path.open("wb") as file:
        file.truncate(100_000_000_000)  # takes no room on the disk
    for read in (read_yaml_file, lambda path: settings.make("dpo", path), settings_in, read_lexicon):
        with pytest.raises(ValueError, match=r"settings.yaml is larger than 1 MB, and is not read"):
            read(path)


@pytest.mark.parametrize("content", [b"\xff\xfea\x00:\x00", b"a: \xe9\n"])
def test_another_encoding_is_said_and_a_byte_order_mark_is_not_in_the_way(content, tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a text in UTF-8: save it as one"):
        settings.make("dpo", path)
    path.write_bytes(b"\xef\xbb\xbfmethod: dpo\r\nbeta: 0.5\r\n")
    assert settings.make("dpo", path).beta == 0.5


def readers(path: Path) -> dict[str, object]:
    """Everything that reads YAML of a learner's, or of somebody else's."""
    return {
        "settings": lambda: settings.make("dpo", path),
        "a quiz": lambda: read_quiz(path.read_text(), path.name),
        "a run": lambda: RunFolder(path.parent, "dpo", settings.DPOSettings()),
        "the settings of a run": lambda: settings_in(path),
        "a lexicon": lambda: read_lexicon(path),
    }


@pytest.mark.parametrize("reader", readers(Path()))
@pytest.mark.parametrize("text", [laughs(), laughs() + "beta: *a8\nmethod: *a8\nseed: *a8\ntitle: *a8\naspect: *a8\n"])
def test_every_reader_refuses_a_bomb(reader, text, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"config.yaml stands for too much"):
        readers(path)[reader]()


def test_a_bomb_on_the_command_line_is_refused():
    with pytest.raises(ValueError, match="stands for too much"):
        settings.make("dpo", None, ["policy={" + ", ".join(laughs().splitlines()) + "}"])


@pytest.mark.parametrize("content", ["just text", "- a\n", "a: [", "", "7"])
def test_a_run_whose_settings_are_no_settings_is_said(content, tmp_path):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"config.yaml holds no settings of a run: choose another folder, or delete"):
        RunFolder(tmp_path, "dpo", settings.DPOSettings())


def test_the_courses_own_files_are_far_from_the_limits():
    own = [HERE / "teacher" / "lexicon.yaml", *sorted((HERE / "quizzes").glob("*.yaml"))]
    assert len(own) > 8
    for path in own:
        assert path.stat().st_size < MOST_BYTES / 10
        assert read_yaml_file(path) == yaml.safe_load(path.read_text(encoding="utf-8"))
