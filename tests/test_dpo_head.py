"""Scoring only the tokens with a label changes no answer: TRL's own head, and plain logits, say the same."""

import copy
import inspect
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from course_helpers.dpo import head
from course_helpers.dpo.head import NO_LABEL, score_labels_only, token_scores

FIELDS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
SMALL = {"vocab_size": 50, "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2}
LLAMA_LIKE = SMALL | {"intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8}
MODELS = {
    "GPT-2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_layer=2, n_embd=16, n_head=2, n_positions=32)),
    "Llama": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA_LIKE)),
    "Gemma 2": lambda: Gemma2ForCausalLM(Gemma2Config(**LLAMA_LIKE, final_logit_softcapping=2.0)),
}


def prepared(kind, adapter=False):
    """A model with TRL's head, and its twin with ours."""
    torch.manual_seed(0)
    theirs = MODELS[kind]().eval()
    add_fused_lm_head(theirs, outputs=FIELDS)
    ours = copy.deepcopy(theirs)
    if adapter:
        theirs, ours = (
            get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
            for model in (theirs, ours)
        )
        ours.load_state_dict(theirs.state_dict())
    score_labels_only(ours, squares=True)
    return theirs, ours


def batch(rows=3, width=9):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 50, (rows, width), generator=generator)
    labels = ids.masked_fill(torch.rand(ids.shape, generator=generator) < 0.4, NO_LABEL)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def without_ids(given):
    return {name: value for name, value in given.items() if name != "input_ids"}


@pytest.fixture
def projected(monkeypatch):
    """How many rows each call of the last layer is given."""
    rows = []
    scores = head.token_scores
    monkeypatch.setattr(head, "BLOCK", 4)
    monkeypatch.setattr(head, "token_scores", lambda z, y, more: rows.append(len(z)) or scores(z, y, more))
    return rows


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("kind", ["GPT-2", "Llama"])
def test_answers_and_gradients_are_those_of_trl(kind, adapter, projected):
    theirs, ours = prepared(kind, adapter)
    given = batch()
    answers = [model(given["input_ids"], **without_ids(given), fused_lm_head=True) for model in (theirs, ours)]
    assert projected == [4 * math.ceil(int((given["labels"][:, 1:] != NO_LABEL).sum()) / 4)]
    for name in (*FIELDS, "loss", "label_mask"):
        assert torch.allclose(*(getattr(answer, name).float() for answer in answers), atol=1e-5), name
    weights = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))
    for answer in answers:
        (answer.log_probs * weights).sum().backward()
    pairs = zip(theirs.named_parameters(), ours.parameters(), strict=True)
    met = [(name, p.grad, q.grad) for (name, p), q in pairs if p.requires_grad]
    assert len(met) > 8
    assert all(torch.allclose(p, q, atol=1e-5) for _name, p, q in met)


def test_scores_are_those_of_a_distribution_written_out():
    generator = torch.Generator().manual_seed(0)
    logits, targets = 3 * torch.randn(200, 31, generator=generator), torch.randint(0, 31, (200,), generator=generator)
    scores = token_scores(logits, targets, squares=True)
    assert token_scores(logits, targets).keys() == scores.keys() - {"log_sum_sq_probs"}
    exact = torch.distributions.Categorical(logits=logits.double())
    assert torch.allclose(scores["log_probs"].double(), exact.log_prob(targets), atol=1e-5)
    assert torch.allclose(scores["entropy"].double(), exact.entropy(), atol=1e-5)
    assert torch.allclose(scores["log_sum_sq_probs"].double(), exact.probs.square().sum(-1).log(), atol=1e-5)
    assert torch.allclose(scores["mean_logits"].double(), logits.double().mean(-1), atol=1e-5)
    assert torch.equal(scores["is_top1"], exact.probs.argmax(-1) == targets)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_scores_are_float32_at_least(dtype):
    logits = (3 * torch.randn(20, 31, generator=torch.Generator().manual_seed(0))).to(dtype)
    targets = torch.arange(20)
    scores = token_scores(logits, targets)
    exact = torch.distributions.Categorical(logits=logits.double())
    close = {"atol": 1e-12} if dtype == torch.float64 else {"atol": 1e-5}
    assert torch.allclose(scores["log_probs"].double(), exact.log_prob(targets), **close)
    assert torch.allclose(scores["entropy"].double(), exact.entropy(), **close)
    assert scores["log_probs"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("count", range(1, 9))
def test_tokens_are_scored_in_whole_blocks_and_the_filling_counts_for_nothing(count, projected):
    theirs, ours = prepared("GPT-2")
    given = batch(rows=1, width=10)
    given["labels"] = given["input_ids"].masked_fill(torch.arange(10) > count, NO_LABEL)
    answers = [model(**given, fused_lm_head=True) for model in (theirs, ours)]
    assert projected == [4 if count <= 4 else 8]
    assert torch.allclose(*(answer.loss for answer in answers), atol=1e-6)
    assert torch.allclose(*(answer.log_probs for answer in answers), atol=1e-5)


def test_squares_are_scored_where_they_are_asked_for_alone():
    theirs, ours = prepared("GPT-2")
    plain = copy.deepcopy(theirs)
    score_labels_only(plain)
    assert plain(**batch(), fused_lm_head=True).log_sum_sq_probs is None
    assert ours(**batch(), fused_lm_head=True).log_sum_sq_probs is not None


def test_asked_twice_it_changes_nothing_more():
    theirs, ours = prepared("GPT-2")
    once = ours.forward
    score_labels_only(ours)
    assert ours.forward == once
    assert inspect.signature(once) == inspect.signature(theirs.forward)  # by which TRL chooses columns


def test_nothing_is_kept_for_tokens_to_come():
    _theirs, ours = prepared("GPT-2")
    asked = []
    ours.base_model.register_forward_pre_hook(lambda _, __, given: asked.append(given["use_cache"]), with_kwargs=True)
    ours(**batch(), fused_lm_head=True)
    ours(**batch(), fused_lm_head=True, use_cache=True)
    assert asked == [False, False]


def test_a_number_of_tokens_to_divide_by_is_taken():
    theirs, ours = prepared("GPT-2")
    losses = [model(**batch(), fused_lm_head=True, num_items_in_batch=7).loss for model in (theirs, ours)]
    assert torch.allclose(*losses, atol=1e-5)


def test_a_batch_without_a_label_loses_nothing_and_can_be_learned_from():
    _theirs, ours = prepared("GPT-2")
    given = batch()
    answer = ours(**(given | {"labels": torch.full_like(given["labels"], NO_LABEL)}), fused_lm_head=True)
    answer.loss.backward()
    assert answer.loss == 0
    assert not answer.label_mask.any()


def test_what_suits():
    _theirs, ours = prepared("GPT-2")
    labels = batch()["labels"]
    assert head._suits(ours, labels, {})
    assert not head._suits(ours, labels, {"shift_labels": labels})
    ours.config.output_router_logits = True
    assert not head._suits(ours, labels, {})


@pytest.mark.parametrize(("most", "suits"), [(150, True), (149, False)])
def test_as_many_logits_as_may_be_kept(most, suits, monkeypatch):
    _theirs, ours = prepared("GPT-2")
    monkeypatch.setattr(head, "MOST_LOGITS", most)  # 3 tokens that count, of 50 logits; the first has none before it
    assert head._suits(ours, torch.tensor([[1, 2, NO_LABEL, 3, 4, NO_LABEL]]), {}) is suits


@pytest.mark.parametrize("reason", ["too many logits", "softcapping", "shifted labels"])
def test_what_does_not_suit_is_left_to_trl(reason, projected, monkeypatch):
    theirs, ours = prepared("Gemma 2" if reason == "softcapping" else "GPT-2")
    given = batch()
    if reason == "too many logits":
        monkeypatch.setattr(head, "MOST_LOGITS", 50)
    if reason == "shifted labels":
        given |= {"shift_labels": given.pop("labels")}
    answers = [model(**given, fused_lm_head=True) for model in (theirs, ours)]
    assert projected == []
    assert torch.allclose(*(answer.log_probs for answer in answers), atol=1e-6)


def test_other_calls_are_the_models_own(projected):
    theirs, ours = prepared("GPT-2")
    ids = batch()["input_ids"]
    assert torch.equal(theirs(input_ids=ids).logits, ours(input_ids=ids).logits)
    assert torch.equal(theirs(ids).logits, ours(ids).logits)
    assert torch.equal(theirs(input_ids=ids, labels=ids).loss, ours(input_ids=ids, labels=ids).loss)
    assert projected == []


def test_a_copy_scores_with_its_own_weights():
    _theirs, ours = prepared("GPT-2")
    twin = copy.deepcopy(ours)
    before = ours(**batch(), fused_lm_head=True).log_probs
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(1.5)
    assert torch.equal(ours(**batch(), fused_lm_head=True).log_probs, before)
    assert not torch.allclose(twin(**batch(), fused_lm_head=True).log_probs, before)
