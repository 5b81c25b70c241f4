"""Tokens as readable text: spaces, line ends and stray bytes are made visible."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

TokenName = Callable[[int], str]

SIGNS = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"}


def visible(text: str) -> str:
    """Text with ``·`` for a space, ``⏎`` for a new line, and an escape for every other sign that cannot be seen.

    Examples:
        >>> visible(" a film" + chr(10))
        '·a·film⏎'
    """
    return "".join(SIGNS.get(sign) or (sign if sign.isprintable() else ascii(sign)[1:-1]) for sign in text)


def readable(text: str) -> str:
    """Like `visible`, but with real spaces, for tokens that follow each other in a line of text.

    Examples:
        >>> readable(" film"), readable(" ")  # a space alone would not be seen
        (' film', '·')
    """
    return visible(text) if text.isspace() else visible(text).replace("·", " ")


def byte_level_table() -> dict[str, int]:
    """GPT-2's printable stand-in of each byte: its own character, or one from 256 on where that would be invisible.

    Examples:
        >>> byte_level_table()["Ġ"]  # the space, as it is written in GPT-2's vocabulary
        32
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(hidden)}


def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """The text of one token.

    A byte-level tokenizer may cut a letter such as ``é`` in two; half a letter is shown as its bytes, ``\\xc3``.

    Args:
        tokenizer: of any kind.
        token_id: in its vocabulary.

    Returns:
        The text as it is; `visible` shows its spaces.
    """
    text = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
    if "\N{REPLACEMENT CHARACTER}" not in text:
        return text
    table = byte_level_table()
    piece = tokenizer.convert_ids_to_tokens(token_id)
    if any(sign not in table for sign in piece):  # another kind of tokenizer: its own spelling is the best there is
        return piece
    return bytes(table[sign] for sign in piece).decode("utf-8", errors="backslashreplace")


def token_names(tokenizer: PreTrainedTokenizerBase) -> TokenName:
    """A function from a token id to its text."""
    return lambda token_id: token_text(tokenizer, int(token_id))
