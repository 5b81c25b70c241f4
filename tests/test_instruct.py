"""Instruction tuning: what the loss sees, what a phase changes, and how answers are counted."""

import copy
import csv
import math
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

from course_helpers import instruct
from course_helpers.assets import HERE
from course_helpers.instruct import NO_LABEL, Score


@dataclass(frozen=True)
class Asked:
    """A question of the tests."""

    question: str
    answer: str
    context: str | None = None


ASKED = [Asked(f"Who made {name}?", f"{name} was made by Ann.") for name in ("Tram", "Moon", "Sky", "Rain")]


@pytest.fixture(scope="module")
def policy(small):
    """A small random policy with the course's tokenizer."""
    torch.manual_seed(0)
    tokenizer = small[1]
    size = {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 96, "vocab_size": len(tokenizer)}
    config = GPT2Config(**size, bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    return GPT2LMHeadModel(config).eval(), tokenizer


def weights_of(model):
    return {name: weight.clone() for name, weight in model.state_dict().items()}


# ---------------------------------------------------------------------------------------------------------------- rows


def test_the_prompt_ends_where_the_answer_begins():
    asked = Asked("Is it good?", "Yes.", "I liked it.")
    assert instruct.prompt_of(asked) + instruct.completion_of(asked) == (
        "Review: I liked it.\nQuestion: Is it good?\nAnswer: Yes."
    )
    assert instruct.prompt_of(Asked("Is it good?", "Yes.")) == "Question: Is it good?\nAnswer:"


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_only_the_answer_and_the_end_have_labels(small, prompt, completion):
    tokenizer = small[1]
    row = instruct.tokens_and_labels(tokenizer, prompt, completion)
    labelled = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != NO_LABEL]
    assert tokenizer.decode(row["input_ids"]) == prompt + completion + tokenizer.eos_token
    assert [label for label in row["labels"] if label != NO_LABEL] == labelled
    assert row["labels"][-len(labelled) :] == labelled  # they stand together, at the end
    assert tokenizer.decode(labelled) == completion + tokenizer.eos_token


@given(st.integers(1, 60), st.integers(1, 20), st.floats(0, 0.9), st.integers(0, 5))
def test_a_mixture_keeps_its_rows_and_has_the_share_asked_for(new, old, share, seed):
    rows, replay = [("new", n) for n in range(new)], [("old", n) for n in range(old)]
    mixture = instruct.mix(rows, replay, share, seed)
    again = Counter(row for row in mixture if row[0] == "old")
    assert sorted(row for row in mixture if row[0] == "new") == rows
    assert abs(again.total() - share * len(mixture)) <= 0.5  # r = s (n + r), to the nearest whole row
    assert (
        max(again.values(), default=0) - min((again[row] for row in replay), default=0) <= 1
    )  # nobody twice too early
    assert mixture == instruct.mix(rows, replay, share, seed)


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0, math.nan, "half"])
def test_a_share_outside_its_range_is_named(share):
    with pytest.raises(ValueError, match="share"):
        instruct.mix([1], [2], share)


def test_nothing_to_replay_is_said():
    assert instruct.mix([1, 2], [], 0.0) in ([1, 2], [2, 1])
    with pytest.raises(ValueError, match="there are none"):
        instruct.mix([1, 2], [], 0.5)


def test_reviews_are_drawn_from_the_policy(policy):
    """First tokens of 4,000 draws against the policy's own probabilities, by chi-square over the 20 likeliest."""
    model, tokenizer = policy
    sharp = copy.deepcopy(model)
    with torch.no_grad():
        sharp.lm_head.weight.mul_(40)  # a few tokens hold most of the probability
    state = torch.get_rng_state()
    drawn = instruct.draw_reviews(sharp, tokenizer, count=4000, tokens=1, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        p = sharp(torch.tensor([[tokenizer.eos_token_id]])).logits[0, -1].softmax(-1)
    top = p.topk(20)
    seen = Counter(row[1] for row in drawn)
    expected = [*(4000 * top.values).tolist(), 4000 * (1 - top.values.sum().item())]
    counted = [seen[token] for token in top.indices.tolist()]
    counted.append(4000 - sum(counted))
    distance = sum((c - e) ** 2 / e for c, e in zip(counted, expected, strict=True) if e > 5)
    assert distance < 45.3  # chi-square with 20 degrees of freedom goes beyond it once in a thousand


def test_a_review_stops_at_its_end_and_is_the_same_again(small):
    model, tokenizer = small
    reviews = instruct.draw_reviews(model, tokenizer, count=6, tokens=12, seed=3)
    end = tokenizer.eos_token_id
    assert reviews == instruct.draw_reviews(model, tokenizer, count=6, tokens=12, seed=3)
    assert reviews != instruct.draw_reviews(model, tokenizer, count=6, tokens=12, seed=4)
    assert all(row[0] == end and end not in row[1:-1] and len(row) <= 13 for row in reviews)
    assert all(row["labels"] == row["input_ids"] for row in instruct.review_rows(reviews))


# ------------------------------------------------------------------------------------------------------------ training


def test_the_loss_is_the_mean_surprise_of_the_answer(policy):
    """The first loss that is logged, against a sum over the tokens of each answer alone, row by row."""
    model, tokenizer = policy
    rows = instruct.instruction_rows(tokenizer, ASKED)
    surprise, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            log_probs = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
            for place in range(1, len(row["labels"])):
                if row["labels"][place] != NO_LABEL:
                    surprise -= log_probs[place - 1, row["input_ids"][place]].item()
                    count += 1
    tuned = instruct.tune(model, tokenizer, rows, batch_size=4)
    assert tuned.losses == pytest.approx([surprise / count], abs=1e-4)


def test_a_phase_leaves_its_start_as_it_was_and_the_next_one_goes_on(policy):
    """Merging makes W + (α/r) B A of both phases; an adapter of the second phase changes what the model says."""
    model, tokenizer = policy
    before = weights_of(model)
    rows = 4 * instruct.instruction_rows(tokenizer, ASKED)
    first = instruct.tune(model, tokenizer, rows, batch_size=4, epochs=6, learning_rate=1e-2, seed=1)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    ids = torch.tensor([rows[0]["input_ids"]])
    with torch.no_grad():
        with_adapter = first.model(ids).logits
        merged = first.model.merge_and_unload()
        torch.testing.assert_close(merged(ids).logits, with_adapter, atol=1e-4, rtol=1e-4)
    second = instruct.tune(merged, tokenizer, rows, batch_size=4, epochs=6, learning_rate=1e-2, seed=2)
    with torch.no_grad():
        assert not torch.allclose(second.model(ids).logits, with_adapter, atol=1e-2)
    assert second.losses[0] == pytest.approx(first.losses[-1], rel=0.4)  # it starts where the first ended
    assert second.losses[-1] < second.losses[0] < first.losses[0]


def test_adding_the_product_by_hand_is_merging(policy):
    model, tokenizer = policy
    tuned = instruct.tune(model, tokenizer, instruct.instruction_rows(tokenizer, ASKED), batch_size=2, epochs=3)
    layer = tuned.model.get_base_model().transformer.h[0].mlp.c_fc
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    by_hand = layer.base_layer.weight + layer.scaling["default"] * (B @ A).T  # GPT-2 keeps W as (in, out)
    merged = tuned.model.merge_and_unload().transformer.h[0].mlp.c_fc.weight
    torch.testing.assert_close(merged, by_hand)


@pytest.mark.usefixtures("one_thread")
def test_the_same_seed_learns_the_same(policy):
    model, tokenizer = policy
    rows = 2 * instruct.instruction_rows(tokenizer, ASKED)
    one, two, other = (instruct.tune(model, tokenizer, rows, batch_size=2, seed=seed) for seed in (5, 5, 6))
    assert one.losses == two.losses
    assert one.losses != other.losses


@pytest.mark.parametrize(
    ("rows", "settings", "words"),
    [
        ([], {}, "no rows"),
        ([{"input_ids": [1] * 97, "labels": [1] * 97}], {}, "97 tokens, and the model reads 96"),
        ([{"input_ids": [1, 2], "labels": [1, NO_LABEL]}], {}, "nothing to learn"),
        ([{"input_ids": [1, 2], "labels": [1, 2]}], {"learning_rate": 0.0}, "learning_rate"),
        ([{"input_ids": [1, 2], "labels": [1, 2]}], {"epochs": -1}, "epochs"),
        ([{"input_ids": [1, 2], "labels": [1, 2]}], {"batch_size": 0}, "batch_size"),
    ],
)
def test_rows_that_teach_nothing_are_refused(policy, rows, settings, words):
    model, tokenizer = policy
    with pytest.raises(ValueError, match=words):
        instruct.tune(model, tokenizer, rows, **settings)


# ------------------------------------------------------------------------------------------------------------- testing


def test_answers_do_not_depend_on_their_neighbours(small):
    """Together, padded on the left, against one at a time, token by token."""
    model, tokenizer = small
    asked = [*ASKED[:2], Asked("What is it about?", "", "A long story about a quiet man and his two loud dogs.")]
    for example, answer in zip(asked, instruct.answers(model, tokenizer, asked, max_new_tokens=6), strict=True):
        ids = tokenizer(instruct.prompt_of(example), return_tensors="pt")["input_ids"]
        start = ids.shape[1]
        with torch.no_grad():
            for _step in range(6):
                ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
                if ids[0, -1] == tokenizer.eos_token_id:
                    break
        assert answer == tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip()


def test_what_is_learnt_by_heart_is_answered(small):
    """32 steps on four answers: all four are given word for word, and the score says so."""
    model, tokenizer = small
    rows = 32 * instruct.instruction_rows(tokenizer, ASKED)
    assert instruct.success(model, tokenizer, ASKED).right == 0
    tuned = instruct.tune(model, tokenizer, rows, batch_size=4, learning_rate=2e-3)
    score = instruct.success(tuned.model, tokenizer, ASKED)
    assert (score.right, score.count, score.wrong) == (4, 4, ())
    wrong = instruct.success(tuned.model, tokenizer, [Asked(ASKED[0].question, "Nobody knows.")])
    assert wrong.wrong == ((Asked(ASKED[0].question, "Nobody knows."), ASKED[0].answer),)


@given(st.integers(1, 400), st.data())
def test_wilsons_ends_are_where_the_normal_test_is_undecided(count, data):
    """Each end p solves (p̂ − p)² = z² p (1 − p) / n, unless it is 0 or 1."""
    right = data.draw(st.integers(0, count))
    share = Score(right, count, ()).share
    assert 0 <= share.low <= share.mean + 1e-12
    assert share.mean <= share.high + 1e-12 <= 1 + 1e-11
    for end in (share.low, share.high):
        assert (share.mean - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / count, abs=1e-9)


def test_a_score_reads_well():
    assert str(Score(3, 4, ())) == "3 of 4 right: 0.75 (0.30 to 0.95)"


def test_nothing_asked_is_refused(policy):
    with pytest.raises(ValueError, match="no examples"):
        instruct.success(*policy, [])


def test_who_cannot_tell_tokens_apart_has_the_vocabulary_as_perplexity(policy):
    model, tokenizer = policy
    even = copy.deepcopy(model)
    with torch.no_grad():
        even.transformer.wte.weight.zero_()  # shared with the last layer: all logits are 0
    assert instruct.perplexity(even, tokenizer, ["A film.", "Another film, longer."]) == pytest.approx(len(tokenizer))


def test_perplexity_is_over_tokens_and_each_text_begins_anew(small):
    model, tokenizer = small
    texts = ["A wonderful film.", "I did not like the ending of this one, nor its songs."]
    surprise = count = 0
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]])
            surprise += cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum").item()
            count += ids.shape[1] - 1
    assert instruct.perplexity(model, tokenizer, texts) == pytest.approx(math.exp(surprise / count), rel=1e-5)
    assert instruct.perplexity(model, tokenizer, [*texts, ""]) == pytest.approx(math.exp(surprise / count), rel=1e-5)
    with pytest.raises(ValueError, match="no text"):
        instruct.perplexity(model, tokenizer, [""])


# ---------------------------------------------------------------------------------------------------- the shipped table


@pytest.fixture(scope="module")
def scores():
    """Values by stage and measure, one a seed."""
    found = {}
    with (HERE / "instruct" / "scores.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
            found.setdefault((row["stage"], row["measure"]), {})[row["seed"]] = float(row["value"])
    assert all(set(values) == {"0", "1", "2"} for values in found.values())
    return {key: list(values.values()) for key, values in found.items()}


def test_the_table_shows_what_the_lesson_says(scores):
    """From under 0.2 to 0.8 and more; replay keeps nine tenths of the knowledge; reviews stay what they were."""
    assert max(scores["before", "skill"]) < 0.2
    assert max(scores["before", "skill, unseen words"]) < 0.2
    assert min(scores["skills with replay", "skill"]) >= 0.8
    learned = scores["after knowledge", "knowledge"]
    kept = [now / then for now, then in zip(scores["skills with replay", "knowledge"], learned, strict=True)]
    lost = [now / then for now, then in zip(scores["skills without replay", "knowledge"], learned, strict=True)]
    assert min(kept) >= 0.9
    assert max(lost) < min(kept) - 0.1
    for measure in ("perplexity ratio", "perplexity ratio, IMDB"):
        assert max(scores["skills with replay", measure]) <= 1.15
