"""`PPOTrainer.generate`: responses are the policy's own, whatever stands beside them in the batch."""

import copy

import numpy as np
import pytest
import torch

from course_helpers.ppo import LengthSampler
from course_helpers.ppo.rollout import Draw, draws_from_policy
from course_helpers.rollouts import without_dropout
from tests import ppo_runs as runs

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:do_sample is off")]

MODELS = {"GPT-2": lambda: runs.with_head(runs.gpt2()), "Llama": lambda: runs.with_head(runs.llama())}
GREEDY = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None}


def greedy(model, query, count=6):
    """The likeliest token again and again, reading everything anew each time."""
    ids = query
    with torch.no_grad(), without_dropout(model):
        for _ in range(count):
            ids = torch.cat((ids, model(ids[None])[0][0, -1].argmax()[None]))
    return ids


def same(left, right):
    return len(left) == len(right) and all(torch.equal(x, y) for x, y in zip(left, right, strict=True))


# ------------------------------------------------------------------------------------------------- one query or several


@pytest.mark.parametrize(("pad", "side"), [("<eos>", "right"), ("<pad>", "left")])
@pytest.mark.parametrize("name", MODELS)
def test_one_at_a_time_equals_all_together(name, side, pad):
    """Queries of one to six tokens; the first holds the token that pads the others."""
    model = MODELS[name]()
    tokens = runs.tokenizer(pad, side)
    run = runs.trainer(model, tokens=tokens)
    queries = [torch.tensor([7, tokens.pad_token_id, 5]), *runs.rollouts()[0]]
    expected = [greedy(model, query) for query in queries]
    single = [run.generate(query, **GREEDY) for query in queries]
    assert [row.shape for row in single] == [(1, len(query) + 6) for query in queries]
    assert same([row[0] for row in single], expected)
    for size in (None, 1, 4):
        assert same(run.generate(queries, batch_size=size, remove_padding=False, **GREEDY), expected)
    assert tokens.padding_side == side


def test_generation_is_in_eval_mode_and_leaves_the_model_as_it_was():
    model = runs.with_head(runs.gpt2(resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5))
    run = runs.trainer(model)
    model.train()
    queries = runs.rollouts()[0]
    expected = [greedy(model, query) for query in queries]
    assert same(run.generate(queries, remove_padding=False, **GREEDY), expected)
    assert all(module.training for module in model.modules())


def test_draws_follow_the_policys_own_distribution():
    """χ² over the whole vocabulary: no token is left out, none is preferred."""
    model = MODELS["GPT-2"]()
    run = runs.trainer(model)
    query, count = torch.tensor([3, 14, 15]), 3000
    torch.manual_seed(0)
    drawn = torch.cat(run.generate([query] * count, max_new_tokens=1, return_prompt=False, **runs.PURE))
    with torch.no_grad(), without_dropout(model):
        expected = count * model(query[None])[0][0, -1].double().softmax(-1)
    seen = torch.bincount(drawn, minlength=runs.VOCABULARY)
    likely = expected >= 5
    parts = [torch.cat((x[likely], x[~likely].sum()[None])) for x in (seen.double(), expected)]
    chi_squared = ((parts[0] - parts[1]) ** 2 / parts[1]).sum().item()
    freedom = len(parts[0]) - 1
    assert freedom > 30
    assert chi_squared < freedom + 3.1 * (2 * freedom) ** 0.5  # one run in a thousand


# ------------------------------------------------------------------------------------------------ what belongs to a row


@pytest.fixture(scope="module")
def ended():
    """A trainer whose EOS is a token that greedy responses reach after some others, and queries."""
    model = MODELS["GPT-2"]()
    queries = [query for query in runs.rollouts(count=16)[0] if len(query) > 1]
    rows = [greedy(model, query)[len(query) :].tolist() for query in queries]
    eos = next(token for row in rows for token in row[1:4] if token != row[0] and row.index(token) == 1)
    run = runs.trainer(model, tokens=runs.tokenizer(pad=f"w{eos}", eos=f"w{eos}"))
    queries = [query for query in queries if query[0] != eos and query[-1] != eos]
    return run, queries, eos


@pytest.mark.parametrize(
    ("dart", "token"), [(0.0, 0), (0.09, 0), (0.11, 2), (0.69, 2), (0.71, 3), (1 - 2**-24, 3)], ids=str
)
def test_a_draw_is_the_token_at_which_the_sum_passes_the_dart(dart, token, monkeypatch):
    """P = 0.1, 0, 0.6, 0.3, 0: an impossible token is never drawn, at the very end either."""
    monkeypatch.setattr(torch, "rand_like", lambda x: torch.full_like(x, dart))
    logits = torch.tensor([[0.1, 0.0, 0.6, 0.3, 0.0]]).log() + 5.0
    left = Draw()(torch.zeros(1, 3, dtype=torch.long), logits)
    assert left.argmax().item() == token
    assert left.exp().sum() == 1


def test_only_what_is_drawn_from_the_policy_is_drawn_here():
    model = runs.gpt2()
    assert draws_from_policy(model, runs.PURE)
    for other in ({"do_sample": False}, {"temperature": 0.7}, {"top_k": 5}, {"num_return_sequences": 2}):
        assert not draws_from_policy(model, runs.PURE | other)


def test_a_response_ends_with_its_first_eos(ended):
    run, queries, eos = ended
    rows = [greedy(run.model, query)[len(query) :].tolist() for query in queries]
    expected = [row[: row.index(eos) + 1] if eos in row else row for row in rows]
    found = run.generate(queries, return_prompt=False, **(GREEDY | {"eos_token_id": eos}))
    assert [row.tolist() for row in found] == expected
    assert {len(row) for row in expected} >= {2, 6}
    uncut = run.generate(queries, return_prompt=False, remove_padding=False, **(GREEDY | {"eos_token_id": eos}))
    assert {len(row) for row in uncut} == {6}


def test_an_eos_in_the_prompt_cuts_nothing(ended):
    run, queries, eos = ended
    queries = [torch.cat((query[:1], torch.tensor([eos]), query)) for query in queries]
    whole = run.generate(queries, **(GREEDY | {"eos_token_id": eos}))
    responses = run.generate(queries, return_prompt=False, **(GREEDY | {"eos_token_id": eos}))
    assert all(len(response) > 0 for response in responses)
    assert same(whole, [torch.cat(pair) for pair in zip(queries, responses, strict=True)])
    single = run.generate(queries[0], return_prompt=False, **(GREEDY | {"eos_token_id": None}))
    assert single.tolist() == [greedy(run.model, queries[0])[len(queries[0]) :].tolist()]


# -------------------------------------------------------------------------------------------- the reference's responses


def test_the_references_responses_are_those_of_the_model_below_the_adapter():
    base = runs.gpt2()
    model = runs.lora(copy.deepcopy(base))
    run = runs.trainer(model)
    queries = runs.rollouts()[0]
    own, reference = run.generate(queries, generate_ref_response=True, remove_padding=False, **GREEDY)
    assert same(own, [greedy(model, query) for query in queries])
    assert same(reference, [greedy(runs.with_head(base), query) for query in queries])
    assert not same(own, reference)
    assert same(run.generate(queries, remove_padding=False, **GREEDY), own)  # the adapter is on again


@pytest.mark.parametrize("plain", [False, True])
def test_the_references_responses_are_those_of_ref_model(plain):
    model = MODELS["Llama"]()
    reference = runs.neighbour(model, scale=0.3)
    run = runs.trainer(model, reference.pretrained_model if plain else reference)
    query = runs.rollouts()[0][0]
    own, other = run.generate(query, generate_ref_response=True, **GREEDY)
    assert torch.equal(own[0], greedy(model, query))
    assert torch.equal(other[0], greedy(reference, query))
    assert not torch.equal(own, other)


@pytest.mark.parametrize("name", ["with a reference", "LoRA"])
def test_a_step_is_not_misled_by_the_references_responses(name):
    """Responses that both models drew alike are remembered with the policy's probabilities."""
    found = []
    for reuse in (True, False):
        model = runs.lora(runs.gpt2()) if name == "LoRA" else MODELS["GPT-2"]()
        run = runs.trainer(model, reuse_rollouts=reuse)
        torch.manual_seed(0)
        settings = {"max_new_tokens": 1, "return_prompt": False, "generate_ref_response": True}
        queries = runs.rollouts()[0]
        responses = run.generate(queries, **settings, **runs.PURE)[1]
        found.append(run.step(queries, responses, runs.rollouts()[2])["objective/logprobs"])
    np.testing.assert_allclose(*found, atol=1e-5)


# --------------------------------------------------------------------------------------------------------------- length


def test_length_sampler_excludes_its_end_and_draws_as_the_original_did():
    np.random.seed(0)  # noqa: NPY002
    sampler = LengthSampler(4, 16)
    assert [sampler() for _ in range(10)] == [9, 4, 7, 15, 7, 11, 13, 7, 9, 6]
    assert {sampler() for _ in range(500)} == set(range(4, 16))


class Noted:
    """A length sampler that remembers its draws."""

    def __init__(self, *lengths):
        self.lengths, self.drawn = list(lengths), 0

    def __call__(self):
        self.drawn += 1
        return np.int64(self.lengths[self.drawn - 1])


def test_each_response_is_as_long_as_drawn():
    run = runs.trainer()
    sampler = Noted(3, 1, 6, 2, 6, 4, 5, 1)
    queries = runs.rollouts()[0]
    rows = run.generate(
        queries, sampler, return_prompt=False, remove_padding=False, **(GREEDY | {"max_new_tokens": 99})
    )
    assert [len(row) for row in rows] == sampler.lengths
    expected = [
        greedy(run.model, query, length)[len(query) :] for query, length in zip(queries, sampler.lengths, strict=True)
    ]
    assert same(rows, expected)


def test_with_a_batch_size_each_part_has_one_length():
    run = runs.trainer()
    sampler = Noted(3, 5, 2)
    settings = GREEDY | {"return_prompt": False, "remove_padding": False}
    rows = run.generate(runs.rollouts()[0], sampler, batch_size=3, **settings)
    assert [len(row) for row in rows] == [3, 3, 3, 5, 5, 5, 2, 2]
    assert sampler.drawn == 3


def test_an_eos_ends_a_response_before_the_drawn_length(ended):
    run, queries, eos = ended
    lengths = [1 + index % 6 for index in range(len(queries))]
    settings = GREEDY | {"eos_token_id": eos, "return_prompt": False}
    rows = run.generate(queries, Noted(*lengths), **settings)
    for query, row, length in zip(queries, rows, lengths, strict=True):
        whole = greedy(run.model, query, length)[len(query) :].tolist()
        assert row.tolist() == (whole[: whole.index(eos) + 1] if eos in whole else whole)


# ------------------------------------------------------------------------------- settings that leave the policy's draws

IMPURE = {
    "temperature": 0.7,
    "top_k": 5,
    "top_p": 0.9,
    "min_p": 0.1,
    "top_h": 0.5,
    "typical_p": 0.9,
    "epsilon_cutoff": 0.01,
    "eta_cutoff": 0.01,
    "repetition_penalty": 1.2,
    "no_repeat_ngram_size": 2,
    "min_length": 20,
    "min_new_tokens": 2,
    "guidance_scale": 1.5,
    "bad_words_ids": [[3]],
    "sequence_bias": [[[3], 1.0]],
    "suppress_tokens": [3],
    "begin_suppress_tokens": [3],
    "forced_bos_token_id": 3,
    "forced_eos_token_id": runs.EOS,
    "exponential_decay_length_penalty": (2, 1.5),
}
PURE_WORDS = [
    {},
    {"top_k": 0.0},
    {"min_length": -1},
    {"temperature": 1},
    {"top_k": 0, "min_length": -1, "top_p": 1.0, "do_sample": True, "pad_token_id": runs.EOS, "max_new_tokens": 3},
    {"repetition_penalty": 1.0, "typical_p": 1.0},
    {"max_new_tokens": 2, "eos_token_id": 5},
]


def processors(model, settings):
    """What transformers puts between the model's logits and the draw."""
    config, _ = model._prepare_generation_config(None, **settings)
    model._prepare_special_tokens(config, device="cpu")
    return model._get_logits_processor(config, input_ids_seq_length=3, device="cpu")


@pytest.fixture(scope="module")
def run():
    return runs.trainer()


@pytest.mark.parametrize("name", IMPURE)
def test_a_setting_that_changes_the_distribution_is_named(run, name):
    settings = runs.PURE | {"max_new_tokens": 3, name: IMPURE[name]}
    assert len(processors(run.model.pretrained_model, settings)) == 1
    with pytest.raises(ValueError, match=rf"generation with {name}=.*Pass {name}="):
        run.generate(runs.rollouts()[0], **settings)


def test_transformers_own_top_k_is_named_where_nothing_is_said(run):
    settings = {"do_sample": True, "max_new_tokens": 3}
    assert [p.top_k for p in processors(run.model.pretrained_model, settings)] == [50]
    with pytest.raises(ValueError, match=r"generation with top_k=50 .*Pass top_k=0"):
        run.generate(runs.rollouts()[0], **settings)


def test_several_are_named_together_and_those_of_the_models_config_too():
    run = runs.trainer()
    run.model.pretrained_model.generation_config.temperature = 0.7
    with pytest.raises(ValueError, match=r"generation with temperature=0.7, top_p=0.5 .*Pass temperature=1.0, top_p=1"):
        run.generate(runs.rollouts()[0], do_sample=True, top_k=0, top_p=0.5, max_new_tokens=2)
    run.generate(runs.rollouts()[0], temperature=1.0, max_new_tokens=2, **runs.PURE)


@pytest.mark.parametrize("words", PURE_WORDS)
def test_settings_that_change_nothing_pass(run, words, recwarn):
    settings = runs.PURE | {"max_new_tokens": 3} | words
    assert len(processors(run.model.pretrained_model, settings)) == 0
    assert len(run.generate(runs.rollouts()[0], **settings)) == 8
    assert not [w for w in recwarn if "generation" in str(w.message)]


def test_a_check_may_be_a_warning():
    run = runs.trainer(generation_check="warn")
    with pytest.warns(UserWarning, match=r"generation with top_k=5 .*can be negative. Pass top_k=0"):
        rows = run.generate(runs.rollouts()[0], do_sample=True, top_k=5, max_new_tokens=2)
    assert len(rows) == 8


def test_greedy_responses_are_allowed_but_named(run):
    with pytest.warns(UserWarning, match=r"do_sample is off.*For training pass do_sample=True, top_k=0"):
        run.generate(runs.rollouts()[0], max_new_tokens=2)


@pytest.mark.parametrize(
    ("count", "settings"), [(8, {"num_beams": 3}), (1, {"prompt_lookup_num_tokens": 2})], ids=["beams", "looked up"]
)
def test_other_ways_to_decode_work_and_do_not_mislead_a_step(count, settings):
    """Passes through the model are not one a token then, and must not be taken for it."""
    model = MODELS["GPT-2"]()
    run = runs.trainer(model, batch_size=count, mini_batch_size=count)
    queries = [torch.cat((query, query, query)) for query in runs.rollouts(count=count)[0]]
    settings = settings | GREEDY
    responses = [run.generate(query, return_prompt=False, **settings)[0] for query in queries]
    for query, response in zip(queries, responses, strict=True):
        with without_dropout(model):
            expected = model.pretrained_model.generate(
                query[None], attention_mask=torch.ones_like(query)[None], pad_token_id=runs.EOS, **settings
            )
        assert torch.equal(response, expected[0, len(query) :])
    found = run.step(queries, responses, [float(i) for i in range(count)])["objective/logprobs"]
    unchanged = runs.gpt2().eval()
    for row, query, response in zip(found, queries, responses, strict=True):
        with torch.no_grad():
            logs = unchanged(torch.cat((query, response))[None]).logits[0].log_softmax(-1)
        for t, token in enumerate(response, start=len(query) - 1):
            assert row[t] == pytest.approx(logs[t, token].item(), abs=1e-4)
