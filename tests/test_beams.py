"""Beam search against `generate`, and its tree against what a tree of beams must be."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from course_helpers.beams import beam_search
from course_helpers.rollouts import evaluation_mode, sample_rollouts
from course_helpers.sampling import SamplingSettings

pytestmark = pytest.mark.usefixtures("one_thread")

EOS = 3
PROMPTS = ([5], [9, 2, 11], [40, 41, 42, 43])


@pytest.fixture(scope="module")
def tiny():
    """Random GPT-2 in which EOS is among the likely tokens, so that beams of every length finish."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        sizes = {"vocab_size": 60, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
        config = GPT2Config(**sizes, bos_token_id=EOS, eos_token_id=EOS, initializer_range=0.35)
        model = GPT2LMHeadModel(config)
    model.lm_head = torch.nn.Linear(32, 60)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(2)
        model.lm_head.weight.normal_(std=0.35)
        model.lm_head.bias.zero_()[EOS] = 3.0
    return model.eval()


def generate(model, prompt, **options):
    ids = torch.tensor([prompt])
    return model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
        pad_token_id=options["eos_token_id"],
        **options,
    )


def assert_equals_generate(model, prompt, **options):
    """Same tokens, same scores, and the same number of steps before the search stops."""
    tree = beam_search(model, prompt, **options)
    expected = generate(model, prompt, **options)
    for sequence, row in zip(tree.sequences, expected.sequences.tolist(), strict=True):
        theirs, length = row[len(prompt) :], len(sequence.token_ids)
        assert sequence.token_ids == theirs[:length]
        assert set(theirs[length:]) <= {options["eos_token_id"]}
    if options["num_beams"] > 1:
        ours = [sequence.score for sequence in tree.sequences]
        assert ours == pytest.approx(expected.sequences_scores.tolist(), rel=1e-6, abs=1e-6)
    assert tree.nodes[-1].depth == len(expected.scores)


# ---------------------------------------------------------------------------------------------------- against generate


@pytest.mark.parametrize("num_beams", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_equals_generate_where_eos_is_common(tiny, num_beams, length_penalty, early_stopping):
    for prompt in PROMPTS:
        assert_equals_generate(
            tiny,
            prompt,
            num_beams=num_beams,
            max_new_tokens=8,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            eos_token_id=EOS,
            num_return_sequences=num_beams,
        )


@pytest.mark.parametrize(
    ("num_beams", "length_penalty", "early_stopping", "returned"),
    [(1, 1.0, False, 1), (2, 0.6, True, 2), (3, 0.0, False, 1), (4, 2.0, "never", 4), (5, 1.0, False, 3)],
)
def test_equals_generate_on_the_small_policy(small, num_beams, length_penalty, early_stopping, returned):
    model, tokenizer = small
    for text in ("This movie", "I have never seen"):
        assert_equals_generate(
            model,
            tokenizer(text).input_ids,
            num_beams=num_beams,
            max_new_tokens=12,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            eos_token_id=tokenizer(".").input_ids[0],
            num_return_sequences=returned,
        )


def test_the_comparison_sees_short_and_long_responses(tiny):
    trees = [beam_search(tiny, prompt, 4, 8, 0.6, False, EOS, 4) for prompt in PROMPTS]
    lengths = {len(s.token_ids) for tree in trees for s in tree.sequences}
    ends = {s.ended for tree in trees for s in tree.sequences}
    assert len(lengths) > 2
    assert ends == {True, False}


def test_one_beam_is_greedy_search(tiny):
    for prompt in PROMPTS:
        tree = beam_search(tiny, prompt, 1, 10, eos_token_id=EOS)
        (rollout,) = sample_rollouts(
            tiny, prompt, 1, SamplingSettings(temperature=0, eos_token_id=EOS), length_limit=10
        )
        assert tree.sequences[0].token_ids == rollout.token_ids
        assert tree.sequences[0].log_prob == pytest.approx(sum(rollout.policy_log_probs), abs=1e-4)


def test_without_eos_all_beams_reach_the_last_depth(tiny):
    tree = beam_search(tiny, [5], 3, 6, num_return_sequences=3)
    assert [(len(s.token_ids), s.ended) for s in tree.sequences] == [(6, False)] * 3


def test_wide_enough_a_beam_finds_the_likeliest_response(tiny):
    tree = beam_search(tiny, [5], 3600, 2, length_penalty=0.0)
    with evaluation_mode(tiny):
        first = tiny(torch.tensor([[5]])).logits[0, -1].log_softmax(-1)
        pairs = torch.tensor([[5, token] for token in range(60)])
        both = first[:, None] + tiny(pairs).logits[:, -1].log_softmax(-1)
    assert tree.sequences[0].log_prob == pytest.approx(both.max().item(), abs=1e-5)
    assert tree.sequences[0].token_ids == list(divmod(both.argmax().item(), 60))


# ------------------------------------------------------------------------------------------------------------ the tree


@pytest.fixture(scope="module", params=[False, True, "never"])
def tree(tiny, request):
    return beam_search(tiny, [9, 2, 11], 3, 8, 0.6, request.param, EOS, 3)


def depths(tree):
    deepest = tree.nodes[-1].depth
    return [[node for node in tree.nodes if node.depth == depth] for depth in range(1, deepest + 1)]


def test_each_depth_holds_twice_num_beams_candidates_best_first(tree):
    for nodes in depths(tree):
        assert [node.rank for node in nodes] == list(range(6))
        scores = [node.score for node in nodes]
        assert scores == sorted(scores, reverse=True)


def test_num_beams_go_on_and_the_best_that_end_are_finished(tree):
    levels = depths(tree)
    for nodes in levels:
        last = nodes[0].depth == 8
        assert sum(node.kept and not node.finished for node in nodes) == (0 if last else 3)
        for node in nodes:
            ends = last or node.token_id == EOS
            assert node.finished == (ends and node.rank < 3)
            assert node.kept or ends or node.rank >= 3
    assert any(not node.kept for nodes in levels for node in nodes)


def test_scores_add_up_along_each_path(tree):
    for index, node in enumerate(tree.nodes):
        before = 0.0
        if node.parent is not None:
            parent = tree.nodes[node.parent]
            before = parent.score
            assert node.parent < index
            assert parent.depth == node.depth - 1
            assert parent.kept
            assert not parent.finished
        assert (node.parent is None) == (node.depth == 1)
        assert node.score == pytest.approx(before + node.log_prob, abs=1e-5)
        assert tree.path(index)[-1] == node.token_id
        assert len(tree.path(index)) == node.depth


def test_sequences_are_finished_paths(tree):
    for sequence in tree.sequences:
        assert tree.nodes[sequence.node].finished
        assert tree.path(sequence.node) == sequence.token_ids
        assert sequence.log_prob == tree.nodes[sequence.node].score
        assert sequence.score == pytest.approx(sequence.log_prob / len(sequence.token_ids) ** 0.6)
        assert sequence.ended == (sequence.token_ids[-1] == EOS)
    scores = [sequence.score for sequence in tree.sequences]
    assert scores == sorted(scores, reverse=True)


def test_node_scores_are_those_of_a_plain_forward_pass(tiny, tree):
    for index in range(0, len(tree.nodes), 5):
        ids = tree.prompt_ids + tree.path(index)
        with evaluation_mode(tiny):
            log_probs = tiny(torch.tensor([ids])).logits[0].log_softmax(-1)
        steps = [log_probs[t - 1, ids[t]].item() for t in range(len(tree.prompt_ids), len(ids))]
        assert tree.nodes[index].log_prob == pytest.approx(steps[-1], abs=1e-4)
        assert tree.nodes[index].score == pytest.approx(sum(steps), abs=1e-4)


def test_same_tree_for_lists_and_tensors_and_in_training_mode(tiny):
    expected = beam_search(tiny, [9, 2], 2, 4, eos_token_id=EOS)
    assert beam_search(tiny, torch.tensor([[9, 2]]), 2, 4, eos_token_id=EOS) == expected
    tiny.train()
    assert beam_search(tiny, [9, 2], 2, 4, eos_token_id=EOS) == expected
    assert tiny.training
    tiny.eval()


def test_more_beams_than_tokens():
    config = GPT2Config(vocab_size=4, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    tree = beam_search(GPT2LMHeadModel(config), [1], 5, 3, eos_token_id=0, num_return_sequences=5)
    assert [len(nodes) for nodes in depths(tree)][:2] == [4, 10]
    assert len(tree.sequences) == 5


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams is 0; it must be a whole number, at least 1"),
        ({"num_beams": 2.0}, r"num_beams is 2\.0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"num_return_sequences": 3}, "num_return_sequences is 3, but 2 beams"),
        ({"early_stopping": "always"}, "early_stopping is 'always'; it must be True, False or 'never'"),
        ({"length_penalty": float("nan")}, "length_penalty is nan; it must be a finite number"),
        ({"eos_token_id": 60}, "eos_token_id is 60; it must be"),
        ({"max_new_tokens": 64}, "1 prompt tokens and 64 new ones"),
        ({"input_ids": [60]}, "from 0 to 59"),
    ],
)
def test_impossible_searches_are_refused(tiny, options, message):
    with pytest.raises(ValueError, match=message):
        beam_search(tiny, **{"input_ids": [5], "num_beams": 2, "max_new_tokens": 4, **options})


def test_path_of_a_node_that_is_not_there(tree):
    for node in (-1, len(tree.nodes)):
        with pytest.raises(IndexError, match=f"node is {node}; this tree has nodes 0 to"):
            tree.path(node)
