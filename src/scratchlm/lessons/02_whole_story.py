# %% [markdown] lang="en"
# # 2 · The whole story
# Question: what happens between the prompt and the text that the model writes?
#
# You know from lesson 1 how to train a model. Here you follow one prompt through a trained model:
# text, tokens, vectors, scores, probabilities, token, text. You take the steps one by one. The
# library, `scratchlm`, takes all at once, with the same numbers. Later lessons explain each step.

# %% [markdown] lang="zh"
# # 2 · 从文本到文本
# 问题：从提示词到模型写出的文本，中间发生了什么？
#
# 第 1 课讲了怎样训练模型。这一课跟着一段提示词，从头到尾走过训练好的模型：文本、token、向量、分数、
# 概率、token、文本。我们一步一步地走；本库，也就是软件包 `scratchlm`，一次走完。两边的数必须相同。
# 每一步的细节留给后面的课。

# %%
import math

import torch
import torch.nn.functional as F

import scratchlm
from scratchlm import AdamW, ModelConfig, Transformer, cross_entropy, get_batch, softmax
from scratchlm.lessons.show import figure, show

RULES = """Beautiful is better than ugly.
Explicit is better than implicit.
Simple is better than complex.
Complex is better than complicated.
Flat is better than nested.
Sparse is better than dense.
Readability counts."""

# %% [markdown] lang="en"
# ## 1. A model to look into
# The text is seven lines of lesson 1. With `vocab_size=334`, each word is one token. The training
# is the same as there and takes a few seconds.

# %% [markdown] lang="zh"
# ## 1. 准备一个模型
# 文本是第 1 课里的七行。取 `vocab_size=334`，每个词就正好是一个 token。训练和那里一样，只要几秒钟。

# %%
tokenizer = scratchlm.train_bpe_from_texts([RULES], vocab_size=334)
tokens = torch.tensor(tokenizer.encode(RULES))
torch.manual_seed(4)
model = Transformer(ModelConfig(334, context_length=64, d_model=64, num_layers=2, num_heads=4))
optimizer = AdamW(model.parameters(), lr=0.005)
for _ in range(150):
    inputs, targets = get_batch(tokens, batch_size=16, context_length=12, device="cpu")
    loss = cross_entropy(model(inputs), targets)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()

# %% [markdown] lang="en"
# ## 2. From text to vectors
# The tokenizer turns the prompt into numbers, the ids. The model replaces each id by a list of
# numbers, a **vector**. For this, it has a table with one row for every token of the vocabulary:
# 334 rows of 64 numbers. The vector of a token is its row. This table, and also a row of it, is
# called an **embedding**. The numbers in the table are parameters, so training has chosen them.
#
# `model.embedding.weight` is this table. `table[ids]` takes several rows at once. `shape` says how
# many rows and columns a table has. Four tokens give 4 vectors of 64 numbers. `x[-1, :3]` means:
# the last row, its first 3 numbers.

# %% [markdown] lang="zh"
# ## 2. 从文本到向量
# 分词器把提示词变成编号，也就是 id。模型再把每个 id 换成一串数：一个**向量**。
# 为此模型里有一张表，词表里的每个 token 占一行，共 334 行，每行 64 个数。
# token 的向量就是它那一行。这张表，以及表里的一行，都叫做**嵌入**。
# 表里的数都是参数，所以由训练来确定。
#
# `model.embedding.weight` 就是这张表。`table[ids]` 一次取出好几行。`shape` 说明一张表有几行几列。
# 四个 token 得到 4 个向量，每个有 64 个数。`x[-1, :3]` 的意思是：最后一行的前 3 个数。

# %%
prompt = "Beautiful is better than"
ids = torch.tensor(tokenizer.encode(prompt))
show("ids", ids, [325, 266, 268, 267])
show("tokens", [tokenizer.decode([id]) for id in ids], ["Beautiful", " is", " better", " than"])
table = model.embedding.weight
show("shape of the table", table.shape, [334, 64])
x = table[ids]
show("shape of the vectors", x.shape, [4, 64])
show("model.embedding, ' than'", model.embedding(ids)[-1, :3], x[-1, :3])

# %% [markdown] lang="en"
# ## 3. Through the layers
# So far the vector of ` than` contains nothing about the words before it. The model needs these
# words to continue the text. A **layer** brings them together. Our model has 2 layers. Each layer
# has two parts:
#
# - `attn` is **attention**: every vector collects information from the vectors of earlier tokens.
# - `ffn` computes with every vector separately. Lesson 18 explains the name.
#
# Each part adds its result to the vectors. So `x` contains more and more information, but its shape
# stays the same. `attn_norm`, `ffn_norm` and `model.norm` keep the numbers at a moderate size. The
# vectors after the last layer and `model.norm` are the **hidden states**. The library computes them
# in one call: `model.hidden(ids)`. `torch.allclose(a, b, atol=1e-3)` is true if numbers at the same
# place differ by at most about 0.001. (Python also writes 0.001 as `1e-3`: 1 / 10³.)

# %% [markdown] lang="zh"
# ## 3. 穿过各层
# 到这里为止，` than` 的向量里没有前面那些词的任何信息，可是续写需要它们。
# 把信息汇到一起，是**层**的工作。我们的模型有 2 层，每层有两部分：
#
# - `attn` 是**注意力**：每个向量从更早的 token 的向量那里收集信息。
# - `ffn` 对每个向量单独做计算。第 18 课解释这个名字。
#
# 每一部分都把结果加到向量上，所以 `x` 的内容越来越丰富，形状却不变。`attn_norm`、`ffn_norm` 和
# `model.norm` 让数的大小保持适中。经过最后一层和 `model.norm` 之后的向量，叫做**隐藏状态**。本库一
# 次调用就能算出来：`model.hidden(ids)`。如果两张表里对应的数最多相差约 0.001，
# `torch.allclose(a, b, atol=1e-3)` 就为真。（Python 也把 0.001 写成 `1e-3`：1 / 10³。）

# %%
for layer in model.layers:
    x = x + layer.attn(layer.attn_norm(x))
    x = x + layer.ffn(layer.ffn_norm(x))
hidden = model.norm(x)
show("shape of the hidden states", hidden.shape, [4, 64])
show("model.hidden, ' than'", model.hidden(ids)[-1, :3], hidden[-1, :3])
assert torch.allclose(model.hidden(ids), hidden, atol=1e-3)

# %% [markdown] lang="en"
# ## 4. From vectors to scores
# The last step gives every token of the vocabulary a score, for the place after ` than`.
# `model.lm_head.weight` is another table with one row of 64 numbers for every token. (`lm_head` is
# the model's last part: `lm` is short for language model.) Take the hidden state and the row of a
# token. Multiply them place by place, and add the 64 products: that
# is the score. These scores are called **logits**. They can be negative, and they have no fixed
# size.
#
# The model scores the next token after each of the 4 tokens. We need the last row only. In this
# row, `logits[-1, ugly]` is the score of the token whose id is `ugly`. `sum(… for i in range(64))`
# adds 64 values. `model(ids)` takes all steps from the ids to the logits.

# %% [markdown] lang="zh"
# ## 4. 从向量到分数
# 最后一步给词表里的每个 token 打分，针对的是 ` than` 后面的位置。`model.lm_head.weight`
# 是另一张表，每个 token 也占一行，每行 64 个数。（`lm_head` 是模型的最后一部分，
# `lm` 是“语言模型”的英文缩写。）把隐藏状态和某个 token 的那一行逐个数对应相乘，
# 再把 64 个乘积加起来，就是这个 token 的分数。这样的分数叫做 **logits**。
# 它们可以是负数，大小也没有限制。
#
# 在 4 个 token 的每一个之后，模型都给下一个 token 打了分。我们只需要最后一行。这一行里，
# `logits[-1, ugly]` 是 id 为 `ugly` 的 token 的分数。`sum(… for i in range(64))` 把 64 个值加起来。
# `model(ids)` 从 id 到 logits 一次走完。

# %%
logits = model.logits(hidden)
show("shape of the logits", logits.shape, [4, 334])
ugly = tokenizer.token_to_id(" ugly")
score = sum(hidden[-1, i] * model.lm_head.weight[ugly, i] for i in range(64))
show("score of ' ugly'", logits[-1, ugly], score, within=1e-3)
assert torch.allclose(model(ids), logits, atol=1e-3)

# %% [markdown] lang="en"
# ## 5. From scores to probabilities
# A **probability** is a number between 0 (never) and 1 (certain). The probabilities of all tokens
# have the sum 1. **softmax** turns scores into probabilities. It computes eˣ for every score x, so
# that nothing is negative. Then it divides by the sum. For the scores 2, 1, 0: e² = 7.389,
# e¹ = 2.718, e⁰ = 1, and the sum is 11.107. So the first probability is 7.389 / 11.107 = 0.6652.
# In PyTorch, `x.exp()` is eˣ, and `x.log()` is ln x.
#
# Only the differences between scores count: 1002, 1001, 1000 give the same. But e¹⁰⁰⁰ is too large
# for a computer, so softmax first subtracts the largest score: 0, −1 and −2 remain. The last lines
# try a table of two rows. `dim` is the direction: 0 means down each column, 1 means along each row,
# and −1 means the last direction, here 1. Without `dim`, softmax uses −1: each row gets the sum 1.

# %% [markdown] lang="zh"
# ## 5. 从分数到概率
# **概率**是 0（不可能）和 1（必然）之间的一个数，所有 token 的概率加起来等于 1。
# **softmax** 把分数变成概率：先对每个分数 x 算 eˣ，这样就没有负数，再除以总和。分数是 2、1、0 时：
# e² = 7.389，e¹ = 2.718，e⁰ = 1，总和 11.107，所以第一个概率是 7.389 / 11.107 = 0.6652。
# PyTorch 里 `x.exp()` 是 eˣ，`x.log()` 是 ln x。
#
# 只有分数之间的差起作用：1002、1001、1000 得到同样的结果。但是 e¹⁰⁰⁰ 太大，计算机存不下，
# 所以 softmax 先减去最大的分数，剩下 0、−1 和 −2。最后几行用一张两行的表来试。`dim` 是方向：
# 0 是沿着每一列，1 是沿着每一行，−1 是最后一个方向，在这里就是 1。不写 `dim` 时，softmax 取 −1：
# 每一行的和为 1。

# %%
three = torch.tensor([2.0, 1.0, 0.0])
show("exp(2), exp(1), exp(0)", three.exp(), [7.3891, 2.7183, 1])
show("divided by their sum", three.exp() / three.exp().sum(), [0.6652, 0.2447, 0.0900])
show("softmax", softmax(three), [0.6652, 0.2447, 0.0900])
show("softmax of 1002, 1001, 1000", softmax(three + 1000), [0.6652, 0.2447, 0.0900])
rows = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
show("each row", softmax(rows), [[0.5, 0.5], [0.75, 0.25]])
show("each column", softmax(rows, dim=0), [[0.25, 0.5], [0.75, 0.5]])

# %% [markdown] lang="en"
# ## 6. From probabilities to text
# Now use softmax on the last row of the logits. `F.softmax` of PyTorch must give the same.
# (`import torch.nn.functional as F` gives a part of PyTorch the short name `F`. `logits[-1]` is one
# row, so `dim=-1` is its only direction.) `topk(3)` finds the three largest values and their ids.
# The model is nearly certain: ` ugly`.
#
# Then we try five prompts. `argmax` finds the id of the largest score. All prompts end in the same
# three tokens, ` is better than`, and yet the model finds 5 different words. It can do so only
# because attention brings information from the first token.

# %% [markdown] lang="zh"
# ## 6. 从概率到文本
# 现在对 logits 的最后一行做 softmax，PyTorch 的 `F.softmax` 必须给出同样的数。
# （`import torch.nn.functional as F` 给 PyTorch 的一部分起了个短名字 `F`；`logits[-1]` 只有一行，
# `dim=-1` 就是它唯一的方向。）`topk(3)` 找出最大的三个值和它们的 id。模型几乎可以肯定是 ` ugly`。
#
# 接着试五段提示词，用 `argmax` 找出最大分数的 id。它们都以同样的三个 token 结尾，
# 即 ` is better than`，模型却找出了 5 个不同的词。这全靠注意力从第一个 token 那里取来信息。

# %%
probabilities = softmax(logits[-1])
assert torch.allclose(probabilities, F.softmax(logits[-1], dim=-1), atol=1e-3)
show("sum", probabilities.sum(), 1)
largest, likely = probabilities.topk(3)
show("largest probabilities", largest, [0.96, 0.01, 0.01], within=0.1)
show("likeliest token", tokenizer.decode(likely[:1]), " ugly")
firsts = ["Beautiful", "Explicit", "Simple", "Complex", "Flat"]
lasts = [" ugly", " implicit", " complex", " complicated", " nested"]
for first, last in zip(firsts, lasts, strict=True):
    beginning = first + " is better than"
    scores = model(torch.tensor(tokenizer.encode(beginning)))[-1]
    show(beginning, tokenizer.decode([scores.argmax()]), last)

# %% [markdown] lang="en"
# ## 7. Repeat until the text is long enough
# We append the best id to the ids, and compute everything for the longer list. This loop does the
# same as `generate` with `temperature=0`.
#
# And what is the loss of lesson 1? It is −ln of the probability that the model gives to the right
# token, on average over all tokens. For ` ugly`, the loss is nearly 0. `cross_entropy` needs a
# table of logits, so we write `logits[-1:]`: a table with the last row alone.
# The picture at the end of this section shows the whole way: results in boxes, steps at the arrows.

# %% [markdown] lang="zh"
# ## 7. 周而复始，直到文本够长
# 把最好的 id 接到后面，再用变长的列表从头算一遍。这个循环和 `temperature=0` 的 `generate`
# 做的是同一件事。
#
# 那么第 1 课的损失是什么？就是把模型给正确 token 的概率取 −ln，再对所有 token 求平均：
# 对 ` ugly` 来说几乎是 0。`cross_entropy` 需要一张 logits 的表，所以写 `logits[-1:]`：
# 一张只有最后一行的表。
# 这一节末尾的图画出了全程：方框里是结果，箭头旁边是步骤。

# %%
written = tokenizer.encode(prompt)
for _ in range(9):
    best = model(torch.tensor(written))[-1].argmax()
    written.append(best.item())
two_lines = "Beautiful is better than ugly.\nExplicit is better than implicit."
show("text", tokenizer.decode(written), two_lines)
assert scratchlm.generate(model, ids, max_tokens=9, temperature=0) == written[4:]
loss = -probabilities[ugly].log()
show("-ln of the probability", loss, 0.05, within=0.1)
show("cross_entropy", cross_entropy(logits[-1:], torch.tensor([ugly])), loss)

# %% tags=["figure"]
steps = [
    ("text", prompt),
    ("encode", f"ids ({len(ids)})"),
    ("embedding", f"vectors {tuple(x.shape)}"),
    ("2 layers", f"hidden {tuple(hidden.shape)}"),
    ("lm_head", f"logits {tuple(logits.shape)}"),
    ("softmax", f"probabilities ({len(probabilities)})"),
    ("argmax", f"id {ugly}"),
    ("decode", "ugly"),
]
with figure("02-pipeline", height=4.4) as axes:
    axes.set(xlim=(0, 1), ylim=(-len(steps) + 0.5, 0.5))
    axes.axis("off")
    for place, (step, result) in enumerate(steps):
        box = {"boxstyle": "round", "facecolor": "white" if place in (0, 7) else "lightblue"}
        axes.text(0.66, -place, result, ha="center", va="center", bbox=box)
        if place:
            between = {"arrowstyle": "->", "shrinkA": 12, "shrinkB": 12}
            axes.annotate("", (0.66, -place), (0.66, 1 - place), arrowprops=between)
            axes.text(0.25, 0.5 - place, step, ha="center", va="center", style="italic")

# %% [markdown] lang="en"
# ## 8. Your own model, without Python
# Three commands do all of this. Write a text into the file `mine.txt`; the text of lesson 1 is long
# enough. The first command trains a tokenizer (a corpus is a collection of texts). The second
# trains a model in 100 steps (`--iterations`) saved in the folder `run`. The third writes text.
#
# ```
# scratchlm-tokenize --corpus mine.txt --vocab_size 512 --output_tokenizer tokenizer.json
# scratchlm-train --train_data mine.txt --tokenizer_path tokenizer.json --out run --iterations 100
# scratchlm-generate --model_path run --prompt "Beautiful is"
# ```

# %% [markdown] lang="zh"
# ## 8. 不写 Python，也能有自己的模型
# 在命令行里，三条命令就能做完全部的事。把一段文本写进文件 `mine.txt`，第 1 课的文本就够长了。
# 第一条命令训练分词器（corpus 是语料，即训练用的文本）。第二条把模型训练 100 步
# （`--iterations`），存进文件夹 `run`。第三条写出文本。
#
# ```
# scratchlm-tokenize --corpus mine.txt --vocab_size 512 --output_tokenizer tokenizer.json
# scratchlm-train --train_data mine.txt --tokenizer_path tokenizer.json --out run --iterations 100
# scratchlm-generate --model_path run --prompt "Beautiful is"
# ```

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Write `likeliest(model, tokenizer, text, count)`. It returns the `count` likeliest next tokens
# after `text`, the likeliest first. The result is a list of pairs: the text of a token, and its
# probability, a number of Python or of PyTorch. Example:
# `likeliest(model, tokenizer, "Beautiful is better than", 1)` returns `[(" ugly", 0.96)]`, after
# rounding.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 写出 `likeliest(model, tokenizer, text, count)`：返回 `text` 之后可能性最大的 `count` 个
# token，从大到小排成一个列表，每一项是一对值：token 的文本，它的概率
# （Python 的数或 PyTorch 的数都可以）。例如
# `likeliest(model, tokenizer, "Beautiful is better than", 1)` 返回 `[(" ugly", 0.96)]`
# （已四舍五入）。


# %% tags=["exercise"]
def likeliest(model, tokenizer, text, count):
    raise NotImplementedError


# %% tags=["answer"]
def likeliest(model, tokenizer, text, count):
    logits = model(torch.tensor(tokenizer.encode(text)))[-1]
    values, ids = softmax(logits).topk(count)
    return [(tokenizer.decode([id]), value.item()) for id, value in zip(ids, values, strict=True)]


# %% tags=["check"]
def check(answer, same):
    for text, count in [("Beautiful is", 3), ("Flat is better than", 1), ("Simple is better", 5)]:
        same(answer(model, tokenizer, text, count), likeliest(model, tokenizer, text, count))


def pairs(table, tokenizer, count, values=None):
    """Return the `count` best tokens by `table`, with the numbers of `values`."""
    ids = table.topk(count).indices
    values = table if values is None else values
    return [(tokenizer.decode([id]), values[id].item()) for id in ids]


def first_place(model, tokenizer, text, count):
    """The last row scores the next token, not the first row. | 要看最后一行，不是第一行。"""
    return pairs(softmax(model(torch.tensor(tokenizer.encode(text)))[0]), tokenizer, count)


def wrong_axis(model, tokenizer, text, count):
    """softmax runs along a column; it must run along a row. | softmax 应沿行做，这里沿列了。"""
    return pairs(softmax(model(torch.tensor(tokenizer.encode(text))), 0)[-1], tokenizer, count)


def no_softmax(model, tokenizer, text, count):
    """softmax is missing: these are logits. | 少了 softmax：这些是 logits，不是概率。"""
    return pairs(model(torch.tensor(tokenizer.encode(text)))[-1], tokenizer, count)


def only_ids(model, tokenizer, text, count):
    """decode is missing: the pairs contain ids. | 少了 decode：每一对里是编号，不是文本。"""
    values, ids = softmax(model(torch.tensor(tokenizer.encode(text)))[-1]).topk(count)
    return list(zip(ids.tolist(), values.tolist(), strict=True))


EXERCISE = "likeliest"
WRONG = [first_place, wrong_axis, no_softmax, only_ids]
FAULTS = [  # planted in the library, each must make this lesson fail
    ("scratchlm.functional", "exps / exps.sum(dim", "exps / exps.sum(0"),
    ("scratchlm.functional", "torch.exp(wide - wide.amax(dim, keepdim=True))", "torch.exp(wide)"),
    ("scratchlm.model.transformer", "return self.norm(x)", "return x"),
    ("scratchlm.model.transformer", "x = x + self.dropout(attended)", "x = self.dropout(attended)"),
]
