"""The quizzes: what their files hold, what each answer is told, and how they behave on the page."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections import Counter
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_helpers import quizzes, translation
from course_helpers.assets import asset
from course_helpers.dpo.losses import gradient_weight
from course_helpers.quizzes import (
    ChoiceQuestion,
    NumberQuestion,
    OrderQuestion,
    SeveralQuestion,
    Text,
    Verdict,
    grade,
    load_quiz,
    numbers_in,
    quiz_names,
    read_quiz,
)
from course_helpers.translation import _, language

SIZES = {"00": 5, "01": 10, "02": 10, "03": 10, "04": 11, "05": 11, "06": 11, "07": 11, "dpo": 12, "ppo": 12}
QUIZZES = [load_quiz(name) for name in quiz_names()]
QUESTIONS = [(quiz.id, question) for quiz in QUIZZES for question in quiz.questions]
CHOICES = [question for _quiz, question in QUESTIONS if type(question) is ChoiceQuestion]
NUMBERS = {question.id: question for _quiz, question in QUESTIONS if isinstance(question, NumberQuestion)}
ORDERS = [question for _quiz, question in QUESTIONS if isinstance(question, OrderQuestion)]


@pytest.fixture(autouse=True)
def _english(monkeypatch):
    monkeypatch.setattr(translation, "_chosen", "en")


def texts_in(thing) -> list[Text]:
    """Every bilingual text below a quiz or a part of it."""
    if isinstance(thing, Text):
        return [thing]
    if isinstance(thing, tuple):
        return [text for part in thing for text in texts_in(part)]
    return [text for part in vars(thing).values() for text in texts_in(part)] if hasattr(thing, "__dict__") else []


ALL_TEXTS = [text for quiz in QUIZZES for text in texts_in(quiz)]


# --- the files --------------------------------------------------------------------------------------------------------


def test_every_quiz_is_there_with_its_questions():
    assert {quiz.id: len(quiz.questions) for quiz in QUIZZES} == SIZES
    ids = [question.id for _quiz, question in QUESTIONS]
    assert len(ids) == len(set(ids))  # across quizzes, so that progress can be kept by id


@pytest.mark.parametrize("quiz", QUIZZES, ids=lambda quiz: quiz.id)
def test_kinds_are_mixed(quiz):
    kinds = Counter(type(question) for question in quiz.questions)
    assert len(kinds) >= 3
    if quiz.id != "00":
        assert kinds[NumberQuestion] >= 2
        assert kinds[OrderQuestion] >= 1


def test_texts_are_in_two_languages():
    assert len(ALL_TEXTS) > 500
    for text in ALL_TEXTS:
        words = re.sub(r"\w+=\S+", "", text.en)  # arguments of a call are the same in every language
        if re.search(r"[a-z]{3}", words):
            assert text.en != text.pt


def test_texts_can_be_read_aloud_without_a_renderer():
    for text in ALL_TEXTS:
        for words in (text.en, text.pt):
            assert not re.search(r"[$\\]|\s{2}|—", words), words
            assert words.count("`") % 2 == 0, words


def test_portuguese_is_brazilian():
    avoid = (
        r"\bficheiros?\b|\butilizador|\becrãs?\b|\bratos?\b|recompensa do modelo|diretiva|apólice|verosimilhança"
        r"|colador|agrupadora|sintonia fina|afinaç|funçao|viés(?! estatístico)(?<!parâmetro de viés)|\btu\b|\bteu"
    )
    for text in ALL_TEXTS:
        assert not re.search(avoid, text.pt.lower()), text.pt


def test_every_misconception_is_a_wrong_choice():
    found = {choice.misconception for _quiz, q in QUESTIONS for choice in getattr(q, "choices", ()) if not choice.right}
    assert found - {None} == quizzes.MISCONCEPTIONS


@pytest.mark.parametrize(("quiz", "question"), QUESTIONS, ids=lambda x: getattr(x, "id", x))
def test_every_explanation_is_its_own(quiz, question):
    parts = [*getattr(question, "choices", ()), *getattr(question, "steps", ()), *getattr(question, "mistakes", ())]
    for code in ("en", "pt"):
        whys = [getattr(part.why, code) for part in parts if part.why]
        assert len(set(whys)) == len(whys) >= 2
        assert min(map(len, whys)) >= 20
        words = [getattr(part.text, code) for part in parts if hasattr(part, "text")]
        assert len(set(words)) == len(words)  # two equal buttons could not be told apart


@pytest.mark.parametrize("code", ["en", "pt"])
def test_the_right_choice_cannot_be_guessed_from_outside(code):
    places, longest, shortest = Counter(), 0, 0
    for question in CHOICES:
        lengths = [len(getattr(choice.text, code)) for choice in question.choices]
        right = next(k for k, choice in enumerate(question.choices) if choice.right)
        places[right] += 1
        longest += lengths[right] == max(lengths)
        shortest += lengths[right] == min(lengths)
    print(f"{code}: of {len(CHOICES)} right at {sorted(places.items())}, longest {longest}, shortest {shortest}")
    assert max(longest, shortest) <= 0.25 * len(CHOICES)
    assert max(places.values()) <= 0.4 * len(CHOICES)
    assert len(places) == 4


# --- numbers, worked out a second time --------------------------------------------------------------------------------


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def kl(p, q, log=math.log):
    return sum(a * log(a / b) for a, b in zip(p, q, strict=True))


NEW, REF = (0.5, 0.5), (0.25, 0.75)
KEPT = 0.9 * 0.8 + 0.1 * 0.2  # swapped-labels: wins that stay wins, and losses that become wins
GROUP = (2, 1, 1, 0)  # advantage-in-a-group: rewards
# Each question's answer, and the number each slip leads to, in the order of the file.
WORKED_OUT = {
    "lora-count": lambda: (4 * (64 + 128), 64 * 128, 64 + 128, 64 * 4, 4 * 128, 4 * 64 * 128),
    "two-token-response": lambda: (math.log(0.5 * 0.2), math.log(0.1) / 2, 0.1, math.log(0.7), -math.log(0.1)),
    "smaller-error": lambda: (100 * (0.06 / 0.02) ** 2, 100 * 3, 900 - 100, 100 * 3**0.5, 100 / 3),
    "break-even": lambda: (0.3 / 2, 0.3 * 2, 2 / 0.3, 0.3),
    "score-component": lambda: (1 - 0.2, 0.2 * (1 - 0.2), 1 / 0.2, -0.2, 0.2),
    "leave-one-out": lambda: (6 - (1 + 2) / 2, 6 - (1 + 2 + 6) / 3, 6, (1 + 2) / 2 - 6, (1 + 2) / 2),
    "clipped-gain": lambda: (min(0.4 / 0.25, 1.2) * 2, 0.4 / 0.25 * 2, 0.4 * 2, 0.25 / 0.4 * 2, 0.4 / 0.25),
    "sum-of-token-rewards": lambda: (
        3 - 0.2 * (0.5 - 1.5 + 0.25),
        3,
        3 + 0.2 * (0.5 - 1.5 + 0.25),
        3 - 0.2 * (0.5 + 1.5 + 0.25),
        3 - (0.5 - 1.5 + 0.25),
        3 * 3 - 0.2 * (0.5 - 1.5 + 0.25),
    ),
    "advantage": lambda: (
        0.9 - 0.6 + 0.95 * 0.4,
        0.9 - 0.6,
        0.9 - 0.6 + 0.4,
        0.6 - 0.9 + 0.95 * 0.4,
        0.9 + 0.95 * 0.4,
    ),
    "constant-in-z": lambda: (math.exp(1 / 0.5), math.exp(0.5), math.exp(1), 1 / 0.5, 1),
    "reward-from-policy": lambda: (
        0.5 * (math.log(0.3 / 0.1) - math.log(0.2 / 0.4)),
        math.log(0.3 / 0.1) - math.log(0.2 / 0.4),
        (math.log(0.3 / 0.1) - math.log(0.2 / 0.4)) / 0.5,
        0.5 * math.log(0.3 / 0.1),
        0.5 * math.log(0.3 / 0.2),
        0.5 * (math.log(0.2 / 0.4) - math.log(0.3 / 0.1)),
    ),
    "pull-of-a-pair": lambda: (
        sigmoid(-0.1 * (-2 - 10)),
        sigmoid(0.1 * (-2 - 10)),
        -math.log(sigmoid(0.1 * (-2 - 10))),
        sigmoid(2 + 10),
        sigmoid(-0.1 * (-2 + 10)),
        sigmoid(0),
    ),
    "swapped-labels": lambda: (
        math.log(KEPT / (1 - KEPT)),
        math.log(0.9 / 0.1),
        math.log(0.9 * 0.8 / (1 - 0.9 * 0.8)),
        math.log((0.9 - 0.2) / (1 - 0.9 + 0.2)),
        math.log((1 - KEPT) / KEPT),
        KEPT,
    ),
    "lora-scale": lambda: (32 / 8 * 0.02, 0.02, 32 * 0.02, 8 / 32 * 0.02, 0.02 / 8),
    "reference-from-log": lambda: (
        -61 - (-0.4) / 0.1,
        -61 + (-0.4) / 0.1,
        -61 - (-0.4),
        -61 - (-0.4) * 0.1,
        -61 + (-0.4),
        -61,
    ),
    "slope-of-the-frontier": lambda: (0.06 / 0.3, 0.3 / 0.06, 0.06, 0.06 * 0.3, 1.36 / 2.3),
    "advantage-in-a-group": lambda: (
        (2 - 1) / statistics.stdev(GROUP),
        2 - 1,
        (2 - 1) / statistics.pstdev(GROUP),
        (2 - 1) / statistics.variance(GROUP),
        2 - statistics.mean(GROUP[1:]),
        2 / statistics.stdev(GROUP),
    ),
    "n-for-ten-nats": lambda: (math.e**11, math.e**10, math.e**9, 2**11, 11),
    "where-the-fit-turns": lambda: (
        math.exp(1.5 / 0.6 - 1) ** 2,
        math.exp(1.5 / 0.6 - 1),
        math.exp(1.5 / 0.6) ** 2,
        math.exp(1.5 / 0.6),
        (1.5 / (2 * 0.6)) ** 2,
    ),
    "tokens-that-count": lambda: (9 + 1, 9, 20 + 9 + 1, 40 - 20, 40),
    "perplexity-grown": lambda: (
        math.exp(3.1) / math.exp(3.0),
        3.1 / 3.0,
        math.exp(3.0 - 3.1),
        3.1 - 3.0,
        2**3.1 / 2**3.0,
        math.exp(3.1) - math.exp(3.0),
    ),
    "merged-weight": lambda: (
        0.5 + 16 / 2 * (0.1 * 0.3 - 0.2 * 0.1),
        0.5 + (0.1 * 0.3 - 0.2 * 0.1),
        0.5 + 16 * (0.1 * 0.3 - 0.2 * 0.1),
        0.5 + 2 / 16 * (0.1 * 0.3 - 0.2 * 0.1),
        16 / 2 * (0.1 * 0.3 - 0.2 * 0.1),
        0.5 + 16 / 2 * (0.1 * 0.3 + 0.2 * 0.1),
    ),
    "entropy": lambda: (
        -sum(p * math.log(p) for p in (0.5, 0.25, 0.25)),
        -sum(p * math.log2(p) for p in (0.5, 0.25, 0.25)),
        math.log(3),
        sum(p * math.log(p) for p in (0.5, 0.25, 0.25)),
        -sum(p * math.log(p) for p in (0.5, 0.25, 0.25)) / 3,
    ),
    "exact-kl": lambda: (
        kl(NEW, REF),
        kl(REF, NEW),
        math.log(0.5 / 0.25) + math.log(0.5 / 0.75),
        kl(NEW, REF, math.log2),
        kl(NEW, REF, lambda x: abs(math.log(x))),
    ),
    "clipped-loss": lambda: (max(0.5, max(0.5, 0.8)), 0.5, -0.8, 1.2, -0.5),
    "bradley-terry": lambda: (sigmoid(2.0 - 0.9), 2.0 / 2.9, sigmoid(0.9 - 2.0), math.exp(1.1), 2.0 - 0.9),
    "optimal-policy": lambda: (
        0.2 * math.exp(1 / 0.5) / (0.8 + 0.2 * math.exp(1 / 0.5)),
        0.2 * math.exp(0.5) / (0.8 + 0.2 * math.exp(0.5)),
        math.exp(2) / (1 + math.exp(2)),
        0.2 * math.exp(2),
        0.2 * math.exp(1) / (0.8 + 0.2 * math.exp(1)),
        1,
    ),
    "dpo-loss": lambda: (
        -math.log(sigmoid(0.1 * (2 + 3))),
        sigmoid(0.1 * (2 + 3)),
        -math.log(sigmoid(-0.1 * (2 + 3))),
        -math.log(sigmoid(2 + 3)),
        -math.log(sigmoid(0.1 * (2 - 3))),
        math.log(2),
    ),
}


def test_every_number_is_worked_out():
    assert set(WORKED_OUT) == set(NUMBERS)


@pytest.mark.parametrize("name", WORKED_OUT)
def test_numbers_are_right(name):
    question = NUMBERS[name]
    answer, *slips = WORKED_OUT[name]()
    assert math.isclose(question.answer, answer, abs_tol=0.02 * question.tolerance)
    for mistake, slip in zip(question.mistakes, slips, strict=True):
        assert math.isclose(mistake.value, slip, abs_tol=max(0.02 * question.tolerance, 2e-4 * abs(slip)))


@pytest.mark.parametrize("name", [name for name, q in NUMBERS.items() if "two decimals" in q.text.en.lower()])
def test_two_decimals_are_enough(name):
    question = NUMBERS[name]
    assert grade(question, f"{question.answer:.2f}").right
    for mistake in question.mistakes:
        feedback = grade(question, f"{mistake.value:.2f}")
        assert feedback.remarks[0].words == str(mistake.why)


def test_numbers_in_explanations_hold():
    assert round(math.exp(18) / 1e6) == 66  # beam-and-draws
    assert 0.5 < (2.4 - 1.9) / (0.03 * (25 - 6)) < 1  # two-runs: B has the higher J from 0.026 on
    pi = [0.1, 0.6, 0.3]  # push: one small step on −ln π of the third response
    moved = [math.exp(math.log(p) + 0.1 * (p - (k == 2))) for k, p in enumerate(pi)]
    gains = [m / sum(moved) - p for m, p in zip(moved, pi, strict=True)]
    assert gains[1] > 0 > gains[0]
    slopes = [sigmoid(-8) * sigmoid(8), sigmoid(8)]  # sigma-without-log: of σ and of ln σ, far below 0
    assert slopes[0] < 0.001 < 0.99 < slopes[1]


def test_numbers_in_explanations_of_dpo_hold():
    missed = (1 - 1e-4) ** 1000  # z-by-draws: r = 1 for one response with π_ref = 0.0001, 0 elsewhere, β = 0.05
    with_none, with_one, z = 1, math.exp(20) / 1000, 1e-4 * math.exp(20)
    assert missed > 0.9
    assert with_none < z / 1000
    assert with_one > 9 * z
    assert round(math.log(0.9 / 0.1), 1) == 2.2  # won-every-time: where σ(m) = 0.9

    def mean_loss(margin):  # rising-eval-loss: 69 % of the pairs in the right order, all margins of one size
        return -0.69 * math.log(sigmoid(margin)) - 0.31 * math.log(sigmoid(-margin))

    assert [round(mean_loss(m), 2) for m in (0, 0.8, 2)] == [0.69, 0.62, 0.75]
    assert (round(1.2 / 0.05), round(2.0 / 0.5)) == (24, 4)  # margins-of-two-betas
    assert round(100 * 20 / 30) == 67  # thirty-choices


def test_numbers_in_explanations_of_the_frontier_hold():
    def bound(n):
        return math.log(n) - (n - 1) / n

    assert math.isclose((2.4 - 2.0) / (9 - 4), 0.08)  # reading-the-plane: the β at which A and C have the same J
    assert round(statistics.variance(GROUP), 2) == 0.67
    assert round(statistics.stdev(GROUP), 3) == 0.816
    assert abs(bound(59_874) - 10) < 1e-3  # n-for-ten-nats
    assert round(bound(16), 2) == 1.84  # paid-at-every-answer
    assert round(bound(2), 2) == 0.19  # limit-of-preferred-ft
    assert round(math.hypot(0.2, 0.2), 2) == 0.28  # run-or-method
    gains = {kl: math.sqrt(kl) * (1.5 - 0.6 * math.log(kl) / 2) for kl in (18, 20.1, 22, math.exp(5))}
    assert max(gains, key=gains.get) == 20.1  # where-the-fit-turns
    assert abs(gains[math.exp(5)]) < 1e-9


def test_numbers_in_explanations_of_instructlab_hold():
    assert 200 / (600 + 200) == 0.25  # what-replay-does
    assert (150 / 600, 150 / (600 + 150)) == (0.25, 0.2)
    assert (600 + 200) / 600 == 1 + 1 / 3
    assert round(100 * (math.exp(0.1) - 1)) == 11  # perplexity-grown
    assert 20 + 9 + 1 + 10 == 40  # tokens-that-count: ten of the row's tokens are padding


def test_merging_adds_the_scaled_product():
    """merged-weight: on one weight of a layer, merged by PEFT."""
    peft = pytest.importorskip("peft")
    layer = torch.nn.Linear(1, 1, bias=False)
    settings = peft.LoraConfig(r=2, lora_alpha=16, target_modules=["0"])
    model = peft.get_peft_model(torch.nn.Sequential(layer), settings)
    values = {"base_layer": [[0.5]], "lora_A": [[0.3], [-0.1]], "lora_B": [[0.1, 0.2]]}
    for name, weights in model.named_parameters():
        weights.data = torch.tensor(next(value for part, value in values.items() if part in name))
    merged = model.merge_and_unload()
    assert merged[0].weight.item() == pytest.approx(0.58)
    assert [name for name, _weights in merged.named_parameters()] == ["0.weight"]


def test_imitating_the_chosen_one_of_two_is_best_of_two():
    """limit-of-preferred-ft: by enumerating all pairs of draws; no probability more than doubles."""
    pi_ref, r = (0.1, 0.4, 0.3, 0.2), (2.0, -1.0, 0.5, 1.0)
    chosen = [0.0] * 4
    for i, j in itertools.product(range(4), repeat=2):
        chosen[i if r[i] >= r[j] else j] += pi_ref[i] * pi_ref[j]
    at_most = [sum(p for p, x in zip(pi_ref, r, strict=True) if x <= y) for y in r]
    best = [f**2 - (f - p) ** 2 for f, p in zip(at_most, pi_ref, strict=True)]
    assert chosen == pytest.approx(best)
    assert max(c / p for c, p in zip(chosen, pi_ref, strict=True)) <= 2
    assert kl(chosen, pi_ref) <= math.log(2) - 0.5


def test_dividing_reward_and_price_moves_no_optimum():
    """groups-of-grpo: r/σ at the price β has the best policy of r at βσ."""
    pi_ref, r, beta, sigma = (0.2, 0.5, 0.3), (1.0, -0.4, 2.0), 0.3, 0.7

    def best(rewards, price):
        weights = [p * math.exp(x / price) for p, x in zip(pi_ref, rewards, strict=True)]
        return [w / sum(weights) for w in weights]

    assert best([x / sigma for x in r], beta) == pytest.approx(best(r, beta * sigma))


def test_the_mean_of_the_gradients_of_two_halves_is_that_of_the_whole():
    """step-on-two-processes."""
    theta, x = torch.tensor([0.3, -1.0], dtype=torch.float64), torch.arange(12.0, dtype=torch.float64).reshape(6, 2)

    def gradient(rows):
        return torch.func.grad(lambda t: -torch.nn.functional.logsigmoid(rows @ t).mean())(theta)

    torch.testing.assert_close((gradient(x[:3]) + gradient(x[3:])) / 2, gradient(x))


def test_the_derivation_of_the_optimum_holds():
    """to-the-optimum: J(π) = β ln Z − β KL(π‖π_r), and −1/β of J is the expectation of the steps between."""
    beta, pi, ref, r = 0.5, (0.2, 0.5, 0.3), (0.6, 0.3, 0.1), (0.0, 1.0, -2.0)
    weights = [p * math.exp(x / beta) for p, x in zip(ref, r, strict=True)]
    best = [w / sum(weights) for w in weights]
    j = sum(p * x for p, x in zip(pi, r, strict=True)) - beta * kl(pi, ref)
    assert math.isclose(-j / beta, kl(pi, weights))
    assert math.isclose(j, beta * math.log(sum(weights)) - beta * kl(pi, best))


def test_where_a_pair_stops_pulling():
    """won-every-time: each loss at margins from 0 to far out."""
    margins = torch.linspace(0, 30, 301, dtype=torch.float64)
    rows = [(0.1, "sigmoid", 0), (0.1, "ipo", 0), (10, "sigmoid", 0), (0.1, "sigmoid", 0.1), (0.1, "hinge", 0)]
    stops = [bool((gradient_weight(margins, *row) <= 0).any()) for row in rows]
    question = next(q for _quiz, q in QUESTIONS if q.id == "won-every-time")
    assert stops == [choice.right for choice in question.choices]


# --- what is said of TRL and PEFT, on a model of a few weights --------------------------------------------------------

PAIR = {"prompt": "I saw this film", "chosen": " twice and loved it", "rejected": " once"}


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(asset("policy"))


@pytest.fixture
def trained(tmp_path, tokenizer):
    """Run TRL's DPO for some steps, each logged, on a policy that is not its reference; returns the trainer."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    def run(pair=PAIR, **arguments):
        arguments = {"max_steps": 2, "learning_rate": 1e-2, "bf16": False, "loss_type": "sigmoid"} | arguments
        config = DPOConfig(str(tmp_path), use_cpu=True, logging_steps=1, report_to="none", save_strategy="no",
                           disable_tqdm=True, gradient_checkpointing=False, **arguments)  # fmt: skip
        trainer = DPOTrainer(tiny_model(0), tiny_model(1), config, processing_class=tokenizer,
                             train_dataset=Dataset.from_list([pair]))  # fmt: skip
        trainer.train()
        return trainer

    return run


def tiny_model(seed):
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = GPT2Config(vocab_size=8192, n_positions=64, n_embd=16, n_layer=1, n_head=2, initializer_range=0.2,
                            bos_token_id=0, eos_token_id=0)  # fmt: skip
        return GPT2LMHeadModel(config).eval()


def losses(trainer):
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def test_first_loss_is_not_ln_2_with_another_reference(trained):
    assert abs(losses(trained(max_steps=1))[0] - math.log(2)) > 0.01  # first-logged-loss


def test_logged_numbers_give_the_reference(trained, tokenizer):
    """reference-from-log: logps − rewards/β is ln π_ref, here worked out from the reference itself."""
    line = trained(max_steps=1).state.log_history[0]
    prompt, whole = (tokenizer(text).input_ids for text in (PAIR["prompt"], PAIR["prompt"] + PAIR["chosen"]))
    ids = torch.tensor([*whole, tokenizer.eos_token_id])[None]
    with torch.no_grad():
        log_probs = tiny_model(1)(ids).logits.log_softmax(-1)
    expected = sum(log_probs[0, t - 1, ids[0, t]].item() for t in range(len(prompt), ids.shape[1]))
    assert line["logps/chosen"] - line["rewards/chosen"] / 0.1 == pytest.approx(expected, rel=1e-5)


def test_label_smoothing_is_not_read_by_sigmoid(trained):
    plain, smooth = losses(trained()), losses(trained(label_smoothing=0.3))
    assert plain == smooth  # settings-of-trl
    assert losses(trained(label_smoothing=0.3, loss_type="robust")) != plain


def test_ipo_takes_means_over_tokens(trained, tokenizer):
    line = trained(loss_type="ipo", max_steps=1).state.log_history[0]
    counts = {side: len(tokenizer(PAIR[side]).input_ids) + 1 for side in ("chosen", "rejected")}  # and the end token
    chosen, rejected = (line[f"rewards/{side}"] / 0.1 / counts[side] for side in ("chosen", "rejected"))
    assert line["loss"] == pytest.approx((chosen - rejected - 1 / (2 * 0.1)) ** 2, rel=1e-4)


def test_defaults_of_the_configuration(tmp_path):
    from trl import DPOConfig

    config = DPOConfig(str(tmp_path), use_cpu=True)
    assert (config.bf16, config.max_length, config.learning_rate) == (True, 1024, 1e-6)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="use_cpu"):
            DPOConfig(str(tmp_path))


def test_a_row_longer_than_the_model_is_not_cut(trained):
    with pytest.raises(IndexError):
        trained(PAIR | {"chosen": " good" * 100})
    assert losses(trained(PAIR | {"chosen": " good" * 100}, max_length=64))


def test_a_prompt_cut_inside_a_token_loses_its_end(trained, tokenizer):
    pair = {"prompt": "I saw this ", "chosen": "film twice", "rejected": "film once"}
    row = trained(pair, max_steps=1).train_dataset[0]
    assert tokenizer.decode(row["prompt_ids"]) == "I saw this"  # bad-pairs
    assert tokenizer.decode(row["chosen_ids"]).startswith(" film")


def test_merging_leaves_no_reference():
    from peft import LoraConfig, get_peft_model

    base, ids = tiny_model(0), torch.tensor([[5, 6, 7]])
    lora = LoraConfig(r=8, lora_alpha=32, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False)
    with torch.no_grad():
        policy = get_peft_model(base, lora)
        layer = policy.base_model.model.transformer.h[0].attn.c_attn
        weight, product = layer.weight.clone(), layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        trained = policy(ids).logits
        merged = policy.merge_and_unload()
        moved = merged.transformer.h[0].attn.c_attn.weight - weight
        torch.testing.assert_close(moved, 4 * product.T, rtol=1e-4, atol=1e-5)  # lora-scale: 32/8
        for model in (base, policy, merged):  # after-merging
            torch.testing.assert_close(model(ids).logits, trained, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="No adapter"), policy.disable_adapter():
        pass


# --- grading ----------------------------------------------------------------------------------------------------------


def right_answer(question):
    if isinstance(question, SeveralQuestion):
        return frozenset(k for k, choice in enumerate(question.choices) if choice.right)
    if isinstance(question, ChoiceQuestion):
        return next(k for k, choice in enumerate(question.choices) if choice.right)
    if isinstance(question, OrderQuestion):
        return tuple(step + 1 for step in question.shown)
    return f"{question.answer:g}"


def wrong_answers(question):
    """Wrong answers, and the explanation each of them is owed."""
    if isinstance(question, SeveralQuestion):
        right = right_answer(question)
        return [(right | {k}, choice.why) for k, choice in enumerate(question.choices) if not choice.right]
    if isinstance(question, ChoiceQuestion):
        return [(k, choice.why) for k, choice in enumerate(question.choices) if not choice.right]
    if isinstance(question, OrderQuestion):
        found = []
        for early in range(1, len(question.steps)):  # one step moved one place forward
            place = {early: early, early - 1: early + 1}
            found.append((tuple(place.get(k, k + 1) for k in question.shown), question.steps[early].why))
        return found
    return [(f"{mistake.value:.10g}", mistake.why) for mistake in question.mistakes]


WRONG = [
    pytest.param(question, answer, why, id=f"{quiz}-{question.id}-{number}")
    for quiz, question in QUESTIONS
    for number, (answer, why) in enumerate(wrong_answers(question))
]


@pytest.mark.parametrize(("question", "answer", "why"), WRONG)
def test_every_wrong_answer_has_its_explanation(question, answer, why):
    said = {}
    for code in ("en", "pt"):
        language(code)
        feedback = grade(question, answer)
        assert feedback.verdict is Verdict.WRONG
        said[code] = [remark.words for remark in feedback.remarks]
        others = {getattr(other, code) for _answer, other in wrong_answers(question) if other is not why}
        assert getattr(why, code) in said[code]
        assert not others & set(said[code])
    assert said["en"] != said["pt"]


def test_how_many_wrong_answers_are_explained():
    kinds = Counter(type(case.values[0]).__name__ for case in WRONG)
    print(f"{len(WRONG)} wrong answers, each explained in two languages: {dict(kinds)}")
    assert len(WRONG) >= 200


@pytest.mark.parametrize(("quiz", "question"), QUESTIONS, ids=lambda x: getattr(x, "id", x))
def test_right_answers_are_right_and_say_why(quiz, question):
    for code in ("en", "pt"):
        language(code)
        feedback = grade(question, right_answer(question))
        assert feedback.right
        if isinstance(question, ChoiceQuestion):
            expected = [str(choice.why) for choice in question.choices if choice.right]
        else:
            expected = [str(question.why)]
        assert [remark.words for remark in feedback.remarks] == expected


@pytest.mark.parametrize("question", ORDERS, ids=lambda question: question.id)
def test_every_wrong_order_names_its_first_step_out_of_place(question):
    numbers = range(len(question.steps))
    for order in itertools.permutations(numbers):  # order[p] is the step at place p
        feedback = grade(question, [order.index(step) + 1 for step in question.shown])
        wrong = [p for p in numbers if order[p] != p]
        assert feedback.right == (not wrong)
        if wrong:
            assert f"number {wrong[0] + 1}." in feedback.remarks[0].words
            assert feedback.remarks[1].about == question.steps[order[wrong[0]]].text.en


def test_several_names_wrong_ticks_and_counts_what_is_missing():
    question = next(q for _quiz, q in QUESTIONS if q.id == "learns-from-pairs")  # right: 1 and 4
    feedback = grade(question, {0, 2})
    assert [remark.about for remark in feedback.remarks[:2]] == [question.choices[k].text.en for k in (0, 2)]
    assert feedback.remarks[2].words == "2 right answers are still missing."
    assert [remark.words for remark in grade(question, {1}).remarks] == ["1 right answer is still missing."]


def test_empty_answers_are_incomplete():
    for _quiz, question in QUESTIONS:
        empty = {ChoiceQuestion: None, SeveralQuestion: frozenset(), NumberQuestion: "  "}
        answer = empty.get(type(question), (None,) * len(getattr(question, "steps", ())))
        assert grade(question, answer).verdict is Verdict.INCOMPLETE


def test_positions_that_clash_are_incomplete():
    feedback = grade(ORDERS[0], [2, 1, 2, 3, 4, 5][: len(ORDERS[0].steps)])
    assert feedback.verdict is Verdict.INCOMPLETE
    assert "Position 2" in feedback.remarks[0].words


def test_answers_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"names choice 9; .* has 4, counted from 0"):
        grade(CHOICES[0], 9)
    with pytest.raises(ValueError, match="positions, each from 1 to"):
        grade(ORDERS[0], [1, 2])
    with pytest.raises(TypeError, match="it must be one that `load_quiz` returned"):
        grade("a question", 1)


@pytest.mark.parametrize(
    ("typed", "unit", "meant"),
    [
        ("0.5", "", [0.5]),
        ("0,5", "", [0.5]),
        (".5", "", [0.5]),
        (" 1/2 ", "", [0.5]),
        ("½", "", [0.5]),
        ("-3", "", [-3]),
        ("−3", "", [-3]),
        ("− 3,25", "", [-3.25]),
        ("50%", "", [0.5]),
        ("50 %", "%", [50]),
        ("50", "%", [50]),
        ("2 nats", "nats", [2]),
        ("≈ 0,47", "", [0.47]),
        ("= 2", "", [2]),
        ("1e-3", "", [0.001]),
        ("8,192", "", [8.192, 8192]),
        ("8.192", "", [8.192, 8192]),
        ("8 192", "", [8192]),
        ("1.048.576,5", "", [1048576.5]),
        ("0,125", "", [0.125]),
        ("-1/4", "", [-0.25]),
        ("１２", "", [12]),
        ("1/0", "", []),
        ("1/2/3", "", []),
        ("ln 2", "", []),
        ("2 apples", "nats", []),
        ("nan", "", []),
        ("inf", "", []),
        ("", "", []),
        ("%", "", []),
        (",", "", []),
        ("1,2,3", "", []),
        ("--1", "", []),
    ],
)
def test_numbers_as_people_write_them(typed, unit, meant):
    assert numbers_in(typed, unit) == pytest.approx(meant)


def test_what_is_no_number_is_answered():
    feedback = grade(NUMBERS["dpo-loss"], "ln <b>2</b>")
    assert feedback.verdict is Verdict.INCOMPLETE
    assert "“ln <b>2</b>” is no number" in feedback.remarks[0].words


def test_percent_is_understood_for_a_probability():
    assert grade(NUMBERS["bradley-terry"], "75%").right
    assert grade(NUMBERS["lora-count"], "8,192").remarks[0].words == NUMBERS["lora-count"].mistakes[0].why.en


def test_any_other_number_is_wrong_without_a_hint_at_its_size():
    low, high = (grade(NUMBERS["dpo-loss"], text).remarks[0].words for text in ("-1000", "1000"))
    assert low == high


@given(st.text() | st.from_regex(r"[-+−]?[0-9.,/%e ]{1,12}", fullmatch=True))
@settings(max_examples=300, deadline=None)
def test_no_text_breaks_a_number_question(typed):
    feedback = grade(NUMBERS["bradley-terry"], typed)
    assert feedback.verdict in Verdict
    assert feedback.remarks
    assert (feedback.verdict is Verdict.INCOMPLETE) == (not numbers_in(typed))


# --- files that are not as they must be -------------------------------------------------------------------------------

SOUND = """
title: {en: Title, pt: Título}
questions:
  - id: one
    kind: choice
    text: {en: Which one, pt: Qual deles}
    choices:
      - {text: {en: this, pt: este}, right: true, why: {en: yes it is, pt: é sim}}
      - {text: {en: that, pt: esse}, why: {en: no it is not, pt: não é}}
  - id: two
    kind: order
    text: {en: In order, pt: Em ordem}
    shown: [1, 2, 0]
    steps:
      - text: {en: a, pt: á}
      - {text: {en: b, pt: bê}, why: {en: after a, pt: depois de á}}
      - {text: {en: c, pt: cê}, why: {en: after b, pt: depois de bê}}
    why: {en: so, pt: assim}
  - id: three
    kind: number
    text: {en: How much, pt: Quanto}
    answer: 1
    tolerance: 0.1
    why: {en: one, pt: um}
    mistakes:
      - {value: 2, why: {en: twice, pt: o dobro}}
      - {value: 3, why: {en: thrice, pt: o triplo}}
"""


def test_a_sound_file_is_read():
    quiz = read_quiz(SOUND, "x.yaml")
    assert (quiz.id, str(quiz.title), len(quiz.questions)) == ("x", "Title", 3)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: {en: Title, pt: Título}", "", "x.yaml, field title: is missing"),
        ("pt: Qual deles", "fr: Lequel", "x.yaml, question one, field text, field pt: is missing"),
        ("pt: Qual deles", "pt: ''", "question one, field text, field pt: is empty"),
        ("pt: Qual deles", "pt: 7", "question one, field text, field pt: is 7; it must be of type str"),
        ("text: {en: Which one, pt: Qual deles}", "text: Which one", "question one, field text: is 'Which.*type dict"),
        ("kind: choice", "kind: choose", "question one, field kind: is 'choose'; known are choice"),
        ("right: true, ", "", "question one, field choices: has 0 right ones; exactly one"),
        ("right: true, ", "right: perhaps, ", r"question one, choices\[0\], field right: is 'perhaps'"),
        ("right: true, ", "rihgt: true, ", r"question one, choices\[0\], field rihgt: is unknown; known are"),
        ("esse}, why", "esse}, misconception: x, why", r"choices\[1\], field misconception: is 'x'; known are dpo"),
        ("esse}, why", "esse}, misconception: [x], why", r"choices\[1\], field misconception: is \['x'\]"),
        ("right: true, ", "right: true, misconception: exp-beta-r, ", "misconception: stands at a right choice"),
        (", why: {en: no it is not, pt: não é}", "", r"question one, choices\[1\], field why: is missing"),
        ("kind: choice", "kind: several\n    extra: 1", "question one, field extra: is unknown"),
        ("right: true", "right: false", "has 0 right"),
        ("shown: [1, 2, 0]", "shown: [0, 1, 2]", "question two, field shown: .* in another order"),
        ("shown: [1, 2, 0]", "shown: [1, x]", "question two, field shown: .* in another order"),
        ("- text: {en: a, pt: á}", "- {text: {en: a, pt: á}, why: {en: x, pt: y}}", r"steps\[0\], field why: is unkn"),
        ("answer: 1", "answer: one", "question three, field answer: is 'one'; it must be of type int or float"),
        ("answer: 1", "answer: true", "question three, field answer: is True"),
        ("value: 2", "value: 1.05", r"question three, mistakes\[0\], field value: is 1.05; it must be over 0.1 away"),
        ("value: 3", "value: 2", r"mistakes\[1\], field value: is 2.0"),
        ("id: two", "id: one", "x.yaml, field questions: has the id one twice"),
        ("id: two", "id: [2", "x.yaml is no valid YAML"),
    ],
)
def test_a_broken_file_says_where(old, new, message):
    assert old in SOUND
    with pytest.raises(ValueError, match=message):
        read_quiz(SOUND.replace(old, new, 1), "x.yaml")


@pytest.mark.parametrize(
    "source", ["", "- 1", "text", "questions: 3\ntitle: {en: a, pt: b}", "title: 1\nquestions: []"]
)
def test_what_is_no_quiz_at_all(source):
    with pytest.raises(ValueError, match=r"^x\.yaml"):
        read_quiz(source, "x.yaml")


def test_an_unknown_quiz_is_named():
    with pytest.raises(ValueError, match=r"there is no quiz \.\./01; there are 00, 01, 02"):
        load_quiz("../01")


# --- the widget -------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Every element and attribute of a piece of HTML."""

    def __init__(self, text: str):
        super().__init__()
        self.found: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found |= {tag} | {f"@{name}" for name, _value in attrs}


HARMLESS = {"div", "h3", "p", "b", "i", "span", "pre", "code", "ul", "li", "@class", "@data-names"}


def page(quiz) -> str:
    """All HTML that a quiz shows, without its style sheets."""
    boxes = [part.value for box in quiz.boxes for part in (box.words, box.feedback)]
    return "".join([quiz.head.value, *boxes, quiz.score.value])


@pytest.fixture
def make():
    from course_helpers.widgets.quiz import Quiz

    return Quiz


@pytest.fixture
def first(make):
    return make("01")


def box_of(quiz, name):
    return next(box for box in quiz.boxes if box.question.id == name)


def fill(box, answer) -> None:
    """Answer with the controls, as a learner does."""
    question = box.question
    if isinstance(question, SeveralQuestion):
        for k, child in enumerate(box.input.children):
            child.value = k in answer
    elif isinstance(question, ChoiceQuestion):
        box.input.index = answer
    elif isinstance(question, OrderQuestion):
        for child, position in zip(box.input.children, answer, strict=True):
            child.value = position
    else:
        box.input.field.value = answer


@pytest.mark.parametrize("name", SIZES)
def test_every_question_can_be_answered_with_its_controls(make, name):
    told = []
    quiz = make(name, on_answer=lambda *what: told.append(what))
    for box in quiz.boxes:
        wrong, why = wrong_answers(box.question)[0]
        fill(box, wrong)
        box.check_button.click()
        assert "✗ Not yet" in box.feedback.value
        assert why.en.split("`")[0][:25].replace("'", "&#x27;") in box.feedback.value
        fill(box, right_answer(box.question))
        box.check_button.click()
        assert "✓ Right" in box.feedback.value
        assert "ch-live" in box.feedback._dom_classes
    expected = [(name, box.question.id, right) for box in quiz.boxes for right in (False, True)]
    assert told == expected
    assert f"Right so far: {SIZES[name]} of {SIZES[name]}. At the first try: 0." in quiz.score.value


def test_nothing_chosen_is_no_try(first):
    told = []
    first.on_answer = lambda *what: told.append(what)
    for box in first.boxes:
        box.check_button.click()
        assert "… Incomplete" in box.feedback.value
        fill(box, right_answer(box.question))
        box.check_button.click()
    assert "At the first try: 10." in first.score.value
    assert len(told) == 10


def test_the_same_answer_is_no_new_try(first):
    told = []
    first.on_answer = lambda *what: told.append(what)
    box = first.boxes[0]
    fill(box, "0.1")
    box.check_button.click()
    box.check_button.click()
    assert told == [("01", "two-token-response", False)]
    fill(box, "-2.3")
    box.check_button.click()
    assert "Right so far: 1 of 10. At the first try: 0." in first.score.value


def test_enter_checks_a_number_and_leaving_the_field_does_not(first):
    box = first.boxes[0]
    fill(box, "-2.3")  # what leaving the field does
    assert not box.feedback.value
    box.input.field._handle_custom_msg({"event": "submit"}, [])  # what the page sends for Enter
    assert "✓ Right" in box.feedback.value


def test_what_was_right_once_stays_in_the_score(first):
    box = box_of(first, "hotter")
    for answer in (3, 0):
        fill(box, answer)
        box.check_button.click()
    assert "✗ Not yet" in box.feedback.value
    assert "Right so far: 1 of 10. At the first try: 1." in first.score.value


def test_a_failing_callback_is_told_and_the_feedback_stays(make):
    def fail(*what):
        raise OSError("disk full")

    quiz = make("00", on_answer=fail)
    fill(quiz.boxes[0], 2)
    quiz.boxes[0].check_button.click()
    assert "disk full" in quiz.message.value
    assert "✓ Right" in quiz.boxes[0].feedback.value


def test_another_language_keeps_what_was_answered(make):
    for name in SIZES:
        language("en")
        quiz = make(name)
        for box in quiz.boxes:
            fill(box, wrong_answers(box.question)[-1][0])
            box.check_button.click()
        answers, english = [box.input.answer for box in quiz.boxes], page(quiz)
        language("pt")
        assert [box.input.answer for box in quiz.boxes] == answers
        assert page(quiz).count("✗ Ainda não") == len(quiz.boxes) == english.count("✗ Not yet")
        assert str(quiz.data.title) in page(quiz)
        for box in quiz.boxes:
            assert wrong_answers(box.question)[-1][1].pt.split("`")[0][:20] in box.feedback.value
            assert box.check_button.description == "Verificar"
        language("en")
        assert page(quiz) == english


def test_a_question_that_was_not_answered_stays_so(first):
    radio = box_of(first, "hotter").input
    language("pt")
    assert radio.index is None
    assert radio.options[3][0] == "Com top-p mais, com top-k tantos quanto antes"


def test_controls_have_names(first):
    order = box_of(first, "log-prob-of-response")
    names = [child.description for child in order.input.children]
    assert names[2] == "Write the token ids of query and response in one row"
    assert len(set(names)) == 5
    assert 'data-names="position of: {step}"' in order.words.value
    assert len({box.check_button.tooltip for box in first.boxes}) == 10
    assert box_of(first, "smaller-error").input.field.description == "your answer (rollouts)"
    ticks = [child.description for child in box_of(first, "kl-properties").input.children]
    assert all(ticks)
    assert len(set(ticks)) == 5


def test_static_version_shows_questions_and_no_answers(make):
    for name in SIZES:
        quiz = make(name)
        static = quiz._repr_mimebundle_()["text/html"]
        assert Tags(static).found <= HARMLESS
        for number, question in enumerate(quiz.data.questions, start=1):
            assert f"<b>{number}. " in static
            for choice in getattr(question, "choices", ()):
                assert choice.why.en not in static
        assert static.count("<li>") == sum(
            len(getattr(q, "choices", getattr(q, "steps", ()))) for q in quiz.data.questions
        )


HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def hostile(make, monkeypatch):
    """A quiz whose every text is markup."""
    source = re.sub(r"(en|pt): ([^,}]+)", lambda found: f"{found[1]}: '{found[2]} {HOSTILE}'", SOUND)
    source = source.replace("kind: choice", "kind: choice\n    code: '</pre><script>alert(2)</script>'")
    data = read_quiz(source, "x.yaml")
    monkeypatch.setattr("course_helpers.widgets.quiz.load_quiz", lambda name: data)
    return make("x")


def test_markup_in_a_quiz_or_an_answer_stays_text(hostile):
    for box in hostile.boxes:
        fill(box, HOSTILE if isinstance(box.question, NumberQuestion) else wrong_answers(box.question)[0][0])
        box.check_button.click()
    shown = page(hostile) + hostile._repr_mimebundle_()["text/html"]
    assert Tags(shown).found <= HARMLESS
    assert shown.count("&lt;img src=x") > 10
    assert not box_of(hostile, "one").input.description_allow_html


def test_feedback_is_translated_where_it_is_not_from_the_file():
    language("pt")
    assert _("Check") == "Verificar"
    assert _("✗ Not yet") == "✗ Ainda não"
