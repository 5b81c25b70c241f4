"""Exercises of lesson 07: seeds, what a funnel leaves, what the loss sees, and how much to replay.

A function with the exercise's name is the solution, written as a learner would; one with an underscore is a mistake.
Arguments are lists and texts where the task is about files and rows, else torch tensors; log-probabilities are in nats.
"""

import math

import torch

from course_helpers.exercises.check import Exercise, Mistake
from course_helpers.exercises.values import reals
from course_helpers.translation import N_

# ------------------------------------------------------------------------------------------- 7.1 what the parser checks


def valid_seeds(seeds):
    """Whether the parser takes these seed examples of a version 2 skill."""
    needed = {"question", "answer"}
    keys_fit = all(needed <= set(seed) <= needed | {"context"} for seed in seeds)
    none_empty = all(all(seed.values()) for seed in seeds)
    all_differ = all(seeds.count(seed) == 1 for seed in seeds)
    return len(seeds) >= 5 and keys_fit and none_empty and all_differ


def _seeds(count, **changes):
    """Valid seeds with contexts and one question, the last of them changed; a key set to None is left out."""
    words = ("acting", "plot", "music", "ending", "cast", "sound", "humor")
    rows = [{"context": f"Good {word}.", "question": "What is praised?", "answer": word} for word in words[:count]]
    rows[-1] = {key: text for key, text in (rows[-1] | changes).items() if text is not None}
    return rows


def _without_context(count):
    """Valid seeds without context, each with its own question."""
    return [{"question": f"Is a {word} review good?", "answer": "Yes."} for word in "ABCDEFG"[:count]]


def _none_empty(seeds):
    return all(all(seed.values()) for seed in seeds)


def _all_differ(seeds):
    return all(seeds.count(seed) == 1 for seed in seeds)


def _has(seeds, *keys):
    return all(set(keys) <= set(seed) for seed in seeds)


def _no_other_key(seeds):
    return all(set(seed) <= {"context", "question", "answer"} for seed in seeds)


def _but(least=5, keys=_has, others=_no_other_key, filled=_none_empty, differ=_all_differ):
    """The parser's rules with some of them changed."""

    def way(seeds):
        has_keys = keys(seeds, "question", "answer")
        return len(seeds) >= least and has_keys and others(seeds) and filled(seeds) and differ(seeds)

    return way


def _not_asked(*given):
    return True


VALID_SEEDS = Exercise(
    number="7.1",
    title=N_("seeds that the parser takes"),
    task=N_(
        "`valid_seeds(seeds)` gets the seed examples of a version 2 skill, a list of dictionaries of texts. It returns "
        "true if the parser takes them: there are at least five; each has `question` and `answer`, perhaps `context`, "
        "and no other key; no text is empty; no two examples are alike in everything."
    ),
    difficulty="easy",
    minutes=5,
    right=valid_seeds,
    why=N_("So much a schema can say. Whether a seed is true, or teaches what you mean, it cannot see."),
    inputs=(
        (_seeds(5),),
        (_seeds(4),),
        (_seeds(5, context="Good acting.", answer="acting"),),
        (_seeds(7),),
        (_without_context(5),),
        (_seeds(5, question="Name what is praised."),),
        (_seeds(6, answer=""),),
        (_seeds(5, source="me"),),
        (_seeds(6, answer=None),),
        (_seeds(6, context="Good acting.", answer="acting"),),
        (_seeds(5, context="Bad plot, good plot twist.", answer="plot"),),
    ),
    mistakes=(
        Mistake(
            N_("Four seeds pass in yours. The schema of version 2 wants at least five."),
            _but(least=4),
            _but(least=0),
        ),
        Mistake(
            N_("Five is the least, not the only number: more seeds are welcome."),
            lambda seeds: len(seeds) == 5 and valid_seeds(seeds),
        ),
        Mistake(
            N_("More than five is asked for in yours. Exactly five are enough: `>=`."),
            _but(least=6),
        ),
        Mistake(
            N_("Two examples that are alike pass in yours. A copy teaches nothing new, and the parser refuses it."),
            _but(differ=_not_asked),
        ),
        Mistake(
            N_(
                "You dropped the copies and counted what was left. The parser refuses a list with a copy, however long."
            ),
            lambda seeds: _but(least=0, differ=_not_asked)(seeds) and len({str(seed) for seed in seeds}) >= 5,
        ),
        Mistake(
            N_("One question with several contexts is refused in yours. Only examples alike in everything are copies."),
            _but(differ=lambda seeds: len({seed["question"] for seed in seeds}) == len(seeds)),
        ),
        Mistake(
            N_("One answer given twice is refused in yours. Only examples that are alike in everything are copies."),
            _but(differ=lambda seeds: len({seed["answer"] for seed in seeds}) == len(seeds)),
        ),
        Mistake(
            N_("An empty answer passes in yours. The key is there, but its text must not be empty."),
            _but(filled=_not_asked),
        ),
        Mistake(
            N_("A seed without `context` is refused in yours. Without one the skill is simply not grounded."),
            lambda seeds: valid_seeds(seeds) and _has(seeds, "context"),
        ),
        Mistake(
            N_("A key that the schema does not know passes in yours. It is refused, even where it would do no harm."),
            _but(others=_not_asked),
        ),
        Mistake(
            N_("A seed without an answer passes in yours: `question` and `answer` are both required."),
            _but(keys=_not_asked),
        ),
        Mistake(
            N_("A question without a question mark is refused in yours. The parser does not read the texts."),
            lambda seeds: valid_seeds(seeds) and all(seed["question"].endswith("?") for seed in seeds),
        ),
        Mistake(
            N_("True and false are exchanged: true stands for what the parser takes."),
            lambda seeds: not valid_seeds(seeds),
        ),
    ),
    hints=(
        N_("Four questions, one after the other: enough? the right keys? all filled? all different?"),
        N_("`set(seed)` is the set of a seed's keys, and `a <= b` asks whether all of a set are in another."),
        N_("Dictionaries can be compared with `==`, and `seeds.count(seed)` counts the equal ones."),
    ),
)

# ---------------------------------------------------------------------------------------- 7.2 what the parser can't see


def bad_seed(seeds, praise):
    """Number of the seed whose answer contradicts its context."""
    for number, (context, _praised, blamed) in enumerate(seeds, start=1):
        for half in context.split(","):
            if blamed in half and any(word in half for word in praise):
                return number
    return 0


def _contradicts(seeds, praise):
    """For each seed, whether what it calls blamed is in the half that praises."""
    return [bad_seed([seed], praise) == 1 for seed in seeds]


def _first(found):
    """The number of the first that is true, counted from 1; 0 if none is."""
    return next((number for number, each in enumerate(found, start=1) if each), 0)


def _blame_first(seeds, praise):
    """The first seed whose context names the blamed word first."""
    return _first(context.index(blamed) < context.index(praised) for context, praised, blamed in seeds)


_PRAISE = ["wonderful", "witty", "moving", "beautiful", "clever", "superb"]

BAD_SEED = Exercise(
    number="7.2",
    title=N_("the seed that contradicts itself"),
    task=N_(
        "`bad_seed(seeds, praise)` gets seeds, each a tuple (context, praised, blamed) of texts, and a list of words "
        "that praise. A context has two halves, a comma between them: one praises, one blames, in either order. One "
        "seed is wrong: what it calls blamed stands in the half that praises. It returns the number of that seed, "
        "counted from 1."
    ),
    difficulty="medium",
    minutes=6,
    right=bad_seed,
    why=N_("The parser finds it valid. Only one who reads the seed as you did, or a judge, sees the contradiction."),
    inputs=(
        (
            [
                ("The acting is wonderful, but the plot is dull.", "acting", "plot"),
                ("The editing is clumsy, at least the dialogue is witty.", "dialogue", "editing"),
                ("The music is moving, but the ending is silly.", "music", "ending"),
                ("The story is boring, but the photography is beautiful.", "story", "photography"),
                ("What a clever script, and what a weak cast!", "script", "cast"),
                ("A tired joke, but superb timing.", "timing", "joke"),
            ],
            _PRAISE,
        ),
        (
            [
                ("The cast is superb, but the sound is poor.", "sound", "cast"),
                ("The sets are cheap, but the costumes are beautiful.", "costumes", "sets"),
                ("A witty script, sadly a weak ending.", "script", "ending"),
                ("The humor is flat, the score is moving.", "score", "humor"),
                ("The camera is clever, but the pace is slow.", "camera", "pace"),
            ],
            _PRAISE,
        ),
        (
            [
                ("The pace is slow, but the mood is moving.", "mood", "pace"),
                ("The plot is clever, but the ending is weak.", "plot", "ending"),
                ("Wooden acting, beautiful costumes.", "costumes", "acting"),
                ("The score is superb, but the script is flat.", "score", "script"),
                ("Poor sound, witty dialogue.", "dialogue", "sound"),
                ("The finale is silly, but the hero is wonderful.", "finale", "hero"),
            ],
            _PRAISE,
        ),
        (
            [
                ("The lighting is beautiful, but the story is dull.", "lighting", "story"),
                ("The dialogue is flat, but the cast is witty.", "cast", "dialogue"),
                ("Clumsy editing, clever camera.", "editing", "camera"),
                ("A moving score, but a weak hero.", "score", "hero"),
                ("The sets are superb, but the jokes are cheap.", "sets", "jokes"),
            ],
            _PRAISE,
        ),
    ),
    mistakes=(
        Mistake(
            N_("You counted from 0, as Python does. Seeds are counted from 1: `enumerate(seeds, start=1)`."),
            lambda seeds, praise: bad_seed(seeds, praise) - 1,
        ),
        Mistake(
            N_(
                "You took a review that blames first for a wrong one. It is only worded otherwise: its answer is right."
            ),
            _blame_first,
        ),
        Mistake(
            N_("Praise is somewhere in every context, and so is what is blamed. Ask each half by itself."),
            lambda seeds, praise: 1,
        ),
        Mistake(
            N_("That is the first seed that is right. The wrong one has its blamed word beside the praise."),
            lambda seeds, praise: _first(not bad for bad in _contradicts(seeds, praise)),
        ),
        Mistake(
            N_("That is true or false for each seed. The number of the one that is wrong is asked for."),
            _contradicts,
        ),
        Mistake(
            N_("You counted from the end of the list. The first seed is number 1."),
            lambda seeds, praise: len(seeds) + 1 - bad_seed(seeds, praise),
        ),
        Mistake(
            N_("That is how many seeds are right. The number of the wrong one is asked for."),
            lambda seeds, praise: len(seeds) - 1,
        ),
    ),
    hints=(
        N_("Read the contexts of the first list yourself. Then: how did you know which half praises?"),
        N_('`context.split(",")` gives the halves, and `any(word in half for word in praise)` finds praise in one.'),
    ),
)

# ------------------------------------------------------------------------------------------- 7.3 what the funnel leaves


def reach_training(contexts, per_context, kept):
    """How many examples are left after all stages."""
    return contexts * per_context * math.prod(kept)


FUNNEL = Exercise(
    number="7.3",
    title=N_("what a funnel leaves"),
    task=N_(
        "`reach_training(contexts, per_context, kept)` gets the number of contexts a teacher writes, the number of "
        "questions it asks about each, and a list `kept`: for each stage that rejects, the share it keeps of what "
        "enters that stage. It returns how many examples come out at the end and are trained on, as an average: it "
        "need not be whole."
    ),
    difficulty="easy",
    minutes=3,
    right=reach_training,
    why=N_("Shares of stages multiply. Five stages that keep 90 % each leave 59 %."),
    inputs=(
        (200, 3, [0.9, 0.8, 0.95]),
        (100, 1, [0.5, 0.5]),
        (40, 5, [1.0, 0.75, 0.6, 0.9]),
        (1000, 2, [0.7]),
        (30, 4, []),
    ),
    mistakes=(
        Mistake(
            N_("You subtracted all that is rejected from the whole. A later stage rejects a share of what is left."),
            lambda contexts, per_context, kept: contexts * per_context * (1 - sum(1 - share for share in kept)),
        ),
        Mistake(
            N_("Each context has several questions: multiply by `per_context`, too."),
            lambda contexts, per_context, kept: contexts * math.prod(kept),
        ),
        Mistake(
            N_("You divided by `per_context`. More questions make more examples."),
            lambda contexts, per_context, kept: contexts / per_context * math.prod(kept),
        ),
        Mistake(
            N_("Those are shares that are kept; you took them for shares that are rejected."),
            lambda contexts, per_context, kept: contexts * per_context * math.prod(1 - share for share in kept),
        ),
        Mistake(
            N_("You took the mean of the shares. What enters a stage has passed all before it: shares multiply."),
            lambda contexts, per_context, kept: contexts * per_context * sum(kept) / max(len(kept), 1),
        ),
        Mistake(
            N_("Only the strictest stage counts in yours. The others reject some, too."),
            lambda contexts, per_context, kept: contexts * per_context * min(kept, default=1),
        ),
        Mistake(
            N_("Only the last stage counts in yours. It sees what the stages before it have kept."),
            lambda contexts, per_context, kept: contexts * per_context * (kept[-1] if kept else 1),
        ),
        Mistake(
            N_("That is the share that is left. Multiply it by how many examples there were at the beginning."),
            lambda contexts, per_context, kept: math.prod(kept),
        ),
        Mistake(
            N_("That is how many are rejected. Asked for are those that are left."),
            lambda contexts, per_context, kept: contexts * per_context * (1 - math.prod(kept)),
        ),
        Mistake(
            N_("You divided by the shares: that is how many drafts it takes for so many examples."),
            lambda contexts, per_context, kept: contexts * per_context / math.prod(kept),
        ),
    ),
    hints=(
        N_("How many questions with contexts enter the first stage? And how many of them the second?"),
        N_("`math.prod` multiplies all numbers of a list; of an empty list it gives 1."),
    ),
)

# ------------------------------------------------------------------------------------------- 7.4 what the loss looks at


def labels_of_rows(prompts, completions, end):
    """Labels of N rows: the completions with their end token, −100 elsewhere."""
    rows = [[-100] * len(prompt) + completion + [end] for prompt, completion in zip(prompts, completions, strict=True)]
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [-100] * (longest - len(row)) for row in rows])


def _ids(prompts, completions, end, last=True):
    """The rows themselves, padded with the end token."""
    rows = [p + c + [end] * last for p, c in zip(prompts, completions, strict=True)]
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [end] * (longest - len(row)) for row in rows])


def _shifted(prompts, completions, end):
    labels = labels_of_rows(prompts, completions, end)
    return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], dim=1)


def _prompt_instead(prompts, completions, end):
    ids, labels = _ids(prompts, completions, end), labels_of_rows(prompts, completions, end)
    places, lengths = torch.arange(ids.shape[1]), torch.tensor([[len(prompt)] for prompt in prompts])
    return torch.where((labels == -100) & (places < lengths), ids, -100)


def _whole_row(prompts, completions, end):
    """Labels of prompts, completions and end tokens; only the padding is masked."""
    rows = [p + c + [end] for p, c in zip(prompts, completions, strict=True)]
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [-100] * (longest - len(row)) for row in rows])


def _learned_padding(prompts, completions, end):
    places, lengths = torch.arange(10**3), torch.tensor([[len(prompt)] for prompt in prompts])
    ids = _ids(prompts, completions, end)
    return torch.where(places[: ids.shape[1]] >= lengths, ids, -100)


def _padded_left(prompts, completions, end):
    rows = [[-100] * len(p) + c + [end] for p, c in zip(prompts, completions, strict=True)]
    longest = max(len(row) for row in rows)
    return torch.tensor([[-100] * (longest - len(row)) + row for row in rows])


def _without_end(prompts, completions, end):
    """No end token was appended."""
    rows = [[-100] * len(p) + c for p, c in zip(prompts, completions, strict=True)]
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [-100] * (longest - len(row)) for row in rows])


def _filled_with(number):
    def way(prompts, completions, end):
        labels = labels_of_rows(prompts, completions, end)
        return torch.where(labels == -100, end if number is None else number, labels)

    return way


LABELS_OF_ROWS = Exercise(
    number="7.4",
    title=N_("a batch for a loss on completions only"),
    task=N_(
        "`labels_of_rows(prompts, completions, end)` gets N prompts and N completions, two lists of lists of token "
        "ids, and the id of the end token. A row is prompt, completion, end token, then padding on the right to the "
        "longest row. It returns the labels (N, L): the ids of completion and end token, and −100 for prompt and "
        "padding."
    ),
    difficulty="medium",
    minutes=7,
    right=labels_of_rows,
    why=N_("The loss asks for the answer, given the question, and for the end behind it; the question is only read."),
    inputs=(
        ([[5, 6, 7], [8]], [[11, 12], [13]], 0),
        ([[5], [6, 7]], [[11, 12], [13]], 0),
        ([[4, 5, 6]], [[7, 8, 9]], 2),
        ([[4], [5, 6, 7, 8], [9, 9]], [[3], [1], [3, 1, 3]], 0),
    ),
    mistakes=(
        Mistake(
            N_("Your labels are shifted by one. The model shifts them itself: label and token share a place."),
            _shifted,
            lambda *given: labels_of_rows(*given)[:, 1:],
        ),
        Mistake(
            N_("The prompts have labels in yours: the policy would also learn to write the questions."),
            _whole_row,
            _ids,
        ),
        Mistake(
            N_("You masked the completions and kept the prompts: the other way round."),
            _prompt_instead,
        ),
        Mistake(
            N_("The end token is missing behind the completions: the policy would never learn to stop."),
            _without_end,
        ),
        Mistake(
            N_("The end token is masked, probably by its id. Mask the padding only: the answer's end is learned."),
            lambda prompts, completions, end: torch.nn.functional.pad(
                _without_end(prompts, completions, end), (0, 1), value=-100
            ),
        ),
        Mistake(
            N_("The padding has labels in yours: rows that are short would count as many end tokens."),
            _learned_padding,
        ),
        Mistake(
            N_("You padded on the left. The task wants the padding on the right, behind the end token."),
            _padded_left,
        ),
        Mistake(
            N_("What is not to count must be −100, the number that cross-entropy skips: other ids are learned."),
            _filled_with(0),
            _filled_with(None),
            _filled_with(-1),
        ),
    ),
    hints=(
        N_("Write one row first: as many times −100 as the prompt is long, then what is to be learned."),
        N_("`[-100] * 3` is a list of three. The longest row says how often −100 goes behind each."),
        N_("Known answer: each row has one label more than its completion has tokens."),
    ),
)

# -------------------------------------------------------------------------------------------- 7.5 what else has changed


def perplexity_ratio(before, after, mask):
    """The perplexity after training over that before it, on the same texts."""
    change = (before * mask).sum() / mask.sum() - (after * mask).sum() / mask.sum()
    return change.exp()


def _mean(values, mask):
    return (values * mask).sum() / mask.sum()


def _row_means(values, mask):
    return (values * mask).sum(1) / mask.sum(1)


PERPLEXITY_RATIO = Exercise(
    number="7.5",
    title=N_("how much of the old language is left"),
    task=N_(
        "`perplexity_ratio(before, after, mask)` gets the log-probabilities that a policy gave to the tokens of N film "
        "reviews before and after its training, two tensors (N, T), and a mask (N, T) of 1 for tokens and 0 for "
        "padding. It returns the perplexity after over the one before. A perplexity is exp of minus the mean "
        "log-probability over all tokens that count."
    ),
    difficulty="medium",
    minutes=5,
    right=perplexity_ratio,
    why=N_("1 is nothing lost. At 1.1 the tokens of a review are 9 % less probable, in their geometric mean."),
    inputs=(
        (
            reals([[-2.0, -3.0, -1.0], [-4.0, -2.0, -5.0]]),
            reals([[-2.5, -3.5, -2.0], [-4.0, -3.0, -1.0]]),
            reals([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]),
        ),
        (reals([[-1.0, -2.0]]), reals([[-1.0, -2.0]]), reals([[1.0, 1.0]])),
        (reals([[-3.0, -1.0], [-2.0, -0.5]]), reals([[-2.0, -1.0], [-1.0, -3.0]]), reals([[1.0, 1.0], [1.0, 0.0]])),
    ),
    mistakes=(
        Mistake(
            N_("Before and after are exchanged: a model that has become worse must give more than 1."),
            lambda before, after, mask: 1 / perplexity_ratio(before, after, mask),
        ),
        Mistake(
            N_("The padding is counted, too. Multiply by the mask, and divide by how many tokens count."),
            lambda before, after, mask: (before.mean() - after.mean()).exp(),
            lambda before, after, mask: ((before * mask).mean() - (after * mask).mean()).exp(),
            lambda before, after, mask: ((before - after).sum() / mask.sum()).exp(),
        ),
        Mistake(
            N_("You averaged each review first. All tokens count alike: a long review weighs more than a short one."),
            lambda before, after, mask: (_row_means(before, mask) - _row_means(after, mask)).mean().exp(),
        ),
        Mistake(
            N_("You averaged the perplexities of the reviews. One perplexity is asked for, of all tokens together."),
            lambda before, after, mask: (
                (-_row_means(after, mask)).exp().mean() / (-_row_means(before, mask)).exp().mean()
            ),
            lambda before, after, mask: (_row_means(before, mask) - _row_means(after, mask)).exp().mean(),
        ),
        Mistake(
            N_("That is the ratio of two losses. A perplexity is the exponential of a loss."),
            lambda before, after, mask: _mean(after, mask) / _mean(before, mask),
        ),
        Mistake(
            N_("That is the difference of two losses, in nats. The exponential is missing."),
            lambda before, after, mask: _mean(before, mask) - _mean(after, mask),
        ),
        Mistake(
            N_("That is the difference of two perplexities. Divide one by the other."),
            lambda before, after, mask: (-_mean(after, mask)).exp() - (-_mean(before, mask)).exp(),
        ),
        Mistake(
            N_("You summed where a mean belongs: a longer text would always be worse."),
            lambda before, after, mask: ((before - after) * mask).sum().exp(),
        ),
        Mistake(
            N_("You raised 2 to the power. Log-probabilities in nats go with `exp`."),
            lambda before, after, mask: 2 ** (_mean(before, mask) - _mean(after, mask)),
        ),
        Mistake(
            N_("You averaged ratios of probabilities, token by token. The mean is taken of the logarithms."),
            lambda before, after, mask: _mean((before - after).exp(), mask),
        ),
    ),
    hints=(
        N_("A mean over tokens that count: sum what the mask leaves, and divide by the sum of the mask."),
        N_("exp(a)/exp(b) is exp(a − b): the ratio needs only the difference of two means."),
        N_("Known answer: a policy that has not moved gives 1."),
    ),
)

# ----------------------------------------------------------------------------------------------- 7.6 how many to replay


def replay_rows(new, share):
    """How many replayed rows make the wanted share of all rows."""
    return round(new * share / (1 - share))


def _rounded_or_not(way):
    """A mistake, and the same rounded to a whole number."""
    return way, lambda new, share: round(way(new, share))


REPLAY_ROWS = Exercise(
    number="7.6",
    title=N_("how many rows to replay"),
    task=N_(
        "`replay_rows(new, share)` gets the number of new rows, all of which are used, and a share from 0 up to, but "
        "not including, 1. It returns how many replayed rows must be mixed in so that they make up this share of "
        "all rows, new and replayed together, rounded to a whole number."
    ),
    difficulty="easy",
    minutes=4,
    right=replay_rows,
    why=N_(
        "r/(n + r) = s gives r = n s/(1 − s): a half needs as many old rows as new ones, three quarters three times."
    ),
    inputs=((600, 0.25), (600, 0.5), (240, 0.2), (120, 0.0), (140, 0.75), (70, 0.3)),
    mistakes=(
        Mistake(
            N_("That is the share of the new rows. The share is one of all rows, the replayed ones among them."),
            *_rounded_or_not(lambda new, share: new * share),
        ),
        Mistake(
            N_("That is how many rows there are in all. Take off the new ones."),
            *_rounded_or_not(lambda new, share: new / (1 - share)),
        ),
        Mistake(
            N_("Share and rest are exchanged: a share of 0 must replay nothing."),
            *_rounded_or_not(lambda new, share: new * (1 - share) / share),
        ),
        Mistake(
            N_("The sign is changed: divide by 1 − s, what the new rows are of the whole."),
            *_rounded_or_not(lambda new, share: new * share / (1 + share)),
        ),
        Mistake(
            N_("You left out some of the new rows. All of them are used, and the replayed ones come on top."),
            *_rounded_or_not(lambda new, share: new * (1 - share)),
        ),
        Mistake(
            N_("You divided by the share: that is how many rows there are when the new ones make up the share."),
            *_rounded_or_not(lambda new, share: new / share),
        ),
    ),
    hints=(
        N_("Write r for the answer: r of the n + r rows are replayed, and r/(n + r) is to be the share."),
        N_("Known answer: for a share of one half there are as many replayed rows as new ones."),
    ),
)

# -------------------------------------------------------------------------------------------------- 7.7 which to choose


def choose_share(shares, skill, knowledge, before, least_skill, least_kept):
    """The smallest share of replay that meets both limits."""
    fits = (skill >= least_skill) & (knowledge / before >= least_kept)
    return shares[fits].min()


def _fits(skill, knowledge, before, least_skill, least_kept):
    return (skill >= least_skill) & (knowledge / before >= least_kept)


def _strict(skill_too, knowledge_too):
    """`>` instead of `>=` at one limit, or at both."""

    def way(shares, skill, knowledge, before, least_skill, least_kept):
        enough = skill > least_skill if skill_too else skill >= least_skill
        kept = knowledge / before
        return shares[enough & (kept > least_kept if knowledge_too else kept >= least_kept)].min()

    return way


CHOOSE_SHARE = Exercise(
    number="7.7",
    title=N_("the smallest share that is enough"),
    task=N_(
        "`choose_share(shares, skill, knowledge, before, least_skill, least_kept)` gets P shares of replay that were "
        "tried, in any order, and what the policy then gets right of the skill and of the knowledge, three tensors "
        "(P,); `before` is what it got right of the knowledge before the skills phase. It returns the smallest share "
        "with `skill` at least `least_skill` and at least the part `least_kept` of the former knowledge."
    ),
    difficulty="medium",
    minutes=6,
    right=choose_share,
    why=N_("Each replayed row costs a step that teaches nothing new: enough is better than much."),
    inputs=(
        (
            reals([0.5, 0.0, 0.25, 0.1, 0.75]),
            reals([0.84, 0.97, 0.93, 0.96, 0.6]),
            reals([0.78, 0.2, 0.7, 0.5, 0.8]),
            0.8,
            0.8,
            0.75,
        ),
        (reals([0.0, 0.2, 0.4, 0.6]), reals([1.0, 0.9, 0.88, 0.5]), reals([0.1, 0.25, 0.5, 0.5]), 0.5, 0.875, 0.5),
        (
            reals([0.3, 0.1, 0.2, 0.5, 0.4]),
            reals([0.92, 0.7, 0.95, 0.9, 0.97]),
            reals([0.9, 0.95, 0.6, 0.98, 0.85]),
            1.0,
            0.88,
            0.8,
        ),
        (reals([0.8, 0.6, 0.4, 0.2]), reals([0.76, 0.75, 0.5, 0.9]), reals([0.9, 0.8, 0.8, 0.3]), 0.9, 0.75, 0.5),
    ),
    mistakes=(
        Mistake(
            N_("That is the share with the highest skill, whatever it has cost of the knowledge."),
            lambda shares, skill, *rest: shares[skill.argmax()],
        ),
        Mistake(
            N_("That is the largest share that meets both limits. The smallest costs less training."),
            lambda shares, *rest: shares[_fits(*rest)].max(),
        ),
        Mistake(
            N_("That is the share that keeps the most knowledge. Enough of it is enough, and the skill counts, too."),
            lambda shares, skill, knowledge, *rest: shares[knowledge.argmax()],
        ),
        Mistake(
            N_(
                "You compared the knowledge itself with the limit. That is meant for the part kept: divide by `before`."
            ),
            lambda shares, skill, knowledge, before, *least: shares[_fits(skill, knowledge, 1.0, *least)].min(),
        ),
        Mistake(
            N_("You subtracted: that is a loss in points. What was kept is a part of the former: divide by `before`."),
            lambda shares, skill, knowledge, before, least_skill, least_kept: shares[
                (skill >= least_skill) & (before - knowledge <= 1 - least_kept + 1e-9)
            ].min(),
        ),
        Mistake(
            N_("The limit of the knowledge is missing: with the skill alone, one would hardly replay anything."),
            lambda shares, skill, knowledge, before, least_skill, least_kept: shares[skill >= least_skill].min(),
        ),
        Mistake(
            N_("The limit of the skill is missing: so much may be replayed that the new is not learned."),
            lambda shares, skill, knowledge, before, least_skill, least_kept: shares[
                knowledge / before >= least_kept
            ].min(),
        ),
        Mistake(
            N_("At least means `>=`: exactly the limit is enough."),
            _strict(True, True),
            _strict(True, False),
            _strict(False, True),
        ),
        Mistake(
            N_("That is the first in the list that fits. The list is in no order: look for the smallest."),
            lambda shares, *rest: shares[_fits(*rest)][0],
        ),
        Mistake(
            N_("That is the place in the list. The share that stands there is asked for."),
            lambda shares, *rest: torch.where(_fits(*rest), shares, math.inf).argmin(),
        ),
        Mistake(
            N_("That is the smallest share of all, or replaying nothing: look at the two limits first."),
            lambda shares, *rest: shares.min(),
        ),
    ),
    hints=(
        N_("First a mask: true where both limits are met. `&` joins two masks, each in brackets."),
        N_("What was kept is `knowledge / before`. A mask as an index picks the shares that are left."),
    ),
)

EXERCISES = (
    VALID_SEEDS,
    BAD_SEED,
    FUNNEL,
    LABELS_OF_ROWS,
    PERPLEXITY_RATIO,
    REPLAY_ROWS,
    CHOOSE_SHARE,
)
