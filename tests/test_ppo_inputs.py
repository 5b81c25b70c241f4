"""What cannot work is refused: the message names the sample or the argument, and nothing has changed."""

import copy
import math
import random

import numpy as np
import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

from course_helpers.ppo import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer, create_reference_model
from tests import ppo_runs as runs

pytestmark = pytest.mark.usefixtures("one_thread")

NAN, INF = math.nan, math.inf
ids = torch.tensor


@pytest.fixture(scope="module")
def run():
    """A trainer in the middle of a run: its optimizer and its running moments hold something."""
    settings = {"dataset": runs.samples(), "data_collator": runs.columns}
    run = runs.trainer(settings=settings, use_score_scaling=True, use_score_norm=True)
    next(iter(run.dataloader))
    run.step(*runs.rollouts(1))
    return run


@pytest.fixture
def given():
    """Good rollouts of eight samples, to be spoilt."""
    queries, responses, scores = runs.rollouts()
    return {"queries": queries, "responses": responses, "scores": scores, "response_masks": runs.masks_for(responses)}


# ---------------------------------------------------------------------------------------------------- one sample is bad

BAD_SAMPLES = {
    "NaN score": ("scores", 3, NAN, r"scores\[3\] is nan.*every weight NaN"),
    "infinite score": ("scores", 5, INF, r"scores\[5\] is inf"),
    "infinite score in a tensor": ("scores", 0, ids([-INF]), r"scores\[0\] is -inf"),
    "two numbers": ("scores", 2, ids([0.1, 0.9]), r"scores\[2\] holds 2 numbers, of shape \(2,\): pass one"),
    "no number": ("scores", 7, ids([]), r"scores\[7\] holds 0 numbers"),
    "a word": ("scores", 1, "good", r"scores\[1\] is 'good': pass one number"),
    "None": ("scores", 1, None, r"scores\[1\] is None: pass one number"),
    "the judge's whole answer": ("scores", 0, {"label": "POSITIVE", "score": 0.9}, r"scores\[0\] is {'label': 'POSI"),
    "empty query": ("queries", 4, ids([], dtype=torch.long), r"queries\[4\] is empty: give it at least a start token"),
    "query of two dimensions": ("queries", 0, ids([[1, 2]]), r"queries\[0\] has shape \(1, 2\).*queries\[0\].squeeze"),
    "query of no dimension": ("queries", 6, ids(3), r"queries\[6\] has shape \(\)"),
    "text": ("queries", 1, "a film", r"queries\[1\] is a str: pass a tensor of token ids"),
    "missing query": ("queries", 1, None, r"queries\[1\] is a NoneType: pass a tensor of token ids"),
    "fractional ids": ("queries", 2, ids([1.0, 2.0]), r"queries\[2\] holds torch.float32: token ids are whole numbers"),
    "mask as ids": ("queries", 2, ids([True, False]), r"queries\[2\] holds torch.bool"),
    "unknown id": ("queries", 3, ids([1, 64]), r"queries\[3\] holds the token id 64.*from 0 to 63.*tokenizer"),
    "negative id": ("queries", 3, ids([1, -100]), r"queries\[3\] holds the token id -100"),
    "padded on the left": ("queries", 5, ids([63, 63, 4, 5]), r"queries\[5\] .*2 padding tokens on its left"),
    "padded on the right": ("queries", 5, ids([4, 5, 63, 63, 63]), r"queries\[5\] .*3 padding tokens on its right"),
    "all padding": ("queries", 0, ids([63, 63]), r"queries\[0\] .*2 padding tokens"),
    "empty response": ("responses", 6, ids([], dtype=torch.long), r"responses\[6\] is empty: let max_new_tokens be"),
    "response of two dimensions": ("responses", 1, ids([[1], [2]]), r"responses\[1\] has shape \(2, 1\)"),
    "fractional response": ("responses", 1, ids([0.5]), r"responses\[1\] holds torch.float32"),
    "unknown id in a response": ("responses", 7, ids([1, 2, 999]), r"responses\[7\] holds the token id 999"),
    "negative id in a response": ("responses", 7, ids([-1]), r"responses\[7\] holds the token id -1;"),
    "too long": ("responses", 2, torch.ones(48, dtype=torch.long), r"sample 2 is too long: .* context holds 48"),
    "longer mask": ("response_masks", 3, torch.ones(40), r"response_masks\[3\] has shape \(40,\), its response"),
    "mask of zeros": ("response_masks", 4, 0, r"response_masks\[4\] is all 0"),
    "mask of other numbers": ("response_masks", 4, 0.5, r"response_masks\[4\] holds other numbers than 0 and 1"),
    "mask of NaN": ("response_masks", 4, NAN, r"response_masks\[4\] holds other numbers than 0 and 1"),
    "missing mask": ("response_masks", 2, None, r"response_masks\[2\] is"),
}


@pytest.mark.parametrize("name", BAD_SAMPLES)
def test_a_bad_sample_is_named_and_nothing_changes(run, given, name):
    column, index, bad, message = BAD_SAMPLES[name]
    if column == "response_masks" and isinstance(bad, int | float):
        bad = torch.full(given["responses"][index].shape, bad, dtype=torch.float32)
    given[column][index] = bad
    before = runs.fingerprint(run)
    with pytest.raises(ValueError, match=message):
        run.step(**given)
    runs.assert_same(before, runs.fingerprint(run))


def test_room_that_is_left_is_named(run, given):
    given["queries"][2], given["responses"][2] = torch.ones(40, dtype=torch.long), torch.ones(9, dtype=torch.long)
    del given["response_masks"]
    words = r"40 query and 9 response tokens make 49, but the model's context holds 48.* at most 8 tokens"
    with pytest.raises(ValueError, match=words):
        run.step(**given)
    given["responses"][2] = torch.ones(8, dtype=torch.long)
    copy.deepcopy(run).step(**given)


def padded(rows):
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


BAD_COLUMNS = {
    "a query missing": (
        lambda x: x["queries"].pop(),
        "queries has 7 samples, but batch_size is 8: .* to 7 in PPOConfi",
    ),
    "a response too many": (lambda x: x["responses"].append(ids([1])), "responses has 9 samples, but batch_size is 8"),
    "a score missing": (lambda x: x["scores"].pop(), "scores has 7 samples"),
    "a mask missing": (lambda x: x["response_masks"].pop(), "response_masks has 7 samples"),
    "one padded tensor": (
        lambda x: x.update(queries=padded(x["queries"])),
        r"queries is one \(8, \d\) array: pass a l",
    ),
    "padded responses": (lambda x: x.update(responses=padded(x["responses"])), r"responses is one \(8, \d\) array"),
    "a column of scores": (lambda x: x.update(scores=torch.zeros(8, 1)), r"scores is one \(8, 1\) array"),
    "one score": (lambda x: x.update(scores=0.5), "scores is a float: pass a list with one entry a sample"),
    "a generator": (lambda x: x.update(queries=iter(x["queries"])), "queries is a list_iterator: pass a list"),
    "texts in one": (lambda x: x.update(responses="a film"), "responses is a str: pass a list"),
    "nothing": (lambda x: x.update(queries=[], responses=[], scores=[]), "queries has 0 samples"),
}


@pytest.mark.parametrize("name", BAD_COLUMNS)
def test_a_bad_column_is_named_and_nothing_changes(run, given, name):
    spoil, message = BAD_COLUMNS[name]
    spoil(given)
    before = runs.fingerprint(run)
    with pytest.raises(ValueError, match=message):
        run.step(**given)
    runs.assert_same(before, runs.fingerprint(run))


@pytest.mark.parametrize("query", [[62, 4, 5], [4, 5, 62]])
def test_a_single_padding_token_is_refused_where_it_cannot_be_a_start_token(query, given):
    run = runs.trainer(tokens=runs.tokenizer(pad="<pad>"))
    given["queries"][1] = ids(query)
    with pytest.raises(ValueError, match=r"queries\[1\] begins or ends with 1 padding token"):
        run.step(**given)


def test_a_start_token_that_is_eos_and_padding_is_allowed(run, given):
    given["queries"][1], given["queries"][2] = ids([63, 4, 63, 5]), ids([63])
    copy.deepcopy(run).step(**given)


@pytest.mark.parametrize("part", ["policy", "value head", "reference"])
def test_weights_that_are_not_finite_are_noticed_before_anything_changes(run, given, part):
    spoilt = copy.deepcopy(run)
    models = {"policy": spoilt.model.pretrained_model, "value head": spoilt.model.v_head, "reference": spoilt.ref_model}
    with torch.no_grad():
        next(models[part].parameters())[:] = NAN
    before = runs.fingerprint(spoilt)
    names = {"policy": "log_probs", "value head": "values", "reference": "ref_log_probs"}
    with pytest.raises(FloatingPointError, match=rf"^{names[part]} of sample 0, response token 0, is nan: nothing was"):
        spoilt.step(*(given[name] for name in ("queries", "responses", "scores")))
    for name, value in runs.fingerprint(spoilt).items():
        if name != "weights":
            runs.assert_same(before[name], value, name)


BAD_QUERIES = {
    "two dimensions": (ids([[1, 2]]), r"query_tensor has shape \(1, 2\)"),
    "empty": (ids([], dtype=torch.long), r"query\[0\] is empty"),
    "an empty list": ([], "query_tensor is an empty list"),
    "one of two dimensions": ([ids([1]), ids([[1, 2]])], r"query\[1\] has shape \(1, 2\)"),
    "unknown id": ([ids([1]), ids([64])], r"query\[1\] holds the token id 64"),
    "fractional": (ids([1.5]), r"query\[0\] holds torch.float32"),
    "left padding": ([ids([1]), ids([63, 63, 1])], r"queries\[1\] .*2 padding tokens on its left"),
}


@pytest.mark.parametrize("name", BAD_QUERIES)
def test_a_bad_query_for_generate_is_named(run, name):
    query, message = BAD_QUERIES[name]
    before = runs.fingerprint(run)
    with pytest.raises(ValueError, match=message):
        run.generate(query, max_new_tokens=2, **runs.PURE)
    with pytest.raises(ValueError, match="top_k=50"):
        run.generate(ids([1]), do_sample=True, max_new_tokens=2)
    runs.assert_same(before, runs.fingerprint(run))


def test_a_misspelt_generation_setting_is_named(run):
    before = runs.fingerprint(run)
    with pytest.raises(ValueError, match="max_new_tokns"):
        run.generate(runs.rollouts()[0], max_new_tokns=2, **runs.PURE)
    runs.assert_same(before, runs.fingerprint(run))


# --------------------------------------------------------------------------------------------------------------- set-up

BAD_SETTINGS = [
    ({"batch_size": 10, "mini_batch_size": 4}, "batch_size 10 is no multiple of mini_batch_size 4 .* is 8 or 12"),
    (
        {"batch_size": 16, "mini_batch_size": 4, "gradient_accumulation_steps": 3},
        r"batch_size 16 .* gradient_accumulation_steps 3 = 12: the nearest batch_size is 12 or 24",
    ),
    ({"batch_size": 3, "mini_batch_size": 4}, "the nearest batch_size is 4"),
    ({"kl_penalty": "k3"}, "kl_penalty is 'k3'; it must be one of kl, abs, mse, full"),
    ({"learning_rate": -1e-5}, "learning_rate is -1e-05; it must be a number above 0"),
    ({"learning_rate": NAN}, "learning_rate is nan"),
    ({"learning_rate": "1e-5"}, "learning_rate is '1e-5'"),
    ({"batch_size": 0}, "batch_size is 0; it must be a whole number, at least 1"),
    ({"batch_size": 2.0, "mini_batch_size": 1}, "batch_size is 2.0; it must be a whole number"),
    ({"mini_batch_size": True}, "mini_batch_size is True"),
    ({"ppo_epochs": 0}, "ppo_epochs is 0"),
    ({"gradient_accumulation_steps": -1}, "gradient_accumulation_steps is -1"),
    ({"steps": 0}, "steps is 0"),
    ({"target": 0}, "target is 0"),
    ({"horizon": INF}, "horizon is inf"),
    ({"gamma": 1.1}, "gamma is 1.1; it must be between 0 and 1"),
    ({"lam": -0.1}, "lam is -0.1"),
    ({"cliprange": -0.2}, "cliprange is -0.2"),
    ({"cliprange_value": None}, "cliprange_value is None"),
    ({"vf_coef": -1}, "vf_coef is -1"),
    ({"init_kl_coef": NAN}, "init_kl_coef is nan; it must be a finite number"),
    ({"max_grad_norm": 0}, "max_grad_norm is 0; it must be a number above 0, or None"),
    ({"score_clip": -1.0}, "score_clip is -1.0"),
    ({"ratio_threshold": 0}, "ratio_threshold is 0"),
    ({"generation_check": "off"}, "generation_check is 'off'; it must be 'error' or 'warn'"),
    ({"push_to_hub_if_best_kwargs": {"repo_id": "a"}}, "push_to_hub_if_best_kwargs is not supported"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS)
def test_a_setting_that_cannot_work_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        PPOConfig(**settings)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("num_ppo_epochs", "here it is ppo_epochs"),
        ("per_device_train_batch_size", "here it is batch_size"),
        ("num_mini_batches", "here it is mini_batch_size"),
        ("total_episodes", "here it is steps"),
        ("kl_coef", "here it is init_kl_coef"),
        ("response_length", "max_new_tokens, given to trainer.generate"),
        ("reward_model_path", r"step\(\) takes any scores"),
        ("output_dir", "save_pretrained"),
    ],
)
def test_names_of_the_later_config_are_translated(name, message):
    with pytest.raises(TypeError, match=rf"^PPOConfig has no {name}=, .*{message}"):
        PPOConfig(**{name: 1})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("args", "here it is config="),
        ("processing_class", "here it is tokenizer="),
        ("train_dataset", "here it is dataset="),
        ("reward_model", r"pass the scores to step\(\)"),
        ("value_model", "the value head of AutoModelForCausalLMWithValueHead"),
        ("peft_config", "from_pretrained"),
        ("optimizers", "optimizer= and lr_scheduler="),
    ],
)
def test_names_of_the_later_trainer_are_translated(name, message):
    with pytest.raises(TypeError, match=rf"^PPOTrainer has no {name}=, .*{message}"):
        PPOTrainer(**{name: object()})


def test_a_name_of_no_api_is_repeated():
    with pytest.raises(TypeError, match="PPOTrainer has no argument modle"):
        PPOTrainer(modle=1)
    with pytest.raises(TypeError, match="batchsize"):
        PPOConfig(batchsize=1)


def test_old_names_still_work_with_a_warning():
    with pytest.warns(FutureWarning, match="now called mini_batch_size"):
        assert PPOConfig(batch_size=8, forward_batch_size=4).mini_batch_size == 4
    with pytest.warns(FutureWarning, match="now called optimize_device_cache"):
        assert PPOConfig(optimize_cuda_cache=True).optimize_device_cache is True


def without_padding():
    tokens = runs.tokenizer()
    tokens.pad_token = None
    return tokens


BAD_PARTS = {
    "no config": (lambda model: {"config": None}, "config is NoneType; it must be a PPOConfig"),
    "a dictionary": (lambda model: {"config": {"batch_size": 8}}, "config is dict; it must be a PPOConfig"),
    "no value head": (
        lambda model: {"model": model.pretrained_model},
        "model is GPT2LMHeadModel; it must be an AutoModel",
    ),
    "no model": (lambda model: {"model": None}, "model is NoneType"),
    "a name for a tokenizer": (lambda model: {"tokenizer": "gpt2"}, "tokenizer is str; it must be a tokenizer"),
    "no pad token": (
        lambda model: {"tokenizer": without_padding()},
        "no pad token: set tokenizer.pad_token = tokenizer",
    ),
    "the model as its reference": (lambda model: {"ref_model": model}, "ref_model is the model itself"),
    "another vocabulary": (
        lambda model: {"ref_model": runs.gpt2(vocab_size=65)},
        "model and ref_model have vocabularies of different sizes",
    ),
    "a name for a reference": (lambda model: {"ref_model": "gpt2"}, "ref_model is str; it must be a model, or None"),
    "few samples": (
        lambda model: {"dataset": runs.samples(7)},
        "data set has 7 samples, fewer than one batch of 8: set batch_size to at most 7",
    ),
    "few samples to share": (
        lambda model: {"dataset": runs.samples(7), "ref_model": None, "num_shared_layers": 1},
        "data set has 7 samples",
    ),
    "too many shared layers": (
        lambda model: {"ref_model": None, "num_shared_layers": 2},
        "no parameter belongs to layer 2 .* give fewer num_shared_layers",
    ),
}


@pytest.mark.parametrize("name", BAD_PARTS)
def test_a_part_that_cannot_work_is_named_and_nothing_changes(name):
    change, message = BAD_PARTS[name]
    model = runs.with_head(runs.gpt2())
    parts = {"config": runs.config(seed=3), "model": model, "ref_model": None, "tokenizer": runs.tokenizer()}
    weights, trainable = runs.weights(model), [p.requires_grad for p in model.parameters()]
    random.seed(name)
    np.random.seed(len(name))  # noqa: NPY002
    torch.manual_seed(len(name))
    generators = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    with pytest.raises(ValueError, match=message):
        PPOTrainer(**(parts | change(model)))
    now = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    runs.assert_same(generators, now)
    runs.assert_same(weights, runs.weights(model))
    assert [p.requires_grad for p in model.parameters()] == trainable


def test_an_encoder_decoder_is_refused():
    sizes = {"vocab_size": 64, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 48}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    model = BartForConditionalGeneration(BartConfig(**sizes, **heads))
    with pytest.raises(ValueError, match="BartForConditionalGeneration is an encoder-decoder; give a causal language"):
        AutoModelForCausalLMWithValueHead(model)


def test_float16_weights_are_refused():
    with pytest.raises(ValueError, match=r"weights are float16, which overflows.*dtype=torch.float32"):
        AutoModelForCausalLMWithValueHead(runs.gpt2().half())


def test_a_reference_of_an_adapter_is_refused():
    with pytest.raises(ValueError, match="with its adapter off: pass ref_model=None"):
        create_reference_model(runs.lora(runs.gpt2()))


def test_a_second_adapter_is_refused():
    once = runs.lora(runs.gpt2()).pretrained_model
    with pytest.raises(ValueError, match="has an adapter already: leave peft_config out"):
        runs.lora(once)


def test_shared_layers_beside_a_reference_are_ignored_with_a_warning():
    model = runs.with_head(runs.gpt2())
    with pytest.warns(UserWarning, match="num_shared_layers is ignored, because there is a ref_model"):
        run = runs.trainer(model, runs.neighbour(model), settings={"num_shared_layers": 1})
    assert all(p.requires_grad for p in run.model.parameters())


# ---------------------------------------------------------------------------------------------------------- good inputs

SCORES = {
    "floats": lambda scores: scores,
    "a tuple": tuple,
    "NumPy's numbers": lambda scores: [np.float64(s) for s in scores],
    "tensors of no dimension": lambda scores: [torch.tensor(s, dtype=torch.float64) for s in scores],
    "tensors of one element": lambda scores: [torch.tensor([s], dtype=torch.float64) for s in scores],
    "lists of one element": lambda scores: [[s] for s in scores],
    "one tensor": lambda scores: torch.tensor(scores, dtype=torch.float64),
    "one tensor with a graph": lambda scores: torch.tensor(scores, dtype=torch.float64, requires_grad=True),
    "one array": np.array,
}
TOKENS = {
    "tensors": lambda rows: rows,
    "32 bits": lambda rows: [row.int() for row in rows],
    "8 bits": lambda rows: [row.to(torch.uint8) for row in rows],
    "lists": lambda rows: [row.tolist() for row in rows],
    "arrays": lambda rows: [row.numpy() for row in rows],
    "a tuple": tuple,
}
MASKS = {
    "whole numbers": lambda masks: masks,
    "booleans": lambda masks: [mask.bool() for mask in masks],
    "floats": lambda masks: [mask.float() for mask in masks],
    "lists": lambda masks: [mask.tolist() for mask in masks],
}


@pytest.fixture(scope="module")
def expected():
    run = runs.trainer()
    queries, responses, scores = runs.rollouts()
    run.step(queries, responses, scores, runs.masks_for(responses))
    return runs.weights(run.model)


@pytest.mark.parametrize(
    ("scores", "tokens", "masks"),
    [(name, "tensors", "floats") for name in SCORES]
    + [("floats", name, "floats") for name in TOKENS]
    + [("floats", "tensors", name) for name in MASKS],
)
def test_good_inputs_of_every_kind_mean_the_same(scores, tokens, masks, expected, given):
    run = runs.trainer()
    kept = copy.deepcopy(given)
    run.step(
        TOKENS[tokens](given["queries"]),
        TOKENS[tokens](given["responses"]),
        SCORES[scores](given["scores"]),
        MASKS[masks](given["response_masks"]),
    )
    runs.assert_same(expected, runs.weights(run.model))
    runs.assert_same(kept, given)  # what was passed in is as it was


def test_masks_of_ones_mean_no_masks(given):
    found = []
    for masks in (None, [torch.ones(len(response)) for response in given["responses"]]):
        run = runs.trainer()
        run.step(given["queries"], given["responses"], given["scores"], masks)
        found.append(runs.weights(run.model))
    runs.assert_same(*found)
