"""Evaluation against what can be computed exactly: KL by enumeration, intervals by coverage, distinct-n by hand."""

import math

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from course_helpers.evaluate import Interval, distinct_n, evaluate, log_odds, response_log_probs
from course_helpers.models import load_judge, load_reference, score
from course_helpers.ppo import AutoModelForCausalLMWithValueHead

EOS, VOCABULARY, LONGEST = 0, 4, 3


class Letters:
    """A tokenizer of one letter a token; 0 ends a text."""

    eos_token_id = pad_token_id = EOS

    def __call__(self, text):
        return type("Encoding", (), {"input_ids": [" abc".index(letter) for letter in text]})()

    def decode(self, ids, skip_special_tokens=False):
        return "".join(" abc"[i] for i in ids if i != EOS)


def counts_a(texts, **settings):
    """A judge: the logit of POSITIVE is the number of a's, that of NEGATIVE 0."""
    assert settings["function_to_apply"] == "none"
    assert settings["top_k"] is None
    rows = [{"POSITIVE": text.count("a"), "NEGATIVE": 0.0} for text in texts]
    return [sorted(({"label": k, "score": v} for k, v in row.items()), key=lambda e: -e["score"]) for row in rows]


def tiny(seed):
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=EOS, eos_token_id=EOS,
        initializer_range=0.4,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def pair():
    """A policy and its reference, far enough apart that their KL is no rounding error."""
    return tiny(1), tiny(2)


def enumerated(model, query, temperature=1.0):
    """Every response of at most LONGEST tokens, EOS included where it ends one, with its ln π."""
    found, open_ends = {}, {(): 0.0}
    for _ in range(LONGEST):
        longer = {}
        for response, log_prob in open_ends.items():
            with torch.no_grad():
                logits = model(torch.tensor([[*query, *response]])).logits[0, -1].double() / temperature
            for token, value in enumerate(logits.log_softmax(-1).tolist()):
                target = found if token == EOS else longer
                target[(*response, token)] = log_prob + value
        open_ends = longer
    return found | open_ends


def exact_kl(policy, reference, query, temperature=1.0):
    ours, theirs = enumerated(policy, query, temperature), enumerated(reference, query)
    assert math.isclose(sum(map(math.exp, ours.values())), 1, abs_tol=1e-6)
    return sum(math.exp(ours[y]) * (ours[y] - theirs[y]) for y in ours)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_kl_is_that_of_the_enumeration(pair, temperature):
    queries = [[1, 2], [3], [2, 2, 1]]
    truth = np.mean([exact_kl(*pair, query, temperature) for query in queries])
    found = evaluate(
        *pair, Letters(), counts_a, queries * 200, max_new_tokens=LONGEST, count=8, temperature=temperature
    )
    assert truth in found.kl
    assert found.kl.half < 0.1 * truth
    assert min(found.kls) < 0 < found.kl.mean  # single estimates may be negative


def test_log_probabilities_are_those_of_the_enumeration(pair):
    """Whatever stands beside a row in its batch, and also with a value head around the model."""
    query = [1, 3]
    truth = enumerated(pair[0], query)
    responses = sorted(truth)
    rows = [torch.tensor(y) for y in responses]
    found = response_log_probs(pair[0], [torch.tensor(query)] * len(rows), rows, EOS)
    np.testing.assert_allclose(found, [truth[y] for y in responses], atol=1e-5)
    headed = AutoModelForCausalLMWithValueHead.from_pretrained(tiny(1)).train()
    mixed = [torch.tensor([2, 2, 2]), torch.tensor(query)]
    again = response_log_probs(headed, mixed, [rows[0], rows[-1]], EOS)
    assert again[1].item() == pytest.approx(truth[responses[-1]], abs=1e-5)
    assert headed.training


def test_reward_is_that_of_the_enumeration(pair):
    query = [1, 2]
    drawn = enumerated(pair[0], query)
    odds = sum(math.exp(p) * (1 + y.count(1)) for y, p in drawn.items())  # the query holds one a
    likely = sum(math.exp(p) / (1 + math.exp(-1 - y.count(1))) for y, p in drawn.items())
    length = sum(math.exp(p) * len(y) for y, p in drawn.items())
    found = evaluate(*pair, Letters(), counts_a, [query] * 3000, max_new_tokens=LONGEST)
    assert odds in found.log_odds
    assert likely in found.probability
    assert found.length == pytest.approx(length, abs=0.05)


def test_kl_to_itself_is_exactly_zero(pair):
    found = evaluate(pair[0], pair[0], Letters(), counts_a, ["ab", "c"] * 10, max_new_tokens=LONGEST)
    assert set(found.kls) == {0.0}
    assert (found.kl.mean, found.kl.half) == (0.0, 0.0)


def test_seed_rules_and_nothing_else_is_touched(pair):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one, two, other = (evaluate(*pair, Letters(), counts_a, ["ab"] * 40, seed=seed) for seed in (0, 0, 1))
    assert one == two
    assert one.responses != other.responses
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(one.responses) == 40
    assert all(
        a == 1 / (1 + math.exp(-(1 + y.count("a")))) for a, y in zip(one.probabilities, one.responses, strict=True)
    )


def test_labels_are_opposites(pair):
    up, down = (evaluate(*pair, Letters(), counts_a, ["ab"] * 40, label=label) for label in ("POSITIVE", "NEGATIVE"))
    assert up.probability.mean + down.probability.mean == pytest.approx(1)
    assert up.log_odds.mean == pytest.approx(-down.log_odds.mean)
    with pytest.raises(ValueError, match="no label 'GOOD'"):
        evaluate(*pair, Letters(), counts_a, ["ab"], label="GOOD")


def test_result_prints_and_makes_a_row(pair):
    found = evaluate(*pair, Letters(), counts_a, ["ab", "ba"], count=3, max_new_tokens=2)
    assert str(found).startswith(f"P(POSITIVE) {found.probability.mean:.2f} ± ")
    assert "(6 responses)" in str(found)
    assert found.row()["KL [nats]"] == str(found.kl)
    assert "\n" not in str(found)
    with pytest.raises(AttributeError):
        found.label = "NEGATIVE"


@pytest.mark.parametrize("draws", [1, 6])
def test_intervals_cover_the_truth_95_times_in_100(draws):
    """Also when the draws of one query are alike, which all draws taken together would overlook."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        luck = rng.normal(2.0, 1.0, size=(80, 1))
        hits += 2.0 in Interval.of(luck + 0.5 * rng.normal(size=(80, draws)))
    assert 930 <= hits <= 967  # 950 ± 2.5 standard deviations, and the t distribution's wider tails


def test_interval_of_one_value_has_no_error():
    assert math.isnan(Interval.of([3.0]).half)
    assert str(Interval.of([1.0, 3.0])) == "2.00 ± 1.96"
    assert f"{Interval(1.0, 0.5):.0f}" == "1 ± 0"


@pytest.mark.parametrize(
    ("texts", "n", "value"),
    [
        (["a b c d"], 1, 1),
        (["a a a a"], 1, 1 / 4),
        (["a a a a"], 2, 1 / 3),
        (["a b", "a b", "b a"], 2, 2 / 3),
        (["a b c"] * 7, 2, 1 / 7),
        (["a", "a b"], 2, 1),  # no pair reaches over the end of a text
        ([[1, 2, 1, 2], torch.tensor([1, 2])], 2, 2 / 4),
    ],
)
def test_distinct_n(texts, n, value):
    assert distinct_n(texts, n) == pytest.approx(value)


def test_distinct_n_of_what_has_no_n_grams():
    assert math.isnan(distinct_n(["a", ""], 2))
    with pytest.raises(ValueError, match="pass a list"):
        distinct_n("a b c", 1)
    with pytest.raises(ValueError, match="n is 0"):
        distinct_n(["a"], 0)


def test_log_odds_are_the_logarithm_of_the_odds():
    judge = load_judge("small", device="cpu")
    texts = ["A wonderful film.", "A terrible film.", "The film is long."]
    likely = np.array(score(judge(texts, top_k=None)))
    np.testing.assert_allclose(log_odds(judge, texts), np.log(likely / (1 - likely)), atol=1e-4)
    np.testing.assert_allclose(log_odds(judge, texts, "NEGATIVE"), np.log((1 - likely) / likely), atol=1e-4)


def test_log_odds_among_more_than_two_labels():
    def three(texts, **settings):
        return [[{"label": name, "score": x} for name, x in (("A", 2.0), ("B", 1.0), ("C", 0.0))] for _ in texts]

    p = math.exp(1) / (math.exp(2) + math.exp(1) + 1)
    assert log_odds(three, ["x"], "B")[0] == pytest.approx(math.log(p / (1 - p)))


def test_small_models_end_to_end(small):
    policy, tokenizer = small
    reference, judge = load_reference("small", "cpu"), load_judge("small", "cpu")
    found = evaluate(policy, reference, tokenizer, judge, ["This film", "The plot of it"], max_new_tokens=6, count=2)
    assert set(found.kls) == {0.0}
    assert 0 < found.probability.mean < 1
    assert found.queries == ("This film", "The plot of it")
    assert all(isinstance(response, str) for response in found.responses)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": []}, "at least one query"),
        ({"prompts": "ab"}, "pass a list"),
        ({"prompts": [""]}, "at least one token"),
        ({"prompts": ["a" * 30]}, "context holds 32"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"count": 1.5}, "count is 1.5"),
        ({"temperature": 0.0}, "temperature is 0.0"),
    ],
)
def test_wrong_arguments_are_named(pair, arguments, message):
    settings = {"prompts": ["ab"], "max_new_tokens": LONGEST} | arguments
    with pytest.raises(ValueError, match=message):
        evaluate(*pair, Letters(), counts_a, **settings)
