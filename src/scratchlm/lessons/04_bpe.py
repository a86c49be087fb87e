# %% [markdown] lang="en"
# # 4 · BPE, merge by merge
# Question: where do tokens come from?
#
# You know from lesson 3 that a text is a row of bytes, and from lesson 1 that a tokenizer cuts a
# text into tokens. Here a tokenizer learns 7 tokens from four words, and you can count every step.

# %% [markdown] lang="zh"
# # 4 · BPE：一步一步地合并
# 问题：token 是从哪里来的？
#
# 第 3 课讲过，文本是一串字节；第 1 课讲过，分词器把文本切成 token。
# 这一课里，分词器从四个单词学到 7 个 token，每一步你都可以自己数一遍。

# %%
from itertools import pairwise

from scratchlm.lessons.show import figure, show
from scratchlm.tokenizer.inspection import merge_steps
from scratchlm.tokenizer.learning.fast_merges import learn_merges_fast
from scratchlm.tokenizer.learning.merges import learn_merges
from scratchlm.tokenizer.train import train_bpe_from_texts

# %% [markdown] lang="en"
# ## 1. Count the pairs
# If every byte is a token, 256 tokens are enough for any text, but every text is long. If every
# word is a token, texts are short, but new words appear every day. The way between the two is
# **byte-pair encoding** (BPE). It starts with bytes. Again and again, it joins the two neighbours
# that occur together most often. A frequent word becomes one token, a rare word a few.
#
# `b"low"` means the bytes of `low`, and `words[b"low"]` is 5: the text has this word 5 times.
# `{word: … for word in words}` builds a dictionary in a loop, and `.items()` gives each word with
# its tokens. At first every byte is a token. For each word, multiply its bytes by its count:
# 3·5 + 5·2 + 6·3 + 6·6 = 79 tokens.
#
# `pairwise` gives the neighbours in a list, such as the pair `(b"e", b"s")`. `pair_counts` counts
# every pair: `counts.get(pair, 0)` is its count so far, and 0 for a new pair. `e s` occurs in
# `widest` (3 times) and in `newest` (6 times), so 9 times. `s t` also occurs 9 times. A rule must
# decide, so that one text always gives the same tokens: with equal counts, the pair that is later
# in the alphabet wins. (`f"count of {pair}"` is a text in which Python writes the value of `pair`.)
# `max` with `key=count_first` compares values such as `(9, (b"s", b"t"))`.
# Python compares the first entries, and the second entries only if the first ones are equal.

# %% [markdown] lang="zh"
# ## 1. 数一数相邻的对
# 如果每个字节是一个 token，那么 256 个 token 就能写出任何文本，但每段文本都很长。如果每个
# 单词是一个 token，文本就短了，但每天都有新词出现。**字节对编码**（BPE）介于两者之间。
# 它从字节出发，反复把最常挨在一起的两个 token 连成一个。
# 于是常用的词变成一个 token，少见的词由几个 token 组成。
#
# `b"low"` 表示 `low` 的字节，`words[b"low"]` 等于 5：这个词在文本里出现 5 次。
# `{word: … for word in words}` 用循环建立一个字典，`.items()` 依次给出每个单词和它的 token。
# 一开始每个字节各是一个 token。各个单词的字节数乘以次数，再相加：3·5 + 5·2 + 6·3 + 6·6 = 79 个。
#
# `pairwise` 给出列表里相邻的对，例如 `(b"e", b"s")`。`pair_counts` 数每一对出现的次数：
# `counts.get(pair, 0)` 是到目前为止的次数，新的对是 0。`e s` 出现在 `widest`（3 次）
# 和 `newest`（6 次）里，一共 9 次。`s t` 也是 9 次。必须有一条规则来决定选哪一对，
# 同一段文本才总是得到同样的 token：次数相同时，字母表中靠后的那一对优先。
# （`f"count of {pair}"` 是一段文本，Python 会把 `pair` 的值写进去。）
# `max` 加上 `key=count_first`，比较的是 `(9, (b"s", b"t"))` 这样的值：先比第一项，相等再比第二项。


# %%
def pair_counts(tokens_of):
    counts = {}
    for word, tokens in tokens_of.items():
        for pair in pairwise(tokens):
            counts[pair] = counts.get(pair, 0) + words[word]
    return counts


def count_first(pair):
    return (counts[pair], pair)


words = {b"low": 5, b"lower": 2, b"widest": 3, b"newest": 6}
tokens_of = {word: [bytes([byte]) for byte in word] for word in words}
show("all tokens", sum(len(tokens_of[word]) * words[word] for word in words), 79)
counts = pair_counts(tokens_of)
for pair, count in [((b"e", b"s"), 9), ((b"s", b"t"), 9), ((b"w", b"e"), 8), ((b"l", b"o"), 7)]:
    show(f"count of {pair}", counts[pair], count)
show("first pair", max(counts, key=count_first), (b"s", b"t"))

# %% [markdown] lang="en"
# ## 2. Merge, and repeat
# Now `s t` becomes the token `st` in every word. `merge` goes through a list of tokens from left to
# right. If the next two tokens are the pair, it joins them (`b"".join` joins bytes), else it keeps
# one. So `a a a` becomes `aa a`. Then count again: `e s` is gone, and `e st` occurs 9 times.
#
# The loop runs 7 times. Each round adds a **merge rule**: which two tokens become one. The place of
# a rule in the list, from 0, is its **merge rank**. A merge removes one token at each place of its
# pair: 79 − 9 − 9 − 7 − 7 − 6 − 6 − 6 = 29.

# %% [markdown] lang="zh"
# ## 2. 合并，再重复
# 现在把每个单词里的 `s t` 合成 token `st`。`merge` 从左到右走过 token 的列表：
# 接下来的两个 token 正是这一对，就连成一个（`b"".join` 把字节连起来），否则保留一个。
# 所以 `a a a` 变成 `aa a`。然后重新数：`e s` 没有了，`e st` 出现 9 次。
#
# 循环共 7 次。每一轮增加一条**合并规则**：哪两个 token 合成一个。规则在列表中的位置
# （从 0 开始）是它的**合并序号**（输出里写作 rank）。合并时，这一对每出现一处，token 就少一个：
# 79 − 9 − 9 − 7 − 7 − 6 − 6 − 6 = 29。


# %%
def merge(tokens, pair):
    merged, i = [], 0
    while i < len(tokens):
        size = 2 if tokens[i : i + 2] == list(pair) else 1
        merged.append(b"".join(tokens[i : i + size]))
        i += size
    return merged


show("a a a", merge([b"a", b"a", b"a"], (b"a", b"a")), [b"aa", b"a"])
merges, times = [], []
for _ in range(7):
    counts = pair_counts(tokens_of)
    best = max(counts, key=count_first)
    merges.append(best)
    times.append(counts[best])
    tokens_of = {word: merge(tokens, best) for word, tokens in tokens_of.items()}
learned = [a + b for a, b in merges]
show("learned", learned, [b"st", b"est", b"ow", b"low", b"west", b"ne", b"newest"])
show("times", times, [9, 9, 7, 7, 6, 6, 6])
show("all tokens", sum(len(tokens_of[word]) * words[word] for word in words), 29)
show("lower", tokens_of[b"lower"], [b"low", b"e", b"r"])

# %% [markdown] lang="en"
# ## 3. The library learns the same
# `learn_merges` is the readable version, and training uses `learn_merges_fast`. Two options limit
# the merges: a pair must occur at least `min_frequency` times, and a token must have at most
# `max_token_length` bytes. After 12 merges every word is one token, and learning ends. The versions
# also agree on the numbers from 1 to 2000 in base 2: `0` and `1` give many pairs with equal counts.
# (`:b` writes a number in base 2, and `n % 5 + 1` is how often the word `n` occurs.)

# %% [markdown] lang="zh"
# ## 3. 本库学到的也一样
# `learn_merges` 便于阅读，训练时用的是 `learn_merges_fast`。有两个选项可以限制合并：
# 一对至少要出现 `min_frequency` 次；一个 token 最多有 `max_token_length` 个字节。
# 合并 12 次以后，每个单词都是一个 token，学习就结束了。
# 再拿 1 到 2000 的 2 进制写法当作单词：只有 `0` 和 `1`，所以许多对的次数相同，
# 两个版本的结果仍然一样。（`:b` 把数写成 2 进制，`n % 5 + 1` 是单词 `n` 出现的次数。）

# %%
for name, learn in [("learn_merges", learn_merges), ("learn_merges_fast", learn_merges_fast)]:
    show(name, [a + b for a, b in learn(words, 7)], learned)
    often = learn(words, 100, min_frequency=7)
    show("at least 7 times", [a + b for a, b in often], [b"st", b"est", b"ow", b"low"])
    short = [a + b for a, b in learn(words, 6, max_token_length=3)]
    show("at most 3 bytes", short, [b"st", b"est", b"ow", b"low", b"ne", b"new"])
    show("number of merges", len(learn(words, 100)), 12)
    assert learn({b"ab": 1}, 100) == [(b"a", b"b")]
binary = {f"{n:b}".encode(): n % 5 + 1 for n in range(1, 2001)}
assert learn_merges(binary, 300) == learn_merges_fast(binary, 300)

# %% [markdown] lang="en"
# ## 4. Use the rules on a new word
# To cut a new word, start with its bytes. Of all rules that fit, apply the rule of the lowest rank.
# Repeat until no rule fits. The text has no `lowest`, but it taught `low` and `est`. The order
# matters: `ow` (rank 2) takes the `w` before `west` (rank 4) can. If you first cut out `west`, the
# longest in the word, you get `l o west`, one token more.
#
# `merge_steps` gives the tokens after each step, and the rank of the rule (`None` at the start).
# The figure shows all merges of `newest`: each new token is blue. There is a second way: go through
# all rules once, in order, and apply each rule at all its places. The result is the same: a later
# rule never makes a pair that an earlier rule needs.

# %% [markdown] lang="zh"
# ## 4. 把规则用到新词上
# 要切分一个新词，先从它的字节开始。在所有能用的规则中，用序号最小的那一条。重复这一步，
# 直到没有规则能用。文本里没有 `lowest`，但从中学到了 `low` 和 `est`。顺序很重要：`ow`（序号 2）
# 比 `west`（序号 4）先用掉 `w`。如果先切出词里最长的 `west`，就得到 `l o west`，多一个 token。
#
# `merge_steps` 给出每一步之后的 token，以及所用规则的序号（开始时是 `None`）。
# 图中是 `newest` 的全部合并，每次的新 token 是蓝色的。还有一种做法：把规则按顺序只走一遍，
# 每条规则用在所有能用的地方。结果相同：后面的规则产生的对，前面的规则从来不需要。

# %%
ranks = {merges[rank]: rank for rank in range(7)}
steps = list(merge_steps(b"lowest", ranks))
show("start", steps[0], ([b"l", b"o", b"w", b"e", b"s", b"t"], None))
show("rank 0", steps[1], ([b"l", b"o", b"w", b"e", b"st"], 0))
show("rank 1", steps[2], ([b"l", b"o", b"w", b"est"], 1))
show("rank 2", steps[3], ([b"l", b"ow", b"est"], 2))
show("rank 3", steps[4], ([b"low", b"est"], 3))
assert len(steps) == 5
steps = list(merge_steps(b"newest", ranks))
show("ranks of newest", [rank for tokens, rank in steps[1:]], [0, 1, 4, 5, 6])

# %% tags=["figure"]
with figure("04-newest") as axes:
    for row, (tokens, rank) in enumerate(steps):
        start = 0
        for token in tokens:
            new = rank is not None and token == learned[rank]
            color = "C0" if new else "lightgrey"
            axes.barh(-row, len(token) - 0.1, height=0.7, left=start, color=color)
            middle, ink = start + len(token) / 2 - 0.05, "white" if new else "black"
            axes.text(middle, -row, token.decode(), color=ink, ha="center", va="center")
            start += len(token)
        axes.text(6.1, -row, "" if rank is None else f"rank {rank}", va="center")
    axes.set(xlim=(0, 7.4))
    axes.axis("off")

# %% [markdown] lang="en"
# ## 5. Tokens get numbers
# The 256 bytes have the ids 0 to 255, and the token of rank `r` has the id 256 + `r`. So `low` is
# 256 + 3 = 259, and `est` is 256 + 1 = 257. No rule fits the 3 bytes of `我`: they stay 3 tokens.
#
# `special_tokens=[]` leaves out the token for the end of a document (lesson 3). `encode` merges
# ids, not bytes, and it is faster than `merge_steps`. On 512 made-up words and a very long one,
# both give the same tokens. (A list with several `for` goes through all combinations: the last
# `for` is the fastest.) Lesson 5 compares the ids with those of `tiktoken`, OpenAI's tokenizer.

# %% [markdown] lang="zh"
# ## 5. 给 token 编号
# 256 个字节的编号是 0 到 255，序号为 `r` 的 token 编号是 256 + `r`。所以 `low` 是
# 256 + 3 = 259，`est` 是 256 + 1 = 257。没有规则适用于 `我` 的 3 个字节：它们仍是 3 个 token。
#
# `special_tokens=[]` 去掉表示文档结尾的 token（见第 3 课）。`encode` 合并的是编号，不是字节，
# 比 `merge_steps` 快。对 512 个编造的单词和一个很长的单词，两者得到的 token 都相同。
# （列表里有几个 `for`，就走遍所有的组合，最后一个 `for` 变得最快。）
# 第 5 课再与 OpenAI 公司的分词器 `tiktoken` 比较编号。

# %%
texts = [word.decode() for word in words for _ in range(words[word])]
tokenizer = train_bpe_from_texts(texts, vocab_size=256 + 7, special_tokens=[])
assert tokenizer.merges == merges
show("lowest", tokenizer.encode("lowest"), [259, 257])
show("newest", tokenizer.encode("newest"), [262])
show("我", tokenizer.encode("我"), [230, 136, 145])

parts = ["low", "o", "we", "ne", "est", "w", "st", "x"]
several = [a + b + c for a in parts for b in parts for c in parts]
several.append("".join(several[:100]))
id_of = {token: id for id, token in tokenizer.vocab.items()}
for word in several:
    tokens, rank = list(merge_steps(word.encode(), ranks))[-1]
    assert tokenizer.encode(word) == [id_of[token] for token in tokens]

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Write `encode(word, merges)`. `word` is bytes, such as `b"lowest"`. `merges` is a list of pairs of
# tokens, such as `[(b"s", b"t"), (b"e", b"st")]`; the first was learned first. Return the list of
# tokens. You may use `merge` of this lesson, but not `merge_steps`.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 写出 `encode(word, merges)`。`word` 是字节，例如 `b"lowest"`。`merges` 是 token 对的列表，
# 例如 `[(b"s", b"t"), (b"e", b"st")]`，先学到的在前。返回 token 的列表。可以使用本课的 `merge`，
# 但不用 `merge_steps`。


# %% tags=["exercise"]
def encode(word, merges):
    raise NotImplementedError


# %% tags=["answer"]
def encode(word, merges):
    tokens = [bytes([byte]) for byte in word]
    for pair in merges:  # lowest rank first
        tokens = merge(tokens, pair)
    return tokens


# %% tags=["check"]
def check(encode, same):
    cases = [(word, merges) for word in (b"lowest", b"nest", b"newest", b"lowlow", b"x")]
    cases += [(b"aaaaa", [(b"a", b"a")]), (b"abc", [(b"a", b"b"), (b"b", b"c")])]
    for word, rules in cases:
        steps = merge_steps(word, {pair: rank for rank, pair in enumerate(rules)})
        same(encode(word, rules), [*steps][-1][0])


def last_rule_first(word, merges):
    """The rules are applied from the last to the first. | 规则从最后一条用到了第一条。"""
    return [*merge_steps(word, {pair: -rank for rank, pair in enumerate(merges)})][-1][0]


def longest_from_the_left(word, merges):
    """It takes the longest token from the left. | 从左边取了最长的 token。"""
    known = [a + b for a, b in merges if word.startswith(a + b)] + [word[:1]]
    token = max(known, key=len)
    return [token, *longest_from_the_left(word[len(token) :], merges)] if word else []


def first_place_only(word, merges):
    """Each rule is applied at its first place only. | 每条规则只用在了第一个位置。"""
    tokens = [bytes([byte]) for byte in word]
    for pair in merges:
        for i in [i for i, found in enumerate(pairwise(tokens)) if found == pair][:1]:
            tokens[i : i + 2] = [pair[0] + pair[1]]
    return tokens


def one_merge_only(word, merges):
    """It stops after the first merge. | 合并一次就停下了。"""
    steps = merge_steps(word, {pair: rank for rank, pair in enumerate(merges)})
    return [*steps][:2][-1][0]


def no_merge(word, merges):
    """No rule was applied: keep the result of merge. | 没有用上规则：要保存 merge 的结果。"""
    return [bytes([byte]) for byte in word]


EXERCISE = "encode"
WRONG = [last_rule_first, longest_from_the_left, first_place_only, one_merge_only, no_merge]
FAULTS = [  # planted in the library, each must make this lesson fail
    ("scratchlm.tokenizer.learning.merges", "(counts[pair], pair)", "counts[pair]"),
    ("scratchlm.tokenizer.learning.merges", "merged[-1] += token", "merged[-1] = token"),
    ("scratchlm.tokenizer.inspection", "rank = min(known)", "rank = max(known)"),
    ("scratchlm.tokenizer.encoding.merging", "rank = min(ranked)", "rank = ranked[0]"),
]
