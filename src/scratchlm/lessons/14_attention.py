# %% [markdown] lang="en"
# # 14 · Attention in numbers
# Question: how does a word learn from the words before it, and from no other?
#
# You know from lesson 2 that attention collects information from the vectors of earlier tokens, and
# from lesson 12 what a dot product is. Here you compute attention for three tokens, number by
# number. Then the library and PyTorch must give the same.

# %% [markdown] lang="zh"
# # 14 · 用数字看注意力
# 问题：一个词怎样从它前面的词学到东西，而不受后面的词影响？
#
# 第 2 课讲过，注意力从更早的 token 的向量那里收集信息；第 12 课讲过点积。
# 这一课为三个 token 计算注意力，每一个数都算出来，然后与本库和 PyTorch 的结果对照。

# %%
import torch
import torch.nn.functional as F

from scratchlm.functional import linear, scaled_dot_product_attention, softmax
from scratchlm.lessons.show import figure, show

# %% [markdown] lang="en"
# ## 1. Three vectors for each token
# Think of people in a room. Each person has a question. Each person wears a label, which says what
# he or she knows. And each person has something to tell. In attention, a token has three vectors:
# - its **query vector**: what the token looks for;
# - its **key vector**: what others can find at this token;
# - its **value vector**: what others get from this token.
#
# All three come from the vector `x` of the token. Three linear layers (lesson 12), with the weights
# `W_q`, `W_k` and `W_v`, turn `x` into `q`, `k` and `v`. Training chooses the weights. Here we made
# them up, so that the numbers are small. The three vectors in `x` are one-hot (lesson 13). So the
# weights are easy to read: column 0 of `W_q` is the query vector of `the`, column 1 that of `cat`
# and column 2 that of `sat`. In the output, each token has a row. Rows are counted from 0.

# %% [markdown] lang="zh"
# ## 1. 每个 token 有三个向量
# 设想一屋子的人：每个人都有一个问题；每个人都带一个标签，写着自己懂什么；
# 每个人还有一份可以交给别人的内容。在注意力里，每个 token 有三个向量：
# - **查询向量**（query）：这个 token 要找什么；
# - **键向量**（key）：别人在这个 token 这里能找到什么；
# - **值向量**（value）：别人从这个 token 得到什么。
#
# 三者都来自这个 token 的向量 `x`。三个线性层（第 12 课），权重是 `W_q`、`W_k` 和 `W_v`，
# 把 `x` 变成 `q`、`k` 和 `v`。权重由训练来确定。这里的权重是我们编的，好让数都很小。
# `x` 里的三个向量是独热向量（第 13 课），所以权重很容易读：`W_q` 的第 0 列是 `the` 的查询向量，
# 第 1 列是 `cat` 的，第 2 列是 `sat` 的。输出中每个 token 占一行，行号从 0 数起。

# %%
tokens = ["the", "cat", "sat"]
x = torch.eye(3)
W_q = torch.tensor([[1.0, 0, 1], [0, 2, 1], [1, 0, 1], [0, 1, 1]])
W_k = torch.tensor([[1.0, 0, 2], [0, 1, 0], [1, 0, 0], [0, 1, 1]])
W_v = torch.tensor([[1.0, 0, 1], [0, 1, 1]])
q, k, v = linear(x, W_q), linear(x, W_k), linear(x, W_v)
show("q", q, [[1, 0, 1, 0], [0, 2, 0, 1], [1, 1, 1, 1]])
show("k", k, [[1, 0, 1, 0], [0, 1, 0, 1], [2, 0, 0, 1]])
show("v", v, [[1, 0], [0, 1], [1, 1]])

# %% [markdown] lang="en"
# ## 2. Scores: which query fits which key
# How well does a query fit a key? Their dot product is the score. It is large if both vectors have
# large numbers at the same places. `q @ k.T` computes all 9 scores: row i has the query vector of
# token i, column j the key vector of token j. In formulas, we write q kᵀ. By hand, `sat` (row 2)
# with itself is 1·2 + 1·0 + 1·0 + 1·1 = 3. With `the` and `cat` it is 2, so `sat` fits itself best.
#
# Then every score is divided by √d. Here d = 4 is how many numbers a query vector has: it is the
# last entry of `q.shape`. So we divide by 2. The next section says why.

# %% [markdown] lang="zh"
# ## 2. 分数：谁的查询与谁的键匹配
# 一个查询与一个键有多匹配？看它们的点积，这就是分数。两个向量在同样的位置上都有大的数，分数就大。
# `q @ k.T` 一次算出全部 9 个分数：第 i 行用 token i 的查询向量，第 j 列用 token j 的键向量。
# 公式里写作 q kᵀ。手算一个：`sat`（第 2 行）与自己的分数是 1·2 + 1·0 + 1·0 + 1·1 = 3。它与 `the`、
# `cat` 的分数都是 2，所以 `sat` 与自己最匹配。
#
# 然后每个分数都除以 √d。这里 d = 4，也就是一个查询向量有几个数，是 `q.shape` 的最后一项。
# 所以要除以 2。为什么要除，下一节讲。

# %%
show("q kᵀ", q @ k.T, [[2, 0, 2], [0, 3, 1], [2, 2, 3]])
d = q.shape[-1]
scores = q @ k.T / d**0.5
show("q kᵀ / √d", scores, [[1, 0, 1], [0, 1.5, 0.5], [1, 1, 1.5]])

# %% [markdown] lang="en"
# ## 3. Why √d
# A score is a sum of d products. Lesson 12: the size of such a sum (the root of the mean square)
# grows like √d. In a large model d may be 1024, and then the scores have a size of about 32. Next,
# softmax turns the scores into weights. With scores so far apart, one weight is almost 1, and all
# others are almost 0. If a score then changes a little, the weights hardly change, like the sigmoid
# of lesson 6 at large numbers. So the gradient is almost 0, and the model hardly learns. After the
# division by √d, the size is about 1 for any d.
#
# We try it with random vectors: 500 query vectors and 64 key vectors, for two d. The output has two
# lines for each d. The first is the size of the scores before and after the division. For the
# second, take the largest weight of each row, then the mean of these 500, before and after.
# (`.amax(-1)` finds the largest number of each row, along the last axis. `.mean()` is the average.)

# %% [markdown] lang="zh"
# ## 3. 为什么除以 √d
# 一个分数是 d 个乘积之和。第 12 课讲过，这种和的大小（平方的平均值再开方）按 √d 增长。
# 大模型里 d 可以是 1024，这时分数的大小约为 32。下一步，softmax 要把分数变成权重。分数相差这么大，
# 就有一个权重几乎是 1，其余的几乎都是 0。这时分数变一点，权重几乎不变，
# 就像第 6 课的 sigmoid 在数很大的地方那样。于是梯度几乎是 0，模型几乎学不到东西。除以 √d 之后，
# 不论 d 多大，分数的大小都约为 1。
#
# 我们用随机向量来试：500 个查询向量，64 个键向量，取两个 d。每个 d 输出两行。
# 第一行是除之前和除之后分数的大小。第二行：每一行取最大的权重，再对这 500 个数取平均，
# 也是除之前和除之后。（`.amax(-1)` 沿最后一条轴计算，找出每一行中最大的数；`.mean()` 求平均。）

# %%
torch.manual_seed(0)
for width, size, weight in [(64, 8, 0.79), (1024, 32, 0.95)]:
    raw = torch.randn(500, width) @ torch.randn(64, width).T
    both = [raw, raw / width**0.5]
    sizes = [each.square().mean().sqrt() for each in both]
    show(f"d = {width}: size of scores", sizes, [size, 1], within=[0.05 * size, 0.05])
    largest = [softmax(each).amax(-1).mean() for each in both]
    show(f"d = {width}: largest weight", largest, [weight, 0.11], within=[0.04, 0.02])

# %% [markdown] lang="en"
# ## 4. The causal mask
# A model learns to predict the next token. If it could see this token, it would copy it. So a token
# may look only at itself and at the tokens before it: row i only at the columns 0 to i. This rule
# is the **causal mask**: the future has no effect. `torch.ones(3, 3)` is a table in which each
# number is 1. `.tril()` keeps the lower left triangle with the diagonal, and sets the rest to 0.
# `.bool()` turns 1 into True and 0 into False. True means: may look.
#
# `scores.where(allowed, -torch.inf)` keeps a score where `allowed` is True, and puts −∞ in all
# other places. Then softmax (lesson 2) turns each row into weights, because exp(−∞) = 0. Row 1 by
# hand: exp(0) = 1 and exp(1.5) = 4.4817, so the weights are 1 / 5.4817 = 0.1824 and
# 4.4817 / 5.4817 = 0.8176. Each row has the sum 1. These weights are not parameters like `W_q`:
# they are computed anew for each text. In the figure, a darker field is a larger weight, and the
# fields above the diagonal are 0.
#
# If we set weights to 0 only after softmax, the sums of the rows are less than 1. (`* allowed` does
# this: True counts as 1, False as 0.) And softmax has divided each row by a sum over all tokens,
# also the future ones. So the row depends on tokens that it must not see. The last line shows these
# sums: `.sum(-1)` adds along the last axis.

# %% [markdown] lang="zh"
# ## 4. 因果掩码
# 模型要学的是预测下一个 token。如果它能看到这个 token，照抄就行了。所以每个 token 只许看自己和
# 前面的 token：第 i 行只许看第 0 列到第 i 列。这条规则就是**因果掩码**：未来不起作用。
# `torch.ones(3, 3)` 是一张全是 1 的表。`.tril()` 保留左下的三角形，连同对角线，其余都变成 0。
# `.bool()` 把 1 变成 True，把 0 变成 False。True 表示可以看。
#
# `scores.where(allowed, -torch.inf)` 在 `allowed` 为 True 的位置保留分数，在其他位置写上 −∞。
# 然后 softmax（第 2 课）把每一行变成权重，因为 exp(−∞) = 0。手算第 1 行：exp(0) = 1，
# exp(1.5) = 4.4817，所以权重是 1 / 5.4817 = 0.1824 和 4.4817 / 5.4817 = 0.8176。
# 每一行的和都是 1。这些权重不像 `W_q` 那样是参数，而是对每段文本重新计算的。
# 图中颜色越深，权重越大；对角线上方全是 0。
#
# 如果等到 softmax 之后才把权重变成 0，各行的和就小于 1。（`* allowed` 就这样做：True 当作 1，
# False 当作 0。）而且 softmax 把每一行都除以全部 token 的和，未来的 token 也在内。
# 所以这一行取决于它不该看到的 token。最后一行输出各行的和：`.sum(-1)` 沿最后一条轴求和。

# %%
allowed = torch.ones(3, 3).tril().bool()
show("allowed", allowed, [[True, False, False], [True, True, False], [True, True, True]])
weights = softmax(scores.where(allowed, -torch.inf))
show("weights", weights, [[1, 0, 0], [0.1824, 0.8176, 0], [0.2741, 0.2741, 0.4519]])
show("sums of the rows", weights.sum(-1), [1, 1, 1])
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
# ## 5. The output
# Each token takes the value vectors, multiplies each by its weight, and adds them. Row 1, `cat`:
# 0.1824 · (1, 0) + 0.8176 · (0, 1) = (0.1824, 0.8176). `weights @ v` does this for all rows. So
# the output of `cat` contains a part of `the`, and nothing of `sat`.
#
# All of this together is **scaled dot-product attention**: dot products, scaled by √d. The
# library's function of this name gives the same numbers, and so does PyTorch's. Both use the causal
# mask only if we ask for it: with `causal=True` in the library and `is_causal=True` in PyTorch.

# %% [markdown] lang="zh"
# ## 5. 输出
# 每个 token 把各个值向量乘以相应的权重，再相加。第 1 行 `cat`：
# 0.1824 · (1, 0) + 0.8176 · (0, 1) = (0.1824, 0.8176)。`weights @ v` 对每一行都这样算。
# 所以 `cat` 的输出里有一部分来自 `the`，完全没有 `sat`。
#
# 全部合起来，叫作**缩放点积注意力**：先做点积，再除以 √d 来缩放。
# 本库有一个函数，名字就是它的英文；它给出的数与这里相同，PyTorch 的同名函数也一样。
# 两个函数都要写明才用因果掩码：本库写 `causal=True`，PyTorch 写 `is_causal=True`。

# %%
out = weights @ v
show("weights v", out, [[1, 0], [0.1824, 0.8176], [0.7259, 0.7259]])
ours = scaled_dot_product_attention(q, k, v, causal=True)
show("scaled_dot_product_attention", ours, out)
theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True)
show("torch", theirs, out)

# %% [markdown] lang="en"
# ## 6. The most important test: change the future
# Replace the key and the value of `sat` by anything. The rows of `the` and `cat` must stay the
# same, in every digit, because they must not see `sat`. Only the row of `sat` may change.
#
# Why is this test so important? `~allowed` is the mask with True and False exchanged. The library's
# function takes a mask after `v`. This exchange is a usual mistake, and it runs without an error.
# But now each token sees only the future. The scores of `the` for `cat` and `sat`, 0 and 1, become
# the weights 0.2689 and 0.7311. So `the` gets 0.2689 · (0, 1) + 0.7311 · (1, 1) = (0.7311, 1).
# `cat` gets the value of `sat`, (1, 1). `sat` sees no token at all, and the library returns zeros
# for such a row.

# %% [markdown] lang="zh"
# ## 6. 最重要的检验：改动未来
# 把 `sat` 的键和值换成任何东西，`the` 和 `cat` 的两行必须不变，每个数都与原来完全相等，
# 因为它们不许看 `sat`。只有 `sat` 那一行可以变。
#
# 这个检验为什么这么重要？`~allowed` 是把 True 和 False 对调的掩码。本库的函数在 `v` 之后接收掩码。
# 这样对调是常见的错误，运行时不报任何错。可是现在每个 token 只看得到未来。`the` 对 `cat` 和 `sat`
# 的分数 0 和 1，变成权重 0.2689 和 0.7311。所以 `the` 得到 0.2689 · (0, 1) + 0.7311 · (1, 1) =
# (0.7311, 1)。`cat` 得到 `sat` 的值 (1, 1)。`sat` 什么也看不到，对这样的行，本库返回零。

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
# Write `attend(q, k, v)`: attention with the causal mask. `q`, `k` and `v` have one row for each
# token. The number of tokens, `len(q)`, and d may be any, so make the mask in your function. Use
# torch, but not the function of section 5. The check recognises eight usual mistakes.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 写出 `attend(q, k, v)`：带因果掩码的注意力。`q`、`k`、`v` 中每个 token 占一行。
# token 的个数 `len(q)` 和 d 可以是任意的，所以要在你的函数里造掩码。可以用 torch，
# 但不要用第 5 节的函数。检查程序能认出八种常见错误。


# %% tags=["exercise"]
def attend(q, k, v):
    raise NotImplementedError


# %% tags=["answer"]
def attend(q, k, v):
    scores = q @ k.T / q.shape[-1] ** 0.5
    allowed = torch.ones_like(scores).tril().bool()
    return softmax(scores.where(allowed, -torch.inf)) @ v


# %% tags=["check"]
def check(attend, same):
    for length, width in [(1, 4), (3, 4), (7, 16)]:
        q, k, v = torch.randn(3, length, width, generator=torch.Generator().manual_seed(length))
        same(attend(q, k, v), scaled_dot_product_attention(q, k, v, causal=True))


def scaled(q, k):
    return q @ k.T / q.shape[-1] ** 0.5


def masked(q, k, v, mask, dim=-1):
    return scaled(q, k).where(mask, -torch.inf).softmax(dim) @ v


def past(q):
    return torch.ones(len(q), len(q)).tril().bool()


def not_scaled(q, k, v):
    """The scores are not divided by √d. | 分数没有除以 √d。"""
    return attend(q * q.shape[-1] ** 0.5, k, v)


def scaled_by_d(q, k, v):
    """The scores are divided by d, not by √d. | 分数除以了 d，而不是 √d。"""
    return attend(q / q.shape[-1] ** 0.5, k, v)


def sees_the_future(q, k, v):
    """Nothing is masked. | 没有掩码。"""
    return scaled(q, k).softmax(-1) @ v


def masks_too_late(q, k, v):
    """The mask comes after softmax: rows no longer sum to 1. | 掩码在 softmax 之后：行和不是 1。"""
    return scaled(q, k).softmax(-1).tril() @ v


def wrong_axis(q, k, v):
    """softmax runs over queries, not keys (dim=-1). | softmax 沿查询做了，应沿键（dim=-1）。"""
    return masked(q, k, v, past(q), dim=0)


def mask_upside_down(q, k, v):
    """The mask is upside down: it hides what a token may see. | 掩码弄反了：遮住了可以看的。"""
    return masked(q, k, v, ~past(q))


def hides_itself(q, k, v):
    """A token must also see itself. | 每个 token 也要看到自己。"""
    return masked(q, k, v, past(q) & ~torch.eye(len(q)).bool())


def mask_of_the_lesson(q, k, v):
    """The mask has 3 rows, but `q` has another number. | 掩码有 3 行，`q` 的行数却不同。"""
    return masked(q, k, v, past(range(3)))


EXERCISE = "attend"
WRONG = [not_scaled, scaled_by_d, sees_the_future, masks_too_late, wrong_axis]
WRONG += [mask_upside_down, hides_itself, mask_of_the_lesson]
FAULTS = [  # planted in the library, each must make this lesson fail
    ("scratchlm.functional", "scores / math.sqrt(q.shape[-1])", "scores / q.shape[-1]"),
    ("scratchlm.functional", 'einx.less_equal("key,', 'einx.greater_equal("key,'),
    ("scratchlm.functional", "+ key - query\n", "+ key - query + 1\n"),
    ("scratchlm.functional", "exps / exps.sum(dim", "exps / exps.sum(0"),
]
