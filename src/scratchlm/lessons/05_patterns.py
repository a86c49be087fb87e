# %% [markdown] lang="en"
# # 5 · Patterns, special tokens, traps
# Question: where do tokenizers go wrong?
#
# You know from lesson 4 how a tokenizer merges bytes inside a word. But who says where a word ends?
# Here you cut a text into words, numbers and signs, and then see four traps.

# %% [markdown] lang="zh"
# # 5 · 切分模式、特殊 token 与陷阱
# 问题：分词器会在哪里出错？
#
# 第 4 课讲过，分词器怎样在一个单词里面合并字节。但是，单词在哪里结束由谁决定？
# 这一课先把文本切成单词、数字和符号，再看四个陷阱。

# %%
from importlib.util import find_spec

import regex

from scratchlm.lessons.show import figure, show
from scratchlm.tokenizer.inspection import compression
from scratchlm.tokenizer.pieces.patterns import GPT2, find_pieces
from scratchlm.tokenizer.pieces.pretokenize import Pretokenizer
from scratchlm.tokenizer.train import train_bpe_from_texts

# %% [markdown] lang="en"
# ## 1. A pattern cuts the text first
# Without borders, BPE also merges across spaces. The first tokenizer below has no borders
# (`[\s\S]+` is the whole text). It learns 30 tokens, and one of them is half a sentence, which fits
# this text alone. So a **split pattern** cuts the text into pieces first, and merges stay inside a
# piece. Then the longest token is a word.
#
# A split pattern is a **regular expression**, a formula that describes texts. In GPT-2's formula,
# `\p{L}` is any letter, `\p{N}` a digit, `\s` white space (space, tab, line end), and `[^…]` any
# character except those in the brackets. `+` means one or more, ` ?` a space or nothing, `|` means
# "or". `(?!\S)` allows an end only where no visible character follows. The `r` before a text keeps
# its `\`. `regex.findall` goes from left to right, and takes the first of the six parts that fits:
# endings such as `'s`, letters, digits, signs, white space before more of it, other white space.

# %% [markdown] lang="zh"
# ## 1. 先用模式切开文本
# 如果没有边界，BPE 也会跨过空格合并。下面第一个分词器没有边界（`[\s\S]+` 就是整段文本）。
# 它学到 30 个 token，其中一个竟是半句话，只适合这一段文本。所以先用**切分模式**
# 把文本切成小段，合并只在小段内进行。这样最长的 token 就是一个单词。
#
# 切分模式是一个**正则表达式**，也就是描述文本的公式。在 GPT-2 的公式里，
# `\p{L}` 是任何字母，`\p{N}` 是数字，`\s` 是空白（空格、制表符、换行），
# `[^…]` 是方括号中所列之外的任何字符。`+` 表示一个或多个，` ?` 表示有一个空格或没有，
# `|` 表示“或”。`(?!\S)` 只允许在后面没有可见字符的地方结束。文本前的 `r` 保留其中的 `\`。
# `regex.findall` 从左到右，取六个部分中第一个合适的：
# `'s` 这样的词尾、字母、数字、符号、后面还有空白的空白、其余空白。

# %%
english = "the model reads 677 words, and the model learns the words of the text. "
sentence = b"words, and the model learns the words"
for pattern, longest in [(r"[\s\S]+", sentence), (GPT2, b" words")]:
    vocabulary = train_bpe_from_texts([english * 3], 256 + 30, [], pattern=pattern).vocab
    show("longest token", max(vocabulary.values(), key=len), longest)

parts = [r"'s|'t|'re|'ve|'m|'ll|'d", r" ?\p{L}+", r" ?\p{N}+", r" ?[^\s\p{L}\p{N}]+"]
parts += [r"\s+(?!\S)", r"\s+"]
text = "It's 2026,  you know\n\n  12345 我爱AI"
pieces = ["It", "'s", " 2026", ",", " ", " you", " know", "\n\n ", " 12345", " 我爱AI"]
show("by hand", regex.findall("|".join(parts), text), pieces)
show("gpt2", find_pieces("gpt2")(text), pieces)
assert "".join(pieces) == text
show("emoji", find_pieces("gpt2")("hi 🙂🙂! a"), ["hi", " 🙂🙂!", " a"])

# %% [markdown] lang="en"
# ## 2. Trap: numbers
# GPT-2 keeps a number whole. So its tokens depend on how often the number occurred: below, ` 677`
# is one token and ` 127` is four. It is hard to learn addition from such tokens. GPT-4's pattern
# (`cl100k`) cuts a number after every 3 digits, from the left. Qwen's (`qwen2`) makes every digit a
# piece. The figure has a row for each: ␣ is a space, ⏎ a line end.

# %% [markdown] lang="zh"
# ## 2. 陷阱：数字
# GPT-2 让一个数保持完整。于是它变成哪些 token，取决于这个数出现的次数：下面 ` 677` 是一个
# token，` 127` 却是四个。从这样的 token 很难学会加法。GPT-4 的模式（`cl100k`）从左边起
# 每 3 位数字切一刀，Qwen 的（`qwen2`）让每一位数字各成一段。
# 图中三行依次是这三种模式：␣ 是空格，⏎ 是换行。

# %%
chinese = "模型读文本，模型学词语。"
tokenizer = train_bpe_from_texts([english * 20 + chinese], 256 + 40 + 1)
show("677", [tokenizer.vocab[id] for id in tokenizer.encode(" 677")], [b" 677"])
show("127", [tokenizer.vocab[id] for id in tokenizer.encode(" 127")], [b" ", b"1", b"2", b"7"])
cl100k = ["It", "'s", " ", "202", "6", ",", " ", " you", " know", "\n\n", " ", " ", "123", "45"]
qwen2 = ["It", "'s", " ", *"2026", ",", " ", " you", " know", "\n\n", " ", " ", *"12345"]
rows = {"gpt2": pieces[:-1], "cl100k": cl100k, "qwen2": qwen2}
for name, row in rows.items():
    show(name, find_pieces(name)(text), [*row, " 我爱AI"])

# %% tags=["figure"]
with figure("05-pieces", 7.2, 1.8) as axes:
    for y, row in enumerate(rows.values()):
        x = 0
        for i, piece in enumerate(row):
            axes.barh(-y, len(piece) - 0.08, left=x, height=0.8, color=f"C{i % 4}", alpha=0.35)
            for letter in piece.replace(" ", "␣").replace("\n", "⏎"):
                axes.text(x + 0.46, -y, letter, ha="center", va="center", family="monospace")
                x += 1
    axes.set(yticks=[0, -1, -2], yticklabels=rows, xticks=[], xlim=(0, x))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)

# %% [markdown] lang="en"
# ## 3. Trap: spaces and cuts
# The space belongs to the word after it: ` the` is one token, but `the` at the start of a text is
# two. A prompt that ends in a space is worse. The space becomes a token of its own, and in training
# the model seldom saw this token before a word. So leave out the last space.
#
# A text that comes in chunks has the same trap: the tokens of `the te` and `xt` are not those of
# `the text`. `encode_iterable` keeps the end of a chunk until no later chunk can change its tokens.
# Its ids are right wherever the text is cut.

# %% [markdown] lang="zh"
# ## 3. 陷阱：空格与切断
# 空格属于它后面的单词：` the` 是一个 token，而文本开头的 `the` 是两个。
# 以空格结尾的提示词更糟：这个空格自成一个 token，而训练时它后面很少跟着单词。
# 所以不要写最后的空格。
#
# 分块到来的文本有同样的陷阱：`the te` 和 `xt` 的 token，不是 `the text` 的 token。
# `encode_iterable` 会留住一块的末尾，直到后面的内容不再能改变它的 token。
# 不论文本在哪里切断，它给出的编号都是对的。

# %%
show("the", [tokenizer.encode("the"), tokenizer.encode(" the")], [[116, 257], [258]])
show("the model", tokenizer.encode("the model"), [116, 257, 269])
show("the model + space", tokenizer.encode("the model "), [116, 257, 269, 32])
show("the text", tokenizer.encode("the text"), [116, 257, 283])
two_chunks = ["the te", "xt"]
one_by_one = [id for chunk in two_chunks for id in tokenizer.encode(chunk)]
show("the te, xt", one_by_one, [116, 257, 256, 101, 270])
show("encode_iterable", [*tokenizer.encode_iterable(two_chunks)], [116, 257, 283])
long = text + "<|endoftext|>" + english + chinese
for cut in range(len(long)):
    assert [*tokenizer.encode_iterable([long[:cut], long[cut:]])] == tokenizer.encode(long)
assert [*tokenizer.encode_iterable(long)] == tokenizer.encode(long)

# %% [markdown] lang="en"
# ## 4. Trap: special tokens in a user's text
# A **special token** is not text but a sign for the model. `<|endoftext|>` marks the end of a
# document. It has an id of its own, here 296. The tokenizer looks for special tokens first, and the
# pattern cuts the rest. If a user types `<|endoftext|>` in a chat, the model must not believe that
# the document ends. With `allowed_special="none"` the sign is plain text, here 9 tokens. Use this
# setting for all text that others wrote. `Pretokenizer` does the first step. If two special tokens
# begin at the same place, it takes the longer one.

# %% [markdown] lang="zh"
# ## 4. 陷阱：用户文本里的特殊 token
# **特殊 token** 不是文本，而是给模型的记号。`<|endoftext|>` 表示一篇文档结束。
# 它有自己的编号，这里是 296。分词器先找特殊 token，其余部分再用模式切开。
# 如果用户在聊天里打出 `<|endoftext|>`，不能让模型以为文档真的结束了。
# 写上 `allowed_special="none"`，这个记号就只是普通文本，这里是 9 个 token。凡是别人写的文本，
# 都应这样处理。第一步由 `Pretokenizer` 完成。如果两个特殊 token 从同一处开始，
# 它取较长的那个。

# %%
end = "<|endoftext|>"
plain = [60, 124, 101, 276, 275, 116, 279, 124, 62]
show("special", tokenizer.encode(end), [296])
show("none", tokenizer.encode(end, allowed_special="none"), plain)
assert tokenizer.encode(end, allowed_special={end}) == [296]
assert tokenizer.encode(end, allowed_special=set()) == plain
split = Pretokenizer(special_tokens=["<|end|>", "<|end|>!"]).split
show("split", split("a<|end|>b<|end|>!"), ["a", "<|end|>", "b", "<|end|>!", ""])

# %% [markdown] lang="en"
# ## 5. Trap: some languages cost more
# The training text was almost only English, so few of the 40 merges are Chinese. 71 English
# characters need 18 tokens, and 12 Chinese characters need 22: 0.2535 against 1.8333 tokens a
# character. Users pay for tokens, and a model reads a limited number of them. Train the tokenizer
# on the languages that it will read. If the training text has both sentences 20 times, the 12
# Chinese characters are 4 tokens, but the English ones are 36: with 40 merges, one language pays
# for the other. With 60 merges both are short (17 and 4). `compression` shows such numbers by kind
# of text (`，` is a sign). `tiktoken`, if it is installed, gives the same ids.

# %% [markdown] lang="zh"
# ## 5. 陷阱：有的语言更贵
# 上面的训练文本几乎全是英文，所以 40 次合并中属于中文的很少。71 个英文字符需要 18 个 token，
# 12 个中文字符却需要 22 个：平均每个字符 0.2535 个对 1.8333 个 token。
# 用户按 token 付费，模型能读的 token 也有限。应该用将来要读的语言来训练分词器。
# 如果训练文本里两句话各有 20 遍，12 个中文字符只要 4 个 token，但英文要 36 个：
# 总共 40 次合并，一种语言多用，另一种就少了。有 60 次合并时，两者都短（17 和 4）。
# `compression` 按文字种类列出这样的数（`，` 算符号）。如果装了 `tiktoken`，它给出同样的编号。

# %%
counts = [len(tokenizer.encode(english)), len(tokenizer.encode(chinese))]
show("tokens", counts, [18, 22])
show("per character", [counts[0] / len(english), counts[1] / len(chinese)], [0.2535, 1.8333])
header, latin, cjk, *_, total = compression(tokenizer, english + chinese).splitlines()
show("columns", header.split()[1:], ["tokens", "bytes/token", "characters/token"])
show("latin", latin.split()[1:], ["14", "4.57", "4.57"])
show("cjk", cjk.split()[1:], ["18", "1.72", "0.61"])
show("all", total.split()[1:], ["40", "2.67", "2.08"])
for merges, expected in [(40, [36, 4]), (60, [17, 4])]:
    both = train_bpe_from_texts([english * 20 + chinese * 20], 256 + merges + 1)
    show(f"{merges} merges", [len(both.encode(english)), len(both.encode(chinese))], expected)
if find_spec("tiktoken"):
    import tiktoken

    ranks = {token: id for id, token in tokenizer.vocab.items() if token != end.encode()}
    twin = tiktoken.Encoding("twin", pat_str=GPT2, mergeable_ranks=ranks, special_tokens={end: 296})
    assert twin.encode(long, allowed_special="all") == tokenizer.encode(long)
    assert twin.encode_ordinary(long) == tokenizer.encode(long, allowed_special="none")

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Write `split_special(text, specials)`: cut a text at its special tokens, as `Pretokenizer` does.
# Return a list: plain text, special token, plain text, and so on, with plain text (perhaps `""`) at
# both ends and between two special tokens. `text.startswith(token, i)` looks at place `i`.
# Then run `scratchlm-learn 5 --check FILE`.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 写出 `split_special(text, specials)`：像 `Pretokenizer` 那样，在特殊 token 处切开文本。
# 返回一个列表：普通文本、特殊 token、普通文本，依次交替；两端以及两个特殊 token 之间
# 都要有普通文本（可以是 `""`）。`text.startswith(token, i)` 检查位置 `i`。
# 然后运行 `scratchlm-learn 5 --check FILE`。


# %% tags=["exercise"]
def split_special(text, specials):
    raise NotImplementedError


# %% tags=["answer"]
def split_special(text, specials):
    parts, i = [""], 0
    while i < len(text):
        found = [token for token in specials if text.startswith(token, i)]
        if found:
            parts += [max(found, key=len), ""]
            i += len(parts[-2])
        else:
            parts[-1] += text[i]
            i += 1
    return parts


# %% tags=["check"]
def check(split_special, same):
    texts = ["a<|end|>b", "<|end|><|end|>!", "no token, <|en|>", "<|end|>!!x<|end|>", "", "a<b"]
    for specials in (["<|end|>", "<|end|>!"], ["<|end|>!", "<|end|>"], ["<", "<|end|>"]):
        for text in texts:
            same(split_special(text, specials), Pretokenizer(special_tokens=specials).split(text))


def first_in_the_list(text, specials):
    """It takes the first token of the list, not the longest. | 取了列表里的第一个，不是最长的。"""
    pattern = "|".join(map(regex.escape, specials))
    return regex.split(f"({pattern})", text)


def shortest(text, specials):
    """It takes the shortest token, not the longest. | 取了最短的 token，而不是最长的。"""
    return first_in_the_list(text, sorted(specials, key=len))


def without_empty(text, specials):
    """It leaves out empty plain text. | 漏掉了空的普通文本。"""
    return [part for part in split_special(text, specials) if part]


def without_specials(text, specials):
    """It drops the special tokens. | 丢掉了特殊 token。"""
    return split_special(text, specials)[::2]


def first_place_only(text, specials):
    """It cuts at the first special token only. | 只在第一个特殊 token 处切开了。"""
    parts = split_special(text, specials)
    return [*parts[:2], "".join(parts[2:])] if len(parts) > 1 else parts


EXERCISE = "split_special"
WRONG = [first_in_the_list, shortest, without_empty, without_specials, first_place_only]
FAULTS = [  # planted in the library, each must make this lesson fail
    ("scratchlm.tokenizer.pieces.patterns", '|\\s+(?!\\S)|\\s+"""', '|\\s+"""'),
    ("scratchlm.tokenizer.pieces.patterns", 'LLAMA3.replace("{1,3}", "")', "LLAMA3"),
    ("scratchlm.tokenizer.pieces.pretokenize", "len(text) - self.longest_special", "len(text)"),
    ("scratchlm.tokenizer.bpe", "return self._plain", "return self._all_special"),
]
