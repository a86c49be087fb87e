"""The rules for web pages give the verdicts and the reasons of datatrove's filters."""

from __future__ import annotations

from collections import Counter

import pytest

from helpers.web_pages import page
from scratchlm.data.cleaning.fineweb import FineWebQuality, ends_of_sentences
from scratchlm.data.cleaning.gopher import GopherQuality, Repetition
from scratchlm.data.cleaning.step import Filter
from scratchlm.data.cleaning.words import words_of

pytestmark = pytest.mark.bench

NAMES = {
    GopherQuality: {
        "too few words": "gopher_short_doc", "too many words": "gopher_long_doc",
        "short words": "gopher_below_avg_threshold", "long words": "gopher_above_avg_threshold",
        "too many #": "gopher_too_many_hashes", "too many ellipses": "gopher_too_many_ellipsis",
        "too many bullets": "gopher_too_many_bullets",
        "too many lines with an ellipsis": "gopher_too_many_end_ellipsis",
        "too few words with letters": "gopher_below_alpha_threshold",
        "too few stop words": "gopher_enough_stop_words",
    },
    Repetition: {
        "repeated paragraphs": "dup_para_frac", "repeated lines": "dup_line_frac",
        "characters in repeated paragraphs": "dup_para_char_frac",
        "characters in repeated lines": "dup_line_char_frac",
        **{f"frequent {n}-gram": f"top_{n}_gram" for n in (2, 3, 4)},
        **{f"repeated {n}-grams": f"duplicated_{n}_n_grams" for n in range(5, 11)},
    },
    FineWebQuality: {
        "empty": "empty", "too few sentences": "line_punct_ratio",
        "short lines": "short_line_ratio", "repeated lines": "char_dup_ratio",
        "too many line breaks": "list_ratio",
    },
}  # fmt: skip
COUNT = 5000


@pytest.fixture(scope="module")
def pages() -> list[str]:
    return [page(seed) for seed in range(COUNT)]


@pytest.mark.parametrize(
    ("ours", "name", "reasons_seen"),
    [
        (GopherQuality(), "gopher_quality_filter.GopherQualityFilter", 9),
        (Repetition(), "gopher_repetition_filter.GopherRepetitionFilter", 13),
        (FineWebQuality(), "fineweb_quality_filter.FineWebQualityFilter", 4),
    ],
)
def test_the_verdicts_are_datatroves(
    pages: list[str], ours: Filter, name: str, reasons_seen: int
) -> None:
    """datatrove splits texts with spaCy. The verdicts agree where the words are the same, and
    nearly always elsewhere. datatrove counts "•" as a word, and GopherQuality does not."""
    pytest.importorskip("datatrove")
    pytest.importorskip("spacy")
    import importlib

    from datatrove.data import Document
    from datatrove.utils.text import split_into_words

    module, _, theirs = name.partition(".")
    filters = importlib.import_module(f"datatrove.pipeline.filters.{module}")
    theirs = getattr(filters, theirs)()
    seen: Counter[str | None] = Counter()
    same_words = other_words = differ = 0
    for text in pages:
        if isinstance(ours, GopherQuality):
            text = text.replace("•", "-")
        verdict = theirs.filter(Document(text=text, id="0"))
        wanted = None if verdict is True else verdict[1]
        reason = ours.reason(text)
        found = None if reason is None else NAMES[type(ours)][reason]
        seen[wanted] += 1
        if tuple(split_into_words(text)) == words_of(text):
            same_words += 1
            assert found == wanted, text
        else:
            other_words += 1
            differ += found != wanted
    assert len(seen - Counter([None])) >= reasons_seen, seen
    assert same_words > 0.8 * COUNT
    assert differ < 0.03 * other_words, f"{differ} of {other_words}"


def test_ends_of_sentences_are_datatroves_but_for_three_and_newer_signs() -> None:
    """datatrove's list adds three signs of Khmer. Newer Unicode versions add other signs."""
    pytest.importorskip("datatrove")
    from datatrove.utils.text import TERMINAL_PUNCTUATION

    assert TERMINAL_PUNCTUATION - ends_of_sentences() == {"\u17d6", "\u17d9", "\u17da"}
    assert len(ends_of_sentences() - TERMINAL_PUNCTUATION) < 30
