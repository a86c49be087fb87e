# %% [markdown] lang="en"
# # 14 · Attention in numbers
# Question: how does a word learn from the words before it, and from no other?
#
# You know from lesson 13 that each token is a vector, and from lesson 12 how to multiply matrices.
# Here three tokens look at each other: 30 numbers in, 6 out, every one in between printed.

# %% [markdown] lang="zh"
# # 14 · 用数字看注意力
# 问题：一个词怎样从它前面的词学到东西，而不受后面的词影响？
#
# 第 13 课讲过，每个 token 是一个向量；第 12 课讲过矩阵乘法。
# 这里让三个 token 互相看：输入 30 个数，输出 6 个，中间的每一个都打印出来。

# %%
import torch
import torch.nn.functional as F

from scratchlm.functional import scaled_dot_product_attention, softmax
from scratchlm.lessons.show import figure, show

tokens = ["the", "cat", "sat"]
q = torch.tensor([[1.0, 0, 1, 0], [0, 2, 0, 1], [1, 1, 1, 1]])
k = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1], [2, 0, 0, 1]])
v = torch.tensor([[1.0, 0], [0, 1], [1, 1]])

# %% [markdown] lang="en"
# ## 1. Scores: who fits whom
# Every token asks a question (its **query vector** `q`), offers a label (its **key vector** `k`)
# and has something to give (its **value vector** `v`). The dot product of a question and a label is
# their score. Row 2 belongs to `sat`. Its score with itself is the highest, 3 against 2 and 2.
# Check one by hand: 1·2 + 1·0 + 1·0 + 1·1 = 3.

# %% [markdown] lang="zh"
# ## 1. 分数：谁和谁合得来
# 每个 token 提一个问题（它的**查询向量** `q`），挂一个标签（它的**键向量** `k`），
# 并有东西可给（它的**值向量** `v`）。问题与标签合不合，就看它们的点积。
# 第 2 行是 `sat`：它和自己最合，3 对 2 和 2。手算一个：1·2 + 1·0 + 1·0 + 1·1 = 3。

# %%
show("q kᵀ", q @ k.T, [[2, 0, 2], [0, 3, 1], [2, 2, 3]])
d = q.shape[-1]
scores = q @ k.T / d**0.5
show("q kᵀ / √d", scores, [[1, 0, 1], [0, 1.5, 0.5], [1, 1, 1.5]])

# %% [markdown] lang="en"
# ## 2. Why √d
# A sum of `d` random products grows like √d. At `d = 1024` the scores are 32 times too wide: then
# softmax puts nearly all weight on one token, and has almost no slope left to learn from.
# Divided by √d their spread is 1 at any `d`. Below, for two `d`: the spread raw
# and divided, then the largest of 64 weights, raw and divided.

# %% [markdown] lang="zh"
# ## 2. 为什么除以 √d
# `d` 个随机乘积之和按 √d 增长。`d = 1024` 时分数宽了 32 倍：这时 softmax 几乎把全部
# 权重压在一个 token 上，坡度几乎为零，学不动了。
# 除以 √d 之后，不论 `d` 多大，离散程度都是 1。下面对两个 `d` 各有
# 四个数：原来与除过的离散程度，再是 64 个权重中最大的那个，原来的与除过的。

# %%
generator = torch.Generator().manual_seed(0)
for wide, expected in [(64, [8, 1, 0.79, 0.11]), (1024, [32, 1, 0.95, 0.11])]:
    raw = torch.randn(500, wide, generator=generator) @ torch.randn(wide, 64, generator=generator)
    pair = raw, raw / wide**0.5
    spread, largest = [x.std() for x in pair], [softmax(x).amax(-1).mean() for x in pair]
    show(f"d = {wide}", spread + largest, expected, within=[0.05 * wide**0.5, 0.1, 0.04, 0.02])

# %% [markdown] lang="en"
# ## 3. The causal mask
# A model that predicts the next token must not see it. The **causal mask** lets row `i` attend to
# columns 0…`i` only. Forbidden scores become −∞ before softmax, since exp(−∞) = 0. Set to 0
# after softmax instead, a row no longer sums to 1, and what is left still depends on the future.

# %% [markdown] lang="zh"
# ## 3. 因果掩码
# 要预测下一个 token 的模型不能先看到它。**因果掩码**让第 `i` 行只能看第 0…`i` 列。
# 不许看的分数在 softmax 之前变成 −∞，因为 exp(−∞) = 0。如果等到 softmax 之后
# 才置 0，一行的和就不再是 1，而且剩下的数仍然取决于未来。

# %%
allowed = torch.ones(3, 3, dtype=torch.bool).tril()  # True: may attend
weights = softmax(scores.where(allowed, -torch.inf))
show("weights", weights, [[1, 0, 0], [0.1824, 0.8176, 0], [0.2741, 0.2741, 0.4519]])
show("row sums", weights.sum(-1), [1, 1, 1])
too_late = softmax(scores) * allowed
show("masked too late", too_late.sum(-1), [0.4223, 0.7688, 1])

# %% tags=["figure"]
with figure("14-weights") as axes:
    axes.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    axes.set(xticks=range(3), xticklabels=tokens, yticks=range(3), yticklabels=tokens)
    axes.set(xlabel="key", ylabel="query")
    for row in range(3):
        for column in range(3):
            weight = weights[row, column].item()
            ink = "white" if weight > 0.5 else "black"
            axes.text(column, row, f"{weight:.2f}", color=ink, ha="center", va="center")

# %% [markdown] lang="en"
# ## 4. The output, and the library's own
# Each output is the average of the values, weighted by its row. The function that every model of
# this library is tested against gives the same numbers, and so does PyTorch's.

# %% [markdown] lang="zh"
# ## 4. 输出，与本库自己的函数
# 每个输出是各个值按该行权重的加权平均。本库所有模型都与之对照测试的那个函数给出同样的数，
# PyTorch 的也一样。

# %%
out = weights @ v
show("weights v", out, [[1, 0], [0.1824, 0.8176], [0.7259, 0.7259]])
ours = scaled_dot_product_attention(q, k, v, causal=True)
show("scaled_dot_product_attention", ours, out)
theirs = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
show("torch", theirs, out)

# %% [markdown] lang="en"
# ## 5. The proof that matters: change the future, nothing before it moves
# Replace `sat` by anything. The first two rows stay equal, bit for bit. A mask turned upside down
# (False where one may attend) runs without an error too: a widely read notebook had one for years.
# This test finds it at once.

# %% [markdown] lang="zh"
# ## 5. 最要紧的证明：改动未来，过去纹丝不动
# 把 `sat` 换成任何东西，前两行逐位相等。把掩码上下颠倒（可看之处写 False）也照样运行，
# 不报任何错误：一本广为流传的 notebook 里就有过，几年没人发现。这个测试立刻抓住它。

# %%
k2, v2 = k.clone(), v.clone()
k2[2], v2[2] = 100.0, -100.0
after = scaled_dot_product_attention(q, k2, v2, causal=True)
assert torch.equal(after[:2], ours[:2])
assert not torch.equal(after[2], ours[2])
upside_down = scaled_dot_product_attention(q, k, v, ~allowed)
show("upside down", upside_down, [[0.7311, 1.0], [1, 1], [0, 0]])

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Write `attend(q, k, v)`: causal attention for one head, with nothing but `torch`. Then
# `scratchlm-learn 14 --check FILE`. Five usual mistakes are recognised by what they return.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 写出 `attend(q, k, v)`：单头因果注意力，只用 `torch`。然后运行
# `scratchlm-learn 14 --check FILE`。五种常见错误能从返回值认出来。


# %% tags=["exercise"]
def attend(q, k, v):
    raise NotImplementedError


# %% tags=["answer"]
def attend(q, k, v):
    scores = q @ k.T / q.shape[-1] ** 0.5
    future = torch.ones_like(scores).triu(1).bool()
    return scores.masked_fill(future, -torch.inf).softmax(-1) @ v


# %% tags=["check"]
def check(attend, same):
    for length, width in [(1, 4), (3, 4), (7, 16)]:
        q, k, v = torch.randn(3, length, width, generator=torch.Generator().manual_seed(length))
        same(attend(q, k, v), scaled_dot_product_attention(q, k, v, causal=True))


def not_scaled(q, k, v):
    """The scores are not divided by √d. | 分数没有除以 √d。"""
    return attend(q * q.shape[-1] ** 0.5, k, v)


def scaled_by_d(q, k, v):
    """The scores are divided by d, not by √d. | 分数除以了 d，而不是 √d。"""
    return attend(q / q.shape[-1] ** 0.5, k, v)


def sees_the_future(q, k, v):
    """Nothing is masked. | 没有掩码。"""
    return (q @ k.T / q.shape[-1] ** 0.5).softmax(-1) @ v


def masks_too_late(q, k, v):
    """The mask comes after softmax: rows no longer sum to 1. | 掩码在 softmax 之后：行和不是 1。"""
    return (q @ k.T / q.shape[-1] ** 0.5).softmax(-1).tril() @ v


def wrong_axis(q, k, v):
    """softmax runs over queries, not keys (dim=-1). | softmax 沿查询做了，应沿键（dim=-1）。"""
    scores = q @ k.T / q.shape[-1] ** 0.5
    return scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf).softmax(0) @ v


EXERCISE = "attend"
WRONG = [not_scaled, scaled_by_d, sees_the_future, masks_too_late, wrong_axis]
FAULTS = [  # planted in the library, each must make this lesson fail
    ("scratchlm.functional", "scores / math.sqrt(q.shape[-1])", "scores / q.shape[-1]"),
    ("scratchlm.functional", 'einx.less_equal("key,', 'einx.greater_equal("key,'),
    ("scratchlm.functional", "+ key - query\n", "+ key - query + 1\n"),
    ("scratchlm.functional", "exps / exps.sum(dim", "exps / exps.sum(0"),
]
