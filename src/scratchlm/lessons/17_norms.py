# %% [markdown] lang="en"
# # 17 · Norms and residuals
# Question: a model has many layers. Why do its numbers not explode or vanish?
#
# You know layers as matrix products (lesson 12) and the chain rule (lesson 8). Here 16 layers first
# go wrong in two ways. Then two small additions solve the problem: a norm and a plus sign.

# %% [markdown] lang="zh"
# # 17 · 归一化与残差
# 问题：模型有很多层，它的数为什么不会爆炸，也不会消失？
#
# 第 12 课讲过层就是矩阵乘法，第 8 课讲过链式法则。这里先让 16 层以两种方式出错，
# 再用两样小东西解决问题：一个归一化，一个加号。

# %%
import torch
import torch.nn.functional as F

from scratchlm.functional import layer_norm, rms_norm
from scratchlm.lessons.show import figure, show
from scratchlm.model.config import ModelConfig
from scratchlm.model.layers import LayerNorm, RMSNorm
from scratchlm.model.transformer import TransformerBlock

# %% [markdown] lang="en"
# ## 1. Depth multiplies
# The size of a vector is its **root mean square** (RMS): square each number, take the mean, take
# the root. For (3, 4): (9 + 16) / 2 = 12.5, and √12.5 = 3.5355.
#
# Multiply a number by 1.5 at each of 16 layers: it grows 657 times. By 0.5: 0.000015 is left.
# Vectors do the same. `torch.randn` gives random numbers of RMS about 1. A sum of 64 products
# grows like √64 = 8 (lesson 14), so a random 64 × 64 matrix divided by 8 keeps the size. `walk`
# returns the tokens after 0, 1, … 16 such layers. `torch.stack` makes one tensor of them. The last
# line has the sizes at the end, if all matrices are multiplied by 0.5, by 1 and by 1.5.

# %% [markdown] lang="zh"
# ## 1. 深度是连乘
# 向量的大小用**均方根**（RMS）衡量：每个数平方，取平均，再开方。
# 对 (3, 4)：(9 + 16) / 2 = 12.5，而 √12.5 = 3.5355。
#
# 一个数每层乘 1.5，经过 16 层就变成 657 倍；每层乘 0.5，就只剩 0.000015。向量也是这样。
# `torch.randn` 给出 RMS 约为 1 的随机数。64 个乘积之和按 √64 = 8 增长（第 14 课），
# 所以随机的 64 × 64 矩阵除以 8 后，大小不变。`walk` 返回经过 0、1、… 16 层之后的 token，
# `torch.stack` 把它们叠成一个张量。最后一行是所有矩阵都乘 0.5、乘 1、乘 1.5 时，最终的大小。


# %%
def rms(x):
    return x.square().mean(-1).sqrt()


x = torch.tensor([3.0, 4])
show("RMS of (3, 4)", rms(x), 3.5355)
show("1.5 × … × 1.5", 1.5**16, 656.8408)
show("0.5 × … × 0.5", 0.5**16, 0.000015, within=1e-6)

generator = torch.Generator().manual_seed(0)
matrices = [torch.randn(64, 64, generator=generator) / 8 for _ in range(16)]
tokens = torch.randn(32, 64, generator=generator)


def walk(step, factor):
    states = [tokens]
    for matrix in matrices:
        states.append(step(states[-1], factor * matrix))
    return torch.stack(states)


def plain(x, matrix):
    return x @ matrix.T


last = [rms(walk(plain, factor)[-1]).mean() for factor in (0.5, 1, 1.5)]
show("after 16 layers", last, [0, 1, 657], within=[1e-4, 0.2, 200])

# %% [markdown] lang="en"
# ## 2. RMSNorm
# **RMSNorm** divides each vector by its RMS. So (3, 4) and (300, 400) become the same vector, of
# RMS 1. Then a learned `weight` multiplies each number: it starts at 1. Each row is
# on its own: neither other tokens nor other texts of the batch matter.
#
# A small `eps` is added to the mean square, so that a vector of zeros does not divide 0 by 0. It
# matters for tiny vectors: (0.003, 0.004) has the mean square 0.0000125, and `eps` adds 0.00001.
# `float16` (numbers of 16 bits) ends at 65,504, and 30,000² is far more. So the library computes in
# `float32` and rounds at the end. Torch's own function and the model's layer give the same.

# %% [markdown] lang="zh"
# ## 2. RMSNorm
# **RMSNorm**（均方根归一化）把每个向量除以它的 RMS。
# 所以 (3, 4) 和 (300, 400) 变成同一个向量，RMS 为 1。然后每个数再乘一个可学习的 `weight`，
# 它起初是 1。每一行各算各的：别的 token、同批的别的文本都不影响它。
#
# 均方上还要加一个很小的 `eps`，这样全零的向量才不会是 0 除以 0。对很小的向量它有影响：
# (0.003, 0.004) 的均方是 0.0000125，而 `eps` 加了 0.00001。`float16`（16 位的数）最大到 65,504，
# 30,000² 远超这个数，所以本库用 `float32` 计算，最后才舍入。
# torch 的函数和模型里的层给出同样的数。

# %%
ones, weight = torch.ones(2), torch.tensor([1.0, 2])
show("x / RMS", x / rms(x), [0.8485, 1.1314])
rows = torch.tensor([[[3.0, 4], [300, 400]]])
show("rms_norm", rms_norm(rows, ones), [[[0.8485, 1.1314], [0.8485, 1.1314]]])
show("with weight", rms_norm(x, weight), [0.8485, 2.2627])
show("zeros", rms_norm(torch.zeros(2), weight), [0, 0])
tiny = torch.tensor([0.003, 0.004])
show("tiny", rms_norm(tiny, weight), tiny * weight / 0.0000225**0.5)
large = torch.tensor([30_000.0, -30_000]).half()
show("float16 of 65,504, 65,520", torch.tensor([65_504.0, 65_520]).half(), [65_504, torch.inf])
show("30,000 squared", large.square(), [torch.inf, torch.inf])
show("large", rms_norm(large, ones), [1, -1])
show("torch", F.rms_norm(tiny, (2,), weight, eps=1e-5), rms_norm(tiny, weight))
norm = RMSNorm(2)
show("weight at the start", norm.weight, [1, 1])
norm.weight.data = weight
show("layer", norm(tiny), rms_norm(tiny, weight))
show("layer, float16", norm(large), [1, -2])
show("layer without weight", RMSNorm(2, gain=False)(large), [1, -1])

# %% [markdown] lang="en"
# ## 3. LayerNorm
# The older **LayerNorm** first subtracts the mean. For (3, 4) the mean is 3.5, and −0.5 and 0.5
# are left. Then it divides by the root of the **variance**, the mean square of these differences:
# here 0.25, and its root is 0.5. The result is −1 and 1. Also (103, 104) gives −1 and 1. Then
# a weight multiplies, and usually a bias is added. GPT-2 uses LayerNorm. Llama uses RMSNorm, which
# computes less.
#
# A trap: `x.var()` divides by n − 1, not by n, so for (3, 4) it is 0.5.

# %% [markdown] lang="zh"
# ## 3. LayerNorm
# 更早的 **LayerNorm**（层归一化）先减去平均值。(3, 4) 的平均值是 3.5，剩下 −0.5 和 0.5。
# 然后除以**方差**的平方根。方差就是这些差的均方，这里是 0.25，平方根是 0.5。
# 结果是 −1 和 1。(103, 104) 也得到 −1 和 1。之后再乘权重，通常还加偏置。
# GPT-2 用 LayerNorm；Llama 用 RMSNorm，计算更少。
#
# 一个陷阱：`x.var()` 除以的是 n − 1 而不是 n，所以对 (3, 4) 它是 0.5。

# %%
centred = x - x.mean()
variance = centred.square().mean()
show("mean, variance, x.var()", [x.mean(), variance, x.var()], [3.5, 0.25, 0.5])
show("centred / √variance", centred / variance.sqrt(), [-1, 1])
bias = torch.tensor([10.0, 20])
shifted = torch.tensor([[[3.0, 4], [103, 104]]])
show("layer_norm", layer_norm(shifted, ones), [[[-1, 1], [-1, 1]]])
show("with weight and bias", layer_norm(x, weight, bias), [9, 22])
show("tiny", layer_norm(tiny, weight), torch.tensor([-1, 2]) * 0.0005 / 0.00001025**0.5)
show("large", layer_norm(large, ones), [1, -1])
show("torch", F.layer_norm(tiny, (2,), weight, bias, eps=1e-5), layer_norm(tiny, weight, bias))
norm = LayerNorm(2)
show("weight, bias at the start", torch.cat((norm.weight, norm.bias)), [1, 1, 0, 0])
norm.weight.data, norm.bias.data = weight, bias
show("layer", norm(tiny), layer_norm(tiny, weight, bias))
show("layer, float16", norm(shifted.half())[0], [[9, 22], [9, 22]], within=0.02)
show("layer without bias", LayerNorm(2, bias=False)(x), [-1, 1])

# %% [markdown] lang="en"
# ## 4. A plus sign: the residual connection
# A norm keeps the numbers in size. But gradients also go through all layers, and the chain rule
# multiplies their derivatives. Let each layer be f(x) = 0.1 x. Its derivative is 0.1, so the first
# layer of 16 gets a gradient of 0.1¹⁶, almost nothing, and learns nothing. A **residual
# connection** adds the layer's input to its output: x + f(x). The derivative is now 1 + 0.1, and
# 1.1¹⁶ = 4.5950. A layer no longer makes a new vector. It adds a correction to the old one.

# %% [markdown] lang="zh"
# ## 4. 一个加号：残差连接
# 归一化管住了数的大小。但梯度也要穿过所有层，链式法则把各层的导数乘起来。
# 设每层是 f(x) = 0.1 x，导数是 0.1。
# 那么 16 层中的第一层得到的梯度是 0.1¹⁶，几乎为零，什么也学不到。
# **残差连接**把层的输入加到它的输出上：x + f(x)。导数变成 1 + 0.1，而 1.1¹⁶ = 4.5950。
# 这样，一层不再造一个新向量，而是给旧向量加一个修正。

# %%
gradients = []
for residual in (False, True):
    start = y = torch.tensor(3.0, requires_grad=True)
    for _ in range(16):
        y = y + 0.1 * y if residual else 0.1 * y
    y.backward()
    gradients.append(start.grad)
show("without", gradients[0], 1e-16, within=1e-18)
show("with", gradients[1], 4.5950)

# %% [markdown] lang="en"
# ## 5. Both together: pre-norm
# Sums grow too, so each layer reads a normed copy: x + f(norm(x)). This is **pre-norm**. Now the
# layers of section 1 end at the sizes 2.2, 4.1 and 6.1. At factor 1, each layer adds a random
# vector of RMS 1, and the mean squares add up: 1 + 16 = 17, and √17 is 4.12.
#
# The first models had **post-norm** instead: norm(x + f(x)). Its norm makes x
# smaller at each layer, so after 16 layers almost nothing of the token is left. The cosine
# similarity (lesson 13) of the first and the last vector shows this: 0.21 with pre-norm, about 0
# with post-norm.
#
# A block of the library has two pre-norm steps, attention and the feed-forward part of lesson 18.
# Below they are done one by one. If both add only zeros, x comes out as it went in, bit for bit.

# %% [markdown] lang="zh"
# ## 5. 两者合起来：前置归一化
# 求和也会增长，所以每层读的是归一化过的副本：x + f(norm(x))。这就是**前置归一化**（pre-norm）。
# 现在，第 1 节的那些层最后的大小是 2.2、4.1 和 6.1。倍数为 1 时，每层加上一个 RMS 为 1 的随机向量，
# 均方相加：1 + 16 = 17，而 √17 是 4.12。
#
# 最早的模型用的是**后置归一化**（post-norm）：norm(x + f(x))。它在每一层都把 x 缩小一些，
# 所以 16 层之后，原来的 token 几乎什么也不剩。看最初与最后向量的余弦相似度（第 13 课）就知道：
# 前置归一化是 0.21，后置归一化约为 0。
#
# 本库的一个块有两个前置归一化的步骤：注意力，以及第 18 课的前馈部分。下面把它们一步步做一遍。
# 如果两步都只加零，x 就原样出来，逐位相等。


# %%
unit = torch.ones(64)


def pre_norm(x, matrix):
    return x + rms_norm(x, unit) @ matrix.T


def post_norm(x, matrix):
    return rms_norm(x + x @ matrix.T, unit)


last = [rms(walk(pre_norm, factor)[-1]).mean() for factor in (0.5, 1, 1.5)]
show("pre-norm, after 16 layers", last, [2.2, 4.1, 6.1], within=0.3)
for step, expected in [(pre_norm, 0.21), (post_norm, 0)]:
    similarity = F.cosine_similarity(tokens, walk(step, 1)[-1]).mean()
    show(f"{step.__name__}, first and last", similarity, expected, within=0.05)

config = ModelConfig(vocab_size=8, context_length=4, d_model=4, num_layers=1, num_heads=2)
torch.manual_seed(0)
block = TransformerBlock(config)
block.attn_norm.weight.data = torch.tensor([1.0, 2, 3, 4])
x = torch.tensor([[1.0, 2, 3, 4], [4, 3, 2, 1]])
y = x + block.attn(rms_norm(x, block.attn_norm.weight))
show("block", block(x), y + block.ffn(rms_norm(y, block.ffn_norm.weight)))
block.attn.o_proj.weight.data.zero_()
block.ffn.down_proj.weight.data.zero_()
assert torch.equal(block(x), x)

# %% tags=["figure"]
with figure("17-sizes", 4.2, 3.0) as axes:
    for factor, color in [(0.5, "tab:blue"), (1.5, "tab:red")]:
        for step, line in [(plain, "--"), (pre_norm, "-")]:
            sizes = rms(walk(step, factor)).mean(-1)
            axes.semilogy(sizes, line, color=color, label=f"{step.__name__} {factor}")
    axes.set(xlabel="layer", ylabel="RMS", xticks=range(0, 17, 4))
    axes.legend(fontsize=8)

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Write `normalize(x, weight, eps)`: RMSNorm of the rows of `x` (…, d), with only `torch`.
# `x.mean(-1, keepdim=True)` is the mean of each row and keeps the axis, so that it divides the row.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 写出 `normalize(x, weight, eps)`：对 `x` (…, d) 的各行做 RMSNorm，只用 `torch`。
# `x.mean(-1, keepdim=True)` 是每一行的平均值，并保留这个轴，所以这一行可以除以它。


# %% tags=["exercise"]
def normalize(x, weight, eps):
    raise NotImplementedError


# %% tags=["answer"]
def normalize(x, weight, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


# %% tags=["check"]
def check(normalize, same):
    for shape, eps in [((2,), 0.1), ((3, 4), 0.1), ((2, 3, 4), 1e-5)]:
        x, weight = torch.randn(2, *shape, generator=torch.Generator().manual_seed(len(shape)))
        weight = weight.reshape(-1, shape[-1])[0]
        same(normalize(x, weight, eps), rms_norm(x, weight, eps))


def sums(x, weight, eps):
    """The squares are summed, not averaged. | 平方求了和，没有取平均。"""
    return x / (x.square().sum(-1, keepdim=True) + eps).sqrt() * weight


def all_rows_at_once(x, weight, eps):
    """One mean is taken over all rows; each row needs its own. | 所有行共用了一个平均。"""
    return x / (x.square().mean() + eps).sqrt() * weight


def eps_after_the_root(x, weight, eps):
    """`eps` is added after the root, not before. | `eps` 加在了开方之后，应在之前。"""
    return x / (x.square().mean(-1, keepdim=True).sqrt() + eps) * weight


def subtracts_the_mean(x, weight, eps):
    """The mean is subtracted: this is LayerNorm. | 减去了平均值：这是 LayerNorm。"""
    return normalize(x - x.mean(-1, keepdim=True), weight, eps)


def no_weight(x, weight, eps):
    """The result is not multiplied by `weight`. | 结果没有乘 `weight`。"""
    return normalize(x, 1, eps)


EXERCISE = "normalize"
WRONG = [sums, all_rows_at_once, eps_after_the_root, subtracts_the_mean, no_weight]
FAULTS = [  # planted in the library, each must make this lesson fail
    ("scratchlm.functional", "mean_square = einx.mean", "mean_square = einx.sum"),
    ("scratchlm.functional", "y = centred * torch.rsqrt", "y = wide * torch.rsqrt"),
    ("scratchlm.model.transformer", "x = x + self.dropout(attended)", "x = self.dropout(attended)"),
    ("scratchlm.model.transformer", "self.ffn(self.ffn_norm(x))", "self.ffn(x)"),
]
