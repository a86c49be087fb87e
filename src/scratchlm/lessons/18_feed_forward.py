# %% [markdown] lang="en"
# # 18 · Feed-forward
# Question: what does a token do alone, after attention?
#
# In attention, tokens learn from each other (lesson 14). Then each token works on what it has
# learned, alone. It needs two linear layers (lesson 12) and one new thing between them: a curve.

# %% [markdown] lang="zh"
# # 18 · 前馈网络
# 问题：在注意力之后，一个 token 独自做什么？
#
# 在注意力里，token 互相学习（第 14 课）。然后每个 token 独自加工学到的东西。
# 这需要两个线性层（第 12 课），以及夹在中间的一样新东西：一条曲线。

# %%
import torch
import torch.nn.functional as F

from scratchlm.functional import gelu, linear, relu_squared, silu, swiglu
from scratchlm.lessons.show import figure, show
from scratchlm.model.attention import MultiHeadAttention
from scratchlm.model.config import default_d_ff
from scratchlm.model.feed_forward import SwiGLU, new_feed_forward

# %% [markdown] lang="en"
# ## 1. Two linear layers are one
# Take the numbers −2 … 2, each as a vector of length 1. The first layer, `up`, makes two numbers
# of x: x and −x. The second, `down`, adds them: 0. Two matrices in a row are only one
# matrix, `down @ up`. However many layers there are, the result is a straight line.
#
# Now put max(x, 0) between them. This is **ReLU**: negative numbers become 0, all others stay. The
# same two layers give |x|, a line with a corner. No single matrix can do this. A function that
# bends lines between layers is an **activation function**.

# %% [markdown] lang="zh"
# ## 1. 两个线性层等于一个
# 取 −2 … 2 这几个数，每个是长度为 1 的向量。第一层 `up` 把 x 变成两个数：x 和 −x。
# 第二层 `down` 把它们相加，得 0。接连两个矩阵只相当于一个矩阵 `down @ up`。
# 不管叠多少层，结果都是一条直线。
#
# 现在在中间放上 max(x, 0)。这就是 **ReLU**：负数变成 0，其他不变。
# 同样的两层就给出 |x|，一条有折角的线。任何单个矩阵都做不到。
# 夹在层与层之间、把直线弄弯的函数叫**激活函数**。

# %%
x = torch.tensor([[-2.0], [-1], [0], [1], [2]])
up, down = torch.tensor([[1.0], [-1]]), torch.tensor([[1.0, 1]])
show("without", linear(linear(x, up), down).T, [[0, 0, 0, 0, 0]])
show("down @ up", down @ up, [[0]])
show("with ReLU", linear(linear(x, up).clamp(min=0), down).T, [[2, 1, 0, 1, 2]])

# %% [markdown] lang="en"
# ## 2. Four curves
# ReLU has a weakness: below 0 its slope is 0. There no gradient flows, and nothing is learned.
# SiLU is smooth: x · σ(x), x times its sigmoid (lesson 6). **GELU** is x · Φ(x), where Φ(x) is
# the fraction of the random numbers of `torch.randn` that are below x: 84% are below 1. GPT-2 uses
# a close formula with tanh. **Squared ReLU** is max(x, 0)². Torch has the first three. The library
# computes `float16` input in `float32`, and rounds at the end (lesson 17).
#
# By hand at x = 1: σ(1) = 1 / (1 + e⁻¹) = 0.7311, so SiLU is 0.7311. At −1 the slopes of ReLU,
# SiLU and GELU are 0, 0.0723 and −0.0833.

# %% [markdown] lang="zh"
# ## 2. 四条曲线
# ReLU 有个缺点：0 以下斜率为 0。那里没有梯度流过，什么也学不到。
# SiLU 是光滑的：x · σ(x)，即 x 乘以它的 sigmoid（第 6 课）。**GELU** 是 x · Φ(x)，
# 其中 Φ(x) 是 `torch.randn` 的随机数中小于 x 的比例：小于 1 的占 84%。
# GPT-2 用的是一个相近的公式，里面有 tanh。**平方 ReLU** 是 max(x, 0)²。前三种 torch 都有。
# 输入是 `float16` 时，本库用 `float32` 计算，最后才舍入（第 17 课）。
#
# 手算 x = 1：σ(1) = 1 / (1 + e⁻¹) = 0.7311，所以 SiLU 是 0.7311。
# 在 −1 处，ReLU、SiLU、GELU 的斜率是 0、0.0723 和 −0.0833。

# %%
x = torch.tensor([-1.0, 1, 2], requires_grad=True)
below_1 = (torch.randn(10_000, generator=torch.Generator().manual_seed(0)) < 1).float().mean()
show("part below 1", below_1, 0.84, within=0.02)
show("x · σ(x)", x / (1 + torch.exp(-x)), [-0.2689, 0.7311, 1.7616])
show("silu", silu(x), [-0.2689, 0.7311, 1.7616])
show("gelu", gelu(x), [-0.1587, 0.8413, 1.9545])
show("gelu, tanh", gelu(x, tanh=True), [-0.15881, 0.84119, 1.95460], within=2e-5)
for ours, theirs in [(silu, F.silu), (gelu, F.gelu)]:
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)
half = torch.linspace(-4, 4, 100).half()
for curve in [silu, gelu, lambda x: gelu(x, tanh=True)]:
    assert torch.equal(curve(half), curve(half.float()).half())
curves = {"ReLU": F.relu, "SiLU": silu, "GELU": gelu}
slopes = [torch.autograd.grad(curve(x)[0], x)[0][0] for curve in curves.values()]
show("slopes at −1", slopes, [0, 0.0723, -0.0833])
one = torch.ones(1, 1)
show("squared ReLU", relu_squared(x[:, None], one, one).T, [[0, 1, 4]])

# %% tags=["figure"]
grid = torch.linspace(-3, 2, 101)
with figure("18-curves") as axes:
    for name, curve in curves.items():
        axes.plot(grid, curve(grid), label=name)
    axes.plot(grid, relu_squared(grid[:, None], one, one)[:, 0], label="squared ReLU")
    axes.set(xlabel="x", ylim=(-0.5, 3))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)

# %% [markdown] lang="en"
# ## 3. The feed-forward network
# A **feed-forward network** (`ffn`) makes a token's vector wider, bends it and makes it narrow
# again: W_down activation(W_up x). Here it goes from 2 numbers to 3 and back. For the token (1, 2):
#
# ```
# W_up x                 3   −1    4
# max(…, 0)²             9    0   16
# W_down …          9 + 16 = 25,  0 − 16 = −16
# ```
#
# Each token goes through the same weights, but alone: change the second token, and the first
# result stays equal, bit for bit. `new_feed_forward` makes the model's layers. GPT-2's kind,
# `gelu`, has biases. `linear(x, up, bias)` adds a bias.

# %% [markdown] lang="zh"
# ## 3. 前馈网络
# **前馈网络**（`ffn`）先把 token 的向量变宽，弄弯，再变窄：W_down activation(W_up x)。
# 这里从 2 个数到 3 个数，再回来。对 token (1, 2)：
#
# ```
# W_up x                 3   −1    4
# max(…, 0)²             9    0   16
# W_down …          9 + 16 = 25,  0 − 16 = −16
# ```
#
# 所有 token 用同样的权重，但各走各的：改动第二个 token，第一个结果逐位相等。
# 模型里的层由 `new_feed_forward` 建立。GPT-2 用的那种是 `gelu`，带偏置。
# `linear(x, up, bias)` 会加上偏置。

# %%
up = torch.tensor([[1.0, 1], [1, -1], [0, 2]])
down = torch.tensor([[1.0, 0, 1], [0, 1, -1]])
x = torch.tensor([[1.0, 2], [-1, 0.5]])
show("up", linear(x, up), [[3, -1, 4], [-0.5, -1.5, 1]])
show("relu_squared", relu_squared(x, up, down), [[25, -16], [1, -1]])
other = torch.stack((x[0], torch.tensor([7.0, 7])))
assert torch.equal(relu_squared(other, up, down)[0], relu_squared(x, up, down)[0])

up_bias, down_bias = torch.tensor([0.0, 1, -2]), torch.tensor([10.0, 20])
narrow = linear(gelu(linear(x, up, up_bias), tanh=True), down, down_bias)
show("gelu, biases", narrow[0], [2.9964 + 1.9546 + 10, -1.9546 + 20])
theirs = F.linear(F.gelu(F.linear(x, up, up_bias), approximate="tanh"), down, down_bias)
show("torch", theirs, narrow)
kinds = {"gelu": narrow, "silu": linear(silu(linear(x, up)), down)}
kinds["relu2"] = relu_squared(x, up, down)
for kind, expected in kinds.items():
    layer = new_feed_forward(kind, 2, 3, bias=kind == "gelu")
    layer.up_proj.weight.data, layer.down_proj.weight.data = up, down
    if kind == "gelu":
        layer.up_proj.bias.data, layer.down_proj.bias.data = up_bias, down_bias
    show(f"layer {kind}", layer(x), expected)

# %% [markdown] lang="en"
# ## 4. SwiGLU: with a gate
# Llama's **SwiGLU** has a third matrix. W_up x is the content. silu(W_gate x) is the **gate
# vector**. It multiplies the content number by number, and so decides how much of each passes. A
# gate of 0 is shut: the 100 below does not pass. For the token (1, 2):
#
# ```
# W_gate x               1        −2      0
# silu(…)           0.7311   −0.2384      0
# W_up x                 3        −1    100
# product           2.1932    0.2384      0
# W_down …          2.1932 + 0.2384 = 2.4316,  0.2384
# ```

# %% [markdown] lang="zh"
# ## 4. SwiGLU：带一道门
# Llama 用的 **SwiGLU** 有第三个矩阵。W_up x 是内容，silu(W_gate x) 是**门控向量**。
# 它与内容逐个数相乘，由此决定每个数通过多少。
# 门为 0 就是关着：下面的 100 通不过。对 token (1, 2)：
#
# ```
# W_gate x               1        −2      0
# silu(…)           0.7311   −0.2384      0
# W_up x                 3        −1    100
# product           2.1932    0.2384      0
# W_down …          2.1932 + 0.2384 = 2.4316,  0.2384
# ```

# %%
gate = torch.tensor([[1.0, 0], [0, -1], [0, 0]])
up = torch.tensor([[1.0, 1], [1, -1], [50, 25]])
down = torch.tensor([[1.0, 1, 1], [0, 1, 1]])
opened = silu(linear(x, gate))
show("gate", opened[0], [0.7311, -0.2384, 0])
show("up", linear(x, up)[0], [3, -1, 100])
product = opened * linear(x, up)
show("product", product[0], [2.1932, 0.2384, 0])
show("down", linear(product, down)[0], [2.4316, 0.2384])
show("swiglu", swiglu(x, gate, up, down), linear(product, down))
theirs = F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)
show("torch", theirs, linear(product, down))
layer = SwiGLU(2, 3)
layer.gate_proj.weight.data, layer.up_proj.weight.data = gate, up
layer.down_proj.weight.data = down
show("layer", layer(x), linear(product, down))

# %% [markdown] lang="en"
# ## 5. How wide?
# With two matrices the usual width is 4 · d_model. SwiGLU has three matrices, so 8/3 · d_model
# costs the same. At d_model = 768: 2 · 768 · 3072 = 3 · 768 · 2048 = 4,718,592 parameters. The four
# matrices of attention have 4 · 768² = 2,359,296, half as many. So two thirds of these
# parameters are here. The library rounds SwiGLU's width up to a multiple of 64: for 512, 1408.
#
# Count a small layer by hand, from 2 numbers to 3 and back: 2 · 2 · 3 = 12 parameters, and with
# biases 3 + 2 = 5 more. SwiGLU has 18, and with biases 8 more.

# %% [markdown] lang="zh"
# ## 5. 多宽？
# 有两个矩阵时，通常的宽度是 4 · d_model。SwiGLU 有三个矩阵，所以 8/3 · d_model 的开销与之相同。
# 当 d_model = 768：2 · 768 · 3072 = 3 · 768 · 2048 = 4,718,592 个参数。
# 注意力的四个矩阵有 4 · 768² = 2,359,296 个，是它的一半。所以这些参数的三分之二在这里。
# 本库把 SwiGLU 的宽度向上取到 64 的倍数：512 对应 1408。
#
# 手数一个小层，从 2 个数到 3 个再回来：2 · 2 · 3 = 12 个参数，有偏置则多 3 + 2 = 5 个。
# SwiGLU 有 18 个，有偏置则多 8 个。

# %%
widths = [default_d_ff(768, "gelu"), default_d_ff(768), default_d_ff(512)]
show("widths", widths, [3072, 2048, 1408])


def count(layer):
    return sum(weight.numel() for weight in layer.parameters())


for kind, expected in [("relu2", [12, 17]), ("silu", [12, 17]), ("swiglu", [18, 26])]:
    show(kind, [count(new_feed_forward(kind, 2, 3, bias)) for bias in (False, True)], expected)
    if kind != "silu":
        layer = new_feed_forward(kind, 768, default_d_ff(768, kind), bias=False)
        show("d_model 768", count(layer), 4_718_592)
show("attention, d_model 768", count(MultiHeadAttention(768, 12)), 2_359_296)

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Write `gated(x, gate, up, down)`: SwiGLU of the vectors `x` (…, d_model), with only `torch`.
# `gate` and `up` have the shape (d_ff, d_model), `down` has (d_model, d_ff), so you need `.T`.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 写出 `gated(x, gate, up, down)`：对向量 `x` (…, d_model) 做 SwiGLU，只用 `torch`。
# `gate` 和 `up` 的形状是 (d_ff, d_model)，`down` 是 (d_model, d_ff)，所以要用 `.T`。


# %% tags=["exercise"]
def gated(x, gate, up, down):
    raise NotImplementedError


# %% tags=["answer"]
def gated(x, gate, up, down):
    opened = x @ gate.T
    return (opened * opened.sigmoid() * (x @ up.T)) @ down.T


# %% tags=["check"]
def check(gated, same):
    for shape, d_ff in [((2,), 3), ((3, 4), 4), ((2, 3, 4), 5)]:
        generator = torch.Generator().manual_seed(d_ff)
        x = torch.randn(shape, generator=generator)
        gate, up, down = torch.randn(3, d_ff, shape[-1], generator=generator)
        same(gated(x, gate, up, down.T), swiglu(x, gate, up, down.T))


def exchanged(x, gate, up, down):
    """`gate` and `up` are exchanged: silu belongs to `gate`. | `gate` 和 `up` 弄反了。"""
    return gated(x, up, gate, down)


def only_sigmoid(x, gate, up, down):
    """The gate is σ(x), not silu(x) = x · σ(x). | 门用了 σ(x)，应为 silu(x) = x · σ(x)。"""
    return ((x @ gate.T).sigmoid() * (x @ up.T)) @ down.T


def another_curve(x, gate, up, down):
    """The curve is ReLU, not silu. | 曲线用了 ReLU，应为 silu。"""
    return ((x @ gate.T).relu() * (x @ up.T)) @ down.T


def no_curve(x, gate, up, down):
    """There is no activation function: silu is missing. | 没有激活函数：少了 silu。"""
    return ((x @ gate.T) * (x @ up.T)) @ down.T


def adds(x, gate, up, down):
    """Gate and up are added, not multiplied. | 门与 up 相加了，应该相乘。"""
    return (silu(x @ gate.T) + x @ up.T) @ down.T


def no_up(x, gate, up, down):
    """`up` is not used: the gate opens for nothing. | 没有用 `up`：门后什么也没有。"""
    return silu(x @ gate.T) @ down.T


EXERCISE = "gated"
WRONG = [exchanged, only_sigmoid, another_curve, no_curve, adds, no_up]
FAULTS = [  # planted in the library, each must make this lesson fail
    ("scratchlm.functional", "wide * wide.sigmoid()", "wide.sigmoid()"),
    ("scratchlm.functional", "0.044715 * wide**3", "0.44715 * wide**3"),
    ("scratchlm.functional", ".clamp(min=0).square()", ".square()"),
    ("scratchlm.model.feed_forward", "F.silu(self.gate_proj(x))", "self.gate_proj(x).sigmoid()"),
]
