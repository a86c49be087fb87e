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
# Without borders, BPE merges across spaces. The first tokenizer below has none: its pattern
# `[\s\S]+` fits the whole text (the list below explains the signs). It learns 30 tokens from
# `english * 3`, a sentence three times. The longest is half a sentence, which fits this text alone.
# So a **split pattern** cuts the text into pieces first, and BPE merges only inside a piece. Then
# the longest token is a word.
#
# A split pattern is a **regular expression**, a formula that describes texts. The formula of GPT-2,
# a language model of OpenAI, has six parts, and `|` means "or":
#
# - `'s|'t|'re|'ve|'m|'ll|'d`: an ending, such as `'s` in `It's`.
# - ` ?\p{L}+`: a word. `\p{L}` is any letter, `+` means one or more, ` ?` a space or nothing.
# - ` ?\p{N}+`: a number. `\p{N}` is any digit.
# - ` ?[^\s\p{L}\p{N}]+`: signs. `\s` is white space (space, tab, line end), and `\S` is any other
#   character. `[…]` is one of the characters in the brackets, and `[^…]` is any other.
# - `\s+(?!\S)`: white space. `(?!\S)` means: no visible character may follow. So of several spaces
#   before a word, all but the last are one piece. The last goes with the word.
# - `\s+`: the white space that remains.
#
# `regex.findall` goes through the text from left to right. At each place it tries the six parts in
# order, and takes the first that fits. `"|".join` writes `|` between them. (With `r` before a
# quotation mark, Python keeps every `\`.) `find_pieces("gpt2")` returns a function of the library,
# and `(text)` calls this function.

# %% [markdown] lang="zh"
# ## 1. 先用模式切开文本
# 如果没有边界，BPE 也会跨过空格合并。下面第一个分词器没有边界：它的模式 `[\s\S]+` 匹配整段文本（这
# 些符号的含义见下面的列表）。`english * 3` 是重复三遍的一句话，从中学到 30 个 token，最长的竟是半句
# 话，只适合这一段文本。所以先用**切分模式**把文本切成小段，BPE 只在小段内合并。这样最长的 token 就
# 是一个单词。
#
# 切分模式是一个**正则表达式**，也就是描述文本的公式。OpenAI 的语言模型 GPT-2 用的公式
# 有六部分，`|` 表示“或”：
#
# - `'s|'t|'re|'ve|'m|'ll|'d`：词尾，例如 `It's` 里的 `'s`。
# - ` ?\p{L}+`：单词。`\p{L}` 是任何字母，`+` 表示一个或多个，` ?` 表示有一个空格或没有。
# - ` ?\p{N}+`：数。`\p{N}` 是任何数字。
# - ` ?[^\s\p{L}\p{N}]+`：符号。`\s` 是空白（空格、制表符、换行），`\S` 是其他任何字符。
#   `[…]` 是方括号中所列的一个字符，`[^…]` 是此外的任何字符。
# - `\s+(?!\S)`：空白。`(?!\S)` 表示：后面不能紧跟着可见字符。所以单词前如果有几个空格，
#   最后一个归单词，其余的合成一段。
# - `\s+`：其余的空白。
#
# `regex.findall` 从左到右走过文本，在每个位置依次试公式的六个部分，用第一个能匹配的。
# `"|".join` 在它们之间写上 `|`。（引号前的 `r` 让 Python 把 `\` 当作普通字符。）
# `find_pieces("gpt2")` 返回本库的一个函数，后面的 `(text)` 再调用这个函数。

# %%
english = "the model reads 677 words, and the model learns the words of the text. "
sentence = b"words, and the model learns the words"
for pattern, longest in [(r"[\s\S]+", sentence), (GPT2, b" words")]:
    small = train_bpe_from_texts([english * 3], 256 + 30, special_tokens=[], pattern=pattern)
    show("longest token", max(small.vocab.values(), key=len), longest)

parts = [r"'s|'t|'re|'ve|'m|'ll|'d", r" ?\p{L}+", r" ?\p{N}+", r" ?[^\s\p{L}\p{N}]+"]
parts += [r"\s+(?!\S)", r"\s+"]
text = "It's 2026,  you know\n\n  12345"
pieces = ["It", "'s", " 2026", ",", " ", " you", " know", "\n\n ", " 12345"]
show("by hand", regex.findall("|".join(parts), text), pieces)
show("gpt2", find_pieces("gpt2")(text), pieces)
show("emoji", find_pieces("gpt2")("hi 🙂🙂! 我爱AI"), ["hi", " 🙂🙂!", " 我爱AI"])

# %% [markdown] lang="en"
# ## 2. Trap: numbers
# GPT-2's pattern keeps a number whole. So only a frequent number becomes one token: below, ` 677`
# is one token and ` 127` is four. It is hard to learn addition from such tokens. The pattern of
# GPT-4, a later model of OpenAI, is called `cl100k`. It cuts a number after every 3 digits, from
# the left. The pattern of Qwen, a model of Alibaba, is called `qwen2`. It makes every digit a
# piece. In both, a number takes no space with it, and line ends are a piece of their own. The
# figure has a row for each: ␣ is a space, ⏎ a line end, and each box is a piece. The tokenizer has
# 256 bytes, 40 merges, and 1 token for the end of a document (section 4). `tokenizer.vocab` gives
# the bytes of an id.

# %% [markdown] lang="zh"
# ## 2. 陷阱：数字
# GPT-2 的模式让一个数保持完整，于是只有常见的数才成为一个 token：下面 ` 677` 是一个 token，` 127`
# 却是四个。用这样的 token 很难学会加法。GPT-4 是 OpenAI 后来的模型，它的模式叫 `cl100k`，从左边起每
# 3 位数字切一刀。Qwen（通义千问）是阿里巴巴的模型，它的模式叫 `qwen2`，让每一位数字各成一段。在这两
# 种模式里，数字前的空格不归数字，换行也自成一段。图中三行依次是这三种模式：␣ 是空格，⏎ 是换行，每个
# 色块是一段。这个分词器有 256 个字节、40 次合并，还有 1 个表示文档结束的 token（见第 4 节）。
# `tokenizer.vocab` 给出编号对应的字节。

# %%
chinese = "模型读文本，模型学词语。"
tokenizer = train_bpe_from_texts([english * 20 + chinese], 256 + 40 + 1)
show("677", [tokenizer.vocab[id] for id in tokenizer.encode(" 677")], [b" 677"])
show("127", [tokenizer.vocab[id] for id in tokenizer.encode(" 127")], [b" ", b"1", b"2", b"7"])
cl100k = ["It", "'s", " ", "202", "6", ",", " ", " you", " know", "\n\n", " ", " ", "123", "45"]
qwen2 = ["It", "'s", " ", "2", "0", "2", "6", ",", " ", " you", " know", "\n\n", " ", " "]
qwen2 += list("12345")  # "1", "2", "3", "4", "5"
rows = {"gpt2": pieces, "cl100k": cl100k, "qwen2": qwen2}
for name, row in rows.items():
    show(name, find_pieces(name)(text), row)

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
# the model seldom saw this token before a word. So leave out the last space. Chinese has no spaces:
# all characters up to the next sign are one piece, and a token may join two words. So a Chinese
# prompt should end before a sign.
#
# A text that comes in chunks has the same trap. If you encode `the te` and `xt` separately, the
# tokens differ from those of `the text`. `encode_iterable` takes an iterable (a list, or whatever a
# loop can go through). It waits with the last piece of a chunk, because the next chunk may change
# it. So its ids are those of the whole text, wherever you cut.

# %% [markdown] lang="zh"
# ## 3. 陷阱：空格与切断
# 空格属于它后面的单词：` the` 是一个 token，而文本开头的 `the` 是两个。
# 以空格结尾的提示词更糟：这个空格自成一个 token，而训练时它后面很少跟着单词。
# 所以不要写最后的空格。中文没有空格：下一个标点之前的汉字是一整段，一个 token 可能连着两个词。
# 所以中文的提示词最好在标点之前结束。
#
# 分块到来的文本有同样的陷阱：分别切 `the te` 和 `xt`，得到的 token 与切 `the text` 不同。
# `encode_iterable` 接收一个可迭代对象（iterable），也就是列表之类循环能走过的东西。
# 它会先留住一块的最后一段，因为下一块可能改变它。所以不论在哪里切断，编号都与整段文本的相同。

# %%
show("the", [tokenizer.encode("the"), tokenizer.encode(" the")], [[116, 257], [258]])
show("the model", tokenizer.encode("the model"), [116, 257, 269])
show("the model + space", tokenizer.encode("the model "), [116, 257, 269, 32])
show("the text", tokenizer.encode("the text"), [116, 257, 283])
show("the te", tokenizer.encode("the te"), [116, 257, 256, 101])
show("xt", tokenizer.encode("xt"), [270])
show("encode_iterable", list(tokenizer.encode_iterable(["the te", "xt"])), [116, 257, 283])
long = text + "<|endoftext|>" + english + chinese
for cut in range(len(long)):
    assert list(tokenizer.encode_iterable([long[:cut], long[cut:]])) == tokenizer.encode(long)
assert list(tokenizer.encode_iterable(long)) == tokenizer.encode(long)

# %% [markdown] lang="en"
# ## 4. Trap: special tokens in a user's text
# A **special token** is not text but a sign for the model. `<|endoftext|>` marks the end of a
# document. It has an id of its own, here 296. The tokenizer looks for special tokens first, and the
# pattern cuts the rest.
#
# If a user types `<|endoftext|>` in a chat, the model must not believe that the document ends. With
# `allowed_special="none"` the sign is plain text, here 9 tokens. Use this setting for all text that
# others wrote. (A list of allowed special tokens is possible, too.)
#
# `Pretokenizer` finds the special tokens: its `split` gives plain text, special token, plain text,
# and so on. If two special tokens begin at the same place, it takes the longer one.
# (`split = ….split` without brackets gives the function a name, and does not call it.)

# %% [markdown] lang="zh"
# ## 4. 陷阱：用户文本里的特殊 token
# **特殊 token** 不是文本，而是给模型的记号。`<|endoftext|>` 表示一篇文档结束。
# 它有自己的编号，这里是 296。分词器先找特殊 token，其余部分再用模式切开。
#
# 如果用户在聊天里打出 `<|endoftext|>`，不能让模型以为文档真的结束了。
# 写上 `allowed_special="none"`，这个记号就只是普通文本，这里是 9 个 token。凡是别人写的文本，
# 都应这样处理。（也可以给出一个列表，写明允许哪些特殊 token。）
#
# 找特殊 token 的是 `Pretokenizer`：它的 `split` 依次给出普通文本、特殊 token、普通文本……
# 如果两个特殊 token 从同一处开始，它取较长的那个。
# （`split = ….split` 后面没有括号：只是给函数起一个名字，并不调用。）

# %%
end = "<|endoftext|>"
plain = [60, 124, 101, 276, 275, 116, 279, 124, 62]
show("special", tokenizer.encode(end), [296])
show("none", tokenizer.encode(end, allowed_special="none"), plain)
assert tokenizer.encode(end, allowed_special=[end]) == [296]
assert tokenizer.encode(end, allowed_special=[]) == plain
split = Pretokenizer(special_tokens=["<|end|>", "<|end|>!"]).split
show("split", split("a<|end|>b<|end|>!"), ["a", "<|end|>", "b", "<|end|>!", ""])

# %% [markdown] lang="en"
# ## 5. Trap: some languages cost more
# The training text was almost only English, so few of the 40 merges are Chinese. 71 English
# characters need 18 tokens, and 12 Chinese characters need 22: 0.2535 and 1.8333 tokens for each
# character. Users pay for tokens, and a model reads a limited number of them. `compression` shows
# which characters cost so much: 17 of the 22 tokens are words (the row `cjk`, for Chinese, Japanese
# and Korean), and 5 are the signs `，` and `。`. Its last two columns are bytes and characters per
# token. (`.split()` cuts a line at its spaces.)
#
# So train the tokenizer on the languages that it will read. If the training text has both sentences
# 20 times, the 12 Chinese characters are 4 tokens. But now the English ones are 36, because Chinese
# uses many of the 40 merges. With 60 merges both are short (17 and 4). If `tiktoken` is installed
# (`find_spec` finds this out), it must give the same ids. Its `pat_str` is the pattern,
# `mergeable_ranks` are the tokens with their ids, and `encode_ordinary` knows no special tokens.

# %% [markdown] lang="zh"
# ## 5. 陷阱：有的语言更贵
# 上面的训练文本几乎全是英文，所以 40 次合并中属于中文的很少。71 个英文字符需要 18 个 token，
# 12 个中文字符却需要 22 个：平均每个字符分别要 0.2535 和 1.8333 个 token。用户按 token 付费，
# 模型能读的 token 也有限。`compression` 列出哪些字符这么贵：22 个 token 中，
# 17 个是文字（`cjk` 一行，指中文、日文和韩文），5 个是符号 `，` 和 `。`。
# 后两列是平均每个 token 的字节数和字符数。（`.split()` 按空格切开一行。）
#
# 所以，应该用将来要读的语言来训练分词器。如果训练文本里两句话各有 20 遍，12 个中文字符只要 4 个
# token。可是英文变成 36 个，因为 40 次合并中有许多给了中文。有 60 次合并时，两者都短（17 和 4）。
# 如果装了 `tiktoken`（用 `find_spec` 检查），它必须给出同样的编号。它的 `pat_str` 是模式，
# `mergeable_ranks` 是各个 token 及其编号，`encode_ordinary` 不认特殊 token。

# %%
counts = [len(tokenizer.encode(english)), len(tokenizer.encode(chinese))]
show("tokens", counts, [18, 22])
show("per character", [counts[0] / len(english), counts[1] / len(chinese)], [0.2535, 1.8333])
table = [line.split() for line in compression(tokenizer, chinese).splitlines()]
show("columns", table[0], ["sample", "tokens", "bytes/token", "characters/token"])
show("words", table[1], ["cjk", "17", "1.76", "0.59"])
show("signs", table[2], ["signs", "5", "1.20", "0.40"])
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

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 写出 `split_special(text, specials)`：像 `Pretokenizer` 那样，在特殊 token 处切开文本。
# 返回一个列表：普通文本、特殊 token、普通文本，依次交替；两端以及两个特殊 token 之间
# 都要有普通文本（可以是 `""`）。`text.startswith(token, i)` 检查位置 `i`。


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
