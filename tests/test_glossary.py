"""The glossary: complete, in two languages, true to the lessons, and found whatever a learner types."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_helpers.glossary import Answer, Listing, entries, find, fold, glossary
from course_helpers.prose import prose
from course_helpers.translation import language
from course_helpers.widgets.glossary_panel import GlossaryPanel

ROOT = Path(__file__).parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
ENTRIES = entries()

# The vocabulary of the course, name by name.
COURSE = """
argmax, argmin, AutoModelForCausalLM, AutoModelForCausalLMWithValueHead, beam search, beta, β, Bradley-Terry model,
closed-form solution, collator function, cost function, data collection, dataset, dataset tokenization,
direct preference optimization, distribution, fine-tuning, Hugging Face, IMDB dataset, inference,
Kullback-Leibler divergence, language model, LengthSampler, log-derivative trick, low-rank adaptation, loss function,
max and min tokens, objective function, omega function, optimization, partition function, pi policy, pipe outputs list,
policy gradient, PPO config class, PPO trainer, proximal policy optimization, RLHF, repetition penalty,
reference model, reward function, reward-weighted distribution, rollout, sampling, sentiment analysis pipeline,
sentiment score, sigmoid, softmax, stats_all, stochastic gradient ascent, temperature, τ, top-k, top-p,
Trainer.train(), trainer.state, advantage, baseline, entropy, GAE, generalized advantage estimation,
importance ratio, clipping, logits, policy, token, value head, margin, over-optimisation, preference pair, reward model,
SFT, supervised fine-tuning, seed example, taxonomy, instruction tuning, distinct-n, whitening, expected reward,
query and response, KL controller, adaptive KL, value function, score function estimator, REINFORCE, prompt,
log-probability of a sequence, optimal policy, π_r, maximum likelihood, probability simplex, standard error
"""
COURSE = [" ".join(name.split()) for name in COURSE.split(",")]

AVOIDED = [
    r"ficheiro",
    r"utilizador",
    r"\becrã",
    r"\brato\b",
    r"recompensa do modelo",
    r"diretiva",
    r"apólice",
    r"verosimilhança",
    r"(?<!parâmetro de )viés(?! estatístico)",
    r"colador",
    r"agrupadora",
    r"sintonia fina",
    r"afinação",
    r"funçao",
]

# Bold words of the lessons that are no terms: the parts of a lesson, names of widgets, and plain emphasis.
STRUCTURE = re.compile(
    r"(After this lesson|Time|Network|Memory|Before this|[Pp]redict|What you should see|Known answers?|Try it|Break it|"
    r"Words met|Sources|Next|Exercise|Line \d|Watch|Slide|Step|Summary|Quiz|Question|Warning|Note)\b|.*[.:]$"
)
EMPHASIS = """
both, high, low, not, sum, mean, minus, which, why, and, four, left, unseen, excluded, path, moderate, dart, pulls,
pushes, difference, two policies, estimate, extend, update, what they learn from, which weights they may move, the
likelier one first, every reward set to 1, raise the temperature, evaluate with people, decoding microscope, 0, Decide
on a taste first, Did the chosen responses become more likely?, Prompts, a token, above ln 2, both fall, change, fewer
letters, first, from disk, new, openings, pairs, rows, the policy is the reference, your own, at equal KL, equal KL,
exchange rate, road, data, model, reversed, measured, table of points, queries, every
"""
EMPHASIS = {" ".join(words.split()) for words in EMPHASIS.split(",")}
EMPHASIS |= {"sample, reward, step", "Until you have answered all thirty, a stand-in chooses"}  # these have commas


@pytest.fixture
def portuguese():
    language("pt")
    yield
    language("en")


@pytest.fixture(autouse=True)
def english():
    language("en")
    yield
    language("en")


@lru_cache
def cells(lesson):
    return nbformat.read(ROOT / "notebooks" / f"{lesson}.ipynb", as_version=4).cells


def by_id(name):
    return next(entry for entry in ENTRIES if entry.id == name)


# --- the terms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
class TestEntries:
    def test_speaks_both_languages(self, entry):
        for wording in (entry.en, entry.pt):
            assert wording.term
            assert wording.term == wording.term.strip()
            assert 20 <= len(wording.definition.split()) <= 80
            assert wording.definition.endswith(".")
            assert wording.definition.count("`") % 2 == 0
        assert entry.en.definition != entry.pt.definition

    def test_portuguese_is_brazilian_and_precise(self, entry):
        text = " ".join([entry.pt.term, entry.pt.definition, *entry.pt.also])
        assert not [word for word in AVOIDED if re.search(word, text, re.IGNORECASE)]
        # Letters that only one of the two languages has, and its commonest words.
        assert re.search(r"\b(de|da|do|que|uma|um|e)\b", entry.pt.definition)
        assert not re.search(r"\b(the|of|and|is)\b", entry.pt.definition)
        assert not re.search(r"[ãõç]|\b(que|uma)\b", entry.en.definition)

    def test_numbers_and_symbols_agree(self, entry):
        """Both wordings speak of the same formulas and the same code."""
        for found in (r"`[^`]+`", r"[βγδεηθλπρστφωΩ∇Σ]"):
            assert set(re.findall(found, entry.en.definition)) == set(re.findall(found, entry.pt.definition))

    def test_related_terms_exist(self, entry):
        assert 1 <= len(entry.related) == len(set(entry.related))
        assert set(entry.related) <= {other.id for other in ENTRIES} - {entry.id}

    def test_is_seen_at_work_in_its_cell(self, entry):
        ids = [cell.id for cell in cells(entry.lesson)]
        place = ids.index(entry.cell)
        near = cells(entry.lesson)[max(0, place - 2) : place + 3]
        assert is_spoken_of(entry, "\n".join(cell.source for cell in near)), [
            cell.id for cell in cells(entry.lesson) if is_spoken_of(entry, cell.source)
        ]


def is_spoken_of(entry, text):
    """Whether a text holds a name or the symbol of a term; a lone Latin letter is no proof, but for Z."""
    text = fold(unicode_of(text))
    squeezed = text.replace(" ", "")
    names = [name for name in entry.names if not re.fullmatch("[a-y]", name)]
    return any(occurs(name, text) for name in names) or (
        len(entry.symbol) > 1 and fold(entry.symbol).replace(" ", "") in squeezed
    )


def occurs(name, text):
    """Whether each word of a name begins a word of the text; long words may end otherwise, tokenize like tokenized."""
    stems = [word if len(word) < 5 else word[: max(4, len(word) * 2 // 3)] for word in name.split()]
    stems = [name] if len(stems) == 1 or any(len(stem) == 1 for stem in stems) else stems
    return all(re.search(rf"(?<!\w){re.escape(stem)}" + ("" if len(stem) > 1 else r"(?!\w)"), text) for stem in stems)


def unicode_of(text):
    """LaTeX as the glossary writes symbols."""
    names = {"nabla": "∇", "sum": "Σ", "prod": "∏", "pi": "π", "rho": "ρ", "tau": "τ", "beta": "β", "theta": "θ"}
    names |= {"gamma": "γ", "lambda": "λ", "delta": "δ", "omega": "ω", "sigma": "σ", "eta": "η", "varepsilon": "ε"}
    names |= {"phi": "φ", "ln": "ln ", "exp": "exp", "mid": "|", "mathbb": "", "mathrm": "", "left": "", "right": ""}
    text = re.sub(r"\\([a-zA-Z]+)", lambda found: names.get(found[1], found[0]), text)
    return text.replace("\\|", "‖").replace("\\,", "").replace("\\;", "")


def test_ids_are_unique_and_in_order():
    ids = [entry.id for entry in ENTRIES]
    assert ids == sorted(set(ids))


def test_no_name_belongs_to_two_terms():
    counts = Counter(name for entry in ENTRIES for name in entry.spelt)
    assert not [name for name, count in counts.items() if count > 1]


@pytest.mark.parametrize("name", COURSE)
def test_every_term_of_the_course_is_there(name):
    assert fold(name) in glossary(name).found[0].names


def bold_terms():
    """Bold words of the lessons' prose, with the lesson they stand in."""
    for path in LESSONS:
        for cell in cells(path.stem):
            if cell.cell_type == "markdown":
                for found in re.findall(r"\*\*(.+?)\*\*", cell.source, re.DOTALL):
                    word = " ".join(found.split()).removesuffix("'s").removesuffix("’s")
                    if not STRUCTURE.match(word) and word not in EMPHASIS:
                        yield path.stem, word


@pytest.mark.parametrize(("lesson", "word"), sorted(set(bold_terms())))
def test_every_bold_term_of_the_lessons_is_found(lesson, word):
    assert fold(word) in glossary(word).found[0].names, f"{lesson} sets {word!r} in bold; the glossary has no such name"


def words_met():
    """The lists of words at the end of the lessons."""
    for path in LESSONS:
        prose = "\n\n".join(cell.source for cell in cells(path.stem) if cell.cell_type == "markdown")
        for found in re.findall(r"\*\*Words met here:\*\*(.+?)\.\n", prose + "\n", re.DOTALL):
            yield from ((path.stem, " ".join(word.split())) for word in found.split(","))


@pytest.mark.parametrize(("lesson", "word"), sorted(set(words_met())))
def test_every_word_met_in_a_lesson_is_found(lesson, word):
    assert fold(word) in glossary(word).found[0].names, f"{lesson} lists {word!r}; the glossary has no such name"


# --- the search -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("β", "beta"),
        ("τ", "temperature"),
        ("π_ref", "reference-model"),
        (r"$\pi_{ref}$", "reference-model"),
        ("ρ", "importance-ratio"),
        ("∇", "gradient"),
        ("Z", "partition-function"),
        ("z", "logits"),
        ("r(X, Y)", "reward-function"),
        ("E[r]", "expected-reward"),
        ("KL(π_θ‖π_ref)", "kl-divergence"),
        ("KL", "kl-divergence"),
        ("kl", "kl-divergence"),
        ("GAE", "generalized-advantage-estimation"),
        ("SFT", "supervised-fine-tuning"),
        ("PPO", "proximal-policy-optimization"),
        ("RLHF", "rlhf"),
        ("DPO", "direct-preference-optimization"),
        ("LoRA", "low-rank-adaptation"),
        ("kulback", "kl-divergence"),
        ("temprature", "temperature"),
        ("polítca", "policy"),
        ("importence ratio", "importance-ratio"),
        ("distribuiçao", "distribution"),
        ("funcao de particao", "partition-function"),
        ("Função de Partição", "partition-function"),
        ("cabeca de valor", "value-head"),
        ("ajuste fino", "fine-tuning"),
        ("  POLICY ", "policy"),
        ("log odds", "log-odds"),
        ("Trainer.train", "trainer-train"),
        ("init_kl_coef", "beta"),
        ("bradley", "bradley-terry-model"),
        ("terry", "bradley-terry-model"),
    ],
)
def test_finds(query, expected):
    for code in ("en", "pt"):
        language(code)
        assert glossary(query).found[0].id == expected


def test_order_is_exact_prefix_word_inside():
    kl, penalty, negative = (by_id(name) for name in ("kl-divergence", "kl-penalty", "negative-kl"))
    assert find([negative, penalty, kl], "KL") == [kl, penalty, negative]
    assert find([by_id("reward-model"), by_id("policy")], "olic") == [by_id("policy")]


def test_names_are_found_exactly():
    """Whatever name of a term is typed, that term comes first."""
    for entry in ENTRIES:
        for name in entry.spelt:
            assert find(ENTRIES, name)[0] is entry, name


def test_one_wrong_letter_still_finds_the_term():
    """A letter left out of the middle of any longer English or Portuguese term."""
    missed = []
    for entry in ENTRIES:
        for term in {entry.en.term, entry.pt.term}:
            if len(term) >= 8:
                wrong = term[: len(term) // 2] + term[len(term) // 2 + 1 :]
                missed += [wrong] if entry not in find(ENTRIES, wrong)[:3] else []
    assert not missed


def test_several_matches_name_the_others():
    answer = glossary("reward")
    assert len(answer.found) > 3
    assert answer.found[1].term in repr(answer)
    assert answer.found[1].term in answer._repr_html_()


def test_nothing_found_says_so_and_names_the_nearest():
    answer = glossary("zebra crossing")
    assert answer.found == ()
    assert len(answer.near) == 3
    assert "zebra crossing" in repr(answer)
    assert all(entry.term in repr(answer) for entry in answer.near)
    assert all(entry.term in answer._repr_html_() for entry in answer.near)


def test_without_a_query_all_are_listed():
    for listing in (glossary(), glossary("  ")):
        assert isinstance(listing, Listing)
        assert all(entry.en.term in repr(listing) and entry.pt.term in repr(listing) for entry in ENTRIES)
    assert glossary()._repr_html_().count("<tr>") == len(ENTRIES) + 1


def test_a_query_must_be_a_text():
    with pytest.raises(ValueError, match="query is 3; it must be a text"):
        glossary(3)


@given(st.text())
def test_no_text_makes_it_fail(query):
    answer = glossary(query)
    assert isinstance(answer, Answer | Listing)
    assert repr(answer)
    Tags(answer._repr_html_())


# --- what is shown ----------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Elements, links and text of a piece of HTML; fails if they are not closed as they were opened."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.text = [], [], ""
        self.elements = set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.elements.add(tag)
        self.links += [value for name, value in attrs if name == "href"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_what_was_typed_is_escaped():
    shown = glossary("<b>")._repr_html_()
    assert "&lt;b&gt;" in shown
    assert Tags(shown).elements == {"p"}
    assert prose("a `<b>` & c") == "a <code>&lt;b&gt;</code> &amp; c"


@pytest.mark.parametrize("code", ["en", "pt"])
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_shows_both_names_the_cell_and_the_related(entry, code):
    language(code)
    page = Tags(glossary(entry.en.term)._repr_html_())
    assert page.elements <= {"p", "b", "i", "a", "code"}
    assert page.links == [f"{entry.lesson}.ipynb#cell-id={entry.cell}"]
    assert {entry.en.term, entry.pt.term, *(by_id(name).term for name in entry.related)} <= set(in_text(page.text))
    here, there = (entry.en, entry.pt) if code == "en" else (entry.pt, entry.en)
    assert here.definition.replace("`", "") in page.text
    assert there.definition.replace("`", "") not in page.text
    assert entry.symbol in page.text


def in_text(text):
    """Names of terms that occur in a text."""
    return [term for entry in ENTRIES for term in (entry.en.term, entry.pt.term) if term in text]


def test_follows_the_chosen_language(portuguese):
    assert glossary("policy").found[0].term == "política"
    assert repr(glossary("policy")).startswith("política · policy")
    assert "lição 01" in glossary("policy")._repr_html_()
    assert "Nada se chama" in repr(glossary("zebra crossing"))
    assert repr(glossary()).splitlines()[1].startswith("  ação · action")


# --- the panel --------------------------------------------------------------------------------------------------------


def shown(panel):
    return "".join(output["data"]["text/html"] for output in panel.answer.outputs)


def names(panel):
    return [made.description for made in panel.buttons if made.layout.display != "none"]


class TestPanel:
    def test_searches_while_one_types(self):
        panel = GlossaryPanel()
        assert panel.search.continuous_update
        assert not shown(panel)
        assert names(panel)
        panel.search.value = "tempratur"
        assert by_id("temperature").en.definition in shown(panel)
        assert names(panel) == [by_id(name).term for name in by_id("temperature").related]

    def test_names_up_to_eight_others(self):
        panel = GlossaryPanel("KL")
        assert by_id("kl-divergence").en.definition in shown(panel)
        assert names(panel)[:2] == ["KL penalty", "negative KL"]
        panel.search.value = "e"
        assert len(names(panel)) == len(set(names(panel))) == 8

    def test_a_name_can_be_pressed(self):
        panel = GlossaryPanel("KL")
        panel.buttons[1].click()
        assert panel.search.value == "negative KL"
        assert by_id("negative-kl").en.definition in shown(panel)
        assert panel.message.value == ""

    def test_nothing_found(self):
        panel = GlossaryPanel("<b>zebra")
        assert "&lt;b&gt;zebra" in panel.status.value
        assert not shown(panel)
        assert len(names(panel)) == 3

    def test_every_control_has_a_name_and_the_status_is_read_aloud(self):
        panel = GlossaryPanel("policy")
        assert panel.search.description == "look up"
        assert all(names(panel))
        assert "ch-live" in panel.status._dom_classes
        assert "policy" in panel.status.value

    def test_speaks_portuguese_at_once(self):
        panel = GlossaryPanel("policy")
        language("pt")
        assert panel.search.description == "procurar"
        assert by_id("policy").pt.definition in shown(panel)
        assert "política ótima" in names(panel)

    def test_without_a_kernel_a_table_stands_in(self):
        table = Tags(GlossaryPanel().static_html())
        assert {"table", "th", "td"} <= table.elements
        assert len(table.links) == 8
        assert by_id("partition-function").en.definition in GlossaryPanel("Z").static_html()
        assert "table" in GlossaryPanel("zebra")._repr_mimebundle_()["text/html"]

    def test_a_key_takes_less_than_20_ms(self):
        panel, times = GlossaryPanel(), []
        for word in ("Kulback-Leibler", "funcao de particao", "zebra crossing"):
            for end in range(1, len(word) + 1):
                begin = time.thread_time()
                panel.search.value = word[:end]
                times.append(time.thread_time() - begin)
        assert statistics.quantiles(times, n=20)[-1] < 0.020


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_is_up_to_date():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "make_glossary.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_links_of_the_page_lead_somewhere():
    page = (ROOT / "notebooks" / "glossary.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", h.replace("\\", "").lower()).replace(" ", "-") for h in headings}
    inside, lessons = re.findall(r"\]\(#([^)]+)\)", page), re.findall(r"\]\(([^)#]+\.ipynb)#", page)
    assert len(inside) > len(ENTRIES)
    assert set(inside) <= anchors
    assert len(lessons) == len(ENTRIES)
    assert all((ROOT / "notebooks" / name).exists() for name in lessons)
    assert all(entry.pt.term in page.replace("\\", "") for entry in ENTRIES)
