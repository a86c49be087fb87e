"""The playground: check the bytes on a terminal, and the ids and merges in a real browser. The page
is a second implementation of the tokenizer, in JavaScript. Its reference is `BPETokenizer.encode`,
which other tests compare with tiktoken and `tokenizers`."""

from __future__ import annotations

import doctest
import functools
import itertools
import json
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from helpers import tiny
from helpers.text_generators import CONTROLS, OVERLAPPING, random_text
from scratchlm.cli.tokenize import main as tokenize
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.inspection import merge_steps
from scratchlm.tokenizer.pieces.character_classes import category
from scratchlm.tokenizer.pieces.patterns import PATTERNS, find_pieces
from scratchlm.tokenizer.playground import browser_pattern as pattern_module
from scratchlm.tokenizer.playground import page
from scratchlm.tokenizer.playground.browser_pattern import browser_pattern
from scratchlm.tokenizer.playground.page import page_of, show, write_page
from scratchlm.tokenizer.train import train_bpe_from_texts

TEMPLATE = Path(page.__file__).with_name("playground.html").read_text(encoding="utf-8")
SPECIALS = ["<|endoftext|>", "<|end|>", "<|end|><|end|>", "a.*b", "</script><b>"]
TEXTS = [
    *("", " ", "   ", "\n", "\n\n\n", " \n \n", "\t\ta", "a ", "a  ", "a  b", "a\n", "\xa0\u3000"),
    *("the cat sat on a mat", "The CAT's", "I'LL don't we'Ve it'\u017f \u212aelvin", "'s's 's"),
    *("12", "1234567", "3.14, 1,000,000", "x1y22z333", "٣٤٥", "½ ² Ⅷ", "\U0001d7d8\U0001d7d9"),
    *("!!!", "...\n", "//\n/", "/* a */\n", "a@b.cd", "http://a.b/c?d=e&f#g", "\\n \\u00e9"),
    *("def f(x):\n    return x\n", "\tif (a == b) {\n\t\tc += 1;\n\t}\n", "camelCase HTTPServer"),
    *("<b>bold</b>", "<script>alert(1)</script>", "<!--", "&lt;", "{{tokenizer}}", "a.*b aX*b"),
    *("<|endoftext|>", "a<|end|>b<|end|><|end|><|end|>\n", "<|endoftext|", "</script><b>"),
    *("中文字符", " 日本語です。", "カタカナ", "한국어 글", "שלום עולם", "العربية", "हिन्दी", "ไทย"),
    *("Привет, мир", "Ελλάδα", "გამარჯობა", "հայ", "naïveté é e\u0301", "ǅ ẞ ʰ İ", "ﬁ ™"),
    *("\u0301 1\u0301", "🙂", "👍🏽 👩\u200d👩\u200d👧\u200d👦", "🇫🇷🇩🇪", "❤\ufe0f"),
    *("\U00010400\U00010428", "\U00020000\U0002a6df", "\x00\x01\x1b[31m", "\x7f\x85", "\ufffd"),
    *("\u202eabc\u202c \u200b\ufeff", "\ue000\uffff", "\u1c89\U00010d50\U00016ebb", "a" * 99),
]  # fmt: skip
BYTES = {i: bytes([i]) for i in range(256)}


@functools.cache
def trained(pattern: str) -> BPETokenizer:
    """A tokenizer that has merges in all kinds of text."""
    texts = ["\n".join(TEXTS * 3), tiny.text(300)]
    return train_bpe_from_texts(texts, 600, special_tokens=SPECIALS, pattern=PATTERNS[pattern])


# The terminal


@pytest.mark.parametrize("module", [page, pattern_module])
def test_the_doctest(module) -> None:
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


def test_each_token_has_a_colour_or_a_bar() -> None:
    tokenizer = trained("gpt2")
    text = "the cat<|end|> 中文🙂 1"
    tokens = [tokenizer.decode_bytes([id]) for id in tokenizer.encode(text)]
    assert b"<|end|>" in tokens
    line, ids, counts = show(tokenizer, text, colour=True).split("\n")
    coloured = re.findall(r"\x1b\[30;48;5;(\d+)m([^\x1b]*)\x1b\[0m", line)
    assert "".join(f"\x1b[30;48;5;{colour}m{token}\x1b[0m" for colour, token in coloured) == line
    assert all(a != b for (a, _), (b, _) in itertools.pairwise(coloured))
    assert [token for _, token in coloured] == [page.visible(token) for token in tokens]
    plain = show(tokenizer, "the cat").split("\n")
    assert plain[0].replace("|", "") == "the cat"
    assert ids.split()[1:] == [str(id) for id in tokenizer.encode(text)]
    ratio = len(text.encode()) / len(tokens)
    assert counts == f"tokens {len(tokens)}, characters 20, bytes 27, bytes/token {ratio:.2f}"


def test_bytes_of_a_cut_character_are_shown() -> None:
    tokenizer = BPETokenizer(BYTES | {256: b"\xe4\xb8"}, [(b"\xe4", b"\xb8")])
    assert show(tokenizer, "a中é").split("\n")[0] == "a|<E4><B8>|<AD>|<C3>|<A9>"


def test_nothing_in_the_text_moves_the_cursor() -> None:
    tokenizer = BPETokenizer(BYTES, [], [CONTROLS])
    for text in (CONTROLS, " ".join(CONTROLS), "\u202e\u2066\u2028\u061c", "a\r\x1b[2J\x9b31m"):
        for colour in (False, True):
            shown = re.sub(r"\x1b\[(0|30;48;5;\d+)m", "", show(tokenizer, text, colour=colour))
            assert re.findall(r"[^ -~]", shown.replace("\n", "", 2)) == []


def test_colours_are_for_terminals_only(tmp_path, monkeypatch, capsys) -> None:
    trained("gpt2").save(tmp_path / "t.json")
    words = ["--tokenizer_path", str(tmp_path / "t.json"), "--show", "the cat\x1b[2J"]
    for terminal, no_color, coloured in (
        (True, None, True),
        (True, "", True),
        (True, "1", False),
        (False, None, False),
    ):
        monkeypatch.delenv("NO_COLOR", raising=False)
        if no_color is not None:
            monkeypatch.setenv("NO_COLOR", no_color)
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        assert tokenize(words) == 0
        said = capsys.readouterr().out
        assert ("\x1b[30;48;5;" in said) == coloured
        assert "\x1b[2J" not in said


def test_a_new_tokenizer_is_shown_in_the_same_call(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.corpus(tmp_path)
    words = ["--corpus", "corpus.txt", "--vocab_size", "300", "--show", "the cat"]
    assert tokenize([*words, "--html", "page.html", "--encode", "corpus.txt"]) == 0
    said = capsys.readouterr().out
    assert "ids  " in said
    assert "page of 0.1 MB: page.html" in said
    assert data_of((tmp_path / "page.html").read_text(encoding="utf-8"))["name"] == "tokenizer.json"
    words = ["--tokenizer_path", "tokenizer.json", "--html", "page.html", "--show="]
    assert tokenize(words) == 0, "a page is replaced, as every output is"
    assert "tokens 0, characters 0, bytes 0\n" in capsys.readouterr().out


# The page as text


class Elements(HTMLParser):
    """The elements of a page, with what stands in each script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script" and data.strip():
            self.scripts.append(data)


def data_of(page: str) -> dict:
    return json.loads(Elements(page).scripts[0])


def test_no_token_ends_the_script() -> None:
    hostile = [
        "</script><script>alert(1)</script>",
        "<!--<script>",
        "]]>",
        "\u2028</SCRIPT >",
        "\\",
    ]
    tokenizer = BPETokenizer(BYTES | {256: b"</"}, [(b"<", b"/")], hostile)
    page = page_of(tokenizer, "</script>.json")
    assert Elements(page).tags == Elements(TEMPLATE).tags
    assert len(re.findall("(?i)</script|<!--", page)) == len(
        re.findall("(?i)</script|<!--", TEMPLATE)
    )
    data = data_of(page)
    assert data["name"] == "</script>.json"
    assert sorted(data["specials"]) == sorted(hostile)
    assert data["tokens"][256] == "</"


def test_the_page_asks_for_nothing() -> None:
    assert "default-src 'none'" in TEMPLATE
    assert not re.search(
        r"https?:|//[a-z]|\bsrc=|href|url\(|@import|fetch|innerHTML|eval", TEMPLATE
    )


def test_a_page_of_50000_ids_is_below_3_megabytes(tmp_path) -> None:
    """Of Chinese, whose bytes are written as characters of two bytes each."""
    rng = random.Random(0)
    vocab, merges = dict(BYTES), []
    made = set(vocab.values())
    while len(vocab) < 50_000:
        a, b = rng.choice(vocab), bytes([rng.randrange(0x80, 0xF0)])
        if len(a) < 9 and a + b not in made:
            merges.append((a, b))
            made.add(a + b)
            vocab[len(vocab)] = a + b
    size = write_page(
        BPETokenizer(vocab, merges, pattern=PATTERNS["o200k"]), tmp_path / "p.html", ""
    )
    assert size == (tmp_path / "p.html").stat().st_size
    assert 1e6 < size < 3e6


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"(?i:'s|x[k])|.", "(?:'[sS\u017f]|[xX][kK\u212a])|[^\\n]"),
        (r"[^\n\-\[\].a-z]+?|\#\/\n|\x41\u4e2d", r"[^\n\u{2d}\[\].a-z]+?|\u{23}\/\n|\x41\u4e2d"),
        (r"(?<!a)b{,3}c|(?:c){2}", r"(?<!a)b{0,3}c|(?:c){2}"),
        (r"\s", r"[\u{9}-\u{d}\u{20}\u{85}\u{a0}\u{1680}\u{2000}-\u{200a}\u{2028}\u{2029}"
                r"\u{202f}\u{205f}\u{3000}]"),
        (r"[\s_]", r"[\u{9}-\u{d}\u{20}\u{85}\u{a0}\u{1680}\u{2000}-\u{200a}\u{2028}\u{2029}"
                   r"\u{202f}\u{205f}\u{3000}_]"),
    ],
)  # fmt: skip
def test_a_pattern_in_javascript(pattern: str, expected: str) -> None:
    assert browser_pattern(pattern) == expected


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        (r"a++|.", "possessive repeats"),
        (r"[a]?+.", "possessive repeats"),
        (r"(?>a|ab)c|.", "atomic groups"),
        (r"\p{Han}+|.", "other than Unicode categories"),
        (r"(?=a)*b|.", "repeated lookarounds"),
        (r"(?<!(?:a))?b|.", "repeated lookarounds"),
        (r"a*|.", "empty matches"),
        (r"\w+|.", "differently from character 0"),
    ],
)
def test_what_javascript_cannot_say_is_refused(pattern: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        browser_pattern(pattern)


# The page in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def window(browser: Browser) -> Page:
    return browser.new_page()


@pytest.fixture
def opened(window: Page, tmp_path) -> Iterator[Callable[[BPETokenizer], Page]]:
    """Open the page of a tokenizer. At the end, check that it logged no error and requested no
    file."""
    complaints: list[str] = []
    requests: list[str] = []
    listeners = {
        "console": lambda message: complaints.append(message.text),
        "pageerror": lambda error: complaints.append(error.message),
        "request": lambda request: requests.append(request.url),
    }
    path = tmp_path / "page.html"

    def open_page(tokenizer: BPETokenizer) -> Page:
        write_page(tokenizer, path, "tokenizer.json")
        for event, listener in listeners.items():
            window.on(event, listener)
        window.goto(path.as_uri())
        return window

    yield open_page
    for event, listener in listeners.items():
        window.remove_listener(event, listener)
    assert complaints == []
    assert requests == [path.as_uri()]


SHOWN = """texts => texts.map(text => {
    const box = document.getElementById("text");
    box.value = text;
    box.dispatchEvent(new Event("input"));
    const shown = (id) => document.getElementById(id).textContent;
    const counts = ["tokens", "characters", "bytes", "ratio"].map(name => shown(`count-${name}`));
    return [shown("ids"), shown("tokens"), counts.join(" ")];
})"""
ENCODED = "texts => texts.map(text => tokenizer.encode(text).ids.join(' '))"


def encoded(tokenizer: BPETokenizer, texts: list[str]) -> list[str]:
    return [" ".join(map(str, tokenizer.encode(text))) for text in texts]


def looks(token: bytes, space: str = " ") -> str:
    """Return the bytes of a token as the page shows them."""
    signs = {"\n": "⏎\n" if space == " " else "⏎", "\r": "␍", "\t": "⇥", "\xa0": "nbsp", " ": space}
    text = re.sub(
        r"[\x00-\x20\x7f-\xa0\u200b-\u200f\u2028-\u202e\ufeff]",
        lambda match: signs.get(match[0], f"U+{ord(match[0]):04X}"),
        token.decode("utf-8", "surrogateescape"),
    )
    return re.sub("[\udc80-\udcff]", lambda match: f"{ord(match[0]) - 0xDC00:02X}", text)


@pytest.mark.parametrize("name", PATTERNS)
def test_the_page_shows_the_ids_of_encode(opened, name: str) -> None:
    tokenizer = trained(name)
    page = opened(tokenizer)
    assert page.title() == "scratchlm: tokenizer playground"
    about = f"600 ids · 339 merges · 5 special tokens · pattern {name}"
    assert page.inner_text("#about") == f"tokenizer.json · {about}"
    for text, (ids, tokens, counts) in zip(TEXTS, page.evaluate(SHOWN, TEXTS), strict=True):
        expected = tokenizer.encode(text)
        assert ids.split() == [str(id) for id in expected], text
        assert tokens == "".join(looks(tokenizer.vocab[id]) for id in expected)
        size = len(text.encode())
        *numbers, ratio = counts.split()
        assert numbers == [str(len(expected)), str(len(text)), str(size)]
        if expected:
            assert float(ratio) == pytest.approx(size / len(expected), abs=0.00501)
    rng = random.Random(name)
    texts = [random_text(rng) for _ in range(200)] + [text.replace("\n", "\r\n") for text in TEXTS]
    assert page.evaluate(ENCODED, texts) == encoded(tokenizer, texts)


def test_the_page_has_the_letters_of_unicode_16(opened) -> None:
    """Cut a text with the first and last code point of each run of a category, by each pattern."""
    page = opened(BPETokenizer(BYTES, []))
    names = ("L", "M", "N", "P", "S", "Z", "C", "Lu", "Ll", "Lt", "Lm", "Lo", "Cn")
    edges = {edge for name in names for run in category(name) for edge in run}
    edges -= set(range(0xD800, 0xE000))
    text = "".join(f"a{chr(c)}b {chr(c)}1\n{chr(c)}'s" for c in sorted(edges))
    for pattern in PATTERNS.values():
        source = browser_pattern(pattern)
        lengths = page.evaluate(
            "([source, text]) => text.match(new RegExp(source, 'gu')).map(p => [...p].length)"
            ".join(' ')",
            [source, text],
        )
        assert lengths == " ".join(str(len(piece)) for piece in find_pieces(pattern)(text))


STEPS = """() => [...document.querySelectorAll(".steps li")].map(step =>
    [step.dataset.rank, [...step.querySelectorAll(".parts .part")].map(part => part.textContent)]
)"""


def read_steps(page: Page) -> list[tuple[str, list[str]]]:
    return [(rank, parts) for rank, parts in page.evaluate(STEPS)]


def test_a_clicked_token_shows_its_merges(opened) -> None:
    tokenizer = trained("gpt2")
    page = opened(tokenizer)
    text = "the birds über 中文字符 aaaaa <|end|>"
    page.fill("#text", text)
    ranks = {pair: rank for rank, pair in enumerate(tokenizer.merges)}
    i = 0
    for piece in ["the", " birds", " über", " 中文字符", " aaaaa", " "]:
        ids = tokenizer.encode(piece, allowed_special="none")
        last = i + len(ids) - 1
        page.locator("#tokens .token").nth(last).dispatch_event("click")
        assert read_steps(page) == [
            ("" if rank is None else f"merge {rank:,}", [looks(part, "␣") for part in parts])
            for parts, rank in merge_steps(piece.encode(), ranks)
        ]
        token = tokenizer.vocab[ids[-1]]
        assert page.locator(".facts dd").all_text_contents() == [
            looks(token, "␣"), str(ids[-1]), token.hex(" ").upper()
        ]  # fmt: skip
        i = last + 1
    page.locator("#ids .token").nth(i).click()
    assert "before it merges" in page.inner_text("#chosen")
    page.locator("#tokens .token").first.hover()
    assert page.inner_text("#near") == f"id {tokenizer.encode('the')[0]}, 3 bytes: 74 68 65"


def test_tokens_are_chosen_by_keys(opened) -> None:
    page = opened(trained("gpt2"))
    page.locator("#text").fill("")
    page.locator("#text").press_sequentially("the cat")
    count = page.locator("#tokens .token").count()
    assert count > 1
    page.locator("#crlf").focus()
    for key, chosen in (("Tab", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", count)):
        page.keyboard.press(key)
        assert page.inner_text("#chosen h2 >> nth=0") == f"Token {chosen} of {count}"
        assert page.locator("[aria-selected=true]").count() == 1
    assert page.evaluate("document.activeElement.dataset.i") == str(count - 1)


def test_what_is_asked_of_the_text(opened) -> None:
    tokenizer = trained("llama3")
    page = opened(tokenizer)
    page.fill("#text", "a<|end|>\nb")
    for box, text, allowed in (
        ("#obey", "a<|end|>\nb", "none"),
        ("#crlf", "a<|end|>\r\nb", "none"),
        ("#obey", "a<|end|>\r\nb", "all"),
    ):
        page.click(box)
        assert page.inner_text("#ids").split() == list(map(str, tokenizer.encode(text, allowed)))


@pytest.mark.parametrize("form", ["NFC", "NFKD"])
def test_whole_pieces_normal_forms_and_overlapping_specials(opened, form) -> None:
    whole = {256: b"the", 257: b" cat", 300: "é".encode(), 301: b"th", 302: b"</", 303: b"abc"}
    merges = [(b"t", b"h"), (b"<", b"/")]
    specials = [*OVERLAPPING, "abc"]  # "abc" is special: no piece is it
    tokenizer = BPETokenizer(
        BYTES | whole, merges, specials, PATTERNS["qwen2"], ignore_merges=True, normalization=form
    )
    page = opened(tokenizer)
    rng = random.Random(form)
    texts = [*TEXTS, "the cat thethe e\u0301 é", "abc", *(random_text(rng) for _ in range(100))]
    texts += ["".join(rng.choices([*OVERLAPPING, "the", " ", "é"], k=6)) for _ in range(100)]
    assert page.evaluate(ENCODED, texts) == encoded(tokenizer, texts)
    plain = page.evaluate("tokenizer.encode('abc', false).ids")
    assert plain == tokenizer.encode("abc", "none") == [97, 98, 99]
    page.fill("#text", "the")
    page.locator("#tokens .token").click()
    assert read_steps(page)[-2:] == [("merge 0", ["th", "e"]), ("whole piece", ["the"])]
    assert form in page.inner_text("#notes")


def test_what_cannot_be_encoded_is_said(opened) -> None:
    """The page gives the ids of `encode_array(strict=True)`, and nothing of the text before
    remains."""
    tokenizer = BPETokenizer({1: b"a", 5: b"b"}, [], pattern=r"[abc]|\P{L}")
    page = opened(tokenizer)
    for text in ("a\ud83d", "abc", "ab\n", "a中"):
        with pytest.raises(ValueError) as error:
            tokenizer.encode_array(text, strict=True)
        (ids, tokens, _counts), *_ = page.evaluate(SHOWN, [text])
        assert (ids, tokens) == ("", "")
        assert page.is_visible("#error")
        said = page.inner_text("#error")
        assert said.startswith("the ")
        assert str(error.value).startswith(said.split(" in ")[0])
    page.evaluate(SHOWN, ["ab"])
    assert page.is_hidden("#error")
    assert page.inner_text("#ids").split() == ["1", "5"]


def test_a_long_text_is_encoded_whole_and_drawn_in_part(opened) -> None:
    """Long words too, which a heap merges: of random letters, of one, of spaces, of Chinese."""
    tokenizer = trained("gpt2")
    page = opened(tokenizer)
    rng = random.Random(0)
    texts = [
        "".join(rng.choices("athecs", k=40_000)),
        "a" * 4_001,
        " " * 4_000 + "a",
        "中文" * 2_000,
        tiny.text(2_000),
    ]
    assert page.evaluate(ENCODED, texts) == encoded(tokenizer, texts)
    page.evaluate(SHOWN, texts[:1])
    assert page.locator("#tokens .token").count() == page.locator("#ids .token").count() == 2000
    count = len(tokenizer.encode(texts[0]))
    assert page.inner_text("#capped") == (
        f"The first 2,000 of {count:,} tokens are shown. The counts include all tokens."
    )
    assert page.inner_text("#count-tokens") == f"{count:,}"
    page.locator("#tokens .token").first.click()
    assert "The piece has 40,000 bytes" in page.inner_text("#chosen")
