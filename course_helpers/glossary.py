"""The glossary: every term of the course in English and Portuguese, and a search that forgives typing errors.

``glossary("KL")`` finds a term by a name, a symbol or an abbreviation, in either language; ``glossary()`` lists all of
them. The terms themselves are in `assets/glossary.yaml`.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property, lru_cache

import yaml

from course_helpers.assets import asset
from course_helpers.checks import require
from course_helpers.prose import escape, no_formulas, prose
from course_helpers.translation import TAGS, _, language, ngettext

MOST_OTHERS = 8

# How well a name fits what was typed, best first.
EXACT, PREFIX, WORD, INSIDE = range(4)
SHORTEST_INSIDE = 3  # two letters are inside nearly everything
LIKE_ENOUGH = 0.72  # share of letters that a misspelt name has in common with the right one
JUST_A_WORD = 0.95  # a whole name spelt like the query counts more than a word of a longer one
LONGEST = 80  # letters of a query that are compared one by one
# "log-odds" and "log odds", `pi_ref` and \pi_{ref} are the same to the search.
SAME = str.maketrans(dict.fromkeys("-‐‑‒–—−_", " ") | dict.fromkeys("\\{}$`'’\"", None))


@dataclass(frozen=True)
class Wording:
    """An entry in one language.

    Attributes:
        term: its name.
        definition: what it is, what it is for, and the famous trap; words between backticks are code.
        also: other names, abbreviations and names in code under which it is found.
    """

    term: str
    definition: str
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A term of the course.

    Attributes:
        id: unique name in the file.
        en: its English wording.
        pt: its Portuguese wording.
        lesson: file name, without ending, of the lesson that shows it at work.
        cell: id of the cell there.
        symbol: how the course writes it in formulas; empty if it has no symbol.
        related: ids of entries worth reading next.
    """

    id: str
    en: Wording
    pt: Wording
    lesson: str
    cell: str
    symbol: str = ""
    related: tuple[str, ...] = ()

    @property
    def wording(self) -> Wording:
        """In the chosen language."""
        return self.pt if language() == "pt" else self.en

    @property
    def term(self) -> str:
        """Name in the chosen language."""
        return self.wording.term

    @property
    def link(self) -> str:
        """Address of the cell where the term is at work, seen from the lessons' folder."""
        return f"{self.lesson}.ipynb#cell-id={self.cell}"

    @property
    def lesson_number(self) -> str:
        """The number of that lesson: ``01``."""
        return self.lesson[:2]

    @cached_property
    def spelt(self) -> tuple[str, ...]:
        """Every name in both languages, and the symbol, as they are written."""
        names = [self.en.term, self.pt.term, self.symbol, *self.en.also, *self.pt.also]
        return tuple(dict.fromkeys(name for name in names if name))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The same, folded, as the search compares them; also without spaces: "minibatch", "valuehead"."""
        names = [fold(name) for name in self.spelt]
        return tuple(dict.fromkeys([*names, *(name.replace(" ", "") for name in names)]))

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The longer words of the names, for queries that misspell one of them."""
        return tuple(dict.fromkeys(word for name in self.names for word in name.split() if len(word) > 3))


@lru_cache
def entries() -> tuple[Entry, ...]:
    """All entries, in the order of the file.

    Returns:
        All of them, read once and kept.

    Raises:
        AssetError: the file is missing or damaged.
    """
    return tuple(_entry(fields) for fields in yaml.safe_load(asset("glossary.yaml").read_text(encoding="utf-8")))


def _entry(fields: dict) -> Entry:
    en, pt = (_wording(fields[code]) for code in ("en", "pt"))
    seen, related = fields["seen"], tuple(fields.get("related", ()))
    return Entry(fields["id"], en, pt, seen["lesson"], seen["cell"], fields.get("symbol", ""), related)


def _wording(fields: dict) -> Wording:
    return Wording(fields["term"], fields["definition"], tuple(fields.get("also", ())))


def related(entry: Entry) -> list[Entry]:
    """The entries worth reading after one."""
    by_id = {other.id: other for other in entries()}
    return [by_id[name] for name in entry.related]


# --- search -----------------------------------------------------------------------------------------------------------


def fold(text: str) -> str:
    """A text without what the search ignores: case, accents, kinds of dashes, signs of LaTeX, extra spaces.

    Examples:
        >>> fold("Função de Partição") == fold("funcao de particao"), fold("log-odds")
        (True, 'log odds')
    """
    letters = (sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign))
    return " ".join("".join(letters).casefold().translate(SAME).split())


def find(entries: Iterable[Entry], query: str) -> list[Entry]:
    """Entries that a query may mean, best first.

    A name that is equal comes before one that begins with the query, that before a word within a name, that before
    any part of a name. Only if there is none of these, names that are spelt much like the query count. Case decides
    only between equals: Z is the partition function, z the logits.

    Args:
        entries: where to look.
        query: a name, symbol or abbreviation in either language.

    Returns:
        The entries; none if nothing is like the query.

    Examples:
        >>> [entry.en.term for entry in find(entries(), "rollout")][:1]
        ['rollout']
        >>> find(entries(), "rolout")[0].en.term  # typing errors are forgiven
        'rollout'
    """
    key = fold(query)
    if not key:
        return []
    typed = query.strip()
    fits = [(fit, typed not in e.spelt, e.id, e) for e in entries if (fit := _best_fit(e.names, key))]
    return [entry for *_order, entry in sorted(fits, key=lambda row: row[:3])] or alike(entries, key)


def _best_fit(names: Sequence[str], key: str) -> tuple[int, int] | None:
    """Kind of the best fit and length of the name that has it: of equal fits the shorter name is the closer one."""
    fits = [(kind, len(name)) for name in names if (kind := _fit(name, key)) is not None]
    return min(fits, default=None)


def _fit(name: str, key: str) -> int | None:
    if name.startswith(key):
        return EXACT if name == key else PREFIX
    if f" {key}" in name:
        return WORD
    return INSIDE if len(key) >= SHORTEST_INSIDE and key in name else None


def alike(entries: Iterable[Entry], key: str) -> list[Entry]:
    """Entries that have a name, or a word of a name, spelt much like a folded query, most alike first."""
    matcher, entries = _matcher(key), list(entries)
    # Many entries share a word, so each is compared once.
    likeness = {text: _likeness(matcher, text) for text in {t for e in entries for t in (*e.names, *e.words)}}

    def share(entry: Entry) -> float:
        whole = max(likeness[name] for name in entry.names)
        return max([whole, *(JUST_A_WORD * likeness[word] for word in entry.words)])

    return _most_alike([(found, entry) for entry in entries if (found := share(entry)) >= LIKE_ENOUGH])


def nearest(entries: Iterable[Entry], query: str, count: int = 3) -> list[Entry]:
    """The entries whose terms are spelt most like a query, however little that is.

    Examples:
        >>> len(nearest(entries(), "qwertz"))
        3
    """
    matcher, scored, best = _matcher(fold(query)), [], [0.0] * count
    for entry in entries:  # only what may still be among the best is worth a close look
        share = max(_likeness(matcher, fold(w.term), best[0]) for w in (entry.en, entry.pt))
        scored.append((share, entry))
        best = sorted([*best, share])[1:]
    return _most_alike(scored)[:count]


def _matcher(key: str) -> SequenceMatcher:
    return SequenceMatcher(None, "", key[:LONGEST], autojunk=False)


def _likeness(matcher: SequenceMatcher, name: str, at_least: float = LIKE_ENOUGH) -> float:
    """Share of letters in common, in their order; 0 if a quick look already shows that it is too small."""
    matcher.set_seq1(name)
    worth_it = matcher.real_quick_ratio() >= at_least and matcher.quick_ratio() >= at_least
    return matcher.ratio() if worth_it else 0.0


def _most_alike(scored: list[tuple[float, Entry]]) -> list[Entry]:
    return [entry for _share, entry in sorted(scored, key=lambda pair: (-pair[0], pair[1].id))]


# --- as HTML ----------------------------------------------------------------------------------------------------------


def name_html(entry: Entry) -> str:
    """The name of an entry, its symbol, and its name in the other language."""
    here, other = (language(), "en" if language() == "pt" else "pt")
    symbol = f" <code>{escape(entry.symbol)}</code>" if entry.symbol else ""
    elsewhere = entry.en.term if other == "en" else entry.pt.term
    return f'<b lang="{TAGS[here]}">{escape(entry.term)}</b>{symbol} · <i lang="{TAGS[other]}">{escape(elsewhere)}</i>'


def link_html(entry: Entry) -> str:
    """A link to the cell where the term is at work."""
    name = _("lesson {number}").format(number=entry.lesson_number)
    return f'<a href="{escape(entry.link)}">{escape(name)}</a>'


def entry_html(entry: Entry, more: Sequence[Entry] = ()) -> str:
    """An entry in the chosen language, with its other names and its cell.

    Args:
        entry: what to show.
        more: related entries to name.
    """
    also, names = ", ".join(entry.wording.also), ", ".join(other.term for other in more)
    last = [escape(_("Also under: {names}.").format(names=also))] if also else []
    last.append(escape(_("Seen at work: {place}.")).format(place=link_html(entry)))
    last += [escape(_("Related: {names}.").format(names=names))] if names else []
    return (
        f'<p>{name_html(entry)}</p><p lang="{TAGS[language()]}">{prose(entry.wording.definition)}</p>'
        f'<p class="ch-hint" lang="{TAGS[language()]}">{" ".join(last)}</p>'
    )


def table_html(entries: Sequence[Entry]) -> str:
    """Entries as a table: term, symbol, definition, lesson."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in (_("term"), _("definition"), _("lesson")))
    rows = "".join(
        f"<tr><td>{name_html(entry)}</td><td>{prose(entry.wording.definition)}</td><td>{link_html(entry)}</td></tr>"
        for entry in entries
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def nothing_found(query: str) -> str:
    """What to say about a query that fits no term."""
    return _("Nothing is called “{query}” here.").format(query=query)


# --- what a learner calls -----------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Answer:
    """What was found for a query; shows itself in a notebook, in the language chosen at that moment.

    Attributes:
        query: what was looked for.
        found: entries that it may mean, best first.
        near: if there is none, those whose names come nearest.
    """

    query: str
    found: tuple[Entry, ...]
    near: tuple[Entry, ...] = ()

    def in_words(self) -> str:
        """What else was found or, if nothing was, what comes nearest."""
        if not self.found:
            nearest_terms = _("The nearest terms: {names}.").format(names=", ".join(e.term for e in self.near))
            return f"{nothing_found(self.query)} {nearest_terms}"
        names = ", ".join(entry.term for entry in self.found[1 : 1 + MOST_OTHERS])
        return _("Also found: {names}.").format(names=names) if names else ""

    def _repr_html_(self) -> str:
        best = entry_html(self.found[0], related(self.found[0])) if self.found else ""
        return no_formulas(f"{best}<p>{escape(self.in_words())}</p>")

    def __repr__(self) -> str:
        """The same as plain text."""
        best = [entry_text(self.found[0])] if self.found else []
        return "\n".join(filter(None, [*best, self.in_words()]))


@dataclass(frozen=True, repr=False)
class Listing:
    """All entries, in alphabetical order of the chosen language.

    Attributes:
        entries: what it lists.
    """

    entries: tuple[Entry, ...]

    def ordered(self) -> list[Entry]:
        """By their names in the chosen language."""
        return sorted(self.entries, key=lambda entry: fold(entry.term))

    def title(self) -> str:
        """How many there are."""
        count = len(self.entries)
        return ngettext("{count} term", "{count} terms", count).format(count=count)

    def _repr_html_(self) -> str:
        return no_formulas(f"<p>{escape(self.title())}</p>{table_html(self.ordered())}")

    def __repr__(self) -> str:
        """One line a term."""
        return "\n".join([self.title(), *(f"  {_heading(entry)}" for entry in self.ordered())])


def entry_text(entry: Entry) -> str:
    """An entry as plain text."""
    also, names = ", ".join(entry.wording.also), ", ".join(other.term for other in related(entry))
    parts = [
        entry.wording.definition,
        _("Also under: {names}.").format(names=also) if also else "",
        _("Seen at work: {place}.").format(place=f"{entry.lesson}.ipynb, {entry.cell}"),
        _("Related: {names}.").format(names=names) if names else "",
    ]
    indent = "  "
    body = [textwrap.fill(p, 88, initial_indent=indent, subsequent_indent=indent) for p in parts if p]
    return "\n".join([_heading(entry), *body])


def _heading(entry: Entry) -> str:
    elsewhere = entry.en.term if language() == "pt" else entry.pt.term
    return f"{entry.term} · {elsewhere}" + (f"   {entry.symbol}" if entry.symbol else "")


def glossary(query: str = "") -> Answer | Listing:
    """Look a term up, by a name, symbol or abbreviation in either language, typing errors forgiven.

    Args:
        query: such as "KL", "β", "funcao de particao"; empty for the list of all terms.

    Returns:
        What was found, which shows itself in a notebook; it never fails because nothing was found.

    Raises:
        ValueError: the query is no text.

    Examples:
        >>> glossary("KL").found[0].en.term
        'Kullback-Leibler divergence'
    """
    require(isinstance(query, str), "query", query, 'a text, such as "KL" or "β"')
    if not query.strip():
        return Listing(entries())
    found = tuple(find(entries(), query))
    return Answer(query, found, () if found else tuple(nearest(entries(), query)))
