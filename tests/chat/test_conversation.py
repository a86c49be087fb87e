"""Conversations: check which messages they keep and drop, and the commands of the terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import tiny
from helpers.chat_templates import CHATML, LLAMA3, SPECIALS, tokenizer_with
from helpers.refusals import check_refusal
from scratchlm import TextGenerator, save_checkpoint
from scratchlm.chat.conversation import Conversation
from scratchlm.chat.running_text import RunningText, find_template
from scratchlm.cli.chat import main as chat
from scratchlm.cli.chat_terminal import Terminal
from scratchlm.errors import FileFormatError, NumericalError
from scratchlm.tokenizer.chat_template import FORMS, ChatTemplate

CONTEXT = 96


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_with(*SPECIALS)


@pytest.fixture(scope="module")
def writer(tokenizer):
    return TextGenerator(tiny.model(vocab_size=len(tokenizer), context_length=CONTEXT), tokenizer)


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def always(writer: TextGenerator, token: str) -> dict[str, object]:
    """Return arguments that make the model generate only this token."""
    return {"logit_bias": {writer.tokenizer.token_to_id(token): 1000.0}, "temperature": 0}


class Prompts:
    """Record the prompts that a generator gets."""

    def __init__(self, writer: TextGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[list[int]] = []
        steps = writer.steps
        monkeypatch.setattr(
            writer, "steps", lambda ids, *a, **how: self.seen.append(ids) or steps(ids, *a, **how)
        )


# --- templates ------------------------------------------------------------------------------------


def test_plain_text_holds_no_special_token_either(writer, monkeypatch):
    prompts = Prompts(writer, monkeypatch)
    list(Conversation(writer, RunningText(writer)).reply("a<|endoftext|>", 1))
    assert writer.tokenizer.token_to_id("<|endoftext|>") not in prompts.seen[0]


@pytest.mark.parametrize(
    ("specials", "name"),
    [(CHATML, "chatml"), (LLAMA3, "llama3"), (LLAMA3[1:], "plain"), (["<|endoftext|>"], "plain"),
     (CHATML[:1], "plain")],
)  # fmt: skip
def test_auto_goes_by_the_special_tokens(specials, name):
    tokenizer = tokenizer_with(*specials)
    writer = TextGenerator(tiny.model(vocab_size=len(tokenizer)), tokenizer)
    assert find_template("auto", writer).name == name


def test_plain_reads_what_stands_on_the_screen(writer, monkeypatch):
    prompts = Prompts(writer, monkeypatch)
    conversation = Conversation(writer, RunningText(writer), system="A play.")
    for text in ("the", "", "cat"):
        list(conversation.reply(text, 3, **always(writer, "a")))
    read = [writer.tokenizer.decode(ids) for ids in prompts.seen]
    assert read == ["A play.\nthe", "A play.\ntheaaa", "A play.\ntheaaaaaa\ncat"]


# --- conversations --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("marker", SPECIALS)
def test_a_marker_of_the_template_ends_a_reply(writer, name, marker):
    conversation = Conversation(writer, find_template(name, writer), "s")
    pieces = list(conversation.reply("hi", 5, **always(writer, marker)))
    own = {"chatml": CHATML, "llama3": LLAMA3, "plain_alpaca": []}[name]
    ends = marker in ("<|endoftext|>", *own)
    assert (pieces == []) == ends
    assert conversation.finish_reason == ("stop" if ends else "length")


def test_replies_are_the_generators_own_and_are_kept(writer, monkeypatch):
    prompts = Prompts(writer, monkeypatch)
    template = find_template("chatml", writer)
    conversation = Conversation(writer, template, system="be\n\nbrief")
    how = {"temperature": 0, "min_new_tokens": 9}
    replies = ["".join(conversation.reply(text, 9, **how)) for text in ("hi", "and?")]
    assert conversation.messages == [
        message("user", "hi"), message("assistant", replies[0]),
        message("user", "and?"), message("assistant", replies[1]),
    ]  # fmt: skip
    everything = [message("system", "be\n\nbrief"), *conversation.messages]
    assert prompts.seen == [template.encode(everything[:2]), template.encode(everything[:4])]
    monkeypatch.undo()
    for prompt, reply in zip(prompts.seen, replies, strict=True):
        steps = writer.steps(prompt, 9, stop_ids=template.end_ids, **how)
        assert "".join(piece for piece, _ in steps) == reply


def test_stop_strings_end_a_reply(writer):
    conversation = Conversation(writer, RunningText(writer))
    how = always(writer, "a")
    assert "".join(conversation.reply("the", 9, stop=["aaa"], **how)) == ""
    assert conversation.finish_reason == "stop"


def test_what_is_interrupted_is_kept_as_far_as_it_came(writer):
    conversation = Conversation(writer, find_template("chatml", writer))
    how = always(writer, "a")
    pieces = conversation.reply("hi", 9, **how)
    assert conversation.messages == []
    came = next(pieces) + next(pieces)
    pieces.close()
    assert conversation.messages == [message("user", "hi"), message("assistant", came)]
    assert conversation.finish_reason is None
    pieces = conversation.reply("more", 9, **how)
    came = next(pieces)
    with pytest.raises(KeyboardInterrupt):
        pieces.throw(KeyboardInterrupt())
    assert conversation.messages[2:] == [message("user", "more"), message("assistant", came)]


def test_an_error_leaves_the_conversation_as_it_was(writer, monkeypatch):
    conversation = Conversation(writer, find_template("chatml", writer))
    list(conversation.reply("hi", 3))
    before = conversation.to_json()

    def diverging(*_, **__):
        yield "half", writer_row
        raise NumericalError("no token can be chosen; use another checkpoint")

    writer_row = type("Row", (), {"finish_reason": None})
    monkeypatch.setattr(writer, "steps", diverging)
    with pytest.raises(NumericalError):
        list(conversation.reply("more", 3))
    assert conversation.to_json() == before


def test_retry_replaces_the_last_reply(writer):
    conversation = Conversation(writer, find_template("chatml", writer))
    with pytest.raises(ValueError, match="no message to answer"):
        conversation.retry()
    list(conversation.reply("hi", 3, **always(writer, "a")))
    list(conversation.reply("more", 3, **always(writer, "a")))
    list(conversation.retry(3, **always(writer, "b")))
    said = [each["content"] for each in conversation.messages]
    assert said == ["hi", "aaa", "more", "bbb"]
    conversation.reset()
    assert conversation.messages == []


@pytest.mark.parametrize("max_tokens", [4, 20, 500])
@pytest.mark.parametrize("name", FORMS)
def test_the_oldest_exchanges_are_left_out(writer, monkeypatch, name, max_tokens):
    """Compare with all suffixes of the conversation: the model reads the longest suffix that has
    room for the reply."""
    prompts = Prompts(writer, monkeypatch)
    template = find_template(name, writer)
    system = message("system", "s")
    conversation = Conversation(writer, template, "s")
    room = CONTEXT - min(max_tokens, CONTEXT // 2)
    left_out = 0
    for i in range(12):
        before, text = conversation.messages, "cat " * (i % 4)
        list(conversation.reply(text, max_tokens, **always(writer, "a"), stop=["aaaa"]))
        whole = [*before, message("user", text)]
        fitting = [
            (len(whole) - start, template.encode([system, *whole[start:]]))
            for start in range(0, len(whole), 2)
            if len(template.encode([system, *whole[start:]])) <= room
        ]
        count, ids = max(fitting)
        assert prompts.seen[-1] == ids
        assert conversation.complete == (count == len(whole))
        left_out += count < len(whole)
    assert left_out
    assert len(conversation.messages) == 24, "the file has all of it"


def test_plain_leaves_out_the_oldest_ids(writer, monkeypatch):
    prompts = Prompts(writer, monkeypatch)
    conversation = Conversation(writer, RunningText(writer), "s")
    head = writer.tokenizer.encode("s\n")
    for _ in range(6):
        list(conversation.reply("the cat", CONTEXT, **always(writer, "a")))
    assert not conversation.complete
    assert len(prompts.seen[-1]) == CONTEXT // 2
    assert prompts.seen[-1][: len(head)] == head
    assert writer.tokenizer.decode(prompts.seen[-1]).endswith("a\nthe cat")


@pytest.mark.parametrize("name", ["plain", *FORMS])
def test_a_message_that_is_too_long_is_refused(writer, name):
    conversation = Conversation(writer, find_template(name, writer), "s")
    list(conversation.reply("hi", 3))
    before = conversation.to_json()
    with pytest.raises(ValueError, match=r"too long \(\d+ tokens, but \d+ fit"):
        conversation.reply("xq" * 90, 3)
    assert conversation.to_json() == before


def test_a_file_brings_it_all_back(writer):
    conversation = Conversation(writer, find_template("llama3", writer), "be brief")
    list(conversation.reply("über 😀\x1b\n", 5))
    again = Conversation.from_json(writer, conversation.to_json())
    assert again.to_json() == conversation.to_json()
    assert again.template.name == "llama3"
    other = Conversation.from_json(writer, conversation.to_json().encode(), template="plain")
    assert other.template.name == "plain"


GOOD = {"template": "plain", "system": None, "messages": []}
PAIR = [message("user", "a"), message("assistant", "b")]


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("", "not JSON"),
        (b"\xff", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "must be an object"),
        ('{"messages": [], "messages": []}', "a key twice: 'messages'"),
        ({"messages": []}, "must be an object"),
        (GOOD | {"more": 1}, "must be an object"),
        (GOOD | {"template": "auto"}, "'auto'"),
        (GOOD | {"template": ["plain"]}, "template must be"),
        (GOOD | {"system": 5}, "system"),
        (GOOD | {"system": "\udc80"}, "system"),
        (GOOD | {"messages": {}}, "messages"),
        (GOOD | {"messages": PAIR[:1]}, "pairs of a user message and a reply"),
        (GOOD | {"messages": PAIR[::-1]}, "message 0"),
        (GOOD | {"messages": [*PAIR, *PAIR[::-1]]}, "message 2"),
        (GOOD | {"messages": [PAIR[0], {"role": "assistant"}]}, "message 1"),
        (GOOD | {"messages": [PAIR[0], message("assistant", None)]}, "message 1"),
        (GOOD | {"messages": [message("user", "\ud800"), PAIR[1]]}, "message 0"),
        (GOOD | {"messages": ["a", "b"]}, "message 0"),
    ],
)
def test_broken_files_are_refused(writer, content, names):
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    with pytest.raises(FileFormatError) as caught:
        Conversation.from_json(writer, text, "chat.json")
    assert names in str(caught.value)
    assert "chat.json" in str(caught.value)
    assert "\n" not in str(caught.value)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    model = tiny.model(vocab_size=len(tokenizer), context_length=CONTEXT)
    save_checkpoint(folder / "m.pt", model, None, 1, tokenizer=tokenizer.to_json())
    model = tiny.model(vocab_size=len(tokenizer), context_length=2 * CONTEXT)
    more = {"tokenizer": tokenizer.to_json(), "template": "plain_alpaca"}
    save_checkpoint(folder / "tuned.pt", model, None, 1, **more)
    base = tokenizer_with("<|endoftext|>")
    model = tiny.model(vocab_size=len(base), context_length=CONTEXT)
    save_checkpoint(folder / "base.pt", model, None, 1, tokenizer=base.to_json())
    model = tiny.model(vocab_size=len(base), context_length=32768)
    save_checkpoint(folder / "long.pt", model, None, 1, tokenizer=base.to_json())
    save_checkpoint(folder / "bare.pt", model, None, 1)
    (folder / "broken.json").write_text("{")
    chatml = GOOD | {"template": "chatml", "messages": PAIR}
    (folder / "chatml.json").write_text(json.dumps(chatml))
    (folder / "notes.txt").write_text("mine")
    (folder / "folder").mkdir()
    return folder


class Typed(io.StringIO):
    """A standard input that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def talk(prepared, tokenizer, monkeypatch, capsys):
    """Return talk(lines, flags) -> (standard output, standard error) after the greeting. The model
    always generates `a`, and a reply has three tokens."""
    monkeypatch.chdir(prepared)

    def run(
        lines: str, flags: str = "--model_path m.pt", code: int = 0, stdin: type = io.StringIO
    ) -> tuple[str, list[str]]:
        lines = f"/set logit_bias {tokenizer.token_to_id('a')}=1000\n/set max_tokens 3\n{lines}"
        monkeypatch.setattr(sys, "stdin", stdin(lines))
        assert chat([*flags.split(), "--device", "cpu"]) == code
        out, err = capsys.readouterr()
        greeting, notes = err.split("Ctrl-D quits\n")
        assert f"parameters on cpu, context {CONTEXT}" in greeting
        return out, notes.splitlines()

    return run


@pytest.mark.parametrize(
    ("flags", "template"),
    [("--model_path m.pt", "chatml"), ("--model_path tuned.pt", "plain_alpaca"),
     ("--model_path tuned.pt --template chatml", "chatml"),
     ("--model_path tuned.pt --load chatml.json", "chatml")],
)  # fmt: skip
def test_the_chat_uses_the_template_of_the_training(
    prepared, tokenizer, monkeypatch, capsys, flags, template
):
    """The tokenizer has the markers of chatml, but the recorded template comes first. A flag and a
    loaded conversation replace it."""
    monkeypatch.chdir(prepared)
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\n"))
    words = f"{flags} --max_tokens 5 --temperature 0 --device cpu".split()
    assert chat(words) == 0
    out, err = capsys.readouterr()
    assert f"template {template}\n" in err
    writer = TextGenerator.load(flags.split()[1], device="cpu")
    before = PAIR if "--load" in flags else []
    prompt = ChatTemplate(template, tokenizer).encode([*before, message("user", "hi")])
    stop_ids = ChatTemplate(template, tokenizer).end_ids
    steps = writer.steps(prompt, 5, stop_ids=stop_ids, temperature=0)
    assert out.removesuffix("\n") == "".join(piece for piece, _ in steps)


def saved(talk, lines: str, flags: str = "--model_path m.pt") -> list[str]:
    """Return the messages in the file that /save writes."""
    with contextlib.suppress(FileNotFoundError):
        Path("saved.json").unlink()
    talk(f"{lines}\n/save saved.json\n", flags)
    content = json.loads(Path("saved.json").read_text(encoding="utf-8"))
    return [each["content"] for each in content["messages"]]


def test_only_replies_go_to_standard_output(talk):
    assert talk("hello\n\n/set seed 3\nmore\n/help\n/quit\nnever read\n")[0] == "aaa\naaa\n"
    assert talk("hello")[0] == "aaa\n", "the end of the input is the end"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("hello", "hello"),
        ("//save us", "/save us"),
        ("two \\\nlines", "two \nlines"),
        ('"""one line"""', "one line"),
        ('"""\ntwo\n\nlines\n"""', "two\n\nlines"),
        ('"""two\nlines"""', "two\nlines"),
        ('"""\n\nbegun below\n"""', "\nbegun below"),
        ('"""\n/quit\n"""', "/quit"),
        (" /no command", " /no command"),
    ],
)
def test_how_messages_are_typed(talk, typed, said):
    assert saved(talk, typed)[0] == said


def test_an_unfinished_message_ends_with_the_input(talk):
    assert talk('"""\nhello')[0] == "aaa\n"
    assert talk("hello\\")[0] == "aaa\n"


def test_commands_do_what_they_say(talk):
    assert saved(talk, "one\ntwo\n/retry") == ["one", "aaa", "two", "aaa"]
    assert saved(talk, "one\n/reset\ntwo") == ["two", "aaa"]
    assert saved(talk, "one\n/set max_tokens 2\n/retry") == ["one", "aa"]
    assert saved(talk, "one\n/save x.json\n/reset\n/load x.json\ntwo")[::2] == ["one", "two"]
    assert saved(talk, "new", "--model_path m.pt --load x.json")[::2] == ["one", "new"]
    assert saved(talk, "one\n/save saved.json\ntwo")[::2] == ["one", "two"], "its own file again"
    out, notes = talk("/system be brief\n/system\n/system none\n/system\n/set\n")
    assert out == ""
    assert notes[:2] == ["be brief", "none"]
    assert any(line.split() == ["temperature", "0.8"] for line in notes)
    assert any(line.split() == ["max_tokens", "3"] for line in notes)


def test_flags_reach_the_conversation(talk):
    talk("/save saved.json\n", "--model_path m.pt --system brief --template llama3")
    assert json.loads(Path("saved.json").read_text(encoding="utf-8")) == GOOD | {
        "template": "llama3", "system": "brief",
    }  # fmt: skip
    _, notes = talk("/set\n", "--model m.pt --top_k 5 --top_p 0.9 --min_p 0.1 --seed 3")
    values = dict(line.split() for line in notes)
    assert [values[name] for name in ("top_k", "top_p", "min_p", "seed")] == [
        "5",
        "0.9",
        "0.1",
        "3",
    ]
    assert talk("hi\n", "--model_path m.pt --stop b --stop aa")[0] == "\n"


def test_a_seed_gives_the_same_replies(prepared, monkeypatch, capsys):
    monkeypatch.chdir(prepared)
    found = []
    for seed in (1, 1, 2):
        monkeypatch.setattr(sys, "stdin", io.StringIO("hello\nmore\n/retry\n"))
        assert chat(["--model_path", "m.pt", "--seed", str(seed), "--max_tokens", "9"]) == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_bytes_that_are_not_utf8_are_one_line(prepared, monkeypatch, capsys, encoding):
    stdin = io.TextIOWrapper(io.BytesIO(b"caf\xe9\nhello\n"), encoding=encoding)
    monkeypatch.setattr(sys, "stdin", stdin)
    assert chat(["--model_path", str(prepared / "m.pt"), "--max_tokens", "3"]) == 2
    notes = capsys.readouterr().err.splitlines()[2:]
    assert notes == [
        "scratchlm: error: the message must be UTF-8 (character 3); convert the text to UTF-8"
    ]


@pytest.mark.parametrize(
    ("lines", "code", "names"),
    [("/foo", 2, "(/foo)"), ("/load missing.json", 2, "missing.json"), ("x" * 100, 2, "105 tokens"),
     ("/load broken.json", 3, "broken.json")],
)  # fmt: skip
def test_an_error_ends_a_chat_in_a_pipe_with_its_exit_code(talk, lines, code, names):
    out, notes = talk(f"hello\n{lines}\nnever read\n", code=code)
    assert out == "aaa\n"
    assert len(notes) == 1, notes
    assert names in notes[0]


def test_a_full_context_is_told_once(talk):
    _, notes = talk("/set max_tokens 40\n" + "hello\n" * 4)
    assert notes == ["(the context is full: the model no longer reads the oldest part)"]


def test_plain_goes_on_at_an_empty_line(talk):
    flags = "--model_path m.pt --template plain"
    assert saved(talk, "\nthe\n", flags) == ["the", "aaa", "", "aaa"]


REFUSED = [
    # the typed line, a part of the error
    ("/foo", "(/foo); /help"),
    ("/sett top_k 3", "did you mean /set?"),
    ("/", "(/)"),
    ("/quit now", "/quit must have no argument (now)"),
    ("/set temprature 1", "did you mean temperature?"),
    ("/set temperature", "write /set temperature VALUE"),
    ("/set temperature hot", "temperature must be a number ('hot')"),
    ("/set temperature -1", "(-1.0)"),
    ("/set temperature nan", "(nan)"),
    ("/set top_k 1.5", "top_k must be a whole number ('1.5')"),
    ("/set top_k 1000000", "1000000"),
    ("/set top_p 2", "(2.0)"),
    ("/set repetition_penalty 0", "(0.0)"),
    ("/set logit_bias 5", "logit_bias must be a list of ID=BIAS ('5')"),
    ("/set logit_bias 99999=1", "99999"),
    ("/set max_tokens 0", "(0)"),
    ("/set seed -3", "(-3)"),
    ("/retry", "no message to answer"),
    ("/save", "write /save FILE"),
    ("/save no/folder.json", "no such folder (no)"),
    ("/save notes.txt", "the file exists and is not a conversation (notes.txt)"),
    ("/save folder", "(folder)"),
    ("/load", "write /load FILE"),
    ("/load missing.json", "missing.json"),
    ("/load broken.json", "broken.json"),
    ("/load folder", "folder"),
    ("/load base.pt", "base.pt"),
    ("x" * 100, "105 tokens"),
    ("a\udcff", "must be UTF-8 (character 1)"),
    ("/system a\udcff", "must be UTF-8"),
]


@pytest.mark.parametrize(("typed", "names"), REFUSED)
def test_what_is_refused_changes_nothing(talk, typed, names):
    before = {path: path.stat().st_mtime_ns for path in Path().iterdir() if path.name != "x.json"}
    out, notes = talk(f"/set\n{typed}\n/set\nhello\n", stdin=Typed)
    notes = [line.replace("> ", "") for line in notes if line.strip("> ")]
    assert out == "aaa\n", "and the talk goes on"
    errors = [line for line in notes if line.startswith("scratchlm: error: ")]
    assert len(errors) == 1, notes
    assert names in errors[0]
    assert errors[0].split(";", 1)[1].strip()
    rows = [line for line in notes if line not in errors]
    assert rows[: len(rows) // 2] == rows[len(rows) // 2 :]
    assert {path: path.stat().st_mtime_ns for path in Path().iterdir() if path in before} == before
    assert Path("notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("words", "code", "names"),
    [
        ("", 2, "--model_path"),
        ("--model_path missing.pt", 2, "missing.pt"),
        ("--model_path folder", 3, "folder"),
        ("--model_path bare.pt", 2, "--tokenizer_path"),
        ("--model_path m.pt --model base.pt", 2, "two values"),
        ("--model_path base.pt --template chatml", 2, "does not have (<|im_start|>)"),
        ("--model_path base.pt --template llama3", 2, "does not have (<|begin_of_text|>)"),
        ("--model_path m.pt --template alpaca", 2, "alpaca"),
        ("--model_path m.pt --temperature -1", 2, "temperature"),
        ("--model_path m.pt --temperature hot", 2, "hot"),
        ("--model_path m.pt --top_p 1.5", 2, "1.5"),
        ("--model_path m.pt --top_k 100000", 2, "100000"),
        ("--model_path m.pt --max_tokens 0", 2, "(0)"),
        ("--model_path m.pt --seed -1", 2, "-1"),
        ("--model_path m.pt --stop=", 2, "stop string"),
        ("--model_path m.pt --sytem x", 2, "did you mean --system"),
        ("--model_path m.pt --load missing.json", 2, "missing.json"),
        ("--model_path m.pt --load broken.json", 3, "broken.json"),
        ("--model_path base.pt --load chatml.json", 2, "does not have (<|im_start|>)"),
        ("--model_path m.pt --system a\udcff", 2, "must be UTF-8"),
        ("--model_path m.pt --device cuda:99", 2, "cuda:99"),
    ],
)
def test_bad_flags_are_one_line(prepared, monkeypatch, capsys, words, code, names):
    monkeypatch.chdir(prepared)
    check_refusal(chat, words.split(" ") if words else [], code, names, capsys)


def test_a_terminal_gets_no_control_characters(capsys, monkeypatch):
    piece = "a\x1b[31mb\r\n\tü\x9b2J\x07\x7f 👩‍🚀"
    terminal = Terminal()
    terminal.is_seen = True
    terminal.write(piece)
    assert capsys.readouterr().out == "a\\x1b[31mb\\r\n\tü\\x9b2J\\x07\\x7f 👩‍🚀"
    terminal.is_seen = False
    terminal.write(piece)
    assert capsys.readouterr().out == piece


def test_a_closed_pipe_is_no_error(prepared, monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\nmore\n"))
    monkeypatch.setattr(sys, "stdout", open(writer, "w", encoding="utf-8"))  # noqa: SIM115 (main closes it)
    assert chat(["--model_path", str(prepared / "m.pt"), "--max_tokens", "3"]) == 0
    assert sys.stdout.closed
    assert capsys.readouterr().err.count("\n") == 2, "the greeting alone"


# --- a real process -------------------------------------------------------------------------------

COMMAND = [sys.executable, "-m", "scratchlm.cli.chat", "--device", "cpu", "--model_path"]


class Screen:
    """A process in a pseudo-terminal."""

    def __init__(self, words: list[str]) -> None:
        self.unread = ""
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Read the output until this text appears."""
        deadline = time.monotonic() + seconds
        while text not in self.unread:
            ready, _, _ = select.select([self.master], [], [], deadline - time.monotonic())
            assert ready, f"{text!r} never came: {self.unread[-500:]!r}"
            self.unread += os.read(self.master, 1 << 16).decode("utf-8", "replace")
        self.unread = self.unread.partition(text)[2]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


def test_ctrl_c_stops_a_reply_and_not_the_program(prepared):
    a = tokenizer_with("<|endoftext|>").token_to_id("a")
    screen = Screen([*COMMAND, str(prepared / "long.pt"), "--max_tokens", "16000"])
    try:
        screen.wait_for("> ")
        screen.type(f"/set logit_bias {a}=1000\r")
        screen.wait_for("> ")
        screen.type("the\r")
        screen.wait_for("the\r\na")
        screen.process.send_signal(signal.SIGINT)
        screen.wait_for("\r\n> ")
        screen.type("/set max_tokens 5\r")
        screen.wait_for("> ")
        screen.type("cat\r")
        screen.wait_for("cat\r\naaaaa\r\n> ")
        screen.type("half a line")
        screen.wait_for("half a line")
        time.sleep(0.1)  # until it waits for the next key: readline misses a signal before that
        screen.process.send_signal(signal.SIGINT)
        screen.wait_for("press Ctrl-C again, or Ctrl-D, to quit\r\n> ")
        screen.type("/quit\r")
        assert screen.process.wait(timeout=30) == 0, "what stood in the line is gone"
    finally:
        screen.close()
