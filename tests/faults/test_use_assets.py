"""Whatever is shipped and then missing, cut short, emptied or changed in one byte is named, and how to restore it."""

import json
import re
import shutil
import warnings
from pathlib import Path

import pytest

from course_helpers import assets, glossary, models, progress, prompts, quizzes, time_travel, translation
from course_helpers.assets import AssetError
from course_helpers.frontier import table
from course_helpers.ppo import AutoModelForCausalLMWithValueHead
from course_helpers.runs import settings
from course_helpers.taxonomy import start_taxonomy
from course_helpers.teacher.lexicon import read_lexicon
from course_helpers.widgets import GlossaryPanel, Quiz

MO = "locale/pt/LC_MESSAGES/course_helpers.mo"
READERS = {  # each kind of file that is shipped, and what reads it
    "policy/model.safetensors": lambda: models.load_policy("small", "cpu"),
    "policy/config.json": lambda: models.load_reference("small", "cpu"),
    "policy/tokenizer.json": lambda: AutoModelForCausalLMWithValueHead.from_pretrained("small"),
    "policy/generation_config.json": lambda: models.load_policy("small", "cpu"),
    "judge/model.safetensors": lambda: models.load_judge("small", "cpu"),
    "second_judge/tokenizer_config.json": lambda: models.load_judge("second", "cpu"),
    "prompts.json": prompts.load_prompts,
    "glossary.yaml": lambda: glossary.glossary("KL"),
    "quizzes/00.yaml": lambda: Quiz("00"),
    "journeys/ppo-beta-0.1.safetensors": lambda: time_travel.Journey.load("ppo-beta-0.1"),
    "frontier/points.csv": table.load_points,
    "frontier/samples.json": table.load_samples,
    "taxonomy/knowledge/film_festival/paper_lantern_prize/films.md": lambda: start_taxonomy("my_taxonomy"),
    "teacher/lexicon.yaml": read_lexicon,
    "instruct/scores.csv": lambda: assets.asset("instruct/scores.csv"),  # read by lesson 07 itself
}


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


FAULTS = {
    "missing": (Path.unlink, "is missing"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-7]), "is damaged: it has .* bytes instead of"),
    "one byte flipped": (flip, "is damaged: its SHA-256 is not the one in manifest.json"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged: it has 0 bytes instead of"),
}


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The shipped files once more, to be damaged: hard links, until `own` makes a file of one."""
    there = tmp_path / "assets"
    shutil.copytree(assets.HERE, there, copy_function=lambda source, target: Path(target).hardlink_to(source))
    for path in there.rglob("manifest.json"):
        own(path)
    monkeypatch.setattr(assets, "HERE", there)
    monkeypatch.setattr(assets, "MANIFEST", there / "manifest.json")
    for cached in (glossary.entries, quizzes.load_quiz, translation._catalogue):
        cached.cache_clear()
    monkeypatch.chdir(tmp_path)
    yield there
    for cached in (glossary.entries, quizzes.load_quiz, translation._catalogue):
        cached.cache_clear()


def own(path):
    """Break a hard link: what is written to the file from now on stays in the copy."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_named_with_the_way_to_restore_it(copy, tmp_path, name, fault):
    spoil, words = FAULTS[fault]
    spoil(own(copy / name))
    restore = r".*git checkout -- course_helpers/assets"
    with pytest.raises(AssetError, match=f"{re.escape(str(copy / name))} {words}{restore}"):
        READERS[name]()
    assert not (tmp_path / "my_taxonomy").exists()  # no part of it was begun


def test_every_kind_of_file_has_a_reader_here():
    """What the lessons show only (pictures, the models' card) and the source of the translation are read by nobody."""
    shown = {"MODEL_CARD.md", "training.json", "training_curve_judge.png", "training_curve_policy.png", "locale"}
    kinds = {path.split("/")[0] for path in assets.listed()} - shown
    assert kinds == {name.split("/")[0] for name in READERS}


def test_nothing_shipped_is_read_past_the_check():
    """No module builds the path of a shipped file by hand."""
    package = Path(assets.__file__).parent.parent
    past = re.compile(r"""["/]assets["/]|assets import HERE|assets\.HERE""")
    allowed = {"assets/__init__.py", "runs/settings.py"}
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if past.search(re.sub(r'"""(?s:.*?)"""', "", path.read_text(encoding="utf-8")))
    }
    lessons = (package.parent / "notebooks").glob("[0-9]*.ipynb")
    found |= {path.name for path in lessons if past.search(path.read_text(encoding="utf-8"))}
    messages = {"time_travel.py"}  # names the folder in a sentence
    assert found - allowed - messages == set()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_translation_leaves_the_course_in_english_and_says_so(copy, fault):
    spoil, words = FAULTS[fault]
    spoil(own(copy / MO))
    with pytest.warns(UserWarning, match=f"speaks English.*course_helpers.mo {words}.*git checkout"):
        translation.language("pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        assert translation._("✓ Right.") == "✓ Right."
        assert "quiz" in repr(progress.progress()).lower()  # and what speaks goes on speaking


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"files": {}}', '{"files": {"prompts.json": 3}}'])
def test_a_damaged_manifest_is_named(copy, content):
    assets.MANIFEST.write_text(content)
    with pytest.raises(AssetError, match=r"manifest\.json is damaged: .*git checkout"):
        prompts.load_prompts()
    assets.MANIFEST.unlink()
    with pytest.raises(AssetError, match=r"manifest\.json is missing.*git checkout"):
        Quiz("00")


def test_a_widget_says_it_below_its_title(copy):
    """Damage that is met when a learner types is said in the panel, whose callback has no cell."""
    panel = GlossaryPanel("policy")
    glossary.entries.cache_clear()
    flip(own(copy / "glossary.yaml"))
    panel.search.value = "reward"
    assert "glossary.yaml is damaged" in panel.message.value
    assert "git checkout" in panel.message.value
    assert "Traceback" not in panel.message.value
    assert "AssetError" not in panel.message.value  # a sentence, not the name of a class
    assert "glossary.yaml is damaged" in panel._repr_mimebundle_()["text/html"]


def test_settings_that_come_with_the_course_are_named_when_they_are_gone(tmp_path, monkeypatch):
    """Learners edit these files, so they are not compared with a list; git has them, too."""
    monkeypatch.setattr(settings, "COURSE", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no file 'configs/small/dpo\.yaml'; .*configs"):
        settings.make("dpo", "configs/small/dpo.yaml")
    path = tmp_path / "configs" / "small" / "dpo.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("")
    with pytest.raises(ValueError, match=r"dpo\.yaml holds nothing.*git checkout -- configs"):
        settings.make("dpo", "configs/small/dpo.yaml")
    path.write_text("method: dpo\nbeta: 0.1\nlearning_rate: [1")
    with pytest.raises(ValueError, match=r"dpo\.yaml is no YAML at line 3"):
        settings.make("dpo", "configs/small/dpo.yaml")


def test_lists_name_what_the_manifest_names():
    files = json.loads(assets.MANIFEST.read_text())["files"]
    assert set(quizzes.quiz_names()) == {Path(f).stem for f in files if f.startswith("quizzes/")}
    assert "00" in quizzes.quiz_names()
    assert "dpo" in quizzes.quiz_names()
