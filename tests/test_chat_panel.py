"""The chat panel: models answer what they would answer anyway, side by side, and what anybody wrote stays text."""

from __future__ import annotations

import gettext
import re
import threading

import numpy as np
import pytest
import torch

from course_helpers import translation
from course_helpers.prompts import question_prompt
from course_helpers.sampling import SamplingSettings, distribution
from course_helpers.translation import language
from course_helpers.widgets import ChatPanel, chat_panel
from course_helpers.widgets.chat_panel import HISTORY, Answer, example_name
from course_helpers.widgets.markup import number
from course_helpers.widgets.policy import MODEL_LOCK
from tests.test_translation import Pseudo, Signs, english_words, shown_without_a_kernel, texts_of
from tests.test_widgets import HOSTILE, RogueTokenizer, assert_harmless

REVIEW, QUESTION = "The acting is wonderful, but the plot is dull.", "What is praised and what is blamed?"
EXAMPLES = [(REVIEW, QUESTION), (None, "Who directed The Salt Road?"), ("What a boring story!", QUESTION)]


def plain(panel_or_text) -> str:
    """What is drawn, without the style sheet and with the attributes that every panel has."""
    text = re.sub("<style.*?</style>", "", panel_or_text, flags=re.DOTALL)
    return text.replace("data-value-of", "title").replace("lang=", "title=")


def tiny(seed: int, vocabulary: int = 8):
    """A tiny policy that writes the signs of its tokenizer; a large spread makes seeds differ."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=64,
        n_embd=8,
        n_layer=1,
        n_head=1,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.6,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def pair():
    return {"①": tiny(0), "②": tiny(1)}


@pytest.fixture
def panel(pair):
    return ChatPanel(pair, Signs(), [("③", "④")], max_new_tokens=6)


@pytest.fixture
def pseudo(monkeypatch):
    """A language that translates whatever it is given, so that what was not given stands out."""
    monkeypatch.setattr(translation, "_catalogue", {"en": gettext.NullTranslations(), "pt": Pseudo()}.get)


def asked(panel, question="④", review="", **settings):
    """The answers to a question, with sliders as given."""
    for name, value in settings.items():
        getattr(panel, name).value = value
    panel.review.value, panel.question.value = review, question
    panel.answer_button.click()
    assert panel.message.value == ""
    return panel.exchanges[0].answers


# ------------------------------------------------------------------------------------------------------------- answers


def test_greedy_answers_are_those_of_generate(small):
    model, tokenizer = small
    panel = ChatPanel({"before": model}, tokenizer, EXAMPLES)
    assert len(panel.exchanges) == 1  # the first example is answered at once
    for place, (review, question) in enumerate(EXAMPLES):
        panel.known.value = place
        panel.answer_button.click()
        (answer,) = panel.exchanges[0].answers
        ids = tokenizer(question_prompt(review, question), return_tensors="pt")
        with torch.no_grad():
            expected = model.generate(**ids, do_sample=False, max_new_tokens=24, pad_token_id=tokenizer.eos_token_id)
        written = expected[0, ids["input_ids"].shape[1] :].tolist()
        assert answer.rollout.token_ids == written
        ended = written[-1] == tokenizer.eos_token_id
        assert answer.rollout.ended == ended
        assert answer.text == tokenizer.decode(written[:-1] if ended else written)


def test_the_mean_log_probability_is_the_models_own(small):
    """It is checked by one pass over the whole text, without a cache; sliders do not change it."""
    model, tokenizer = small
    panel = ChatPanel({"before": model}, tokenizer)
    (answer,) = asked(panel, QUESTION, REVIEW, temperature=0.7, top_k=5, repetition_penalty=1.3, seed=3)
    prompt = tokenizer(question_prompt(REVIEW, QUESTION))["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *answer.rollout.token_ids]])).logits[0].double()
    log_probs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    expected = log_probs[range(len(answer.rollout.token_ids)), answer.rollout.token_ids].mean().item()
    assert answer.mean_log_prob == pytest.approx(expected, abs=1e-4)
    assert f"mean ln π a token {number(expected)} nats" in panel.answers.value


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0},
        {"temperature": 0.6, "top_k": 3},
        {"temperature": 1.7, "top_p": 0.6},
        {"temperature": 1.0, "repetition_penalty": 1.8},
        {"temperature": 0.9, "top_k": 5, "top_p": 0.8, "repetition_penalty": 1.3},
    ],
)
def test_tokens_are_drawn_from_the_distribution_of_the_settings(panel, pair, settings):
    """Each token's probability is that of `distribution`, from logits of the whole text, without a cache."""
    eos = panel.tokenizer.eos_token_id
    for name, answer in zip(pair, asked(panel, seed=5, **settings), strict=True):
        ids = [1]  # what the tokenizer makes of any text
        for token, log_prob in zip(answer.rollout.token_ids, answer.rollout.log_probs, strict=True):
            with torch.no_grad():
                logits = pair[name](input_ids=torch.tensor([ids])).logits[0, -1].double().numpy()
            expected = distribution(logits, SamplingSettings(eos_token_id=eos, **settings), ids)
            assert np.exp(log_prob) == pytest.approx(expected[token], abs=1e-5)
            ids.append(token)


def test_seeds_draw_every_token_as_often_as_it_is_likely(pair):
    panel = ChatPanel({"①": pair["①"]}, Signs(), max_new_tokens=1)
    settings = {"temperature": 1.3, "top_k": 5}
    counts = np.zeros(8)
    for seed in range(600):
        (answer,) = asked(panel, seed=seed, **settings)
        counts[answer.rollout.token_ids[0]] += 1
    with torch.no_grad():
        logits = pair["①"](input_ids=torch.tensor([[1]])).logits[0, -1].double().numpy()
    expected = 600 * distribution(logits, SamplingSettings(**settings), [1])
    assert counts[expected == 0].sum() == 0
    kept = expected > 0
    chi_square = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    assert chi_square < 18.5  # 4 degrees of freedom: above that once in a thousand; the seeds are fixed


def test_all_models_draw_with_one_seed_and_the_global_generator_is_left_alone(pair):
    panel = ChatPanel({"①": pair["①"], "②": pair["①"]}, Signs())
    state = torch.random.get_rng_state()
    one, two = asked(panel, temperature=1.5, seed=7)
    assert one.rollout == two.rollout
    assert [a.rollout for a in asked(panel)] == [one.rollout, two.rollout]
    assert asked(panel, seed=8)[0].rollout != one.rollout
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_answer_stops_at_its_end_or_after_max_new_tokens(pair):
    panel = ChatPanel(pair, Signs(), max_new_tokens=5)
    seen = set()
    for seed in range(12):
        for answer in asked(panel, temperature=2.0, seed=seed):
            tokens = answer.rollout.token_ids
            seen.add(answer.rollout.ended)
            assert len(tokens) <= 5
            assert (tokens.index(0) == len(tokens) - 1) if answer.rollout.ended else (0 not in tokens)
            assert "■" not in answer.text
            words = "ended by itself after" if answer.rollout.ended else "cut off after 5 tokens, before"
            assert words in chat_panel.numbers(answer)
    assert seen == {True, False}


# ------------------------------------------------------------------------------------------------------------ controls


def test_nothing_is_asked_before_the_button(pair, monkeypatch):
    asked_for = []
    panel = ChatPanel(pair, Signs(), EXAMPLES)
    monkeypatch.setattr(chat_panel, "sample_rollouts", lambda *a: asked_for.append(a))
    before = panel.answers.value
    panel.known.value = 1
    panel.temperature.value, panel.top_k.value, panel.seed.value = 1.0, 3, 4
    panel.question.value = "else"
    assert (asked_for, panel.answers.value, panel.message.value) == ([], before, "")


def test_an_example_fills_both_boxes_and_the_list_follows_them(pair):
    panel = ChatPanel(pair, Signs(), EXAMPLES)
    assert (panel.review.value, panel.question.value, panel.known.value) == (REVIEW, QUESTION, 0)
    panel.known.value = 1
    assert (panel.review.value, panel.question.value) == ("", EXAMPLES[1][1])
    panel.review.value = "mine"
    assert panel.known.value == -1
    panel.review.value, panel.question.value = EXAMPLES[2]
    assert panel.known.value == 2
    assert [name for name, _place in panel.known.options][1:] == [example_name(*example) for example in EXAMPLES]
    assert ChatPanel(pair, Signs()).known.layout.display == "none"


def test_a_long_example_is_shortened_in_the_list():
    name = example_name("word " * 100, "Why?")
    assert len(name) == chat_panel.LONGEST_NAME
    assert name.startswith("Why? — word")
    assert name.endswith("…")


def test_the_newest_answers_are_first_and_a_few_earlier_ones_stay(panel):
    for question in "①②③④⑤⑥⑦":
        asked(panel, question)
    assert len(panel.exchanges) == HISTORY + 1
    assert "Question: ⑦\nAnswer:" in panel.answers.value
    order = re.findall("Question: (.)", panel.earlier.value)
    assert order == list("⑥⑤④③②")
    assert panel.earlier.value.count("ch-card-head") == 2 * HISTORY
    panel.clear_button.click()
    assert len(panel.exchanges) == 0
    assert panel.earlier.value == ""
    assert "Nothing has been asked yet" in panel.answers.value
    assert "Nothing has been asked yet" in panel.static_html()
    assert panel.question.value == "⑦"


def test_settings_are_said_with_the_answers_they_made(panel):
    asked(panel, temperature=0.5, top_k=3, top_p=0.9, repetition_penalty=1.2, seed=4)
    said = "Drawn at temperature τ 0.5, top-k 3, top-p 0.9, repetition penalty 1.2, seed 4."
    assert said in panel.answers.value
    panel.temperature.value = 0.0
    assert said in panel.answers.value
    assert "top-k, top-p and seed change nothing" in panel.hint.value
    asked(panel)
    assert "Greedy (τ = 0), repetition penalty 1.2." in panel.answers.value
    assert said in panel.earlier.value


# ------------------------------------------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize("question", ["", "   "])
def test_without_a_question_it_says_what_to_do(panel, question):
    before = panel.answers.value
    panel.question.value = question
    panel.answer_button.click()
    assert "Type one, or choose an example; then press Answer." in panel.message.value
    assert panel.answers.value == before
    panel.question.value = "④"
    assert panel.message.value == ""


def test_a_prompt_that_does_not_fit_is_not_cut(small):
    panel = ChatPanel({"before": small[0]}, small[1])
    (answer,) = asked(panel, "Why?", "word " * 300)
    context = small[0].config.max_position_embeddings
    tokens = len(small[1](question_prompt(("word " * 300).strip(), "Why?"))["input_ids"])
    assert f"The prompt has {tokens} tokens and the answer may have 24, but the context" in panel.answers.value
    assert f"holds {context}" in panel.answers.value
    assert answer.rollout is None
    room = context - 24 - len(small[1](question_prompt(None, "word"))["input_ids"])
    assert asked(panel, "word" + " word" * room)[0].rollout is not None  # just fits
    assert asked(panel, "word" + " word" * (room + 1))[0].rollout is None


def test_an_error_of_one_model_leaves_the_others_their_turn(pair):
    class Broken(torch.nn.Module):
        config, device = pair["①"].config, torch.device("cpu")

        def forward(self, **arguments):
            raise RuntimeError("no <memory> left")

    panel = ChatPanel({"①": Broken(), "②": pair["②"]}, Signs(), [("③", "④")])
    assert "RuntimeError: no &lt;memory&gt; left" in panel.answers.value
    first, second = panel.exchanges[0].answers
    assert first.trouble.__traceback__ is None
    assert np.isnan(first.mean_log_prob)
    assert second.rollout is not None
    assert "RuntimeError" in panel._repr_mimebundle_()["text/html"]
    panel.answer_button.click()
    assert not panel.answer_button.disabled


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": {}}, "models holds no model"),
        ({"models": [1]}, "models holds no model"),
        ({"examples": ["text"]}, r"examples\[0\] is 'text'"),
        ({"examples": [("a", "b"), ("a", "  ")]}, r"examples\[1\] is \('a', '  '\)"),
        ({"examples": [("a", None)]}, "expected a pair"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_wrong_arguments_are_named(pair, arguments, message):
    with pytest.raises(ValueError, match=message):
        ChatPanel(**({"models": pair, "tokenizer": Signs()} | arguments))


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_anybody_wrote_is_text(text):
    size = 1 + len(HOSTILE)
    panel = ChatPanel({text: tiny(0, size), "②": tiny(1, size)}, RogueTokenizer(), [(text, f"? {text}")])
    panel.temperature.value = 2.0
    panel.answer_button.click()
    assert panel.message.value == ""
    assert len(panel.exchanges) == 2
    for shown in (panel.answers.value, panel.earlier.value, panel.hint.value, panel._repr_mimebundle_()["text/html"]):
        assert_harmless(shown)
    broken = Answer(text, trouble=RuntimeError(text))
    assert_harmless(chat_panel.card(broken))


# ------------------------------------------------------------------------------------------------------ beside a cell


def test_models_are_asked_one_at_a_time_without_gradients_and_as_they_were(pair, monkeypatch):
    """Two panels share their models and answer from two threads, where gradients are on."""
    inside, most, grads = [0], [0], []
    forward = pair["①"].forward

    def watched(*args, **kwargs):
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        grads.append(torch.is_grad_enabled())
        try:
            return forward(*args, **kwargs)
        finally:
            inside[0] -= 1

    monkeypatch.setattr(pair["①"], "forward", watched)
    panels = [ChatPanel({"①": pair["①"]}, Signs(), [(None, "④")]) for _ in range(2)]
    pair["①"].train()
    threads = [threading.Thread(target=panel.answer_button.click) for panel in panels]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert pair["①"].training
    pair["①"].eval()
    assert [panel.message.value for panel in panels] == ["", ""]
    assert most == [1]
    assert not any(grads)
    assert panels[0].exchanges[0] == panels[1].exchanges[0] == panels[0].exchanges[1]


def test_an_answer_waits_for_whoever_holds_the_models(panel):
    count = len(panel.exchanges)
    worker = threading.Thread(target=panel.answer_button.click)
    with MODEL_LOCK:
        worker.start()
        worker.join(0.3)
        assert worker.is_alive()
        assert panel.answer_button.disabled
        assert len(panel.exchanges) == count
    worker.join(60)
    assert len(panel.exchanges) == count + 1
    assert not panel.answer_button.disabled


# ------------------------------------------------------------------------------------- languages and the static version


def used(pair):
    panel = ChatPanel(pair, Signs(), [("③", "④"), (None, "⑤")], max_new_tokens=4)
    asked(panel, temperature=2.0, seed=2)
    asked(panel, seed=3)
    return panel


def crowded(pair):
    """A prompt that does not fit, and a message on show."""
    panel = ChatPanel(pair, Signs(), max_new_tokens=64)
    asked(panel)
    panel.question.value = ""
    panel.answer_button.click()
    return panel


MAKERS = {"used": used, "crowded": crowded, "fresh": lambda pair: ChatPanel(pair, Signs())}


def all_texts(panel) -> dict[str, str]:
    """Texts, and the words in the list."""
    return texts_of(panel) | {"list": "; ".join(name for name, _v in panel.known.options)}


@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
def test_every_word_follows_the_language_and_comes_back(make, pair, pseudo, monkeypatch):
    panel = make(pair)
    before, static = all_texts(panel), shown_without_a_kernel(panel)
    with monkeypatch.context() as no_model:
        no_model.setattr(chat_panel, "sample_rollouts", None)  # a switch of language asks no model
        language("pt")
        other = all_texts(panel)
    assert sum(other[place] != before[place] for place in before) >= 6
    for place, text in (other | shown_without_a_kernel(panel)).items():
        shown = text.removeprefix(f"{type(panel).__name__}: ") if place == "text/plain" else text
        # The prompt is what the models were trained on, whatever the language.
        assert english_words(re.sub("Review: |Question: |Answer:", "", shown)) == [], place
    assert all_texts(make(pair)) == other
    language("en")
    assert all_texts(panel) == before
    assert shown_without_a_kernel(panel) == static


@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
def test_the_static_version_is_constant_and_plain(make, pair):
    one, two = make(pair), make(pair)
    assert shown_without_a_kernel(one) == shown_without_a_kernel(two)
    for text in texts_of(one).values():
        assert_harmless(plain(text))
    assert_harmless(plain(one._repr_mimebundle_()["text/html"]))


def test_the_static_version_holds_the_newest_answers(small):
    panel = ChatPanel({"before": small[0], "after": small[0]}, small[1], EXAMPLES)
    text = panel._repr_mimebundle_()["text/html"]
    assert "Review: The acting is wonderful, but the plot is dull.<br>Question: What is praised" in text
    for answer in panel.exchanges[0].answers:
        row = f'<th scope="row">{answer.name}</th><td>{chat_panel.answer_text(answer)}</td>'
        assert row in text
