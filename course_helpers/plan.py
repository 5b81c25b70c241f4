"""Memory and time of a training run, worked out on paper before a machine is rented.

Everything is a count of bytes or of floating-point operations for a model of GPT-2's shape. Memory counts tensors; the
driver, the allocator's gaps and a library's buffers come on top, so leave a tenth of a GPU free (`ROOM`). Time assumes
that nothing overlaps and that a stated share of the chip's best rate is reached: good for "minutes, hours or days",
not for the second digit.

Sources: Kaplan et al. 2020, section 2.1 (2N operations a token forwards); Korthikanti et al. 2022, section 4
(activations); Rajbhandari et al. 2020, sections 3.1 and 5 (16 bytes a parameter, and what sharding divides).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from course_helpers.checks import check_whole, require

STATES = {"weights": 4, "gradients": 4, "Adam's states": 8}  # bytes a parameter; in float16: 2 + 2 + 12, also 16
GELU_KEEPS = 12  # widths: transformers' gelu_new keeps three more values of each of the 4h that a fused one keeps
LOGIT_COPIES = 3  # logits, their log-softmax, and the gradient of one of them, at the same time
ROOM = 0.1  # of a GPU, left free for what is not counted
UTILISATION = 0.3  # of a chip's best rate, in training and in reading a text
READ_RATE = 0.5  # of the memory's best rate, in generation
METHODS = ("sft", "reward", "ppo", "dpo", "grpo", "best-of-n")
"""What can be planned."""


@dataclass(frozen=True)
class Shape:
    """The shape of a GPT-2.

    Attributes:
        layers: blocks, each of attention and an MLP of four widths.
        width: h, values a token has in every layer.
        heads: of attention.
        vocabulary: V, tokens there are.
        context: positions there are.
    """

    layers: int
    width: int
    heads: int
    vocabulary: int = 50_257
    context: int = 1024


GPT2 = {
    "gpt2": Shape(12, 768, 12),
    "gpt2-medium": Shape(24, 1024, 16),
    "gpt2-large": Shape(36, 1280, 20),
    "gpt2-xl": Shape(48, 1600, 25),
}
"""The four sizes of GPT-2 by name."""


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU, by its maker's data sheet.

    Attributes:
        name: what it is called.
        gigabytes: memory, in 10⁹ bytes.
        operations: bf16 floating-point operations a second, without sparsity.
        bandwidth: bytes a second between memory and chip.
        link: bytes a second to other GPUs, one way.
    """

    name: str
    gigabytes: float
    operations: float
    bandwidth: float
    link: float


GPUS = (
    Gpu("A10, 24 GB", 24, 125e12, 600e9, 32e9),
    Gpu("A100, 40 GB", 40, 312e12, 1555e9, 300e9),
    Gpu("H100, 80 GB", 80, 989e12, 3350e9, 450e9),
    Gpu("H200, 141 GB", 141, 989e12, 4800e9, 450e9),
)
"""Kinds of GPUs that can be rented, the smallest first."""


@dataclass(frozen=True)
class Plan:
    """What is to be trained on what.

    Attributes:
        shape: of the policy; π_ref has the same.
        lora_rank: of LoRA on every matrix of every block; 0 trains all parameters.
        judge: parameters of the judge.
        prompts: how many.
        query: tokens of a prompt.
        response: tokens of a response.
        review: tokens of a text that supervised fine-tuning learns from.
        sequences: prompts with responses in one forward and backward pass on one GPU.
        batch: texts in one step of the optimizer, over all GPUs.
        generated: responses drawn at once on one GPU.
        ppo_rounds: how often PPO draws a response to each prompt.
        ppo_epochs: passes of PPO over each response.
        group: responses to a prompt in GRPO.
        best_of: n of best-of-n.
        recompute: whether activations are computed again in the backward pass, instead of kept.
    """

    shape: Shape = GPT2["gpt2-large"]
    lora_rank: int = 0
    judge: int = 67_000_000
    prompts: int = 25_000
    query: int = 8
    response: int = 48
    review: int = 256
    sequences: int = 32
    batch: int = 256
    generated: int = 256
    ppo_rounds: int = 5
    ppo_epochs: int = 4
    group: int = 8
    best_of: int = 16
    recompute: bool = False

    def texts(self, method: str) -> tuple[int, int]:
        """Texts in one pass on one GPU, and tokens of each: of longer ones, fewer.

        Examples:
            >>> Plan(query=8, response=48, sequences=32).texts("ppo")
            (32, 56)
        """
        tokens = self.query + self.response
        if method != "sft":
            return self.sequences, tokens
        return max(self.sequences * tokens // self.review, 1), self.review


# ----------------------------------------------------------------------------------------------------------- parameters


def block_parameters(shape: Shape) -> int:
    """Parameters of one block: 12h² in its matrices, 13h in its biases and two layer norms.

    Examples:
        >>> block_parameters(GPT2["gpt2"])
        7087872
    """
    return 12 * shape.width**2 + 13 * shape.width


def parameters(shape: Shape) -> int:
    """All parameters: embeddings of tokens (which also write the logits) and of positions, blocks, the last norm.

    Examples:
        >>> f"{parameters(GPT2['gpt2']):,}"
        '124,439,808'
    """
    embeddings = (shape.vocabulary + shape.context) * shape.width
    return embeddings + shape.layers * block_parameters(shape) + 2 * shape.width


def trained_parameters(plan: Plan) -> int:
    """Parameters that take a gradient: all, or LoRA's.

    LoRA puts r·(in + out) beside each matrix; a block's four are h × 3h, h × h, h × 4h and 4h × h: 16rh in all.

    Returns:
        How many.

    Examples:
        >>> trained_parameters(Plan(GPT2["gpt2"], lora_rank=16))  # 16 · 16 · 768 · 12, of 124 millions
        2359296

    Source: Hu et al. 2022, section 4.1.
    """
    if not plan.lora_rank:
        return parameters(plan.shape)
    return 16 * plan.lora_rank * plan.shape.width * plan.shape.layers


# --------------------------------------------------------------------------------------------------------------- memory


def activation_bytes(
    shape: Shape,
    sequences: int,
    tokens: int,
    value_bytes: int = 2,
    *,
    dropout: bool = True,
    recompute: bool = False,
    gelu_keeps: int = GELU_KEEPS,
) -> int:
    """What the forward pass keeps of the blocks for the backward pass.

    A block keeps 16h values a token (inputs of its two norms and four products, queries, keys and values, the MLP's
    4h before and after GELU), two masks of a byte each with dropout, and what its GELU keeps beyond that. Attention
    that is computed in tiles (torch's scaled_dot_product_attention) keeps no matrix of tokens × tokens.

    Args:
        shape: of the model.
        sequences: b.
        tokens: s, of each.
        value_bytes: 2 in bf16, 4 in float32.
        dropout: whether there is any.
        recompute: keep only each block's input, and compute one block at a time again.
        gelu_keeps: further values of h a token that this GELU keeps; 0 where it is fused, as in the paper.

    Returns:
        Bytes.

    Examples:
        >>> shape = GPT2["gpt2"]  # in float16 with a fused GELU the paper counts 34 bytes of each value
        >>> activation_bytes(shape, sequences=1, tokens=1, gelu_keeps=0) / (shape.layers * shape.width)
        34.0

    Source: Korthikanti et al. 2022, equation 1, s·b·h·(34 + 5as/h), without its second term, which attention in tiles
    does not keep, and with values of any size in place of float16; recomputation keeps 2sbh a block, as they say, and
    here one whole block besides.
    """
    a_token = shape.width * ((16 + gelu_keeps) * value_bytes + (2 if dropout else 0))
    block = sequences * tokens * a_token
    if not recompute:
        return shape.layers * block
    return shape.layers * sequences * tokens * shape.width * value_bytes + block


def logit_bytes(shape: Shape, sequences: int, tokens: int) -> int:
    """Logits of every position in float32, b·s·V·4 bytes, as often as a loss keeps them (`LOGIT_COPIES`).

    Args:
        shape: of the model.
        sequences: b.
        tokens: s, of each.

    Returns:
        Bytes.

    Examples:
        >>> logit_bytes(GPT2["gpt2"], sequences=1, tokens=1)  # 3 copies · 50,257 tokens · 4 bytes
        603084
    """
    return LOGIT_COPIES * sequences * tokens * shape.vocabulary * 4


def cache_bytes(shape: Shape, sequences: int, tokens: int, value_bytes: int = 2) -> int:
    """Keys and values of every layer and token: 2·L·b·s·h values.

    Args:
        shape: of the model.
        sequences: b.
        tokens: s, of each.
        value_bytes: 2 in bf16, 4 in float32.

    Returns:
        Bytes.

    Examples:
        >>> cache_bytes(GPT2["gpt2"], sequences=1, tokens=1)  # 2 · 12 layers · 768 values · 2 bytes
        36864
    """
    return 2 * shape.layers * sequences * tokens * shape.width * value_bytes


def memory(method: str, plan: Plan, gpus: int = 1, sharded: bool = False) -> dict[str, float]:
    """What lies in each GPU's memory when most does.

    A policy that trains has float32 weights, and for each parameter that takes one a gradient and Adam's two means: 16
    bytes a parameter. A copy of the weights in bf16 is made for the products. π_ref and the judge only read, in bf16;
    with LoRA, π_ref is the policy with its adapter left out. With DDP every GPU has all of it, and buffers as large as
    the gradients to exchange them in; with FSDP each has its share, and two whole blocks, the one at work and the next.
    Activations, logits and caches belong to a GPU's own texts, so that neither divides them. Training and generation
    take turns; the larger of the two counts.

    Args:
        method: one of `METHODS`.
        plan: the run.
        gpus: how many share the work.
        sharded: FSDP (ZeRO stage 3) in place of DDP.

    Returns:
        Bytes by name, "total" last.

    Raises:
        ValueError: an unknown method or number of GPUs.

    Examples:
        >>> plan = Plan(GPT2["gpt2"])
        >>> held = memory("dpo", plan)
        >>> sum(held[name] for name in STATES) / parameters(plan.shape)  # bytes a parameter
        16.0

    Source: Rajbhandari et al. 2020, section 3.1 (states), section 5 and figure 1 (what is divided).
    """
    require(method in METHODS, "method", method, f"one of {', '.join(METHODS)}")
    check_whole("gpus", gpus, at_least=1)
    count, trained, share = parameters(plan.shape), trained_parameters(plan), gpus if sharded else 1
    trains, draws = method != "best-of-n", method in ("ppo", "dpo", "grpo", "best-of-n")
    kept_copy = method in ("ppo", "dpo", "grpo") and not plan.lora_rank
    held = {
        "weights": trains * STATES["weights"] * count / share,
        "gradients": trains * STATES["gradients"] * trained / share,
        "Adam's states": trains * STATES["Adam's states"] * trained / share,
        "weights in bf16": 2.0 * (count if share == 1 else 2 * block_parameters(plan.shape)),
        "buffers": 4.0 * trained * (trains and gpus > 1 and not sharded),
        "reference": 2.0 * count / share * kept_copy,
        "judge": 2.0 * plan.judge * draws,
    }
    if not trains and share > 1:
        held["weights in bf16"] += 2.0 * count / share
    training, drawing = _at_work(method, plan) if trains else {}, _drawing(plan) if draws else {}
    busiest = max(training, drawing, key=lambda terms: sum(terms.values()))
    terms = held | {"activations": 0.0, "logits": 0.0, "cache": 0.0} | busiest
    return terms | {"total": sum(terms.values())}


def _at_work(method: str, plan: Plan) -> dict[str, float]:
    """What a forward and backward pass keeps; of pairs' texts, half are chosen ones."""
    sequences, tokens = plan.texts(method)
    kept = activation_bytes(plan.shape, sequences, tokens, recompute=plan.recompute)
    logits = 0 if method == "reward" else logit_bytes(plan.shape, sequences, tokens)
    return {"activations": float(kept), "logits": float(logits)}


def _drawing(plan: Plan) -> dict[str, float]:
    """What generation keeps: the cache, and the logits of one position of each text, with their softmax."""
    logits = 2 * plan.generated * plan.shape.vocabulary * 4
    return {
        "cache": float(cache_bytes(plan.shape, plan.generated, plan.query + plan.response)),
        "logits": float(logits),
    }


def fits(method: str, plan: Plan, gpu: Gpu, gpus: int, sharded: bool) -> bool:
    """Whether a GPU holds its part, with `ROOM` left.

    Args:
        method: one of `METHODS`.
        plan: the run.
        gpu: which kind.
        gpus: how many share the work.
        sharded: FSDP in place of DDP.

    Returns:
        True if it does.

    Examples:
        >>> fits("ppo", Plan(GPT2["gpt2"]), GPUS[0], gpus=1, sharded=False)
        True
    """
    return memory(method, plan, gpus, sharded)["total"] <= (1 - ROOM) * gpu.gigabytes * 1e9


# ----------------------------------------------------------------------------------------------------------------- time


def work(method: str, plan: Plan) -> dict[str, int]:
    """Texts that a method trains on, reads and draws, over the whole run.

    Args:
        method: one of `METHODS`.
        plan: the run.

    Returns:
        "trained": forwards and backwards through the policy; "read": forwards through a model of its size (old
        log-probabilities, π_ref's); "drawn" and judged: responses.

    Examples:
        >>> work("dpo", Plan(prompts=1000))  # two responses to each prompt
        {'trained': 2000, 'read': 2000, 'drawn': 2000}
    """
    require(method in METHODS, "method", method, f"one of {', '.join(METHODS)}")
    a_prompt = {
        "sft": {"trained": 1, "read": 0, "drawn": 0},
        "reward": {"trained": 2, "read": 0, "drawn": 0},
        "ppo": {"trained": plan.ppo_rounds * plan.ppo_epochs, "read": 2 * plan.ppo_rounds, "drawn": plan.ppo_rounds},
        "dpo": {"trained": 2, "read": 2, "drawn": 2},
        "grpo": {"trained": plan.group, "read": plan.group, "drawn": plan.group},
        "best-of-n": {"trained": 0, "read": 0, "drawn": plan.best_of},
    }[method]
    return {name: texts * plan.prompts for name, texts in a_prompt.items()}


def seconds(method: str, plan: Plan, gpu: Gpu, gpus: int = 1, sharded: bool = False) -> dict[str, float]:
    """How long a run takes on GPUs of one machine.

    Training costs 6N operations a token: 2N forwards, 2N for the gradients of values and 2N for those of weights, of
    which LoRA needs only its own; recomputation adds 2N. Reading costs 2N, and the judge 2N of its own. A step
    of generation reads all weights and the cache once from memory, or computes, whichever takes longer. Exchange:
    DDP sends each gradient about twice in every step of the optimizer, FSDP sends weights twice and gradients once in
    every pass.

    Args:
        method: one of `METHODS`.
        plan: the run.
        gpu: which kind.
        gpus: how many share the texts.
        sharded: FSDP in place of DDP.

    Returns:
        Seconds by name, "total" last.

    Examples:
        >>> plan, gpu = Plan(GPT2["gpt2"]), GPUS[-1]
        >>> seconds("sft", plan, gpu)["training"] / seconds("sft", plan, gpu, gpus=2)["training"]
        2.0

    Source: Kaplan et al. 2020, section 2.1; Rajbhandari et al. 2020, section 7 (volume of exchange).
    """
    check_whole("gpus", gpus, at_least=1)
    count, texts = parameters(plan.shape), work(method, plan)
    rate, tokens = UTILISATION * gpu.operations * gpus, plan.texts(method)[1]
    a_token = (6 if plan.recompute else 4) * count + 2 * trained_parameters(plan)
    passes = texts["trained"] / plan.texts(method)[0] / gpus
    terms = {
        "training": a_token * texts["trained"] * tokens / rate,
        "reading": 2 * count * texts["read"] * tokens / rate,
        "judging": 2 * plan.judge * texts["drawn"] * tokens / rate,
        "generation": _generation(plan, gpu, texts["drawn"] / gpus),
        "exchange": _exchange(plan, gpu, gpus, passes if sharded else None, texts["trained"] / plan.batch),
    }
    return terms | {"total": sum(terms.values())}


def _generation(plan: Plan, gpu: Gpu, drawn: float) -> float:
    """Seconds to draw so many responses on one GPU, `generated` at a time."""
    count = parameters(plan.shape)
    cache = cache_bytes(plan.shape, plan.generated, plan.query + plan.response // 2)  # on average half of it is there
    reading = (2 * count + cache) / (READ_RATE * gpu.bandwidth)
    computing = 2 * count * plan.generated / (UTILISATION * gpu.operations)
    return math.ceil(drawn / plan.generated) * plan.response * max(reading, computing)


def _exchange(plan: Plan, gpu: Gpu, gpus: int, passes: float | None, steps: float) -> float:
    """Seconds that GPUs spend on each other's gradients and, where `passes` counts those of FSDP, weights."""
    others, trained = (gpus - 1) / gpus, trained_parameters(plan)
    if passes is None:
        return steps * others * 2 * 4 * trained / gpu.link
    return passes * others * (2 * 2 * parameters(plan.shape) + 4 * trained) / gpu.link
