"""Taxonomies: the real parser's verdict, the line of each fault, a mend that mends, and what is read from a file."""

from __future__ import annotations

import functools
import gettext
import html
import logging
import os
import re
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import yaml
from instructlab.schema.taxonomy import TaxonomyParser, TaxonomyReadingException

from course_helpers import taxonomy, translation
from course_helpers.assets import HERE
from course_helpers.taxonomy import (
    Seed,
    Verdict,
    check_file,
    check_taxonomy,
    parser,
    read_knowledge,
    read_skill,
    start_taxonomy,
)
from course_helpers.taxonomy.places import path_of, place_of, steps_of
from course_helpers.yaml_text import too_much

TAXONOMY = HERE / "taxonomy"
SKILL_FILE = TAXONOMY / "compositional_skills" / "film_reviews" / "praise_and_blame" / "qna.yaml"
KNOWLEDGE_FILE = TAXONOMY / "knowledge" / "film_festival" / "paper_lantern_prize" / "qna.yaml"
FOLDERS = {"skill": "compositional_skills/rhymes/couplets", "knowledge": "knowledge/birds/owls", "elsewhere": "drafts"}

SKILL = """version: 2
created_by: ada
task_description: Find a word that rhymes.
seed_examples:
  - question: Which color rhymes with bed?
    answer: red
  - question: Which animal rhymes with hat?
    answer: cat
  - question: Which number rhymes with tree?
    answer: three
  - question: Which drink rhymes with key?
    answer: tea
  - question: Which season rhymes with ring?
    answer: spring
"""


def knowledge_text() -> str:
    """Valid knowledge of five short passages."""
    head = """version: 3
created_by: ada
domain: Birds
document_outline: Owls, where they live and what they eat
document:
  repo: https://example.org/owls.git
  commit: "4815162"
  patterns:
    - owls.md
seed_examples:
"""
    one = """  - context: The {owl} owl is brown.
    questions_and_answers:
      - question: Which color has the {owl} owl?
        answer: brown
      - question: Which owl is the {owl} one?
        answer: a brown one
      - question: Is the {owl} owl green?
        answer: It is brown.
"""
    return head + "".join(one.format(owl=owl) for owl in ("barn", "forest", "desert", "island", "mountain"))


KNOWLEDGE = knowledge_text()
FIFTH = "  - question: Which season rhymes with ring?\n    answer: spring\n"


def without(line: str, text: str) -> str:
    """A text without one of its lines."""
    assert f"{line}\n" in text
    return text.replace(f"{line}\n", "", 1)


# --- two judges of the same file --------------------------------------------------------------------------------------


def written(folder: Path, kind: str, text: str | bytes) -> Path:
    path = folder / FOLDERS[kind] / "qna.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


@functools.cache
def ours(kind: str, text: str | bytes) -> Verdict:
    with tempfile.TemporaryDirectory() as folder:
        return check_file(written(Path(folder), kind, text))


@functools.cache
def errors_of_the_real_one(kind: str, text: str | bytes) -> int:
    """How many errors the parser counts, called directly; a file that it cannot read is one."""
    real = TaxonomyParser(schema_version=0, yamllint_strict=True, message_format="LOGGING")
    real.yq_available = False
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        try:
            return real.parse(written(Path(folder), kind, text)).errors
        except TaxonomyReadingException:
            return 1


# --- what is valid ----------------------------------------------------------------------------------------------------

VALID = {
    "skill": ("skill", SKILL),
    "knowledge": ("knowledge", KNOWLEDGE),
    "six seeds": ("skill", SKILL + FIFTH.replace("season", "bird").replace("spring", "starling")),
    "with contexts": ("skill", SKILL.replace("  - question", "  - context: Roses are red.\n    question")),
    "one with a context": ("skill", SKILL.replace("  - question", "  - context: Roses are red.\n    question", 1)),
    "skill of version 3": ("skill", SKILL.replace("version: 2", "version: 3")),
    "skill outside of a taxonomy": ("elsewhere", SKILL),
    "knowledge outside of a taxonomy": ("elsewhere", KNOWLEDGE),
    "block scalars": (
        "skill",
        SKILL.replace("answer: red", "answer: |\n      red,\n\n      as: a rose").replace(
            "cat", ">\n      c\n      at"
        ),
    ),
    "other scripts": ("skill", SKILL.replace("red", "vermelho, красный, 赤, 🌹").replace("ada", "Zoë")),
    "comments": ("skill", "# a comment\n" + SKILL.replace("ada", "ada  # another: here")),
    "long lines": ("skill", SKILL.replace("answer: red", "answer: " + "red " * 500 + "red")),
    "lists not indented": ("skill", SKILL.replace("\n  ", "\n")),
    "two blank lines": ("skill", SKILL.replace("ada\n", "ada\n\n\n")),
    "keys in another order": ("skill", without("version: 2", SKILL) + "version: 2\n"),
    "quoted questions with colons": ("skill", SKILL.replace("answer: red", "answer: 'red: a color'")),
    "an alias": ("skill", SKILL.replace("answer: red", "answer: &a red").replace("answer: tea", "answer: *a")),
    "two patterns": ("knowledge", KNOWLEDGE.replace("    - owls.md\n", "    - owls.md\n    - more/*.md\n")),
}


@pytest.mark.parametrize("name", VALID)
def test_a_valid_taxonomy_has_no_fault(name):
    kind, text = VALID[name]
    assert errors_of_the_real_one(kind, text) == 0
    verdict = ours(kind, text)
    assert verdict.valid
    assert verdict.faults == ()
    assert verdict.version == yaml.safe_load(text)["version"]


def test_the_lessons_taxonomy_is_valid():
    verdicts = check_taxonomy(TAXONOMY)
    assert [verdict.path for verdict in verdicts] == [SKILL_FILE, KNOWLEDGE_FILE]
    assert [verdict.version for verdict in verdicts] == [2, 3]
    assert all(verdict.valid and not verdict.faults for verdict in verdicts)


# --- what is not ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken:
    """A fault, where it must be found, what the mend must name, and the text after the mend has been followed.

    Attributes:
        kind: where the file lies.
        text: of the file.
        line: of the first fault.
        names: what stands in the mends.
        repaired: the text, mended; None: the valid one of this kind.
        errors: how many the parser finds.
        column: of the first fault, where it is worth a look.
    """

    kind: str
    text: str | bytes
    line: int
    names: tuple[str, ...]
    repaired: str | None = None
    errors: int = 1
    column: int | None = None


def skill(good: str, bad: str, line: int, *names: str, **more) -> Broken:
    """The valid skill with something good exchanged for something bad."""
    assert good in SKILL
    return Broken("skill", SKILL.replace(good, bad, 1), line, names, **more)


def knowledge(good: str, bad: str, line: int, *names: str, **more) -> Broken:
    assert good in KNOWLEDGE
    return Broken("knowledge", KNOWLEDGE.replace(good, bad, 1), line, names, **more)


BARN = "  - context: The barn owl is brown.\n    questions_and_answers:\n"
BARN_PAIRS = KNOWLEDGE[KNOWLEDGE.index("      - question") : KNOWLEDGE.index("  - context: The forest")]
BROKEN = {
    # what the schema demands
    "four seeds": skill(FIFTH, "", 4, "At least 5", "the list has 4", "Write 1 more"),
    "two seeds": skill(SKILL[SKILL.index("  - question: Which number") :], "", 4, "the list has 2", "Write 3 more"),
    "the same seed twice": skill(
        "Which animal rhymes with hat?\n    answer: cat",
        "Which color rhymes with bed?\n    answer: red",
        7,
        "Numbers 1 and 2",
        "lines 5 and 7",
    ),
    "misspelled key": skill("created_by", "created_bye", 1, "`created_by:`", errors=2),
    "misspelled key of a seed": skill("    answer: cat", "    anser: cat", 7, "Did you mean `answer:`?", errors=2),
    "extra key": skill("created_by: ada\n", "created_by: ada\nlicense: none\n", 3, "`license:`", "`seed_examples`"),
    "extra key with a sign": skill("created_by: ada\n", "created_by: ada\n50% off: x\n", 3, "`50% off:`"),
    "extra keys of a seed": skill("answer: cat\n", "answer: cat\n    hint: purr\n    5: x\n", 9, "`hint:`", "`5:`"),
    "no answer": skill("    answer: cat\n", "", 7, "`answer:`", column=5),
    "no creator": skill("created_by: ada\n", "", 1, "`created_by:`"),
    "empty answer": skill("answer: cat", 'answer: ""', 8, "`answer` is empty"),
    "nothing after the key": skill("answer: cat", "answer:", 8, "`answer:`"),
    "a number for a text": skill(
        "answer: three", "answer: 3", 10, 'answer: "3"', repaired=SKILL.replace("three", '"3"')
    ),
    "a date for a text": skill("ada", "2024-01-31", 2, '"2024-01-31"', repaired=SKILL.replace("ada", '"2024-01-31"')),
    "yes for a text": skill(
        "answer: red", "answer: yes", 6, 'answer: "yes"', repaired=SKILL.replace("answer: red", 'answer: "yes"')
    ),
    "a list for a text": skill("answer: cat", "answer:\n      - cat", 8, "`answer` must be one text"),
    "a text for a list": skill(
        SKILL[SKILL.index("seed_examples:") :], "seed_examples: none\n", 4, "`seed_examples` must be a list"
    ),
    "a text for a seed": skill(FIFTH, FIFTH + "  - ring\n", 15, "`question:`", "`answer:`"),
    "version in quotes": skill("version: 2", 'version: "2"', 1, "`version: 2`", errors=2),
    "version that does not exist": skill("version: 2", "version: 7", 1, "`version: 2`"),
    "no version of knowledge": knowledge("version: 3\n", "", 1, "`version: 3`"),
    "knowledge of version 2": knowledge("version: 3", "version: 2", 1, "`version: 3`", "`document_outline:`"),
    "knowledge of version 9": knowledge("version: 3", "version: 9", 1, "`version: 3`"),
    "no outline": knowledge(
        "document_outline: Owls, where they live and what they eat\n", "", 1, "`document_outline:`", "`domain:`"
    ),
    "no passage": knowledge(BARN, "  - questions_and_answers:\n", 11, "`context:`", "passage"),
    "two questions": knowledge(
        "      - question: Is the barn owl green?\n        answer: It is brown.\n",
        "",
        12,
        "At least 3",
        "the list has 2",
    ),
    "commit not quoted": knowledge('"4815162"', "4815162", 7, 'commit: "4815162"'),
    "pattern not in a list": knowledge("patterns:\n    - owls.md", "patterns: owls.md", 8, "`patterns` must be a list"),
    "skill among knowledge": knowledge(
        "domain: Birds\n", "domain: Birds\ntask_description: Owls.\n", 4, "`task_description:` belongs to skills"
    ),
    "skill's form of a seed": knowledge(
        BARN,
        "  - context: The barn owl is brown.\n    question: Which color?\n    questions_and_answers:\n",
        12,
        "`questions_and_answers:`",
    ),
    "knowledge among skills": skill(
        "created_by: ada\n", "created_by: ada\ndomain: Rhymes\n", 3, "`domain:` belongs to knowledge"
    ),
    # what yamllint finds
    "spaces at the end of a line": skill("ada\n", "ada  \n", 2, "spaces at the end", column=16),
    "three blank lines": skill("ada\n", "ada\n\n\n\n", 5, "blank lines"),
    "blank line at the end": skill(FIFTH, FIFTH + "\n", 15, "blank lines"),
    "no end of the last line": skill(FIFTH, FIFTH.rstrip(), 14, "Enter"),
    "key twice": skill("created_by: ada\n", "created_by: ada\ncreated_by: bob\n", 3, "`created_by:`", "second time"),
    "two spaces after a colon": skill("created_by: ada", "created_by:  ada", 2, "colon"),
    "list further right": knowledge(BARN_PAIRS, BARN_PAIRS.replace("      ", "        "), 13, "6 spaces"),
    # what is no YAML
    "a tab": skill("    answer: cat", "\tanswer: cat", 8, "tab", column=1),
    "a colon in a text": skill(
        "answer: cat",
        "answer: cat: a pet",
        8,
        "colon",
        "quotes",
        repaired=SKILL.replace("answer: cat", 'answer: "cat: a pet"'),
    ),
    "too far right": skill("    answer: cat", "      answer: cat", 8, "further right"),
    "too far left": skill("    answer: cat", "   answer: cat", 8, "another column"),
    "quote not closed": skill("answer: spring", 'answer: "spring', 14, "never closed"),
    "text after a quote": skill(
        "answer: cat",
        'answer: "cat" or dog',
        8,
        "one pair of quotes",
        repaired=SKILL.replace("answer: cat", 'answer: "cat or dog"'),
    ),
    "text that begins with a sign": skill(
        "answer: cat", "answer: @cat", 8, "special sign", repaired=SKILL.replace("cat", '"@cat"')
    ),
    "text that begins with a star": skill(
        "answer: cat", "answer: *cat", 8, "special sign", repaired=SKILL.replace("cat", '"*cat"')
    ),
    "text that begins with !": skill(
        "answer: cat", "answer: !cat", 8, "special sign", repaired=SKILL.replace("cat", '"!cat"')
    ),
    "a backslash": skill("answer: cat", 'answer: "\\cat"', 8, "backslash", repaired=SKILL.replace("cat", '"\\\\cat"')),
    "no colon": skill("created_by: ada", "created_by ada", 2, "`key: value`"),
    "two documents": skill(FIFTH, FIFTH + "---\na: b\n", 15, "`---`"),
    "impossible date": skill("ada", "2024-13-01", 2, '"2024-13-01"', repaired=SKILL.replace("ada", '"2024-13-01"')),
    "control character": skill("answer: cat", "answer: ca\at", 8, "control character", column=15),
    "not UTF-8": Broken("skill", SKILL.replace("cat", "chão").encode("latin-1"), 8, ("UTF-8",)),
    "a list of everything": Broken("skill", "- version: 2\n", 1, ("`version:`",)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_fault_is_found_in_its_line_and_the_mend_mends_it(name):
    broken = BROKEN[name]
    verdict = ours(broken.kind, broken.text)
    assert errors_of_the_real_one(broken.kind, broken.text) == broken.errors
    assert sum(fault.severity == "error" for fault in verdict.faults) == broken.errors
    assert not verdict.valid
    first = verdict.faults[0]
    assert first.line == broken.line
    assert broken.column in (None, first.column)
    mends = " ".join(fault.mend for fault in verdict.faults)
    assert [named for named in broken.names if named not in mends] == []
    repaired = broken.repaired or (KNOWLEDGE if broken.kind == "knowledge" else SKILL)
    assert ours(broken.kind, repaired).faults == ()


def test_the_parser_names_the_place_and_keeps_its_words():
    fault = ours("knowledge", BROKEN["commit not quoted"].text).faults[0]
    assert fault.where == "document.commit"
    assert fault.message == "4815162 is not of type 'string'"
    assert ours("skill", BROKEN["empty answer"].text).faults[0].where == "seed_examples[1].answer"


def test_a_message_with_a_percent_sign_arrives_whole():
    assert ours("skill", BROKEN["extra key with a sign"].text).faults[0].message == (
        "Unevaluated properties are not allowed ('50% off' was unexpected)"
    )


def test_a_message_without_a_known_kind_gets_a_general_mend():
    verdict = ours("skill", SKILL.replace("answer: cat", "answer: .inf").replace("version: 2", "version: .inf"))
    assert len(verdict.faults) == 1
    assert "valid" in verdict.faults[0].mend


# --- notes that are not errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "# only a comment\n"])
def test_an_empty_file_is_valid_to_the_parser_and_has_a_warning(text):
    verdict = ours("skill", text)
    assert errors_of_the_real_one("skill", text) == 0
    assert verdict.valid
    assert [fault.severity for fault in verdict.faults] == ["warning"]
    assert verdict.version == 0


@pytest.mark.parametrize("text", [SKILL.replace("version: 2", "version: 1"), without("version: 2", SKILL)])
def test_a_skill_of_version_1_is_valid_and_has_a_warning_of_ours(text):
    text = text.replace("ada\n", "ada  \n")  # which nobody sees in version 1
    assert errors_of_the_real_one("skill", text) == 0
    verdict = ours("skill", text)
    assert verdict.valid
    assert [(fault.severity, fault.line) for fault in verdict.faults] == [("warning", 1)]
    assert "`version: 2`" in verdict.faults[0].mend


# --- the traps of the parser ------------------------------------------------------------------------------------------


def test_the_parsers_own_default_would_fail_a_sound_skill(tmp_path):
    path = written(tmp_path, "skill", SKILL)
    assert TaxonomyParser(message_format="LOGGING").parse(path).errors > 0
    assert check_file(path).valid


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A Python without programs beside it, and an empty PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(parser.sys, "executable", str(folder / "python"))
    monkeypatch.setattr(parser.sysconfig, "get_path", lambda name: str(folder))
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_without_yamllint_there_is_no_verdict(nowhere, tmp_path):
    path = written(tmp_path, "skill", SKILL)
    with pytest.raises(RuntimeError, match=r"yamllint is needed .*pip install yamllint"):
        check_file(path)


@pytest.mark.skipif(os.name == "nt", reason="programs begin otherwise there")
def test_a_yamllint_that_does_not_start_gives_no_verdict_either(nowhere, tmp_path):
    program = nowhere / "yamllint"
    program.write_text("#!/no/such/python\n")
    program.chmod(0o755)
    with pytest.raises(RuntimeError, match="does not start"):
        check_file(written(tmp_path, "skill", SKILL))


@pytest.mark.parametrize("path", ["", None])
def test_yamllint_is_found_beside_python_and_path_stays(tmp_path, monkeypatch, path):
    monkeypatch.delenv("PATH") if path is None else monkeypatch.setenv("PATH", path)
    assert not check_file(written(tmp_path, "skill", BROKEN["spaces at the end of a line"].text)).valid
    assert os.environ.get("PATH") == path


def test_nothing_is_printed_and_logging_stays_as_it_was(tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKFLOW", "test")
    logger = logging.getLogger("instructlab.schema.taxonomy")
    monkeypatch.setattr(logger, "disabled", True)
    before = dict(vars(logger), _cache={})
    logging.disable(logging.CRITICAL)
    try:
        verdict = check_file(written(tmp_path, "skill", BROKEN["four seeds"].text))
        assert logging.root.manager.disable == logging.CRITICAL
    finally:
        logging.disable(logging.NOTSET)
    assert len(verdict.faults) == 1
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert dict(vars(logger), _cache={}) == before


def test_two_threads_have_each_their_own_verdict(tmp_path):
    names = ["four seeds", "spaces at the end of a line", "no answer", "a tab"]
    paths = [written(tmp_path / str(i), "skill", BROKEN[name].text) for i, name in enumerate(names)]
    got: dict[str, Verdict] = {}
    threads = [
        threading.Thread(target=lambda n, p: got.update({n: check_file(p)}), args=pair)
        for pair in zip(names, paths, strict=True)
    ]
    before = os.environ["PATH"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: verdict.faults for name, verdict in got.items()} == {
        name: ours("skill", BROKEN[name].text).faults for name in names
    }
    assert os.environ["PATH"] == before


# --- hostile and lost files -------------------------------------------------------------------------------------------


def test_a_file_over_the_limit_is_refused_unread(tmp_path):
    path = written(tmp_path, "skill", SKILL + "# " + "x" * 1_000_000 + "\n")
    began = time.perf_counter()
    verdict = check_file(path)
    assert time.perf_counter() - began < 0.5
    assert not verdict.valid
    assert "1 MB" in verdict.faults[0].mend


def bomb() -> str:
    """Ten lines that stand for 10⁹ values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    return SKILL + "\n".join(lines) + "\nseed_examples: *a8\n"


HOSTILE = {
    "aliases of aliases": bomb(),
    "one long text again and again": SKILL + f"a: &a {'x' * 50_000}\nb: [{', '.join(['*a'] * 1000)}]\n",
    "a list that holds itself": SKILL + "a: &a [*a]\n",
    "lists in lists": SKILL + "a: " + "[" * 5000 + "]" * 5000 + "\n",
    "thousands of examples": SKILL + "".join(f"  - question: q{i}\n    answer: a\n" for i in range(10_000)),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_ends_in_a_fault_and_soon(tmp_path, name):
    verdict = check_file(written(tmp_path, "skill", HOSTILE[name]))
    assert not verdict.valid
    assert len(verdict.faults) == 1
    assert len(str(verdict)) < 1000


def test_a_tag_runs_nothing(tmp_path):
    path = written(tmp_path, "skill", SKILL + f"a: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]\n")
    assert not check_file(path).valid
    assert not (tmp_path / "made").exists()


def test_text_of_a_file_is_escaped_in_html_and_spelled_out_in_text(tmp_path):
    verdict = check_file(written(tmp_path, "skill", SKILL + '"<script>\\e[31m`": x\n'))
    assert "<script>" in str(verdict)
    assert "\x1b" not in str(verdict)
    assert "<script>" not in verdict._repr_html_()
    assert html.escape("<script>") in verdict._repr_html_()


@pytest.mark.parametrize(("name", "names"), [("qna.yml", "`qna.yaml`"), ("facts.yaml", "`qna.yaml`")])
def test_a_file_with_another_name_is_told_the_right_one(tmp_path, name, names):
    path = written(tmp_path, "skill", SKILL)
    verdict = check_file(path.rename(path.with_name(name)))
    assert not verdict.valid
    assert names in verdict.faults[0].mend


def test_a_missing_file_and_a_folder_are_faults(tmp_path):
    for path in (tmp_path / "qna.yaml", tmp_path):
        verdict = check_file(path)
        assert not verdict.valid
        assert "spelled" in verdict.faults[0].mend


# --- a whole taxonomy -------------------------------------------------------------------------------------------------


def test_check_taxonomy_judges_every_file_but_hidden_ones(tmp_path):
    start_taxonomy(tmp_path)
    hidden = tmp_path / "knowledge" / ".ipynb_checkpoints"
    hidden.mkdir()
    (hidden / "qna.yaml").write_text("")
    (tmp_path / "knowledge" / "qna.yml").write_text(KNOWLEDGE)
    written(tmp_path, "skill", BROKEN["four seeds"].text)
    verdicts = check_taxonomy(tmp_path)
    assert [(verdict.path.parent.name, verdict.valid) for verdict in verdicts] == [
        ("praise_and_blame", True),
        ("couplets", False),
        ("paper_lantern_prize", True),
        ("knowledge", False),
    ]


def test_check_taxonomy_says_which_folder_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*lost.*start_taxonomy"):
        check_taxonomy(tmp_path / "lost")


def test_start_taxonomy_copies_and_never_writes_over_a_file(tmp_path):
    folder = start_taxonomy(tmp_path / "mine")
    files = {file.relative_to(TAXONOMY) for file in TAXONOMY.rglob("*") if file.is_file()}
    assert {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()} == files
    assert all((folder / file).read_bytes() == (TAXONOMY / file).read_bytes() for file in files)
    changed, lost = folder / SKILL_FILE.relative_to(TAXONOMY), folder / KNOWLEDGE_FILE.relative_to(TAXONOMY)
    changed.write_text("mine\n")
    lost.unlink()
    assert start_taxonomy(folder) == folder
    assert changed.read_text() == "mine\n"
    assert lost.read_bytes() == KNOWLEDGE_FILE.read_bytes()


# --- how a verdict shows itself ---------------------------------------------------------------------------------------


def test_a_verdict_says_line_message_and_mend():
    verdict = ours("skill", BROKEN["four seeds"].text)
    assert str(verdict).splitlines() == [
        "couplets/qna.yaml: 1 error, version 2",
        "qna.yaml:4:1 seed_examples: Value must have at least 5 items",
        "    At least 5 are needed, and the list has 4. Write 1 more.",
    ]
    assert str(ours("skill", SKILL)) == repr(ours("skill", SKILL)) == "couplets/qna.yaml: valid, version 2"
    page = verdict._repr_html_()
    assert page.count("<tr>") == 2
    assert "<td>4</td><td>seed_examples</td>" in page


def test_mends_follow_the_language_and_the_parsers_words_do_not(tmp_path, monkeypatch):
    class Shouted(gettext.NullTranslations):
        def gettext(self, message):
            return f"«{message}»"

        def ngettext(self, one, many, n):
            return (one if n == 1 else many).replace("error", "ERROR")

    monkeypatch.setattr(translation, "_catalogue", lambda code: Shouted())
    verdict = check_file(written(tmp_path, "skill", BROKEN["spaces at the end of a line"].text))
    assert verdict.faults[0].message == "trailing spaces (trailing-spaces)"
    assert verdict.faults[0].mend == "«Delete the spaces at the end of this line.»"
    assert "1 ERROR" in str(verdict)


# --- places -----------------------------------------------------------------------------------------------------------


def test_steps_of_a_path():
    assert steps_of(".") == steps_of("") == ()
    assert steps_of(".seed_examples[3].answer") == ("seed_examples", 3, "answer")
    assert steps_of(".a['b c'][0]['it\\'s']") == ("a", "b c", 0, "it's")
    assert path_of(steps_of(".seed_examples[3].answer")) == "seed_examples[3].answer"


def test_place_is_that_of_the_key_or_of_the_item():
    root = yaml.compose(SKILL)
    lines = SKILL.splitlines()
    for i, line in enumerate(lines, start=1):
        if "answer:" in line:
            place = place_of(root, ("seed_examples", (i - 6) // 2, "answer"))
            assert (place.line, place.column) == (i, line.index("answer") + 1)
    assert place_of(root, ("seed_examples", 2)).line == 9
    assert place_of(root, ("seed_examples", 9, "answer")).line == 4


def test_aliases_are_counted_as_what_they_stand_for():
    text = "a: &a [1, 2, 3]\nb: [{}]\n"
    assert not too_much(yaml.compose(text.format(", ".join(["*a"] * 4000))))  # 4 values each
    assert too_much(yaml.compose(text.format(", ".join(["*a"] * 5000))))


# --- reading ----------------------------------------------------------------------------------------------------------


def test_read_skill_gives_the_files_seeds():
    read, data = read_skill(SKILL_FILE), yaml.safe_load(SKILL_FILE.read_text(encoding="utf-8"))
    assert (read.version, read.task_description) == (2, data["task_description"])
    assert [dict(zip(("context", "question", "answer"), vars(seed).values(), strict=True)) for seed in read.seeds] == (
        data["seed_examples"]
    )
    with pytest.raises(AttributeError):
        read.version = 3


def test_read_skill_without_context(tmp_path):
    read = read_skill(written(tmp_path, "skill", SKILL))
    assert read.seeds[0] == Seed(None, "Which color rhymes with bed?", "red")


def test_read_skill_of_version_1(tmp_path):
    assert read_skill(written(tmp_path, "skill", without("version: 2", SKILL))).version == 1


@pytest.mark.parametrize("read", [read_skill, read_knowledge])
@pytest.mark.parametrize(("text", "said"), [(BROKEN["four seeds"].text, "Write 1 more"), ("", "The file is empty")])
def test_a_file_that_is_not_valid_or_empty_is_not_read(tmp_path, read, text, said):
    with pytest.raises(ValueError, match=said):
        read(written(tmp_path, "skill", text))


def test_skill_and_knowledge_are_told_apart(tmp_path):
    with pytest.raises(ValueError, match="read_knowledge"):
        read_skill(KNOWLEDGE_FILE)
    with pytest.raises(ValueError, match="read_skill"):
        read_knowledge(SKILL_FILE)


def test_read_knowledge_gives_passages_questions_and_the_document():
    read = read_knowledge(KNOWLEDGE_FILE)
    data = yaml.safe_load(KNOWLEDGE_FILE.read_text(encoding="utf-8"))
    assert (read.domain, read.outline, read.task_description) == (data["domain"], data["document_outline"], None)
    assert [seed.context for seed in read.seeds] == [example["context"] for example in data["seed_examples"]]
    assert all(len(seed.pairs) == 3 and pair.context is None for seed in read.seeds for pair in seed.pairs)
    assert read.documents == ((KNOWLEDGE_FILE.parent / "films.md").read_text(encoding="utf-8"),)


def owls(tmp_path: Path, pattern: str) -> Path:
    return written(tmp_path, "knowledge", KNOWLEDGE.replace("- owls.md", f'- "{pattern}"'))


def test_documents_are_found_by_pattern_in_the_order_of_their_names(tmp_path):
    path = owls(tmp_path, "**/*.*")
    for name in ("b.md", "a.md", "more/c.md", ".ipynb_checkpoints/a-checkpoint.md"):
        (path.parent / name).parent.mkdir(exist_ok=True)
        (path.parent / name).write_text(name, encoding="utf-8")
    assert read_knowledge(path).documents == ("a.md", "b.md", "more/c.md")


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("owls.md", "No document `owls.md`"),
        ("../*.md", "leads out"),
        ("/etc/*.md", "leads out"),
        ("qna.yaml", "No doc"),
    ],
)
def test_a_pattern_that_finds_nothing_or_leads_out_is_refused(tmp_path, pattern, said):
    path = owls(tmp_path, pattern)
    (path.parent.parent / "secret.md").write_text("secret")
    with pytest.raises(ValueError, match=re.escape(said)):
        read_knowledge(path)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    path = owls(tmp_path, "*.md")
    (tmp_path / "secret.md").write_text("secret")
    try:
        (path.parent / "owls.md").symlink_to(tmp_path / "secret.md")
    except OSError:
        pytest.skip("no links here")
    with pytest.raises(ValueError, match="leads out of the folder"):
        read_knowledge(path)


@pytest.mark.parametrize(("content", "said"), [(b"\xff\xfe\xff", "UTF-8"), (b"x" * 1_000_001, "1 MB")])
def test_a_document_that_cannot_be_read_says_why(tmp_path, content, said):
    path = owls(tmp_path, "owls.md")
    (path.parent / "owls.md").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_knowledge(path)


# --- the lesson's taxonomy says what the lesson needs -----------------------------------------------------------------

PARAGRAPH = re.compile(r"(The [\w ]+) is a ([\w ]+)\. It was directed by ([\w ]+) and shot in (\w+)\.")


def test_the_skills_answers_follow_from_their_reviews():
    seeds = read_skill(SKILL_FILE).seeds
    assert len(seeds) == 6
    assert {seed.question for seed in seeds} == {"What is praised and what is blamed?"}
    for seed in seeds:
        praised, blamed = re.fullmatch(r"Praised: the (\w+)\. Blamed: the (\w+)\.", seed.answer).groups()
        assert f"{praised} " in seed.context
        assert f"{blamed} " in seed.context or f"{blamed}." in seed.context
    first = [re.search(r"Praised: the (\w+)", seed.answer)[1] for seed in seeds]
    assert len(set(first)) == 6


def test_the_knowledge_follows_from_its_document():
    read = read_knowledge(KNOWLEDGE_FILE)
    facts = PARAGRAPH.findall(read.documents[0])
    assert len(facts) == 12
    assert all(len(set(column)) == 12 for column in zip(*facts, strict=True))
    wordings = []
    for seed in read.seeds:
        assert seed.context in read.documents[0].splitlines()
        title, kind, director, country = PARAGRAPH.fullmatch(seed.context).groups()
        assert [pair.answer for pair in seed.pairs] == [
            f"{title} was directed by {director}.",
            f"{title} was shot in {country}.",
            f"{title} is a {kind}.",
        ]
        wordings += [pair.question.replace(title, "{}") for pair in seed.pairs]
    assert len(set(wordings)) == 15


def test_everything_public_has_a_docstring():
    assert all(getattr(taxonomy, name).__doc__ for name in taxonomy.__all__)
    assert [field.name for field in fields(taxonomy.Fault)] == [
        "line",
        "column",
        "where",
        "message",
        "mend",
        "severity",
    ]
