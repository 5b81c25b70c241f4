"""The language in which the course speaks to a learner: English, or Brazilian Portuguese.

Widgets, checks, hints, quizzes, labels of figures and the glossary pass their words through `_`, the classic name of
gettext. The catalogue is `assets/locale/pt/LC_MESSAGES/course_helpers.po`; `tools/make_catalogue.py` keeps it up to
date.

The chosen language is the one thing this package remembers for the whole process, as Python's own `locale` does: a
learner chooses it once, and every widget already on the page follows.
"""

from __future__ import annotations

import gettext
import os
import warnings
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from course_helpers.assets import AssetError, asset

DOMAIN = "course_helpers"
LANGUAGES = {"en": "English", "pt": "Português (Brasil)"}
TAGS = {"en": "en", "pt": "pt-BR"}  # what HTML calls them; a screen reader chooses its voice by it
# The first that is set counts; the last four are gettext's, in its order.
VARIABLES = ("COURSE_LANGUAGE", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")

_chosen: str | None = None  # None: nobody has asked yet; the first who does looks into the environment
_followers: weakref.WeakKeyDictionary[Any, list[Callable[[Any], None]]] = weakref.WeakKeyDictionary()


def language(code: str | None = None) -> str:
    """Choose the language the course speaks, at once and everywhere; without an argument, only tell which one it is.

    Args:
        code: "en" or "pt"; forms like "pt-BR" or "en_US" are understood.

    Returns:
        "en" or "pt".

    Raises:
        ValueError: the course does not speak that language.

    Examples:
        >>> language()
        'en'
    """
    global _chosen
    if code is not None:
        short = _short(code)
        if short is None:
            spoken = " or ".join(f'"{known}" ({name})' for known, name in LANGUAGES.items())
            raise ValueError(f"language is {code!r}; it must be {spoken}.")
        _chosen = short
        _catalogue(short)  # if it is damaged, that is said here and not when a slider moves
        _tell_followers()
    elif _chosen is None:
        _chosen = language_of(os.environ)  # once: a panel asks dozens of times when a slider moves
    return _chosen


def language_of(environment: os._Environ[str] | dict[str, str]) -> str:
    """The language an environment asks for: its first variable that is set; English if that is none of ours."""
    wanted = next((environment[name] for name in VARIABLES if environment.get(name)), "en")
    return _short(wanted.split(":")[0]) or "en"


def _short(code: object) -> str | None:
    """'pt' for 'pt', 'PT-br' and 'pt_BR.UTF-8'; None for a language that is not ours."""
    short = code.strip().lower().replace("-", "_").split("_")[0].split(".")[0] if isinstance(code, str) else None
    return short if short in LANGUAGES else None


def _tell_followers() -> None:
    for reference in _followers.keyrefs():  # a copy: meanwhile another thread may make a widget
        owner = reference()
        for action in _followers.get(owner, []) if owner is not None else []:
            action(owner)


@lru_cache
def _catalogue(code: str) -> gettext.NullTranslations:
    """The words of a language. Those of a damaged file are English: a message about it must itself be possible."""
    if code == "en":
        return gettext.NullTranslations()
    try:
        with asset(f"locale/{code}/LC_MESSAGES/{DOMAIN}.mo").open("rb") as file:
            return gettext.GNUTranslations(file)
    except AssetError as error:
        warnings.warn(f"Until the kernel is restarted the course speaks English: {error}", stacklevel=3)
        return gettext.NullTranslations()


def _(message: str) -> str:
    """A message in the chosen language. Values go in afterwards: ``_("step {step}").format(step=3)``."""
    return _catalogue(language()).gettext(message) if message else ""


def ngettext(one: str, many: str, count: float) -> str:
    """The form of a message that fits a number: ``ngettext("{n} token", "{n} tokens", n).format(n=n)``."""
    return _catalogue(language()).ngettext(one, many, count)


def N_(message: str) -> str:  # noqa: N802  the name gettext's tools look for
    """Mark a constant for the catalogue; `_` translates it where it is shown."""
    return message


def follow(owner: Any, action: Callable[[Any], None]) -> None:
    """Call ``action(owner)`` whenever the language changes, for as long as `owner` lives.

    Args:
        owner: what speaks; only a weak reference is kept, so `action` must not hold it.
        action: says it again, in the new language.
    """
    _followers.setdefault(owner, []).append(action)


def say(owner: Any, trait: str, message: str, shape: Callable[[str], str] = str) -> None:
    """Set a text of a widget in the chosen language, and again whenever that changes.

    Args:
        owner: the widget.
        trait: name of its text, such as "description".
        message: the English text, marked with `N_` where it is written.
        shape: what is made of the translated text, such as HTML around it.
    """

    def speak(widget: Any) -> None:
        setattr(widget, trait, shape(_(message)))

    speak(owner)
    follow(owner, speak)


class SpokenError(ValueError):
    """Says what a learner should do; it may stay on the page, so its words follow the language.

    ::

        raise SpokenError(N_("step is {step}; it must be at least 1."), step=step)

    Args:
        message: the English text, marked with `N_` where it is written.
        **values: what goes into its placeholders.
    """

    def __init__(self, message: str, **values: object):
        """Nothing is translated before it is read."""
        super().__init__(message)
        self.values = values

    def __str__(self) -> str:
        """The words in the language of the moment."""
        return _(self.args[0]).format(**self.values)
