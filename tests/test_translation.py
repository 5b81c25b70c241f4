"""The chosen language reaches every word, at once and without loss, and the catalogue holds what it should."""

from __future__ import annotations

import ast
import gc
import gettext
import io
import re
import string
import subprocess
import sys
import types
import weakref
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest
import torch

matplotlib.use("Agg")

from matplotlib.text import Text

from course_helpers import live, plots, translation
from course_helpers.live import CURVES, LiveCurves
from course_helpers.translation import SpokenError, _, follow, language, language_of, ngettext, say
from course_helpers.widgets import (
    DecodingMicroscope,
    PolicySteps,
    RatioClip,
    SamplingExplorer,
    WriteItYourself,
    microscope,
    sampling_explorer,
    write_it_yourself,
)
from course_helpers.widgets.markup import whole

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "course_helpers"
SPEAKERS = [*sorted((PACKAGE / "widgets").glob("*.py")), PACKAGE / "plots.py", PACKAGE / "live.py"]
PO = PACKAGE / "assets" / "locale" / "pt" / "LC_MESSAGES" / "course_helpers.po"
MARKS = ("_", "N_", "ngettext")


# ------------------------------------------------------------------------------------------------ which language it is


@pytest.mark.parametrize(
    ("environment", "code"),
    [
        ({}, "en"),
        ({"LANG": "pt_BR.UTF-8"}, "pt"),
        ({"LANG": "pt_PT"}, "pt"),
        ({"LANG": "PT-br"}, "pt"),
        ({"LANG": "pt_BR.UTF-8", "LC_ALL": "en_GB.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "pt_BR.UTF-8"}, "pt"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "pt_BR"}, "pt"),
        ({"LANGUAGE": "pt_BR:en", "LANG": "en_US.UTF-8"}, "pt"),
        ({"LANGUAGE": "en:pt", "LANG": "pt_BR.UTF-8"}, "en"),
        ({"LANG": "C"}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "POSIX"}, "en"),
        ({"LANG": ""}, "en"),
        ({"LANG": "", "LC_ALL": "pt"}, "pt"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"COURSE_LANGUAGE": "pt", "LC_ALL": "en_US.UTF-8", "LANGUAGE": "en"}, "pt"),
        ({"COURSE_LANGUAGE": "en", "LC_ALL": "pt_BR.UTF-8"}, "en"),
        ({"COURSE_LANGUAGE": "", "LANG": "pt_BR.UTF-8"}, "pt"),
    ],
)
def test_language_of_an_environment(environment, code):
    assert language_of(environment) == code


@pytest.mark.parametrize(("code", "short"), [("pt-BR", "pt"), (" PT ", "pt"), ("pt_BR.UTF-8", "pt"), ("en_US", "en")])
def test_forms_of_a_code_are_understood(code, short):
    assert language(code) == short
    assert language() == short


@pytest.mark.parametrize("code", ["xx", "", "portuguese", 3])
def test_an_unknown_language_names_both_and_changes_nothing(code):
    with pytest.raises(ValueError, match=r'must be "en" \(English\) or "pt" \(Português \(Brasil\)\)') as error:
        language(code)
    assert repr(code) in str(error.value)
    assert language() == "en"


def test_the_environment_is_asked_once(monkeypatch):
    """A text is looked up dozens of times while a slider moves."""
    monkeypatch.setattr(translation, "_chosen", None)
    monkeypatch.setenv("COURSE_LANGUAGE", "pt")
    assert language() == "pt"
    monkeypatch.setenv("COURSE_LANGUAGE", "en")
    assert language() == "pt"


# ------------------------------------------------------------------------------------------------------ who follows it


class Owner:
    """Something that speaks."""


def test_a_follower_hears_every_change_and_lives_no_longer_for_it():
    heard, owner = [], Owner()
    follow(owner, lambda owner: heard.append(language()))
    language("pt")
    language("en")
    assert heard == ["pt", "en"]
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None
    language("pt")
    assert heard == ["pt", "en"]


def test_a_follower_may_make_another_while_it_hears():
    """A panel that speaks again makes widgets that follow the language."""
    made, owner = [], Owner()

    def multiply(owner):
        made.append(Owner())
        follow(made[-1], lambda owner: None)

    follow(owner, multiply)
    language("pt")
    assert len(made) == 1


def test_say_sets_a_text_now_and_at_every_change(pseudo):
    owner = Owner()
    say(owner, "description", "seed")
    say(owner, "value", "seed", lambda text: f"<b>{text}</b>")
    assert (owner.description, owner.value) == ("seed", "<b>seed</b>")
    language("pt")
    assert (owner.description, owner.value) == ("жжжж", "<b>жжжж</b>")
    language("en")
    assert (owner.description, owner.value) == ("seed", "<b>seed</b>")
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None


def test_an_error_speaks_the_language_of_whoever_reads_it(pseudo):
    error = SpokenError("step is {step}", step=3)
    assert str(error) == "step is 3"
    language("pt")
    assert str(error) == "жжжж жж 3"


# --------------------------------------------------------------------------------------------------------- every word


def masked(message: str) -> str:
    """A message in a language that has one letter; placeholders, markup and symbols of one letter stay."""
    parts = re.split(r"(\{[^}]*\}|<[^>]*>)", message)
    for place in range(0, len(parts), 2):
        parts[place] = re.sub("[A-Za-z]{2,}", lambda word: "ж" * len(word[0]), parts[place])
    return "".join(parts)


class Pseudo(gettext.NullTranslations):
    """Translates whatever it is given, so that what was not given stands out."""

    def gettext(self, message):
        return masked(message)

    def ngettext(self, one, many, count):
        return masked(one if count == 1 else many)


@pytest.fixture
def pseudo(monkeypatch):
    catalogues = {"en": gettext.NullTranslations(), "pt": Pseudo()}
    monkeypatch.setattr(translation, "_catalogue", catalogues.get)


class Signs:
    """A vocabulary without letters: what holds one was written by us."""

    eos_token_id = 0

    def __call__(self, text, **kwargs):
        return {"input_ids": [1] if text else []}

    def decode(self, ids, **kwargs):
        return "".join("■①②③④⑤⑥⑦"[index] for index in ids)


@pytest.fixture(scope="module")
def policy():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=8, n_positions=64, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).eval(), Signs()


def used_explorer(policy):
    explorer = SamplingExplorer(*policy, "①")
    explorer.controls.max_new_tokens.value = 3
    explorer.draw_button.click()
    explorer.controls.max_new_tokens.value = 5  # the rollouts keep saying what they were drawn with
    explorer.controls.top_k.value = 3
    return explorer


def used_writer(policy):
    writer = WriteItYourself(*policy, "①")
    for place in (1, 2, 1):
        writer.choices[place].click()
    return writer


def ended_writer(policy):
    writer = WriteItYourself(*policy, "①")
    writer.choose(0)
    return writer


def used_microscope(policy):
    lens = DecodingMicroscope(*policy, "①")
    lens.controls.temperature.value, lens.controls.top_k.value = 0.7, 4
    lens.next_button.click()
    lens.beams.value = 3
    lens.search_button.click()
    return lens


def ended_microscope(policy):
    lens = DecodingMicroscope(*policy, "①")
    lens.controls.max_new_tokens.value = 1
    lens.next_button.click()
    lens.search_button.click()  # complains
    return lens


def used_steps(policy):
    steps = PolicySteps(names=("①", "②", "③"), baseline=0.3, batch=9)
    steps.step_button.click()
    return steps


PANELS = {
    "explorer": used_explorer,
    "explorer without a prompt": lambda policy: SamplingExplorer(*policy, ""),
    "explorer of logits": lambda policy: SamplingExplorer.from_logits([2.0, 1.0, 0.0], "①②③"),
    "writer": used_writer,
    "writer at the start": lambda policy: WriteItYourself(*policy, "①"),
    "writer at the end": ended_writer,
    "microscope": used_microscope,
    "microscope at the end": ended_microscope,
    "steps": used_steps,
    "steps at the start": lambda policy: PolicySteps(names=("①", "②", "③")),
    **{
        f"clip {ratio} {advantage}": lambda policy, ratio=ratio, advantage=advantage: RatioClip(ratio, 0.2, advantage)
        for ratio in (0.5, 1.0, 1.5)
        for advantage in (-1.0, 0.0, 1.0)
    },
}


@pytest.fixture(params=PANELS)
def panel(request, policy):
    return PANELS[request.param](policy)


def texts_of(widget, place: str = "panel") -> dict[str, str]:
    """Every text of a widget and of those in it."""
    names = ("value", "description", "placeholder", "tooltip")
    texts = {f"{place}.{name}": getattr(widget, name, None) for name in names}
    for number, child in enumerate(getattr(widget, "children", ())):
        texts |= texts_of(child, f"{place}/{number}")
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def shown_without_a_kernel(panel) -> dict[str, str]:
    return {kind: text for kind, text in panel._repr_mimebundle_().items() if kind.startswith("text/")}


class Visible(HTMLParser):
    """What of a piece of HTML is seen or read aloud."""

    READ = ("title", "alt", "aria-label", "data-value-of")

    def __init__(self, text: str):
        super().__init__()
        self.style, self.words = False, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.style = tag == "style"
        self.words += [value for name, value in attrs if name in self.READ]

    def handle_endtag(self, tag):
        self.style = False

    def handle_data(self, data):
        self.words += [] if self.style else [data]


def english_words(text: str) -> list[str]:
    """What was left untranslated; the natural logarithm is called so everywhere."""
    words = re.findall("[A-Za-z]{2,}", re.sub(r"\{\w+\}", "", " ".join(Visible(text).words)))
    return [word for word in words if word != "ln"]


def test_every_word_of_a_panel_is_translated(panel, pseudo):
    language("pt")
    for place, text in (texts_of(panel) | shown_without_a_kernel(panel)).items():
        if place == "text/plain":
            text = text.removeprefix(f"{type(panel).__name__}: ")  # for programs
        assert english_words(text) == [], place


def test_a_switch_and_back_restores_every_text(panel, pseudo):
    before, static = texts_of(panel), shown_without_a_kernel(panel)
    language("pt")
    other = texts_of(panel)
    assert other.keys() == before.keys()
    changed = [place for place in before if other[place] != before[place]]
    assert len(changed) >= 6
    assert shown_without_a_kernel(panel)["text/plain"] != static["text/plain"]
    language("en")
    assert texts_of(panel) == before
    assert shown_without_a_kernel(panel) == static


def test_a_panel_made_in_a_language_is_as_one_that_switched_to_it(policy, pseudo):
    for make in (used_explorer, used_writer, used_microscope, used_steps):
        switched = make(policy)
        language("pt")
        assert texts_of(make(policy)) == texts_of(switched)
        language("en")


def test_a_switch_draws_nothing_anew_and_asks_no_model(policy, pseudo, monkeypatch):
    explorer, writer, lens = used_explorer(policy), used_writer(policy), used_microscope(policy)
    steps = used_steps(policy)
    kept = [explorer.drawn, lens.found, steps.steps[-1]]
    response, sliders = list(writer.response), [slider.value for slider in explorer.controls.sliders]
    generator, state = steps.generator.get_state(), torch.random.get_rng_state()

    def refuse(*arguments, **options):
        raise AssertionError("asked")

    monkeypatch.setattr(sampling_explorer, "sample_rollouts", refuse)
    monkeypatch.setattr(microscope, "beam_search", refuse)
    for module in (sampling_explorer, microscope, write_it_yourself):
        monkeypatch.setattr(module, "next_logits", refuse)
    language("pt")
    assert [explorer.message.value, writer.message.value, lens.message.value] == ["", "", ""]
    assert explorer.rollouts.value.count('class="ch-card"') == 4
    assert 'role="img"' in lens.tree.value
    assert all(one is other for one, other in zip(kept, [explorer.drawn, lens.found, steps.steps[-1]], strict=True))
    assert (writer.response, [slider.value for slider in explorer.controls.sliders]) == (response, sliders)
    assert torch.equal(steps.generator.get_state(), generator)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_rollouts_keep_saying_what_they_were_drawn_with(policy):
    explorer = used_explorer(policy)
    assert "max new tokens 3, seed 0." in explorer.rollouts.value
    assert explorer.controls.in_words().endswith("max new tokens 5")


def test_a_message_stays_and_follows(policy, pseudo):
    explorer = SamplingExplorer(*policy, "")
    language("pt")
    assert "жж жжжжж: a жжжжжж" in explorer.message.value
    explorer.prompt.value = "①"
    assert explorer.message.value == ""
    explorer.guard(lambda: 1 / 0)
    assert "жжжжж: ZeroDivisionError: division by zero" in explorer.message.value
    language("en")
    assert "Something went wrong: ZeroDivisionError" in explorer.message.value


def test_a_page_is_told_which_language_it_reads_aloud(pseudo):
    clip = RatioClip()
    assert 'lang="en" data-value-of="{name}, value"' in clip.title_line.value
    language("pt")
    assert 'lang="pt-BR" data-value-of="{name}, жжжжж"' in clip.title_line.value


def test_digits_are_grouped_without_a_comma_where_it_begins_the_decimals():
    assert (whole(999), whole(50_257), whole(1_234_567)) == ("999", "50,257", "1,234,567")
    language("pt")
    assert (whole(999), whole(50_257), whole(1_234_567)) == ("999", "50\u202f257", "1\u202f234\u202f567")


FIGURES = {
    "map": plots.fine_tuning_map,
    "loop": plots.rlhf_loop,
    "bars": lambda: plots.token_bars("①②", {"1": [0.7, 0.3]}, top=2),
    "histogram": lambda: plots.histogram([1, 2], "1"),
    "histograms": lambda: plots.histograms({"1": [1, 2]}, "1"),
    "error": lambda: plots.standard_error([1, 4], [1, 1], 1.0, "1"),
    "band": lambda: plots.band([1, 2], [[1, 2], [3, 4]], "1", "1"),
    "simplex": lambda: plots.simplex("①②③"),
}


@pytest.mark.parametrize("figure", FIGURES)
def test_every_word_of_a_figure_is_translated_and_none_is_lost(figure, pseudo):
    def words():
        found = [text.get_text() for text in FIGURES[figure]().figure.findobj(Text)]
        plots.plt.close("all")
        return found

    english = words()
    language("pt")
    other = words()
    assert any(english_words(text) for text in english)
    assert english_words(" ".join(other)) == []
    assert other == [masked(text) for text in english]


def test_words_of_the_lesson_stay_as_they_are(pseudo):
    language("pt")
    axes = plots.standard_error([1, 4], [1, 1], 1.0, "error", "title", "seen")
    assert (axes.get_ylabel(), axes.get_title()) == ("error", "title")
    assert axes.get_legend().get_texts()[1].get_text() == "seen"
    plots.plt.close("all")


def test_every_word_of_live_curves_is_translated(pseudo, monkeypatch):
    shown = []

    def keep(data, metadata):
        shown.append(data | {"alt": metadata.get("image/png", {}).get("alt", "")})

    def display(data, **options):
        keep(data, {})
        return types.SimpleNamespace(update=lambda data, metadata, **options: keep(data, metadata))

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(live, "in_kernel", lambda: True)
    language("pt")
    curves = LiveCurves(iterations=3, target=6.0)
    assert english_words(curves.progress() + curves.in_words()) == []
    for value in (1.0, 2.0):
        curves.update({curve.key: value for curve in CURVES}, ["①"], ["②"], [0.5])
    curves.finish(interrupted=True)
    assert any("text/html" in data for data in shown)
    for data in shown:
        html = re.sub(r'src="[^"]*"', "", data.get("text/html", ""))
        spoken = [html, data["text/plain"].removeprefix("LiveCurves: "), data["alt"]]
        assert english_words(" ".join(spoken)) == []


def labels_of(curves: LiveCurves) -> list[str]:
    curves.draw()
    return [text.get_text() for text in curves.figure.findobj(Text) if text.get_text()]


def test_live_curves_change_their_labels_while_they_run(pseudo):
    curves = LiveCurves(target=6.0, title="①")
    curves.update({curve.key: 1.0 for curve in CURVES})
    english = labels_of(curves)
    assert {"mean reward", "iteration", "target"} <= set(english)
    language("pt")
    assert english_words(" ".join(labels_of(curves))) == []
    language("en")
    assert labels_of(curves) == english
    assert list(curves.history) == [curve.name for curve in CURVES]


# ---------------------------------------------------------------------------------------------- how texts are marked


def marked_calls(tree: ast.AST) -> list[ast.Call]:
    """Calls of `_`, `N_` and `ngettext`."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", None) in MARKS]


def literals_of(tree: ast.AST) -> set[str]:
    """The first text of each call that is given as it stands."""
    return {call.args[0].value for call in marked_calls(tree) if isinstance(call.args[0], ast.Constant)} - {""}


@pytest.mark.parametrize("path", SPEAKERS, ids=lambda path: path.name)
def test_marks_are_given_literals_or_names(path):
    """A text put together at run time would never be found in the catalogue."""
    allowed = (ast.Constant, ast.Name, ast.Attribute, ast.Subscript)
    for call in marked_calls(ast.parse(path.read_text(encoding="utf-8"))):
        texts = call.args[:2] if call.func.id == "ngettext" else call.args
        assert all(isinstance(text, allowed) for text in texts), f"{path.name}:{call.lineno}"


@pytest.mark.parametrize("path", SPEAKERS, ids=lambda path: path.name)
def test_the_translating_function_is_not_assigned_to(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assigned = [
        node.lineno for node in ast.walk(tree) if getattr(node, "id", None) == "_" and type(node.ctx) is ast.Store
    ]
    assert assigned == []


def test_the_catalogue_tool_sees_every_marked_text():
    """It does not look into f-strings, so no text may be marked there."""
    from tools.make_catalogue import texts

    seen = {message.id[0] if isinstance(message.id, tuple) else message.id for message in texts()}
    marked = {
        text
        for path in sorted(PACKAGE.rglob("*.py"))
        for text in literals_of(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert marked - seen == set()
    assert len(marked) > 150


# ------------------------------------------------------------------------------------------------------- the catalogue


@pytest.fixture(scope="module")
def catalogue():
    """The translated messages: pairs of an English and a Portuguese form."""
    from babel.messages.pofile import read_po

    with PO.open("rb") as file:
        messages = [message for message in read_po(file, locale="pt_BR") if message.id]
    pairs = []
    for message in messages:
        ids = message.id if isinstance(message.id, tuple) else (message.id,)
        forms = message.string if isinstance(message.string, tuple) else (message.string,)
        pairs += zip(ids, forms, strict=True)
    return pairs


AVOIDED = (
    *("ficheiro", "utilizador", r"\becrã", r"\bratos?\b", "recompensa do modelo", "diretiva", "apólice"),
    *("verosimilhança", r"(?<!parâmetro de )\bviés\b(?! estatístico)", "colador", "agrupadora", "sintonia fina"),
    *("afinação", "funçao", r"\bvossos?\b", r"\btu\b"),
)


def test_the_catalogue_is_up_to_date_and_complete():
    command = [sys.executable, str(ROOT / "tools" / "make_catalogue.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def messages_in(mo: bytes) -> dict:
    """What gettext reads out of a .mo, without its header, which holds a date."""
    messages = dict(gettext.GNUTranslations(io.BytesIO(mo))._catalog)
    del messages[""]
    return messages


def test_what_gettext_reads_was_compiled_from_what_people_read():
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po

    compiled = io.BytesIO()
    with PO.open("rb") as file:
        write_mo(compiled, read_po(file, locale="pt_BR"))
    assert messages_in(PO.with_suffix(".mo").read_bytes()) == messages_in(compiled.getvalue())


def fields(text: str) -> list[str]:
    """Placeholders with their format, sorted."""
    return sorted(f"{name}:{form}" for _text, name, form, _way in string.Formatter().parse(text) if name is not None)


def test_translations_keep_placeholders_markup_and_lines(catalogue):
    assert len(catalogue) > 150
    for english, portuguese in catalogue:
        assert fields(portuguese) == fields(english), english
        assert sorted(re.findall("<[^>]*>", portuguese)) == sorted(re.findall("<[^>]*>", english)), english
        assert portuguese.count("\n") == english.count("\n"), english
        assert portuguese == portuguese.strip(), english


def test_translations_are_brazilian_and_in_the_terms_of_the_course(catalogue):
    for english, portuguese in catalogue:
        for word in AVOIDED:
            assert not re.search(word, portuguese, re.IGNORECASE), (english, portuguese)


def test_panels_speak_portuguese_at_once():
    clip, steps = RatioClip(), PolicySteps()
    language("pt")
    assert clip.ratio.description == "razão de importância ρ"
    assert "Gradiente desligado: o token deve ficar mais provável" in clip.summary.value
    assert ">Razão e recorte<" in clip.title_line.value
    assert steps.ten_button.description == "Dez passos"
    assert steps._repr_mimebundle_()["text/plain"] == "PolicySteps: Gradiente de política, passo a passo"
    assert "a joy" in steps.table.value  # the lesson's own words stay
    assert _("seed") == "semente"


@pytest.mark.parametrize(("count", "words"), [(0, "0 token pode"), (1, "1 token pode"), (2, "2 tokens podem")])
def test_counts_take_the_form_that_portuguese_gives_them(count, words):
    language("pt")
    one = "Entropy {entropy} nats; {count} token can be sampled."
    many = "Entropy {entropy} nats; {count} tokens can be sampled."
    assert words in ngettext(one, many, count).format(entropy="0.00", count=count)
