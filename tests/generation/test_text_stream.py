"""Text in pieces: the joined pieces equal the result of `decode`, and contain no stop string."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import tiny
from scratchlm import BPETokenizer
from scratchlm.generation.text_stream import TextStream

TEXTS = [
    "",
    "plain",
    "a中😀é\u0301!",
    "👩‍👩‍👧‍👦 नमस्ते 中文字",
    "e\u0301\u0302 and Z͑ͫ̓",
    "\r\n\t\x00\ufffd",
    "😀" * 5,
]


@pytest.fixture(scope="module")
def of_bytes(tmp_path_factory: pytest.TempPathFactory) -> BPETokenizer:
    """Bytes alone: every character but ASCII is cut."""
    return tiny.tokenizer(tmp_path_factory.mktemp("bytes"), 257)


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> BPETokenizer:
    return tiny.tokenizer(tmp_path_factory.mktemp("merged"), 300)


@pytest.fixture(params=["of_bytes", "merged"])
def tokenizer(request: pytest.FixtureRequest) -> BPETokenizer:
    return request.getfixturevalue(request.param)


class Tokens:
    """Imitate a tokenizer whose ids are these tokens."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tokens

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return b"".join(self.tokens[id].encode() for id in ids)


def written(tokens: Sequence[str], stop: Sequence[str]) -> tuple[str, list[str], bool]:
    """Stream a text that is cut into these tokens. Return the text so far, its pieces, and whether
    it stopped."""
    stream = TextStream(Tokens(tokens), stop)
    pieces = []
    for id in range(len(tokens)):
        pieces.append(stream.push(id))
        if stream.stopped:
            break
    pieces.append(stream.close())
    return "".join(pieces), pieces, stream.stopped


def pieces_of(ids: Sequence[int], tokenizer: BPETokenizer) -> list[str]:
    """The text of the ids, in the pieces that are not empty."""
    stream = TextStream(tokenizer)
    return [piece for piece in (*map(stream.push, ids), stream.close()) if piece]


def by_character(text: str, stop: Sequence[str]) -> str:
    """Return the text before the first complete stop string. If several are complete, use the
    longest."""
    for end in range(len(text) + 1):
        ending = [len(each) for each in stop if text[:end].endswith(each)]
        if ending:
            return text[: end - max(ending)]
    return text


@pytest.mark.parametrize("text", TEXTS)
def test_joined_pieces_are_the_text_and_cut_no_character(
    tokenizer: BPETokenizer, text: str
) -> None:
    ids = tokenizer.encode(text)
    pieces = pieces_of(ids, tokenizer)
    assert "".join(pieces) == text
    assert "" not in pieces
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_comes_with_its_last_byte(of_bytes: BPETokenizer) -> None:
    stream = TextStream(of_bytes)
    ids = of_bytes.encode("a中😀")
    pieces = [stream.push(id) for id in ids]
    assert pieces == ["a", "", "", "中", "", "", "", "😀"]
    assert stream.close() == ""
    assert stream.count == len(ids)


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 299), max_size=40))
def test_any_ids_joined_are_decoded_whole(merged: BPETokenizer, ids: list[int]) -> None:
    assert "".join(pieces_of(ids, merged)) == merged.decode(ids)


@settings(deadline=None)
@given(
    values=st.lists(st.sampled_from([0x80, 0xBF, 0xC3, 0xE4, 0xED, 0xA0, 0xF0, 0x9F, 0xFF, 0x41]))
)
def test_invalid_bytes_joined_are_decoded_whole(of_bytes: BPETokenizer, values: list[int]) -> None:
    by_value = {of_bytes.vocab[id]: id for id in range(256)}
    ids = [by_value[bytes([value])] for value in values]
    assert "".join(pieces_of(ids, of_bytes)) == of_bytes.decode(ids)


@pytest.mark.parametrize(
    ("tokens", "stop", "expected"),
    [
        (["one ", "two ", "three"], ["two"], "one "),
        (["one t", "w", "o three"], ["two"], "one "),  # across token borders
        (["aa", "ab"], ["aab"], "a"),  # it begins twice
        (["a", "b", "a", "b", "a", "c"], ["abac"], "ab"),
        (["xy", "z"], ["zz", "yz"], "x"),
        (["ab", "cd"], ["d"], "abc"),  # at the very end
        (["ab", "cd"], ["cdx"], "abcd"),  # it begins and is never complete
        (["ab", "c"], ["cd", "bce"], "abc"),
        (["\n", "\n", "You:"], ["\n\nYou:"], ""),
        (["a", "b"], ["a"], ""),
        (["ab", "cd"], ["bcd", "c"], "ab"),  # c is complete before bcd
        (["abcd"], ["bcd", "c"], "ab"),  # whatever the borders are
        (["abcd"], ["d", "bcd"], "a"),  # complete together: the longest
        (["中文", "😀!"], ["😀"], "中文"),
        (["ab"], [], "ab"),
    ],
)
def test_the_text_ends_before_a_stop_string(
    tokens: list[str], stop: list[str], expected: str
) -> None:
    text, _, stopped = written(tokens, stop)
    assert text == expected == by_character("".join(tokens), stop)
    assert stopped == (text != "".join(tokens))


@settings(deadline=None, max_examples=300)
@given(
    tokens=st.lists(st.text("abc", min_size=1, max_size=4), max_size=12),
    stop=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_token_borders_change_nothing_and_nothing_is_given_away(
    tokens: list[str], stop: list[str]
) -> None:
    text, pieces, stopped = written(tokens, stop)
    whole = "".join(tokens)
    assert text == by_character(whole, stop)
    assert stopped == any(each in whole for each in stop)
    given_away = ""  # at any time, the pieces so far begin the final text
    for piece in pieces:
        given_away += piece
        assert text.startswith(given_away)
        assert not any(each in given_away for each in stop)


@settings(deadline=None, max_examples=200)
@given(
    tokens=st.lists(st.text("ab", min_size=1, max_size=3), max_size=10),
    stop=st.text("ab", min_size=1, max_size=4),
)
def test_no_more_is_held_than_a_stop_string_may_take(tokens: list[str], stop: str) -> None:
    """After each token, the stream gives the whole text except the longest end that begins a stop
    string."""
    _, pieces, stopped = written(tokens, [stop])
    text = given_now = ""
    for token, piece in zip(tokens, pieces[: len(tokens) - stopped], strict=False):
        text += token
        given_now += piece
        if stop in text:
            break
        held = max(n for n in range(len(stop)) if text.endswith(stop[:n]))
        assert given_now == text[: len(text) - held]


def test_nothing_comes_behind_a_stop(of_bytes: BPETokenizer) -> None:
    stream = TextStream(of_bytes, ["b"])
    pieces = [stream.push(id) for id in of_bytes.encode("abcd")]
    assert ("".join(pieces), stream.stopped, stream.count) == ("a", True, 4)
    assert stream.close() == ""


def test_an_empty_stop_string_is_refused(of_bytes: BPETokenizer) -> None:
    with pytest.raises(ValueError, match=r"a stop string must not be empty \(''\); leave out"):
        TextStream(of_bytes, ["a", ""])
