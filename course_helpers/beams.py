"""Beam search that keeps its whole tree, so that one can see which beams died and when.

Greedy search takes the likeliest token at each step and may miss the likeliest text. Beam search carries the B best
beginnings along instead. Tokens and scores are those of `transformers.generate` with the same arguments; what is new
is `BeamTree`, which remembers the candidates that were dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import torch

from course_helpers.rollouts import check_prompt, evaluation_mode, next_token_logits
from course_helpers.sampling import log_softmax


@dataclass(frozen=True)
class BeamNode:
    """One candidate: a beginning of a response, seen as its last token and the node before it.

    Attributes:
        token_id: the last token, ω_t.
        log_prob: ln π(ω_t | ω_<t, X), in nats.
        score: ln π(ω_1 ... ω_t | X), the sum of log_prob from the root to here, in nats.
        parent: index in `BeamTree.nodes` of ω_<t; None at depth 1, where the parent is the prompt.
        depth: t, counted from 1.
        rank: place among the candidates of its depth by score, counted from 0.
        kept: whether it survived: carried on to the next depth, or finished. A beam dies where this is False.
        finished: whether it became a whole response, by EOS or by reaching the last depth.
    """

    token_id: int
    log_prob: float
    score: float
    parent: int | None
    depth: int
    rank: int
    kept: bool
    finished: bool


@dataclass(frozen=True)
class BeamSequence:
    """One finished response.

    Attributes:
        token_ids: the response, EOS included where it came.
        score: what responses are ordered by, log_prob / length ** length_penalty.
        log_prob: ln π(Y|X), in nats.
        node: index in `BeamTree.nodes` of its last token.
        ended: whether it ends with EOS; False when it was cut off at the last depth.
    """

    token_ids: list[int]
    score: float
    log_prob: float
    node: int
    ended: bool


@dataclass(frozen=True)
class BeamTree:
    """All a beam search considered.

    Attributes:
        prompt_ids: X, the root.
        nodes: at each depth the 2 · num_beams best candidates (fewer only where there are fewer), depth by depth and
            best first; a parent comes before its children.
        sequences: the best finished responses, best first.
    """

    prompt_ids: list[int]
    nodes: list[BeamNode]
    sequences: list[BeamSequence]

    def path(self, node: int) -> list[int]:
        """List the ids from the first new token to a node, prompt not included.

        Args:
            node: index in `nodes`.

        Returns:
            Token ids, as many as the node is deep.

        Raises:
            IndexError: no such node.

        Examples:
            >>> first = BeamNode(5, -1.0, -1.0, parent=None, depth=1, rank=0, kept=True, finished=False)
            >>> second = BeamNode(7, -0.5, -1.5, parent=0, depth=2, rank=0, kept=True, finished=True)
            >>> BeamTree([1], [first, second], []).path(1)
            [5, 7]
        """
        if not 0 <= node < len(self.nodes):
            raise IndexError(f"node is {node}; this tree has nodes 0 to {len(self.nodes) - 1}.")
        return _path(self.nodes, node)


def beam_search(
    model: torch.nn.Module,
    input_ids: Sequence[int] | torch.Tensor,
    num_beams: int,
    max_new_tokens: int,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    eos_token_id: int | None = None,
    num_return_sequences: int = 1,
) -> BeamTree:
    """Search for the likeliest response with num_beams beginnings carried along.

    At each depth every beam is continued by every token and the 2 · num_beams best by summed log-probability are looked
    at: so many that, should half of them be EOS, num_beams remain. Among the first num_beams, those that end are
    finished; the best num_beams of those that do not end go on; the rest die. With num_beams = 1 this is greedy search
    and stops at the first EOS, whatever `early_stopping` says, as `generate` does.

    Args:
        model: a causal language model of `transformers`.
        input_ids: the ids of one prompt, (length,) or (1, length).
        num_beams: B, 1 or more.
        max_new_tokens: depth at which every beam is cut off; no EOS is forced.
        length_penalty: α in score = log_prob / length ** α. Log-probabilities are negative, so α > 0 favours long
            responses, 0 is the plain sum, and α < 0 favours short ones.
        early_stopping: when to stop once num_beams responses are finished. True: at once. False: when the best running
            beam, were it to end now, could not beat the worst finished. "never": when it could not at any length.
        eos_token_id: the token that ends a response; None: nothing does before the last depth.
        num_return_sequences: responses to return, at most num_beams.

    Returns:
        The tree; its `sequences` hold num_return_sequences responses, best first.

    Raises:
        ValueError: an argument out of range, or a prompt that does not fit the model.

    Source: Graves 2012, "Sequence Transduction with Recurrent Neural Networks", Algorithm 1, for the search; Wu et al.
    2016, "Google's Neural Machine Translation System", equation 14, for a length penalty (theirs is
    ((5 + length) / 6) ** α).
    """
    _check_arguments(num_beams, max_new_tokens, length_penalty, early_stopping, num_return_sequences)
    prompt = check_prompt(model, input_ids, max_new_tokens, eos_token_id)
    nodes: list[BeamNode] = []
    finished: list[BeamSequence] = []
    running: list[int | None] = [None]  # nodes that go on; at first the prompt alone
    ids, cache = torch.tensor([prompt], device=model.device), None
    with evaluation_mode(model):
        for depth in range(1, max_new_tokens + 1):
            logits, cache = next_token_logits(model, ids, cache)
            parents, first = running, len(nodes)
            nodes += _expand(nodes, parents, log_softmax(logits), num_beams, eos_token_id, depth == max_new_tokens)
            new = range(first, len(nodes))
            ended = [_finish(nodes, i, length_penalty, eos_token_id) for i in new if nodes[i].finished]
            finished = sorted(finished + ended, key=lambda sequence: -sequence.score)[:num_beams]
            running = [i for i in new if nodes[i].kept and not nodes[i].finished]
            if not running:
                break
            goal = max_new_tokens if early_stopping == "never" and length_penalty > 0 else depth
            hope = nodes[running[0]].score / goal**length_penalty
            # One beam is greedy search, which stops at its first EOS.
            if len(finished) == num_beams and (early_stopping is True or num_beams == 1 or hope <= finished[-1].score):
                break
            cache.reorder_cache(torch.tensor([parents.index(nodes[i].parent) for i in running], device=model.device))
            ids = torch.tensor([[nodes[i].token_id] for i in running], device=model.device)
    return BeamTree(prompt, nodes, finished[:num_return_sequences])


def _check_arguments(
    num_beams: int, max_new_tokens: int, length_penalty: float, early_stopping: bool | str, num_return_sequences: int
) -> None:
    """Refuse what no search can do."""
    counts = {"num_beams": num_beams, "max_new_tokens": max_new_tokens, "num_return_sequences": num_return_sequences}
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be a whole number, at least 1.")
    if num_return_sequences > num_beams:
        raise ValueError(
            f"num_return_sequences is {num_return_sequences}, but {num_beams} beams finish {num_beams} responses: "
            "ask for fewer, or raise num_beams."
        )
    if not isfinite(length_penalty):
        raise ValueError(f"length_penalty is {length_penalty!r}; it must be a finite number (0 turns it off).")
    if not isinstance(early_stopping, bool) and early_stopping != "never":
        raise ValueError(f"early_stopping is {early_stopping!r}; it must be True, False or 'never'.")


def _expand(
    nodes: list[BeamNode],
    parents: list[int | None],
    log_probs: torch.Tensor,
    num_beams: int,
    eos_token_id: int | None,
    last: bool,
) -> list[BeamNode]:
    """Continue each parent by every token; give the best candidates, best first, with their fates."""
    so_far = torch.tensor([0.0 if i is None else nodes[i].score for i in parents], device=log_probs.device)
    totals = so_far[:, None] + log_probs
    best = torch.topk(totals.flatten(), min(2 * num_beams, totals.numel()))
    depth = 1 if parents == [None] else nodes[parents[0]].depth + 1
    candidates: list[BeamNode] = []
    places = num_beams  # left at the next depth
    for rank, (index, score) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True)):
        row, token = divmod(index, log_probs.shape[-1])
        ends = last or token == eos_token_id
        finished = ends and rank < num_beams
        goes_on = not ends and places > 0
        places -= goes_on
        step = log_probs[row, token].item()
        candidates.append(BeamNode(token, step, score, parents[row], depth, rank, finished or goes_on, finished))
    return candidates


def _finish(nodes: list[BeamNode], node: int, length_penalty: float, eos_token_id: int | None) -> BeamSequence:
    """Make a response of a finished node."""
    token_ids, last = _path(nodes, node), nodes[node]
    score = last.score / len(token_ids) ** length_penalty
    return BeamSequence(token_ids, score, last.score, node, last.token_id == eos_token_id)


def _path(nodes: list[BeamNode], node: int | None) -> list[int]:
    """List the ids from depth 1 to a node."""
    ids = []
    while node is not None:
        ids.append(nodes[node].token_id)
        node = nodes[node].parent
    return ids[::-1]
