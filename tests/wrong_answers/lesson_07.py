import math
import statistics

import numpy as np
import torch

from tests.wrong_answers import collector

ANSWERS, wrong = collector()

# ----------------------------------------------------------------------------------------------------------------- 7.1

KEYS = {"context", "question", "answer"}


def rules(seeds):
    """The five rules in the order of the task, each true where it is kept."""
    return {
        "enough": len(seeds) >= 5,
        "required": not any("question" not in seed or "answer" not in seed for seed in seeds),
        "known": not any(key not in KEYS for seed in seeds for key in seed),
        "filled": not any(text == "" for seed in seeds for text in seed.values()),
        "different": len({tuple(sorted(seed.items())) for seed in seeds}) == len(seeds),
    }


def all_but(seeds, name):
    return all(kept for rule, kept in rules(seeds).items() if rule != name)


@wrong("7.1", says="Four seeds pass")
def number_not_looked_at(seeds):
    return all_but(seeds, "enough")


@wrong("7.1", says="Four seeds pass")
def more_than_three(seeds):
    return len(seeds) > 3 and all_but(seeds, "enough")


@wrong("7.1", says="Five is the least")
def exactly_five(seeds):
    return len(seeds) == 5 and all(rules(seeds).values())


@wrong("7.1", says="More than five is asked for")
def above_five(seeds):
    return len(seeds) > 5 and all(rules(seeds).values())


@wrong("7.1", says="Two examples that are alike pass")
def copies_pass(seeds):
    return all_but(seeds, "different")


@wrong("7.1", says="You dropped the copies")
def five_different_ones(seeds):
    kept = []
    for seed in seeds:
        if seed not in kept:
            kept.append(seed)
    return all(rules(kept).values())


@wrong("7.1", says="One question with several contexts")
def questions_differ(seeds):
    return all(rules(seeds).values()) and len({seed["question"] for seed in seeds}) == len(seeds)


@wrong("7.1", says="One answer given twice")
def answers_differ(seeds):
    return all(rules(seeds).values()) and len({seed["answer"] for seed in seeds}) == len(seeds)


@wrong("7.1", says="An empty answer passes")
def empty_passes(seeds):
    return all_but(seeds, "filled")


@wrong("7.1", says="A seed without `context` is refused")
def three_keys(seeds):
    return all(rules(seeds).values()) and all(len(seed) == 3 for seed in seeds)


@wrong("7.1", says="A key that the schema does not know")
def any_key(seeds):
    return all_but(seeds, "known")


@wrong("7.1", says="A seed without an answer passes")
def answer_not_needed(seeds):
    return all_but(seeds, "required")


@wrong("7.1", says="A question without a question mark")
def must_ask(seeds):
    return all(rules(seeds).values()) and not any("?" not in seed["question"] for seed in seeds)


@wrong("7.1", says="True and false are exchanged")
def faulty(seeds):
    return bool(sum(not kept for kept in rules(seeds).values()))


# ----------------------------------------------------------------------------------------------------------------- 7.2


def halves_that_praise(context, praise):
    return [half for half in context.split(",") if set(half.strip(" .!").lower().split()) & set(praise)]


def is_bad(seed, praise):
    context, _praised, blamed = seed
    return any(blamed in half for half in halves_that_praise(context, praise))


@wrong("7.2", says="You counted from 0")
def place_in_the_list(seeds, praise):
    return [is_bad(seed, praise) for seed in seeds].index(True)


@wrong("7.2", says="a review that blames first")
def praise_comes_first(seeds, praise):
    for number, (context, praised, _blamed) in enumerate(seeds, 1):
        if praised not in context.split(",")[0]:
            return number
    return None


@wrong("7.2", says="Ask each half by itself")
def whole_context(seeds, praise):
    for number, (context, _praised, blamed) in enumerate(seeds, 1):
        if any(word in context for word in praise) and blamed in context:
            return number
    return None


@wrong("7.2", says="the first seed that is right")
def praised_beside_praise(seeds, praise):
    for number, (context, praised, _blamed) in enumerate(seeds, 1):
        if any(praised in half for half in halves_that_praise(context, praise)):
            return number
    return None


@wrong("7.2", says="true or false for each seed")
def mask(seeds, praise):
    return np.array([is_bad(seed, praise) for seed in seeds])


@wrong("7.2", says="You counted from the end")
def from_the_end(seeds, praise):
    return 1 + [is_bad(seed, praise) for seed in reversed(seeds)].index(True)


@wrong("7.2", says="how many seeds are right")
def how_many_right(seeds, praise):
    return sum(not is_bad(seed, praise) for seed in seeds)


# ----------------------------------------------------------------------------------------------------------------- 7.3


def one_after_the_other(first, kept):
    left = first
    for share in kept:
        left = left * share
    return left


@wrong("7.3", says="You subtracted all that is rejected")
def all_of_the_whole(contexts, per_context, kept):
    questions = contexts * per_context
    return questions - sum(questions * (1 - share) for share in kept)


@wrong("7.3", says="multiply by `per_context`")
def contexts_only(contexts, per_context, kept):
    return one_after_the_other(contexts, kept)


@wrong("7.3", says="You divided by `per_context`")
def divided(contexts, per_context, kept):
    return one_after_the_other(contexts / per_context, kept)


@wrong("7.3", says="you took them for shares that are rejected")
def rejected_shares(contexts, per_context, kept):
    return contexts * per_context * np.prod([1 - share for share in kept])


@wrong("7.3", says="You took the mean of the shares")
def mean_share(contexts, per_context, kept):
    return contexts * per_context * statistics.fmean(kept or [0])


@wrong("7.3", says="Only the strictest stage")
def bottleneck(contexts, per_context, kept):
    return contexts * per_context * sorted([*kept, 1])[0]


@wrong("7.3", says="Only the last stage")
def last(contexts, per_context, kept):
    left = contexts * per_context
    for share in kept:
        left = contexts * per_context * share
    return left


@wrong("7.3", says="That is the share that is left")
def share_left(contexts, per_context, kept):
    return one_after_the_other(1, kept)


@wrong("7.3", says="That is how many are rejected")
def lost(contexts, per_context, kept):
    return contexts * per_context - one_after_the_other(contexts * per_context, kept)


@wrong("7.3", says="You divided by the shares")
def drafts_needed(contexts, per_context, kept):
    return contexts * per_context / np.prod(kept)


# ----------------------------------------------------------------------------------------------------------------- 7.4


def batch(rows, fill=-100, left=False):
    longest = max(map(len, rows))
    padded = [[fill] * (longest - len(row)) * left + row + [fill] * (longest - len(row)) * (not left) for row in rows]
    return np.array(padded)


def in_rows(prompts, completions, make):
    return [make(list(p), list(c)) for p, c in zip(prompts, completions, strict=True)]


@wrong("7.4", says="Your labels are shifted by one")
def next_token(prompts, completions, end):
    return batch(in_rows(prompts, completions, lambda p, c: [-100] * (len(p) - 1) + c + [end, -100]))


@wrong("7.4", says="Your labels are shifted by one")
def one_shorter(prompts, completions, end):
    return batch(in_rows(prompts, completions, lambda p, c: [-100] * (len(p) - 1) + [*c, end]))


@wrong("7.4", says="The prompts have labels")
def everything_but_padding(prompts, completions, end):
    return batch(in_rows(prompts, completions, lambda p, c: p + c + [end]))


@wrong("7.4", says="The prompts have labels")
def the_rows_themselves(prompts, completions, end):
    return batch(in_rows(prompts, completions, lambda p, c: p + c + [end]), fill=end)


@wrong("7.4", says="You masked the completions")
def prompts_only(prompts, completions, end):
    return batch(in_rows(prompts, completions, lambda p, c: p + [-100] * (len(c) + 1)))


@wrong("7.4", says="The end token is missing")
def no_end(prompts, completions, end):
    return batch(in_rows(prompts, completions, lambda p, c: [-100] * len(p) + c))


@wrong("7.4", says="The end token is masked")
def masked_by_id(prompts, completions, end):
    ids = torch.tensor(batch(in_rows(prompts, completions, lambda p, c: [-100] * len(p) + [*c, end]), fill=end))
    return ids.masked_fill(ids == end, -100)


@wrong("7.4", says="The padding has labels")
def ends_without_end(prompts, completions, end):
    return batch(in_rows(prompts, completions, lambda p, c: [-100] * len(p) + [*c, end]), fill=end)


@wrong("7.4", says="You padded on the left")
def on_the_left(prompts, completions, end):
    return batch(in_rows(prompts, completions, lambda p, c: [-100] * len(p) + [*c, end]), left=True)


@wrong("7.4", says="What is not to count must be −100")
def zeros(prompts, completions, end):
    return batch(in_rows(prompts, completions, lambda p, c: [0] * len(p) + [*c, end]), fill=0)


@wrong("7.4", says="What is not to count must be −100")
def end_for_the_mask(prompts, completions, end):
    return batch(in_rows(prompts, completions, lambda p, c: [end] * len(p) + [*c, end]), fill=end)


# ----------------------------------------------------------------------------------------------------------------- 7.5


def counted(values, mask):
    """The log-probabilities of the tokens that count, row by row."""
    return [row[keep.astype(bool)] for row, keep in zip(values.numpy(), mask.numpy(), strict=True)]


def loss(values, mask):
    return -np.concatenate(counted(values, mask)).mean()


@wrong("7.5", says="Before and after are exchanged")
def upside_down(before, after, mask):
    return math.exp(loss(before, mask) - loss(after, mask))


@wrong("7.5", says="The padding is counted")
def without_mask(before, after, mask):
    return np.exp(-after.numpy().mean()) / np.exp(-before.numpy().mean())


@wrong("7.5", says="The padding is counted")
def divided_by_all(before, after, mask):
    return torch.exp((mask * before).mean() - (mask * after).mean())


@wrong("7.5", says="You averaged each review first")
def mean_of_means(before, after, mask):
    gaps = [a.mean() - b.mean() for a, b in zip(counted(before, mask), counted(after, mask), strict=True)]
    return np.exp(np.mean(gaps))


@wrong("7.5", says="You averaged the perplexities")
def mean_of_perplexities(before, after, mask):
    new, old = (np.mean([np.exp(-row.mean()) for row in counted(values, mask)]) for values in (after, before))
    return new / old


@wrong("7.5", says="You averaged the perplexities")
def mean_of_ratios(before, after, mask):
    pairs = zip(counted(before, mask), counted(after, mask), strict=True)
    return np.mean([np.exp(-b.mean()) / np.exp(-a.mean()) for a, b in pairs])


@wrong("7.5", says="the ratio of two losses")
def losses_divided(before, after, mask):
    return loss(after, mask) / loss(before, mask)


@wrong("7.5", says="the difference of two losses")
def losses_subtracted(before, after, mask):
    return loss(after, mask) - loss(before, mask)


@wrong("7.5", says="the difference of two perplexities")
def perplexities_subtracted(before, after, mask):
    return np.exp(loss(after, mask)) - np.exp(loss(before, mask))


@wrong("7.5", says="You summed where a mean belongs")
def sums(before, after, mask):
    return torch.exp((before * mask).sum()) / torch.exp((after * mask).sum())


@wrong("7.5", says="You raised 2 to the power")
def powers_of_two(before, after, mask):
    return 2 ** loss(after, mask) / 2 ** loss(before, mask)


@wrong("7.5", says="You averaged ratios of probabilities")
def ratios_of_tokens(before, after, mask):
    old, new = (np.exp(np.concatenate(counted(values, mask))) for values in (before, after))
    return (old / new).mean()


# ----------------------------------------------------------------------------------------------------------------- 7.6


@wrong("7.6", says="That is the share of the new rows")
def share_of_new(new, share):
    return int(new * share + 0.5)


@wrong("7.6", says="how many rows there are in all")
def whole(new, share):
    return round(new / (1 - share))


@wrong("7.6", says="Share and rest are exchanged")
def odds_upside_down(new, share):
    return round(new * (1 - share) / share) if share else 0


@wrong("7.6", says="Share and rest are exchanged")
def odds_upside_down_not_rounded(new, share):
    return new * (1 / share - 1)


@wrong("7.6", says="The sign is changed")
def plus(new, share):
    return round(share * new / (1 + share))


@wrong("7.6", says="You left out some of the new rows")
def rest_of_new(new, share):
    return new - round(new * share)


@wrong("7.6", says="You divided by the share")
def over_share(new, share):
    return new / share if share else new


# ----------------------------------------------------------------------------------------------------------------- 7.7


def rows_of(shares, skill, knowledge):
    return list(zip(shares.tolist(), skill.tolist(), knowledge.tolist(), strict=True))


def smallest(rows):
    return min(share for share, *_ in rows)


def that_fit(shares, skill, knowledge, before, least_skill, least_kept):
    rows = rows_of(shares, skill, knowledge)
    return [row for row in rows if row[1] >= least_skill and row[2] >= least_kept * before - 1e-12]


@wrong("7.7", says="the share with the highest skill")
def best_skill(shares, skill, knowledge, before, least_skill, least_kept):
    return max(rows_of(shares, skill, knowledge), key=lambda row: row[1])[0]


@wrong("7.7", says="the largest share that meets both")
def largest(*given):
    return max(that_fit(*given))[0]


@wrong("7.7", says="the share that keeps the most knowledge")
def best_knowledge(shares, skill, knowledge, before, least_skill, least_kept):
    return shares[np.argmax(knowledge.numpy())]


@wrong("7.7", says="You compared the knowledge itself")
def part_of_all(shares, skill, knowledge, before, least_skill, least_kept):
    return smallest(row for row in rows_of(shares, skill, knowledge) if row[1] >= least_skill and row[2] >= least_kept)


@wrong("7.7", says="that is a loss in points")
def points(shares, skill, knowledge, before, least_skill, least_kept):
    rows = rows_of(shares, skill, knowledge)
    return smallest(row for row in rows if row[1] >= least_skill and row[2] >= before - (1 - least_kept) - 1e-12)


@wrong("7.7", says="The limit of the knowledge is missing")
def skill_alone(shares, skill, knowledge, before, least_skill, least_kept):
    return smallest(row for row in rows_of(shares, skill, knowledge) if row[1] >= least_skill)


@wrong("7.7", says="The limit of the skill is missing")
def knowledge_alone(shares, skill, knowledge, before, least_skill, least_kept):
    return smallest(row for row in rows_of(shares, skill, knowledge) if row[2] / before >= least_kept)


@wrong("7.7", says="At least means `>=`")
def above_both(shares, skill, knowledge, before, least_skill, least_kept):
    rows = rows_of(shares, skill, knowledge)
    return smallest(row for row in rows if row[1] > least_skill and row[2] / before > least_kept)


@wrong("7.7", says="That is the first in the list")
def first_that_fits(*given):
    return that_fit(*given)[0][0]


@wrong("7.7", says="That is the place in the list")
def place(*given):
    return given[0].tolist().index(smallest(that_fit(*given)))


@wrong("7.7", says="the smallest share of all")
def smallest_of_all(shares, *rest):
    return shares.numpy().min()
