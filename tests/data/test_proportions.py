"""The text of a mixture: paths and weights."""

from __future__ import annotations

from fractions import Fraction

import pytest

from scratchlm.data.proportions import decimal, parts_of, whole_weights, with_paths


def test_paths_and_weights() -> None:
    assert parts_of("books/:0.7,code.h5:.3") == [("books/", Fraction(7, 10)),
                                                 ("code.h5", Fraction(3, 10))]  # fmt: skip
    assert parts_of("a,b.bin:2,C:\\x.bin:1") == [("a,b.bin", 2), ("C:\\x.bin", 1)]
    assert parts_of("a.txt") == [("a.txt", 1)]
    assert parts_of("a*.bin:3") == [("a*.bin", 3)]


def test_an_existing_path_is_no_mixture(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:1,b:2").touch()
    assert parts_of("a:1,b:2") == [("a:1,b:2", 1)]
    assert with_paths("a:1,b:2", str.upper) == "A:1,B:2"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a:0.7,b", r"must have a weight \(b in a:0\.7,b\); write PATH:NUMBER"),
        ("a:0.7,b:-1", r"must have a weight \(b:-1 in"),
        ("a:0.7,b:0", r"must be greater than 0 \(b:0\); increase"),
        ("a:0,b:0.0", r"must be greater than 0 \(a:0\)"),
    ],
)
def test_weights_that_are_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parts_of(text)


def test_weights_become_whole_numbers() -> None:
    for weights, whole in (("0.7 0.3", (7, 3)), ("1 1 1", (1, 1, 1)), ("70 30", (7, 3)),
                           ("0.125 1", (1, 8)), ("0.333 0.667", (333, 667))):  # fmt: skip
        assert whole_weights([Fraction(weight) for weight in weights.split()]) == whole
    with pytest.raises(ValueError, match=r"too many digits \(1\.0000001, 1\); round"):
        whole_weights([Fraction("1.0000001"), Fraction(1)])


def test_a_changed_text_means_the_same() -> None:
    for text in ("a:0.7,b:12,c:0.001,d:.5,e:100", "x:1"):
        assert parts_of(with_paths(text, lambda path: f"/data/{path}")) == [
            (f"/data/{path}", weight) for path, weight in parts_of(text)
        ]
    for number in ("0", "7", "100", "0.5", "12.034", "0.0001"):
        assert decimal(Fraction(number)) == number
