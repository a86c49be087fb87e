# %% [markdown] lang="en"
# # 3 · Bytes and characters
# Question: what is a text made of?
#
# You know from lesson 1 that a tokenizer cuts a text into tokens. Before it can cut, it needs the
# text as numbers. Here you learn these numbers, and why a language model sometimes writes `�`.

# %% [markdown] lang="zh"
# # 3 · 字节与字符
# 问题：文本是由什么组成的？
#
# 第 1 课讲过，分词器把文本切成 token。在切分之前，它需要把文本表示成数。
# 这一课就讲这些数，并说明语言模型为什么有时会写出 `�`。

# %%
import unicodedata

from scratchlm import BPETokenizer, train_bpe_from_texts
from scratchlm.generation.text_stream import TextStream
from scratchlm.lessons.show import figure, show

# %% [markdown] lang="en"
# ## 1. Every character has a number
# The Unicode standard is a long list of the characters of all languages, of signs and of emoji.
# The number of a character in this list is its **code point**. Python's `ord` returns the number
# of a character, and `chr` returns the character of a number.
#
# People write code points in base 16. Its digits are 0 to 9, then A (10) to F (15). `U+6211` means
# 6·16³ + 2·16² + 1·16 + 1 = 25105. Python's `hex` writes a number in base 16, after `0x`.

# %% [markdown] lang="zh"
# ## 1. 每个字符都有编号
# Unicode 标准是一张很长的表，收录了各种语言的字符、符号和表情。
# 字符在这张表里的编号叫做**码位**。Python 的 `ord` 返回字符的编号，`chr` 返回编号对应的字符。
#
# 码位习惯用 16 进制书写，数字是 0 到 9，接着是 A（10）到 F（15）。`U+6211` 表示
# 6·16³ + 2·16² + 1·16 + 1 = 25105。Python 的 `hex` 把数写成 16 进制，
# 前面加上 `0x`。

# %%
text = "Aé我🙂"
show("code points", [ord(character) for character in text], [65, 233, 25105, 128578])
show("25105 in base 16", hex(25105), "0x6211")
assert chr(25105) == "我"

# %% [markdown] lang="en"
# ## 2. Every number becomes one to four bytes
# Files and networks carry small numbers: a **byte** is a number from 0 to 255. Most code points are
# larger, so one byte is not enough. **UTF-8** is the rule that writes a code point as bytes. Nearly
# all text on the web follows it. The rule writes the code point in base 64, with the digits a, b, c
# and d. Then it adds a fixed number to each digit:
#
# ```
# code point n                           bytes
# 0 … 127           n                    n
# 128 … 2047        a·64 + b             192 + a, 128 + b
# 2048 … 65535      a·64² + b·64 + c     224 + a, 128 + b, 128 + c
# 65536 … 1114111   a·64³ + … + d        240 + a, 128 + b, 128 + c, 128 + d
# ```
#
# By hand for `我`: 25105 = 6·64² + 8·64 + 17. So its bytes are 224 + 6 = 230, 128 + 8 = 136 and
# 128 + 17 = 145. In Python, `a // b` is the whole part of a division, and `a % b` is the rest. A
# text has an `.encode()` of its own, without a tokenizer: it gives the bytes, as our function does.
#
# The picture has one row for each of our four characters, and its columns are the bytes 1 to 4. The
# first byte is orange, and the others are blue.

# %% [markdown] lang="zh"
# ## 2. 每个编号变成一到四个字节
# 文件和网络传送的是小的数：一个**字节**是 0 到 255 之间的一个数。大多数码位比这大，
# 一个字节放不下。**UTF-8** 就是把码位写成若干字节的规则，网上的文本几乎都遵守它。
# 做法是把码位写成 64 进制，各位数字依次为 a、b、c、d，再给每一位加上一个固定的数：
#
# ```
# code point n                           bytes
# 0 … 127           n                    n
# 128 … 2047        a·64 + b             192 + a, 128 + b
# 2048 … 65535      a·64² + b·64 + c     224 + a, 128 + b, 128 + c
# 65536 … 1114111   a·64³ + … + d        240 + a, 128 + b, 128 + c, 128 + d
# ```
#
# 手算 `我`：25105 = 6·64² + 8·64 + 17，所以它的字节是 224 + 6 = 230、
# 128 + 8 = 136 和 128 + 17 = 145。Python 里 `a // b` 是除法的整数部分，`a % b` 是余数。
# 文本自己也有 `.encode()`，与分词器无关：它和我们的函数一样，给出字节。
#
# 图里每一行是我们四个字符中的一个，各列是它的第 1 到第 4 个字节：
# 第一个字节是橙色，其余的是蓝色。


# %%
def utf8(n):
    if n < 128:
        return [n]
    if n < 2048:
        return [192 + n // 64, 128 + n % 64]
    if n < 65536:
        return [224 + n // 64**2, 128 + n // 64 % 64, 128 + n % 64]
    return [240 + n // 64**3, 128 + n // 64**2 % 64, 128 + n // 64 % 64, 128 + n % 64]


show("bytes of 25105", utf8(25105), [230, 136, 145])
show("bytes of 128578", utf8(128578), [240, 159, 153, 130])
show("code points, bytes", [len(text), len(text.encode())], [4, 10])
for character in text:
    assert utf8(ord(character)) == list(character.encode())

# %% tags=["figure"]
from matplotlib.patches import Rectangle

with figure("03-bytes", width=4.4) as axes:
    axes.set(xlim=(-2.3, 4), ylim=(3.5, -0.9))
    axes.axis("off")
    for place in range(4):
        axes.text(place + 0.5, -0.65, f"{place + 1}", ha="center", va="center", color="grey")
    for row, character in enumerate(text):
        axes.text(-0.2, row, f"U+{ord(character):04X}", ha="right", va="center")
        for place, number in enumerate(utf8(ord(character))):
            colour = "lightblue" if place else "orange"
            box = {"facecolor": colour, "edgecolor": "black"}
            axes.add_patch(Rectangle((place + 0.05, row - 0.35), 0.9, 0.7, **box))
            axes.text(place + 0.5, row, number, ha="center", va="center")

# %% [markdown] lang="en"
# ## 3. A tokenizer starts with bytes
# A byte-level tokenizer has one token for each of the 256 bytes. So it can encode every text of
# every language, and no character is unknown to it. `vocab_size=257` leaves room for one more
# token only, which marks the end of a document. So here each byte is one token, and the id of a
# token is the byte itself. Lesson 4 joins bytes to longer tokens.
#
# `decode_bytes` returns the bytes of ids, and `decode` returns their text. Python has its own type
# for a row of bytes. `bytes([65, 66])` makes such a row from a list of numbers, and `b"AB"` is the
# same row.

# %% [markdown] lang="zh"
# ## 3. 分词器从字节出发
# 字节级的分词器为 256 个字节各准备一个 token，所以任何语言的任何文本都能编码，
# 没有它不认识的字符。`vocab_size=257` 只多留了一个 token，用来标记文档的结尾。
# 所以这里每个字节就是一个 token，token 的 id 就是字节本身。第 4 课再把字节连成更长的 token。
#
# `decode_bytes` 返回 id 对应的字节，`decode` 返回对应的文本。Python 有专门的类型表示一串字节：
# `bytes([65, 66])` 把数的列表变成一串字节，`b"AB"` 是同样的一串。

# %%
tokenizer = train_bpe_from_texts([text], vocab_size=257)
ids = tokenizer.encode(text)
show("ids", ids, [65, 195, 169, 230, 136, 145, 240, 159, 153, 130])
assert tokenizer.decode_bytes(ids) == bytes(ids) == text.encode()
show("decode", tokenizer.decode(ids), "Aé我🙂")

# %% [markdown] lang="en"
# ## 4. Equal for the eye, different for the computer
# `é` can be one code point, or two: `e`, then `U+0301`, which puts an accent on the letter before
# it. Both look the same, but they have different bytes and different tokens. A family of four is
# seven code points: four persons, and between them three times `U+200D`, which glues them together.
# In Python, `"\u0301"` is `U+0301`, and `"\u200d".join(…)` puts `U+200D` between characters.
#
# `unicodedata.normalize("NFC", …)` replaces `e` and `U+0301` by the single `é`. A tokenizer with
# `normalization="NFC"` does this first, so both give the same ids. It gets the vocabulary of the
# first tokenizer. The empty list means that it joins no bytes.

# %% [markdown] lang="zh"
# ## 4. 看上去一样，计算机却认为不同
# `é` 可以是一个码位，也可以是两个：先是 `e`，再是 `U+0301`，后者给前面的字母加上重音符号。
# 两种写法看上去一样，字节却不同，token 也不同。一家四口的表情是七个码位：四个人，
# 中间用三个 `U+200D` 粘起来。Python 里 `"\u0301"` 就是 `U+0301`，`"\u200d".join(…)` 在字符之间插入
# `U+200D`。
#
# `unicodedata.normalize("NFC", …)` 把 `e` 和 `U+0301` 换成单个的 `é`。带有 `normalization="NFC"`
# 的分词器会先做这一步，所以两种写法得到同样的 id。它用前一个分词器的词表；空列表表示不合并字节。

# %%
one, two = "\u00e9", "e\u0301"
show("equal", one == two, False)
show("bytes", [len(one.encode()), len(two.encode())], [2, 3])
show("ids of e, U+0301", tokenizer.encode(two), [101, 204, 129])
assert unicodedata.normalize("NFC", two) == one
normalizing = BPETokenizer(tokenizer.vocab, [], normalization="NFC")
show("ids after NFC", normalizing.encode(two), [195, 169])
family = "\u200d".join("👨👩👧👦")
show("family: code points, bytes", [len(family), len(family.encode())], [7, 25])

# %% [markdown] lang="en"
# ## 5. Half a character
# A token may end in the middle of a character. The bytes 230, 136 are the beginning of `我`, but
# no character. The `decode` of a tokenizer must not fail in the middle of a long text. So it writes
# `�` (`U+FFFD`, the replacement character) in the place of bytes that are not UTF-8. Python's own
# `decode` does the same with `errors="replace"`; without it, Python stops with an error.
#
# A program that decodes the tokens one by one therefore prints rubbish, although all bytes are
# right. This is the usual reason for `�` in a chat window.

# %% [markdown] lang="zh"
# ## 5. 半个字符
# token 可能在一个字符的中间结束。字节 230、136 是 `我` 的开头，却不是一个字符。
# 分词器的 `decode` 不应该因为长文本中的一处错误就停下来，所以遇到不符合 UTF-8 的字节，
# 就写上 `�`（`U+FFFD`，替换字符）。Python 自己的 `decode` 加上 `errors="replace"` 也是这样；
# 不加，Python 就会报错停下。
#
# 因此，逐个解码 token 的程序会打印出乱码，尽管所有的字节都是对的。
# 聊天窗口里出现 `�`，通常就是这个原因。

# %%
show("decode([230, 136])", tokenizer.decode([230, 136]), "�")
show("decode([65, 136, 66])", tokenizer.decode([65, 136, 66]), "A�B")
assert bytes([65, 136, 66]).decode(errors="replace") == "A�B"
show("one by one", [tokenizer.decode([id]) for id in [230, 136, 145]], ["�", "�", "�"])
show("together", tokenizer.decode([230, 136, 145]), "我")

# %% [markdown] lang="en"
# ## 6. A stream waits for the rest
# A stream is a text that comes piece by piece. The table of section 2 shows how to avoid `�` in it:
# the first byte of a character tells how many bytes the character has. So a program can wait for
# the rest. `TextStream` does this. `push` takes the next id and returns the text that is complete
# now, and `close` returns what remains at the end.
#
# A stream can also end at a stop string, such as a mark for the end of an answer. If the stop
# string is `END`, the stream holds back `E` and `EN`, because `END` may come. If another letter
# comes, the stream returns the letters that it held back. After the stop string, it returns nothing
# more, and `stopped` is true. Of two stop strings, the one that is complete first ends the text.
#
# In Python, `a if c else b` is `a` if `c` is true, else `b`. A star unpacks a list: `[*a, x]` is a
# list of all values of `a`, then `x`, and `f(*a)` calls `f` with all values of `a`. But in
# `def f(x, *rest)`, the star collects: `rest` contains all values after the first.

# %% [markdown] lang="zh"
# ## 6. 流会等待剩下的字节
# 流，就是一段一段到来的文本。怎样避免其中出现 `�`，看第 2 节的表：
# 字符的第一个字节说明这个字符有几个字节，所以程序可以等剩下的字节。
# `TextStream` 就是这样做的：`push` 接收下一个 id，返回现在已经完整的文本；
# `close` 返回最后剩下的部分。
#
# 流还可以在停止字符串处结束，例如表示回答结束的标记。如果停止字符串是 `END`，
# 流会先留住 `E` 和 `EN`，因为后面可能凑成 `END`。如果来的是别的字母，
# 流就把留住的字母返回。遇到停止字符串之后，流不再返回任何文本，`stopped` 变为真。
# 如果有两个停止字符串，先完整出现的那个让文本结束。
#
# Python 里 `a if c else b` 的意思是：`c` 成立就取 `a`，否则取 `b`。星号把列表拆开：
# `[*a, x]` 是一个列表，先是 `a` 的所有值，再是 `x`；`f(*a)` 把 `a` 的各个值分别交给 `f`。
# 而在 `def f(x, *rest)` 里，星号用来收集：`rest` 是第一个以后的所有值。


# %%
def width(first):
    if first < 128:
        return 1
    if first < 224:
        return 2
    return 3 if first < 240 else 4


for character in text:
    assert width(character.encode()[0]) == len(character.encode())
stream = TextStream(tokenizer)
pieces = [stream.push(id) for id in ids]
show("pieces", pieces, ["A", "", "é", "", "", "我", "", "", "", "🙂"])
show("rest", stream.close(), "")
show("number of ids", stream.count, 10)
cut = TextStream(tokenizer)
pieces = [cut.push(id) for id in ids[:5]]
show("cut", [*pieces, cut.close()], ["A", "", "é", "", "", "�"])


def with_stop(text, *stop):
    stream = TextStream(tokenizer, stop)
    pieces = [stream.push(id) for id in tokenizer.encode(text)]
    return [*pieces, stream.close(), stream.stopped]


show("stop at END", with_stop("aENDb", "END"), ["a", "", "", "", "", "", True])
show("stop at END or N", with_stop("aENDb", "END", "N"), ["a", "", "E", "", "", "", True])
show("no END", with_stop("aEENbE", "END"), ["a", "", "E", "", "ENb", "", "E", False])

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Write `whole_characters(pieces)`. `pieces` is a list of rows of bytes. Return a list of texts: for
# every piece, the characters that are complete now and were not before. This can be no character,
# or several. At the end comes one more text for the bytes that remain: `""`, or `"�"` if a
# character is cut. Example: `[bytes([65, 230]), bytes([136, 145, 66])]` gives `["A", "我B", ""]`.
#
# You can use `width`. Rows of bytes can be added (`a + b`) and cut (`a[:2]`), `a[0]` is a number,
# `b""` is an empty row, and `a.decode(errors="replace")` writes `�` for bytes that are no
# character.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 写出 `whole_characters(pieces)`。`pieces` 是由若干串字节组成的列表。返回一个文本列表：
# 每读完一串，给出到此为止新凑齐的字符（可能没有，也可能不止一个）；最后再加一项，
# 表示剩下的字节：`""`，如果有字符被切断就是 `"�"`。
# 例如 `[bytes([65, 230]), bytes([136, 145, 66])]` 应得到 `["A", "我B", ""]`。
#
# 可以使用 `width`。字节串可以相加（`a + b`），可以切片（`a[:2]`），`a[0]` 是一个数，
# `b""` 是空的字节串，`a.decode(errors="replace")` 遇到不成字符的字节就写 `�`。


# %% tags=["exercise"]
def whole_characters(pieces):
    raise NotImplementedError


# %% tags=["answer"]
def whole_characters(pieces):
    texts, held = [], b""
    for piece in pieces:
        held = held + piece
        end = 0
        while end < len(held) and end + width(held[end]) <= len(held):
            end += width(held[end])
        texts.append(held[:end].decode())
        held = held[end:]
    return [*texts, held.decode(errors="replace")]


# %% tags=["check"]
def check(answer, same):
    for text, size in [("Aé我🙂!", 1), ("我爱AI🙂", 2), ("na\u00efve 你好", 5), ("é我", 4)]:
        data = text.encode()
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        for some in (pieces, pieces[:-1]):
            vocab = dict(enumerate(dict.fromkeys(pieces)))
            stream = TextStream(BPETokenizer(vocab, []))
            id_of = {piece: id for id, piece in vocab.items()}
            want = [stream.push(id_of[piece]) for piece in some]
            same(answer(some), [*want, stream.close()])


def one_by_one(pieces):
    """Each piece is decoded alone: cut characters are lost. | 每串单独解码，切断的字符就丢了。"""
    return [*(piece.decode(errors="replace") for piece in pieces), ""]


def ignores(pieces):
    """errors="ignore" drops cut characters. | errors="ignore" 丢掉了被切断的字符。"""
    return [*(piece.decode(errors="ignore") for piece in pieces), ""]


def waits_for_the_end(pieces):
    """All text comes at the end, so nothing streams. | 文本都到最后才出来，没有做到流式。"""
    return [*("" for _ in pieces), b"".join(pieces).decode(errors="replace")]


def all_or_nothing(pieces):
    """A whole character must not wait for a cut one. | 完整的字符不该等待被切断的字符。"""
    texts, held = [], b""
    for piece in pieces:
        held += piece
        try:
            texts.append(held.decode())
            held = b""
        except UnicodeDecodeError:
            texts.append("")
    return [*texts, held.decode(errors="replace")]


def one_character(pieces):
    """A piece can complete several characters, not only one. | 一串可能补全不止一个字符。"""
    texts, held = [], b""
    for piece in pieces:
        held += piece
        end = width(held[0]) if held and width(held[0]) <= len(held) else 0
        texts.append(held[:end].decode())
        held = held[end:]
    return [*texts, held.decode(errors="replace")]


def no_rest(pieces):
    """The last text, for the bytes that remain, is missing. | 少了最后一项：剩下的字节。"""
    return whole_characters(pieces)[:-1]


EXERCISE = "whole_characters"
WRONG = [one_by_one, ignores, waits_for_the_end, all_or_nothing, one_character, no_rest]
FAULTS = [  # planted in the library, each must make this lesson fail
    ("scratchlm.tokenizer.bpe", '.decode("utf-8", errors="replace")', '.decode("utf-8", "ignore")'),
    ("scratchlm.generation.text_stream", '(errors="replace")', '(errors="ignore")'),
    ("scratchlm.generation.text_stream", 'b"", final=True', 'b"", final=False'),
    ("scratchlm.generation.text_stream", "self._held + text\n", "text + self._held\n"),
]
