"""Long lines: piece by piece, they give what `json.loads` gives, and the same lines are bad."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from scratchlm.data.documents import read_documents
from scratchlm.data.inspection import inspect
from scratchlm.data.reading import long_lines
from scratchlm.data.reading.json_lines import json_lines
from scratchlm.data.reading.records import read_records
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.reading.settings import Reading

CHARACTERS = [
    "a",
    "é",
    "中",
    "😀",
    '"',
    "\\",
    "/",
    "\n",
    "\t",
    "\x00",
    "\x7f",
    "\u2028",
    "u",
    "0.1e0",
]


@pytest.fixture(params=[13, 31, 200])
def part(request, monkeypatch) -> int:
    """Read each line as a long line, in small pieces."""
    monkeypatch.setattr("scratchlm.data.reading.json_lines.LONG", -1)
    monkeypatch.setattr(long_lines, "PART", request.param)
    return request.param


def a_value(rng: random.Random) -> dict[str, Any]:
    def text() -> str:
        return "".join(rng.choices(CHARACTERS, k=rng.randrange(120)))

    value = {"id": rng.choice([1, 0.1, -2.5e300, "0.1", True]), "text": text(), "other": [text()]}
    if rng.random() < 0.3:
        value["text"] = [text() for _ in range(rng.randrange(4))]
    return dict(rng.sample(list(value.items()), 3))


def a_line(rng: random.Random) -> bytes:
    value = a_value(rng)
    line = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.3:
        line = line.replace("\\ud8", "\\uD8").replace("/", "\\/")
    return line.encode()


class Kept(Rejects):
    """Keep the bad records in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, int, bytes]] = []

    def add(self, error: ValueError, path: Path, line: int, data: bytes) -> None:
        self.found.append((str(error), line, data))


def read(path: Path, line: bytes) -> tuple[str, bool] | None:
    """Return the text of a line, and whether it came in several pieces; None for a bad line."""
    path.write_bytes(line)
    kept = Kept()
    chunks = list(read_documents(path, Reading(join="|"), kept))
    if not kept.found:
        return "".join(chunk.text for chunk in chunks), len(chunks) > 2
    assert chunks == []
    assert "a.jsonl:1" in kept.found[0][0]
    assert kept.found == [(kept.found[0][0], 1, line)]
    return None


def expected(line: bytes) -> str | None:
    try:
        text = json.loads(line.decode())["text"]
        text = text if isinstance(text, str) else "|".join(text)
        text.encode()
    except (ValueError, KeyError, TypeError):
        return None
    return text


def test_random_lines(tmp_path, part):
    rng, in_pieces = random.Random(part), 0
    for _ in range(150):
        line = a_line(rng)
        found = read(tmp_path / "a.jsonl", line)
        assert found is not None
        assert found[0] == expected(line)
        in_pieces += found[1]
    assert in_pieces > 50


def test_random_damage(tmp_path, part):
    """`json.loads` accepts a changed line if and only if we accept it, and gives the same text."""
    rng, bad = random.Random(part), 0
    for _ in range(160):
        line = bytearray(a_line(rng))
        at = rng.randrange(len(line))
        match rng.randrange(4):
            case 0:
                line[at] = rng.choice(b'"\\u{}[],:0 d8\xff\x80\x01')
            case 1:
                del line[at]
            case 2:
                del line[at:]
            case 3:
                line[at:at] = rng.choice(
                    [b"\\", b'"', b"\\ud83d", b"\\udc00", b"\\u12", b"\xc3", b"\\\\ud83d", b"\\x"]
                )
        if b"\n" in line or not line.strip() or not isinstance(_value(line), dict | None):
            continue
        wanted, found = expected(bytes(line)), read(tmp_path / "a.jsonl", bytes(line))
        assert (found and found[0]) == wanted, bytes(line)
        bad += wanted is None
    assert 40 < bad < 150


def _value(line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except ValueError:
        return None


def test_a_pair_of_surrogates_is_never_cut(tmp_path, part):
    for shift in range(30):
        line = b'{"text": "%b"}' % (b"a" * shift + rb"\ud83d\ude00\\ud83d" * 40)
        found = read(tmp_path / "a.jsonl", line)
        assert found is not None
        assert found[0] == "a" * shift + "😀\\ud83d" * 40


def test_half_a_pair_at_any_place_is_bad(tmp_path, part):
    for shift in range(40):
        line = b'{"text": "%b"}' % (b"a" * shift + rb"\ud83d" + b"b" * (40 - shift))
        (tmp_path / "a.jsonl").write_bytes(line)
        with pytest.raises(ValueError, match=r"lone surrogate \(.*a\.jsonl:1: U\+D83D"):
            list(read_documents(tmp_path / "a.jsonl"))
        other = line.replace(b'"text"', b'"other"').replace(b"}", b', "text": "good"}')
        assert read(tmp_path / "a.jsonl", other) == ("good", False), "only the text must be text"


def test_the_place_of_a_bad_byte(tmp_path, part):
    lines = [b'{"text": "good"}', b'{"text": "%b\xff"}' % (b"a" * 300)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match=r"a\.jsonl:2: byte 0xff at offset 327\); convert"):
        list(read_documents(tmp_path / "a.jsonl"))


def test_a_number_in_the_line_is_no_long_string(tmp_path, part):
    line = json.dumps({"n": [0.1, "0.1e0", "0.11e0"], "text": "x" * 300}).replace(
        "[0.1,", "[0.1e0,"
    )
    found = read(tmp_path / "a.jsonl", line.encode())
    assert found == ("x" * 300, True)
    chunks = [line.encode()]
    (record,) = json_lines(Path("a.jsonl"), chunks, Reading(), Rejects(), whole=False)
    assert record.value["n"] == [0.1, "0.1e0", "0.11e0"]


def test_a_long_key_is_a_key(tmp_path, part):
    long = b"k" * 9 * part
    assert read(tmp_path / "a.jsonl", b'{"%b" \t: "\xc3\xa9", "text": "x"}' % long) == ("x", False)
    assert read(tmp_path / "a.jsonl", b'{"%b": 1, "%b": 2, "text": "x"}' % (long, long)) is None


def test_rejects_and_inspection_of_long_lines(tmp_path, part):
    texts = ["good " * 50, "中文" * 80]
    lines = [json.dumps({"text": text}) for text in texts]
    lines.insert(1, lines[0][:-1])
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with Rejects(tmp_path / "r.jsonl", 1) as rejects:
        chunks = list(read_documents(tmp_path / "a.jsonl", rejects=rejects))
    assert "".join(chunk.text for chunk in chunks) == "".join(texts)
    assert sum(chunk.last for chunk in chunks) == 2
    assert (rejects.records, rejects.count, rejects.num_bytes) == (3, 1, len(lines[1]))
    found = inspect(tmp_path / "a.jsonl", Reading())
    assert (found.documents, found.bad, found.scripts) == (2, 1, {"latin": 200, "han": 160})
    assert found.fields == {"text": {"string": 2}}
    (tmp_path / "a.jsonl").write_text("\n".join([lines[0], lines[2]]))
    assert [record.text for record in read_records(tmp_path / "a.jsonl")] == texts


def test_the_memory_for_long_lines(tmp_path):
    """Two lines of 12 MB with an emoji: 36 MB each as a str, and 12 MB as bytes."""
    line = json.dumps({"text": "😀" + "a é" * 3_000_000}, ensure_ascii=False).encode()
    (tmp_path / "a.jsonl").write_bytes(line + b"\n" + line)
    del line
    tracemalloc.start()
    size = sum(len(chunk.text) for chunk in read_documents(tmp_path / "a.jsonl"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 2 * 9_000_001
    assert peak < 26_000_000
