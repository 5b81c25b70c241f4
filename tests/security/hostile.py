"""Texts that want to be more than text, and what a piece of HTML is made of.

Every script among them sets ``window.__hit``, asks for a file of the machine ``away.invalid``, or opens a dialog: a
browser test looks for all three.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

import ipywidgets as widgets
from hypothesis import strategies

HIT = "window.__hit=1"
LONG = "w" * 20_000
HALF = "half \ud800 letter \udc80"  # no encoding knows it
MARKUP = (
    f"<script>{HIT};alert(1)</script>",
    f"</style><script>{HIT}</script>",
    f"</script><script>{HIT}</script>",
    f"</pre></code></td></table></div><img src=x onerror={HIT}>",
    f'" onmouseover="{HIT}" autofocus onfocus="{HIT}" x="',
    f"' onload='{HIT}' style='animation-name:x' onanimationstart='{HIT}",
    f"<svg/onload={HIT}><style onload={HIT}></style></svg>",
    f"<svg><title></title><a xlink:href='javascript:{HIT}'><text>x</text></a></svg>",
    "<img src=//away.invalid/pixel.png><img src='https://away.invalid/a'>",
    "<style>@import url(//away.invalid/x.css);*{background:url(//away.invalid/y)}</style>",
    "<link rel=stylesheet href=//away.invalid/z.css><base href=//away.invalid/>",
    f"<iframe srcdoc='<script>parent.{HIT}</script>'></iframe><object data=//away.invalid/o></object>",
    f"<a href='javascript:{HIT}'>x</a><a href=' java\tscript:{HIT}'>y</a>",
    "<a href='data:text/html,<script>alert(1)</script>'>d</a><embed src=//away.invalid/e>",
    f"<math><mtext><table><mglyph><style><img src onerror={HIT}></style></table></mtext></math>",
    "<form action=//away.invalid/f><input autofocus name=q><button>send</button></form>",
    f"<details open ontoggle={HIT}><video><source onerror={HIT}></video></details>",
    f"<!-- --><!--><img src=x onerror={HIT}>--><![CDATA[<b>]]>",
    f"&lt;img src=x onerror={HIT}&gt; &amp;lt;script&amp;gt; &#60;b&#62; &#x3c;b&#x3e; &notanentity;",
    f"`</code><img src=x onerror={HIT}>` `unfinished <b>",
    "<b>bold</b><h1>large</h1><marquee>moves</marquee><meta http-equiv=refresh content=0;//away.invalid>",
    "<" * 50 + ">" * 50,
)
OTHER = (
    f"[x](javascript:{HIT}) ![y](//away.invalid/m.png) **bold** # head\n* item",
    r"$\LaTeX$ \(x\) \[y\] $\frac{$ $ $$ \$ $x_{$ $\unknown$",
    "\x1b[31mred\x1b[0m \x1b]8;;http://away.invalid\x07link\x1b]8;;\x07 \x07\x08\x7f\x9b31m",
    "right\u202eto\u2066left\u2069 zero\u200bwidth\u200d\ufeff\u2028line\u2029end\xadsoft",
    "null\x00byte",
    LONG,
    "width:expression(alert(1));background:url(//away.invalid/c)}*{color:red",
    "{} {0} {x} {0.__class__.__mro__} {self} {count!r} %s %(x)d %n {{7*7}} ${7*7} <%= 7*7 %> #{7*7}",
    "quotes \" ' ` “ ” \\\" \\' \\` mixed \"'`\"'",
    "family 👩‍👩‍👧‍👦 flag 🇧🇷 letter é Zalgo z̸̢̛͇ full ａ",
    "data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==",
    "../../../etc/passwd; rm -rf ~ | $(id) `id` && \\\\host\\share",
    " leading and trailing \t\r\n\v\f ",
)
HOSTILE = (*MARKUP, *OTHER, HALF)
ALL = " ".join(text for text in HOSTILE if text not in (LONG, HALF))

PARTS = strategies.sampled_from(
    ["<", ">", "&", '"', "'", "`", "</", "/>", "<!--", "-->", "=", " ", "\n", "script", "style", "img", "svg",
     "onload=", "src=", "href=", "javascript:", "&lt;", "&#60", "{", "}", "$", "\\", "]]>", "\x00",
     "\u202e", "\ud800", "a"]
)  # fmt: skip
MIXED = strategies.lists(PARTS, min_size=1, max_size=25).map("".join) | strategies.sampled_from(HOSTILE)


class Parts(HTMLParser):
    """What HTML is made of, as a browser would see it.

    Attributes:
        elements: names of the elements.
        attributes: pairs of an element and an attribute of it.
        code: what a browser would run, load or take for style: scripts, sheets, event handlers, links, styles.
        words: text outside of sheets, and the values of attributes that are words.
    """

    WORDS = ("title", "aria-label", "alt", "data-value-of", "data-names")

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.code: set[str] = set()
        self.words: list[str] = []
        self._in_code = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self._in_code = tag in ("script", "style")
        for name, value in attrs:
            self.attributes.add((tag, name))
            if name in self.WORDS:
                self.words.append(value or "")
            elif name.startswith("on") or name in ("href", "src", "srcdoc", "xlink:href", "style", "class", "id"):
                if name == "href" and re.fullmatch(r"[0-9a-z_]+\.ipynb#cell-id=[a-z0-9-]+", value or ""):
                    value = "a lesson"
                # Lengths, colours and numbers are drawn from data; what is around them is the widget's own.
                self.code.add(f"{name}={re.sub(r'#[0-9a-f]{6}|-?[0-9.]+', '0', value or '')}")

    def handle_endtag(self, tag: str) -> None:
        self._in_code = False

    def handle_data(self, data: str) -> None:
        (self.code.add if self._in_code else self.words.append)(data)

    def handle_comment(self, data: str) -> None:
        self.elements.add("!--")

    def handle_decl(self, data: str) -> None:
        self.elements.add("!decl")

    def unknown_decl(self, data: str) -> None:
        self.elements.add("![")

    def handle_pi(self, data: str) -> None:
        self.elements.add("?")


def pages(panel: widgets.Widget) -> str:
    """All HTML of a panel: of each of its parts, of what it displays, and of where no kernel runs."""
    shown = panel._repr_mimebundle_()["text/html"]
    for part in parts_of(panel):
        if isinstance(part, widgets.HTML):
            shown += f"<div>{part.value}</div>"
        elif isinstance(part, widgets.Output):
            shown += "".join(output["data"].get("text/html", "") for output in part.outputs)
    return shown


def parts_of(widget: widgets.Widget) -> list[widgets.Widget]:
    """A widget and all that is in it."""
    below = [part for child in getattr(widget, "children", ()) for part in parts_of(child)]
    return [widget, *below]


def press_everything(panel: widgets.Widget) -> None:
    """Press every button that is on show; buttons that appear meanwhile are pressed, too."""
    pressed: set[str] = set()
    for _round in range(3):
        for part in parts_of(panel):
            there = isinstance(part, widgets.Button) and part.comm is not None  # None: pressing another took it away
            shown = there and part.layout.display != "none" and not part.disabled
            if shown and part.model_id not in pressed:
                pressed.add(part.model_id)
                part.click()


def type_everywhere(panel: widgets.Widget, text: str) -> None:
    """Type a text into every field of a panel."""
    for part in parts_of(panel):
        if isinstance(part, widgets.Text | widgets.Textarea):
            part.value = text
