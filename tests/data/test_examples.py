"""Examples of a set of dialogues: which dialogues are kept, and what the counts say."""

from __future__ import annotations

import random

import pytest

from helpers.chat_templates import SPECIALS, dialogue, tokenizer_with
from scratchlm import BPETokenizer
from scratchlm.data.conversations.dialogues import Dialogue
from scratchlm.data.conversations.examples import Counts, Learning, examples_of
from scratchlm.data.conversations.masks import example_of, learned, truncated
from scratchlm.tokenizer.chat_template import ChatTemplate


@pytest.fixture(scope="module")
def template():
    return ChatTemplate("chatml", tokenizer_with(*SPECIALS))


@pytest.fixture(scope="module")
def dialogues():
    chance = random.Random(0)
    read = [Dialogue(dialogue(chance), f"a.jsonl:{line}") for line in range(1, 41)]
    for each in read[::7]:
        for message in each.messages:
            if message["role"] == "assistant":
                message["weight"] = 0
    return read


def made(dialogues, template, row_length, **learning):
    counts = Counts()
    settings = Learning(**learning)
    return list(examples_of(dialogues, template, row_length, settings, counts)), counts


SHORT = Dialogue(
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "a.jsonl:1"
)


def check_sums(examples, counts):
    assert counts.read == counts.kept + counts.too_long + counts.without_targets
    assert counts.kept == len(examples)
    assert counts.predictions == sum(each.num_predictions for each in examples)
    assert counts.targets == sum(each.num_targets for each in examples)


def test_dialogues_that_fit_are_whole_and_in_order(template, dialogues):
    examples, counts = made(dialogues, template, 10_000)
    wholes = [example_of(each.messages, template) for each in dialogues]
    kept = [whole.ids.tolist() for whole in wholes if whole.num_targets]
    assert [each.ids.tolist() for each in examples] == kept
    check_sums(examples, counts)
    assert counts.without_targets == 6
    assert not (counts.too_long)
    assert not (counts.shortened)
    assert not (counts.cut_answers)
    assert not (counts.lost_targets)
    answers = [message for each in dialogues for message in each.messages if "weight" in message]
    assert counts.masked_answers == len(answers)


def test_a_dialogue_one_token_too_long_is_dropped_cut_or_an_error(template):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "the cat"}]
    longest = example_of(messages, template).num_predictions
    one = [Dialogue(messages, "a.jsonl:7")]
    for too_long in ("drop", "truncate", "error"):
        assert made(one, template, longest, too_long=too_long)[1].kept == 1
    examples, counts = made([SHORT, *one], template, longest - 1)
    assert (len(examples), counts.too_long) == (1, 1)
    (example,), counts = made(one, template, longest - 1, too_long="truncate")
    assert (counts.cut_answers, counts.shortened) == (1, 0)
    assert template.tokenizer.token_to_id("<|im_end|>") not in example.ids[-2:]
    wanted = (
        rf"at most {longest - 1} predictions \(a.jsonl:7: {longest}\); shorten .* "
        rf"rows of {longest} tokens \(--row_length, --context_length\), or set --too_long truncate$"
    )
    with pytest.raises(ValueError, match=wanted):
        made(one, template, longest - 1, too_long="error")


@pytest.mark.parametrize("row_length", [24, 40, 100, 200])
@pytest.mark.parametrize("too_long", ["drop", "truncate"])
def test_every_dialogue_is_counted_once(template, dialogues, row_length, too_long):
    dialogues = [*dialogues, SHORT]  # one that fits into each row
    examples, counts = made(dialogues, template, row_length, too_long=too_long)
    assert counts.read == len(dialogues)
    check_sums(examples, counts)
    every_target = sum(example_of(each.messages, template).num_targets for each in dialogues)
    assert counts.lost_targets == every_target - counts.targets
    assert all(each.num_targets and each.num_predictions <= row_length for each in examples)
    if too_long == "truncate":
        wholes = [each.messages for each in dialogues if learned(each.messages, "assistant")[0]]
        every = [(each, truncated(each, template, row_length)) for each in wholes]
        every = [(each, fitted) for each, fitted in every if fitted.example.num_targets]
        last = [fitted.lost_last for _, fitted in every]
        assert (counts.ended_early, counts.lost_last) == (sum(map(bool, last)), sum(last))
        lost = [len(each) - len(fitted.messages) - fitted.lost_last for each, fitted in every]
        assert (counts.kept, counts.lost_messages) == (len(every), sum(lost))
        assert counts.shortened == sum(number > 0 for number in lost)
        assert counts.cut_answers == sum(fitted.is_cut for _, fitted in every)


def test_a_set_in_which_nothing_remains_is_refused(template):
    """Rows without a target would have a loss of nothing."""
    answer = {"role": "assistant", "content": "b", "weight": 0}
    masked = Dialogue([SHORT.messages[0], answer], "a.jsonl:2")
    wanted = r"\(a\.jsonl: 2 dialogues, 1 too long, 1 with too few targets\); "
    for read, match in (
        ([SHORT, masked], wanted),
        ([], r"at least one dialogue \(a\.jsonl has none\)"),
    ):
        with pytest.raises(ValueError, match=match):
            list(examples_of(read, template, 4, Learning(), Counts(), "a.jsonl"))


def test_masked_answers_are_counted(template, dialogues):
    _, counts = made(dialogues, template, 10_000, train_on="last")
    kept = [each.messages for each in dialogues if any(learned(each.messages, "last"))]
    assert 0 < len(kept) < len(dialogues)
    answers = sum(message["role"] == "assistant" for each in dialogues for message in each.messages)
    assert (counts.masked_answers, counts.answers) == (answers - len(kept), answers)


def test_few_targets_are_dropped(template, dialogues):
    wholes = [example_of(each.messages, template) for each in dialogues]
    _, counts = made(dialogues, template, 10_000, min_target_tokens=20)
    assert counts.without_targets == sum(each.num_targets < 20 for each in wholes)
    _, cut = made(dialogues, template, 60, min_target_tokens=20, too_long="truncate")
    assert cut.without_targets == counts.without_targets
    assert cut.too_long


def test_the_counts_are_told_in_numbers(template, dialogues):
    _, counts = made(dialogues, template, 100, too_long="truncate")
    text = "\n".join(counts.lines())
    for number in vars(counts).values():
        assert f"{number:,}" in text


@pytest.mark.parametrize(("long", "short", "warned"), [(3, 2, True), (2, 2, False), (0, 1, False)])
def test_a_run_warns_if_it_drops_more_than_half(template, long, short, warned):
    too_long = Dialogue(turns(LONG, "a"), "a:1")
    _, counts = made([too_long] * long + [SHORT] * short, template, 40, too_long="truncate")
    assert counts.too_long == long
    told = [line for line in counts.lines() if line.startswith("warning: ")]
    assert len(told) == warned
    if warned:
        assert "half of the dialogues are too long (3 of 5); use longer rows (--row" in told[0]


def test_a_text_that_the_tokenizer_cannot_encode_is_refused(tmp_path):
    """A byte that has no token would disappear."""
    vocab = {id: bytes([id]) for id in range(128)}
    template = ChatTemplate("plain_alpaca", BPETokenizer(vocab, [], ["<|endoftext|>"]))
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "é"}]
    with pytest.raises(ValueError, match=r"^a\.jsonl:7: .*\n?") as caught:
        made([Dialogue(messages, "a.jsonl:7")], template, 1000)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"), [("train_on", "user"), ("too_long", "cut"), ("min_target_tokens", 0)]
)
def test_wrong_settings_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be .*\({value}\); "):
        Learning(**{name: value})


def turns(*contents: str) -> list:
    """A word of the user and of the assistant in turn. A `-` before an answer masks the answer."""
    return [
        {"role": ("user", "assistant")[i % 2], "content": text.lstrip("-")}
        | ({"weight": 0} if text.startswith("-") else {})
        for i, text in enumerate(contents)
    ]


LONG = "the cat sat " * 40


@pytest.mark.parametrize(
    ("messages", "kept", "cut"),
    [
        (turns("a", "b", LONG, "c"), 2, 0),  # the last question fills the row
        (turns("a", LONG, "b", "-c"), 2, 1),  # the last answer is not learned
        (turns("a", "b", "c", "d", LONG, "e", LONG, "f"), 4, 0),
        (turns("a", LONG, "b", "c"), 2, 0),  # the oldest pair goes first
    ],
)
def test_last_messages_that_cannot_be_learned_are_dropped(template, messages, kept, cut):
    (example,), counts = made([Dialogue(messages, "a:1")], template, 40, too_long="truncate")
    first = messages[:kept] if cut or messages[-2]["content"] == LONG else messages[-kept:]
    assert example.ids.tolist() == example_of(first, template).ids[:41].tolist()
    last = 0 if first[-1] == messages[-1] else len(messages) - kept
    assert (counts.cut_answers, counts.lost_last) == (cut, last)
    assert counts.ended_early == bool(last)
    assert counts.lost_targets == example_of(messages, template).num_targets - example.num_targets
    told = "\n".join(counts.lines())
    assert (f"1 lost their last messages ({last} messages)" in told) == bool(last)
    assert f"lost {counts.lost_targets:,} of {counts.lost_targets + counts.targets:,} tar" in told


def test_an_earlier_answer_does_not_become_the_last(template):
    dialogue = Dialogue(turns("a", "b", LONG, "c"), "a:1")
    with pytest.raises(ValueError, match="1 too long"):
        made([dialogue], template, 40, too_long="truncate", train_on="last")


def test_one_has_no_plural(template):
    _, counts = made([SHORT], template, 40)
    lines = list(counts.lines())
    assert lines[0].startswith("1 dialogue: 1 kept")
    assert lines[1].endswith("0 of 1 answers are masked")
