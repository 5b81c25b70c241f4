"""Evaluation against what can be computed exactly: KL and win rate by enumeration, intervals by hand or coverage."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from course_helpers import toy
from course_helpers.evaluate import (
    Evaluation,
    Interval,
    compare,
    distinct_n,
    evaluate,
    log_odds,
    response_log_probs,
    sequence_kls,
    win_rate,
)
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
    """By `toy`: a distribution for each prefix, the same one behind EOS, where nothing is drawn any more."""
    tokens = toy.sequences(VOCABULARY, LONGEST)
    behind_end = ((tokens == EOS).cumsum(1) - (tokens == EOS).long()) > 0
    rows, probabilities = toy.prefixes(tokens, VOCABULARY), []
    for model, tau in ((policy, temperature), (reference, 1.0)):
        with torch.no_grad():
            ids = torch.cat((torch.tensor(query).repeat(len(tokens), 1), tokens), dim=1)
            logits = model(ids).logits[:, len(query) - 1 : -1].double() / tau
        theta = torch.zeros(toy.prefix_count(VOCABULARY, LONGEST), VOCABULARY, dtype=torch.float64)
        theta[rows[~behind_end]] = logits[~behind_end]
        probabilities.append(toy.token_log_probs(theta, tokens).sum(-1).exp())
    return toy.kl(*probabilities).item()


def all_responses(model, query, temperature=1.0):
    """Every response as a tensor, and its probability, (M,)."""
    found = enumerated(model, query, temperature)
    return [torch.tensor(y) for y in found], torch.tensor(list(found.values()), dtype=torch.float64).exp()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_kl_is_that_of_the_enumeration(pair, temperature):
    queries = [[1, 2], [3], [2, 2, 1]]
    truth = np.mean([exact_kl(*pair, query, temperature) for query in queries])
    found = evaluate(
        *pair, Letters(), counts_a, queries * 200, max_new_tokens=LONGEST, count=8, temperature=temperature
    )
    assert truth in found.kl
    assert found.kl.half < 0.05 * truth
    assert min(found.kls) > 0


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("query", [[1, 2], [3]])
def test_sums_of_tokens_average_to_the_kl_of_sequences(pair, query, temperature):
    """No draws: every response there is, weighted with its probability."""
    responses, pi = all_responses(pair[0], query, temperature)
    found = sequence_kls(*pair, [torch.tensor(query)] * len(responses), responses, EOS, temperature)
    truth = exact_kl(*pair, query, temperature)
    assert pi.sum().item() == pytest.approx(1)
    for name in ("exact", "k1", "k3"):
        assert (pi @ getattr(found, name)).item() == pytest.approx(truth, rel=1e-4), name
    assert (pi @ found.k2).item() != pytest.approx(truth, rel=0.02)  # biased
    assert truth != pytest.approx(exact_kl(*pair[::-1], query), rel=0.05)  # KL(π_ref‖π_θ) would be seen
    assert min(x.min() for x in (found.exact, found.k2, found.k3)) >= 0 > found.k1.min()


def test_exact_sums_scatter_least_while_policies_are_close(pair):
    """There k1's variance is about 2 KL and that of the exact sums about KL². Far apart the order can be another."""
    near = tiny(1)
    with torch.no_grad():
        for x, y in zip(near.parameters(), pair[1].parameters(), strict=True):
            x.lerp_(y, 0.05)
    responses, pi = all_responses(pair[0], [1, 2])
    found = sequence_kls(pair[0], near, [torch.tensor([1, 2])] * len(responses), responses, EOS)
    variances = [(pi @ (x - pi @ x) ** 2).item() for x in (found.exact, found.k3, found.k1)]
    assert variances[0] < 0.1 * variances[2]
    assert variances == sorted(variances)
    truth = exact_kl(pair[0], near, [1, 2])
    assert variances[2] == pytest.approx(2 * truth, rel=0.3)
    assert (pi @ found.k2).item() == pytest.approx(truth, rel=0.2)


def test_each_sum_is_its_formula(pair):
    """Token by token, in float64, one forward pass for each prefix."""
    query, response, tau = [1, 2], [3, 1, EOS], 0.7
    exact = k1 = k2 = k3 = 0.0
    for t, token in enumerate(response):
        prefix = torch.tensor([query + response[:t]])
        with torch.no_grad():
            ours, theirs = (model(prefix).logits[0, -1].double() for model in pair)
        p, q = (ours / tau).softmax(-1).numpy(), theirs.softmax(-1).numpy()
        rho = q[token] / p[token]
        exact += (p * np.log(p / q)).sum()
        k1 -= np.log(rho)
        k2 += np.log(rho) ** 2 / 2
        k3 += rho - 1 - np.log(rho)
    found = sequence_kls(*pair, [torch.tensor(query)], [torch.tensor(response)], EOS, tau)
    np.testing.assert_allclose(torch.cat(found), [exact, k1, k2, k3], rtol=1e-5)
    one, two = (
        response_log_probs(model, [torch.tensor(query)], [torch.tensor(response)], EOS, temperature)
        for model, temperature in zip(pair, (tau, 1.0), strict=True)
    )
    assert found.k1.item() == pytest.approx((one - two).item(), abs=1e-5)


def test_neighbours_padding_and_batch_size_do_not_matter(pair, monkeypatch):
    queries = [torch.tensor(x) for x in ([1], [2, 2, 1, 3], [3, 1], [1, 1, 1], [2])]
    responses = [torch.tensor(x) for x in ([EOS], [1, 2, EOS], [1, 2, 3], [3, EOS], [1])]
    alone = [torch.cat(sequence_kls(*pair, [x], [y], EOS, 0.8)) for x, y in zip(queries, responses, strict=True)]
    for batch_size in (1, 2, 64):
        together = sequence_kls(*pair, queries, responses, EOS, 0.8, batch_size)
        np.testing.assert_allclose(torch.stack(together, dim=1), torch.stack(alone), atol=1e-6)
    monkeypatch.setattr("course_helpers.evaluate.ROWS", 2)  # parts end within a row
    np.testing.assert_allclose(sequence_kls(*pair, queries, responses, EOS, 0.8).exact, together.exact, atol=1e-9)


def test_response_that_ends_at_once_has_the_kl_of_its_first_step(pair):
    with torch.no_grad():
        p, q = (model(torch.tensor([[1, 2]])).logits[0, -1].double().softmax(-1) for model in pair)
    found = sequence_kls(*pair, [torch.tensor([1, 2])], [torch.tensor([EOS])], EOS)
    assert found.exact.item() == pytest.approx(toy.kl(p, q).item(), abs=1e-6)


class Bigrams(torch.nn.Module):
    """A model whose logits are a row of a table: that of the last token."""

    device = torch.device("cpu")

    def __init__(self, table):
        super().__init__()
        self.table = table
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, attention_mask):
        return type("Output", (), {"logits": self.table[input_ids] + self.weight})()


def test_half_precision_is_summed_in_float32():
    generator = torch.Generator().manual_seed(0)
    tables = [torch.randn(500, 500, generator=generator).bfloat16() for _ in range(2)]
    models = [Bigrams(table).bfloat16() for table in tables]
    response = torch.tensor([3, 400, 7])
    found = sequence_kls(*models, [torch.tensor([2])], [response], EOS)
    p, q = (table.double().softmax(-1)[[2, 3, 400]] for table in tables)
    assert found.exact.item() == pytest.approx(toy.kl(p, q).sum().item(), abs=1e-4)
    assert not any(x.requires_grad for x in found)


def test_rounding_leaves_no_negative_kl():
    """The distance of two almost equal policies is smaller than the rounding of its sum over 500 tokens."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(500, 500, generator=generator)
    models = [Bigrams(table), Bigrams(table + 1e-6 * torch.randn(500, 500, generator=generator))]
    rows = list(torch.arange(500)[:, None])
    assert sequence_kls(*models, rows, rows, EOS).exact.min() >= 0


def test_models_come_back_as_they_were(pair):
    headed = AutoModelForCausalLMWithValueHead.from_pretrained(tiny(1)).train()
    rows = [torch.tensor([1, 2])], [torch.tensor([3, EOS])]
    found = sequence_kls(headed, pair[1], *rows, EOS)
    assert found.exact.item() == pytest.approx(sequence_kls(*pair, *rows, EOS).exact.item(), abs=1e-6)
    assert headed.training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"responses": [torch.tensor([1])]}, "2 queries and 1 responses"),
        ({"queries": [], "responses": []}, "0 queries and 0 responses"),
        ({"responses": [torch.tensor([1]), torch.tensor([], dtype=torch.long)]}, "at least one token"),
        ({"temperature": 0}, "temperature is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"reference": Bigrams(torch.zeros(5, 5))}, "holds 4 tokens, the reference's 5"),
    ],
)
def test_sequence_kls_names_what_is_wrong(pair, changes, message):
    rows = [torch.tensor([1]), torch.tensor([2])]
    arguments = {"policy": pair[0], "reference": pair[1], "queries": rows, "responses": rows, "pad_token_id": EOS}
    with pytest.raises(ValueError, match=message):
        sequence_kls(**(arguments | changes))


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
    assert len(one.responses) == len(one.rewards) == 40
    assert one.rewards == tuple(1.0 + y.count("a") for y in one.responses)
    assert all(
        a == 1 / (1 + math.exp(-(1 + y.count("a")))) for a, y in zip(one.probabilities, one.responses, strict=True)
    )


def test_intervals_are_bootstrapped_over_queries(pair):
    found = evaluate(*pair, Letters(), counts_a, ["ab", "c", "bb", "aaa"], count=3, max_new_tokens=LONGEST)
    for name, values in (("kl", found.kls), ("log_odds", found.rewards), ("probability", found.probabilities)):
        assert getattr(found, name) == Interval.bootstrap(np.reshape(values, (4, 3))), name


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
@pytest.mark.parametrize("interval", [Interval.of, lambda values: Interval.bootstrap(values, repeats=400)])
def test_intervals_cover_the_truth_95_times_in_100(interval, draws):
    """Also when the draws of one query are alike, which all draws taken together would overlook."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        luck = rng.normal(2.0, 1.0, size=(80, 1))
        hits += 2.0 in interval(luck + 0.5 * rng.normal(size=(80, draws)))
    assert 925 <= hits <= 967  # 950 ± 2.5 standard deviations, and the t distribution's wider tails


@pytest.mark.parametrize("interval", [Interval.of, Interval.bootstrap])
def test_interval_of_one_query_has_no_error(interval):
    for values in ([3.0], [[2.0, 4.0]]):
        found = interval(values)
        assert found.mean == 3.0
        assert all(math.isnan(x) for x in (found.low, found.high, found.half))
        assert 3.0 not in found
    with pytest.raises(ValueError, match=r"shape \(0,\)"):
        interval([])
    with pytest.raises(ValueError, match=r"shape \(1, 1, 2\)"):
        interval([[[1.0, 2.0]]])


def test_interval_prints_mean_and_half_its_width():
    assert str(Interval.of([1.0, 3.0])) == "2.00 ± 1.96"
    assert f"{Interval(0.5123, 0.4912, 0.5312):.3f}" == "0.512 ± 0.020"
    assert Interval(1.0, 0.0, 4.0).half == 2.0
    assert 3.9 in Interval(1.0, 0.0, 4.0)
    assert 4.1 not in Interval(1.0, 0.0, 4.0)


def test_bootstrap_ends_are_those_of_all_resamples():
    """Of N queries with one 1 among zeros, a resample's ones are binomial: N = 4 gives P(4) = 0.4 %, P(3) = 4.7 %."""
    found = Interval.bootstrap([0, 0, 1, 0])
    assert (found.mean, found.low, found.high) == (0.25, 0.0, 0.75)
    assert Interval.bootstrap([[5.0, 7.0]] * 3) == Interval(6.0, 6.0, 6.0)


def test_bootstrap_agrees_with_the_normal_interval_for_many_queries():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=(1000, 2))
    normal, found = Interval.of(values), Interval.bootstrap(values, repeats=10_000)
    assert found.mean == normal.mean
    assert found.low == pytest.approx(normal.low, abs=0.05 * normal.half)
    assert found.high == pytest.approx(normal.high, abs=0.05 * normal.half)


def test_bootstrap_has_a_generator_of_its_own():
    values = np.random.default_rng(2).normal(size=50)
    np.random.seed(3)  # noqa: NPY002  numpy's global state is what must not be touched
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert Interval.bootstrap(values) == Interval.bootstrap(values)
    assert Interval.bootstrap(values, seed=1) != Interval.bootstrap(values)
    assert Interval.bootstrap(values, repeats=1).half == 0
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    with pytest.raises(ValueError, match="repeats is 0"):
        Interval.bootstrap(values, repeats=0)


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


# ------------------------------------------------------------------------------------------------------------ win rate


def with_rewards(rewards, queries=("x", "y"), label="POSITIVE"):
    """An evaluation of which only the rewards, a row for each query, are looked at."""
    flat, nothing = [r for row in rewards for r in row], Interval(0.0, 0.0, 0.0)
    texts = tuple(f"response {i}" for i in range(len(flat)))
    return Evaluation(
        label, nothing, nothing, nothing, 1.0, 1.0, 1.0, tuple(queries), texts, (0.5,) * len(flat), tuple(flat),
        (0.0,) * len(flat),
    )  # fmt: skip


def test_every_pair_of_a_query_counts_and_ties_count_half():
    ours = with_rewards([[1.0, 3.0], [0.0, 0.0]])
    theirs = with_rewards([[2.0, 0.0, 3.0], [0.0, -1.0, 5.0]])
    found = compare(ours, theirs)
    # 1 beats 0; 3 beats 2 and 0, and ties with 3: 3.5 of 6. Each 0 ties with 0 and beats -1: 3 of 6.
    assert found.won == pytest.approx((3.5 / 6, 3 / 6))
    assert found.rate.mean == pytest.approx(6.5 / 12)
    assert found.rate == Interval.bootstrap(found.won)
    assert compare(theirs, ours).rate.mean == pytest.approx(1 - 6.5 / 12)
    assert compare(ours, ours).won == (0.5, 0.5)
    assert (found.ours, found.theirs) == (ours.responses, theirs.responses)
    assert (found.our_rewards, found.their_rewards) == (ours.rewards, theirs.rewards)
    assert str(found) == f"win rate {found.rate} (queries: 2)"


def test_rounding_is_no_win():
    assert compare(with_rewards([[1.0], [2.0]]), with_rewards([[1.00001], [1.999]])).won == (0.5, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"), [({"queries": ("x", "z")}, "same prompts"), ({"label": "NEGATIVE"}, "one label")]
)
def test_only_like_evaluations_are_compared(changes, message):
    ours = with_rewards([[1.0], [2.0]])
    with pytest.raises(ValueError, match=message):
        compare(ours, replace(ours, **changes))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_win_rate_is_that_of_the_enumeration(pair, temperature):
    queries = [[1, 2], [3]]
    truth = 0.0
    for query in queries:
        (ours, p), (theirs, q) = (all_responses(model, query, temperature) for model in pair)
        lead = torch.tensor([[(y == 1).sum() - (z == 1).sum() for z in theirs] for y in ours])
        truth += (p @ ((lead.sign() + 1) / 2).double() @ q).item() / 2
    settings = {"max_new_tokens": LONGEST, "count": 3, "temperature": temperature}
    found = win_rate(*pair, Letters(), counts_a, queries * 300, **settings)
    assert truth in found.rate
    assert found.rate.half < 0.05 < abs(truth - 0.5)
    turned = win_rate(*pair, Letters(), counts_a, queries * 300, label="NEGATIVE", **settings)
    assert turned.rate.mean == pytest.approx(1 - found.rate.mean)


def test_win_rate_against_itself_is_half_though_the_draws_differ(pair):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    found = win_rate(pair[0], pair[0], Letters(), counts_a, ["ab", "c"] * 300, max_new_tokens=LONGEST, count=2, seed=3)
    assert found.ours != found.theirs
    assert torch.equal(torch.random.get_rng_state(), state)
    # our draws and rewards are those of `evaluate`
    alone = evaluate(*pair, Letters(), counts_a, ["ab", "c"] * 300, max_new_tokens=LONGEST, count=2, seed=3)
    assert (found.queries, found.ours, found.our_rewards) == (alone.queries, alone.responses, alone.rewards)
    assert len(found.won) == len(found.queries) == 600
    # and no draws are shared with those of other seeds
    others = [win_rate(pair[0], pair[0], Letters(), counts_a, ["ab", "c"] * 150, count=2, seed=s) for s in range(8)]
    assert len({side for other in others for side in (other.ours, other.theirs)}) == 16
    error = np.mean([other.rate.half for other in others]) / 1.96 / 8**0.5
    assert abs(np.mean([other.rate.mean for other in others]) - 0.5) < 4 * error
    assert error < 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"seed": -1}, "seed is -1"), ({"count": 0}, "count is 0"), ({"batch_size": 0}, "batch_size is 0")],
)
def test_win_rate_names_what_is_wrong(pair, arguments, message):
    with pytest.raises(ValueError, match=message):
        win_rate(*pair, Letters(), counts_a, ["ab"], **({"max_new_tokens": LONGEST} | arguments))
