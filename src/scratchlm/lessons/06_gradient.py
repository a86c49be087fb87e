# %% [markdown] lang="en"
# # 6 · The gradient
# Question: how does a number know which way is better?
#
# In lesson 1 all parameters of a model changed a little, many times, and the loss fell. But a
# parameter can grow or shrink. Here you find the better way, first for one number, then for three.

# %% [markdown] lang="zh"
# # 6 · 梯度
# 问题：一个数怎样知道往哪边走更好？
#
# 第 1 课里，模型的所有参数每次变一点，变很多次，损失就降下来了。可是一个参数既能变大，也能变小。
# 这一课来找更好的方向：先为一个数找，再为三个数找。

# %%
import torch
import torch.nn.functional as F

from scratchlm.functional import silu
from scratchlm.lessons.show import figure, show

# %% [markdown] lang="en"
# ## 1. The derivative: how fast does the loss change?
# Take a tiny model with one parameter `w`. For the input 2 it answers 2w. The right answer is 10.
# The loss is the square of the error: (2w − 10)². At `w = 3` it is (6 − 10)² = 16. A larger `w` is
# better: the first line below shows the loss at 2.9, 3 and 3.1. But how fast does the loss fall?
# Move `w` from 3 to 3 + h, with a small h. Divide the change of the loss by h:
# ```
# (2(3 + h) − 10)² = (2h − 4)² = 16 − 16h + 4h²
# (16 − 16h + 4h² − 16) / h = −16 + 4h
# ```
# This is the **difference quotient**. The smaller h is, the closer the quotient is to −16. The
# number −16 is the **derivative** of the loss at 3: the slope of the curve. The same steps give
# 8w − 40 for any `w`. Read the sign: if the derivative is negative, the loss falls when `w` grows,
# so `w` must grow. If it is positive, `w` must shrink. At `w = 5` it is 0, and the loss is lowest.
# Then read the size: a step of 0.01 changes the loss by about −16 · 0.01 = −0.16. The true change
# is −0.1596.
#
# torch finds derivatives too. `torch.tensor(3.0, requires_grad=True)` makes a number of torch, 3,
# and asks torch to record what we compute from it. `.backward()` then puts the derivative into
# `w.grad`. Lesson 8 shows how.

# %% [markdown] lang="zh"
# ## 1. 导数：损失变化得多快？
# 取一个极小的模型，只有一个参数 `w`。输入是 2，回答是 2w，正确答案是 10。损失是误差的平方：
# (2w − 10)²。当 `w = 3` 时，损失是 (6 − 10)² = 16。`w` 大一些更好：下面第一行是 2.9、3 和 3.1 处的
# 损失。但损失降得有多快？把 `w` 从 3 移到 3 + h，h 很小，再用损失的变化除以 h：
# ```
# (2(3 + h) − 10)² = (2h − 4)² = 16 − 16h + 4h²
# (16 − 16h + 4h² − 16) / h = −16 + 4h
# ```
# 这个商叫作**差商**。h 越小，差商越接近 −16。−16 就是损失在 3 处的**导数**，也就是曲线的斜率。
# 对任意的 `w`，用同样的步骤得到 8w − 40。先看符号：导数为负，说明 `w` 变大时损失下降，所以 `w`
# 应当变大；导数为正，`w` 应当变小。在 `w = 5` 处导数是 0，损失最低。再看大小：走 0.01 这么一小步，
# 损失大约变化 −16 · 0.01 = −0.16，真实的变化是 −0.1596。
#
# torch 也会求导数。`torch.tensor(3.0, requires_grad=True)` 造出一个 torch 的数 3，并要求 torch
# 记下用它做的每一步计算。然后 `.backward()` 把导数存进 `w.grad`。怎样算的，第 8 课再讲。


# %%
def loss(w):
    return (2 * w - 10) ** 2  # ** 2: (…)²


def difference_quotient(f, x, h):
    return (f(x + h) - f(x)) / h


show("loss at 2.9, 3, 3.1", [loss(2.9), loss(3), loss(3.1)], [17.64, 16, 14.44])
for h, quotient in [(1, -12), (0.1, -15.6), (0.01, -15.96), (0.001, -15.996)]:
    show(f"h = {h}", difference_quotient(loss, 3, h), quotient)
slopes = [8 * w - 40 for w in (3, 5, 7)]
show("8w − 40 at 3, 5, 7", slopes, [-16, 0, 16])
show("change of the loss", loss(3.01) - loss(3), -0.1596)
w = torch.tensor(3.0, requires_grad=True)
loss(w).backward()
show("w.grad", w.grad, -16)

# %% tags=["figure"]
with figure("06-tangents") as axes:
    line = torch.linspace(2, 8, 100)
    axes.plot(line, loss(line), color="black")
    inks = ("C0", "C2", "C3")
    for at, slope, place, ink in zip((3, 5, 7), slopes, (3.6, 5, 7.6), inks, strict=True):
        near = torch.tensor([at - 0.9, at + 0.9])
        axes.plot(near, loss(at) + slope * (near - at), color=ink, linewidth=2.5)
        axes.plot(at, loss(at), "o", color=ink)
        axes.text(place, loss(at) + (2.2 if slope == 0 else 0), slope, color=ink, ha="center")
    axes.set(xlabel="w", ylabel="(2w − 10)²")

# %% [markdown] lang="en"
# ## 2. A curve between 0 and 1
# Models use a curve that turns any number into one between 0 and 1: the **sigmoid**,
# σ(x) = 1 / (1 + exp(−x)). Here exp(x) is eˣ, with e = 2.718… To find its derivative by hand, we
# use one fact: if h is small, (1 − exp(−h)) / h is close to 1.
# ```
# σ(x + h) − σ(x) = 1 / (1 + exp(−x − h)) − 1 / (1 + exp(−x))
#                 = exp(−x) (1 − exp(−h)) / ((1 + exp(−x − h)) (1 + exp(−x)))
#           σ′(x) = exp(−x) / (1 + exp(−x))² = σ(x) (1 − σ(x))
# ```
# The last line is the derivative σ′: divide by h, let h go to 0, and use
# 1 − σ(x) = exp(−x) / (1 + exp(−x)). At 1: exp(−1) = 0.3679, so σ(1) = 1 / 1.3679 = 0.7311, and
# the slope is 0.7311 · 0.2689 = 0.1966. The code uses `float64`, numbers with about 16 digits. The
# usual `float32` has only 7 digits, too few for a small h.

# %% [markdown] lang="zh"
# ## 2. 一条在 0 和 1 之间的曲线
# 模型要用到一条曲线，它把任何数变成 0 和 1 之间的数，名叫 **sigmoid**：σ(x) = 1 / (1 + exp(−x))。
# 其中 exp(x) 就是 eˣ，e = 2.718… 手算它的导数，要用到一个事实：h 很小时，
# (1 − exp(−h)) / h 接近 1。
# ```
# σ(x + h) − σ(x) = 1 / (1 + exp(−x − h)) − 1 / (1 + exp(−x))
#                 = exp(−x) (1 − exp(−h)) / ((1 + exp(−x − h)) (1 + exp(−x)))
#           σ′(x) = exp(−x) / (1 + exp(−x))² = σ(x) (1 − σ(x))
# ```
# 最后一行就是导数 σ′：除以 h，让 h 趋于 0，再用 1 − σ(x) = exp(−x) / (1 + exp(−x))。
# 在 1 处，exp(−1) = 0.3679，所以 σ(1) = 1 / 1.3679 = 0.7311，斜率是 0.7311 · 0.2689 = 0.1966。
# 代码用的是 `float64`，大约有 16 位有效数字。平常的 `float32` 只有 7 位，h 很小时不够用。


# %%
def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


h = torch.tensor(1e-3, dtype=torch.float64)  # 0.001
show("(1 − exp(−h)) / h", (1 - torch.exp(-h)) / h, 0.9995)
x = torch.tensor(1.0, dtype=torch.float64)
show("σ(1)", sigmoid(x), 0.7311)
show("σ(1) (1 − σ(1))", sigmoid(x) * (1 - sigmoid(x)), 0.1966)
show("difference quotient", difference_quotient(sigmoid, x, 1e-6), 0.1966)

# %% [markdown] lang="en"
# ## 3. Many numbers: the gradient
# Let y = σ(x₁) + σ(x₂) + σ(x₃), at 1, 2 and 3. Each number has its own slope. The **gradient** is
# the list of the slopes, one for each number, in the same order. So it is a vector. The gradient of
# a loss tells all parameters at once which way is better. In the code, `.sum()` adds the numbers,
# and one `.backward()` finds the whole gradient.
# The slope at 3 is the smallest: there the curve is nearly flat, and a step changes little.

# %% [markdown] lang="zh"
# ## 3. 许多数：梯度
# 令 y = σ(x₁) + σ(x₂) + σ(x₃)，三个数取 1、2 和 3。每个数有自己的斜率。**梯度**就是把这些斜率
# 按同样的顺序排成一列，每个数对应一个，所以它是一个向量。有了损失的梯度，所有参数就同时知道
# 往哪边走更好。代码里，`.sum()` 把各数相加，
# 一次 `.backward()` 就求出整个梯度。
# 3 处的斜率最小：那里曲线几乎是平的，走一步变化很小。

# %%
x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
sigmoid(x).sum().backward()
show("gradient", x.grad, [0.1966, 0.1050, 0.0452])
show("σ(x) (1 − σ(x))", sigmoid(x) * (1 - sigmoid(x)), x.grad)
show("torch.sigmoid", torch.sigmoid(x), sigmoid(x))

# %% [markdown] lang="en"
# ## 4. The product rule, and the library's silu
# The library's `silu(x)` is x · σ(x): a product of two factors that both change. If u changes by Δu
# and v by Δv, then (u + Δu)(v + Δv) = uv + v·Δu + u·Δv + Δu·Δv. The last part is tiny, so we drop
# it. The rest is the **product rule**: (uv)′ = u′v + uv′. Try it on x · x: 1·x + x·1 = 2x, at 3
# this is 6. The derivative of silu is the exercise. The code shows silu at four numbers, and
# its slopes there. Near −1.28 the slope is 0: silu has its lowest point there. The last two lines
# test `float16`, numbers with 3 digits: silu computes with `float32`, and rounds once, at the end.
# `.double()` converts numbers to `float64`, and `.half()` to `float16`.

# %% [markdown] lang="zh"
# ## 4. 乘积法则，与本库的 silu
# 本库的 `silu(x)` 就是 x · σ(x)：两个因子相乘，两个都在变。如果 u 变化 Δu，v 变化 Δv，
# 那么 (u + Δu)(v + Δv) = uv + v·Δu + u·Δv + Δu·Δv。最后一项非常小，可以略去。
# 剩下的就是**乘积法则**：(uv)′ = u′v + uv′。拿 x · x 试一试：1·x + x·1 = 2x，在 3 处是 6。
# silu 的导数留作练习。代码给出 silu 在四个数处的值和斜率。在 −1.28 附近斜率是 0：
# 那里是 silu 的最低点。末尾两行检验 `float16`，它只有 3 位有效数字：silu 用 `float32` 计算，
# 最后才舍入一次。`.double()` 把数换成 `float64`，`.half()` 换成 `float16`。

# %%
x = torch.tensor(3.0, requires_grad=True)
(x * x).backward()
show("slope of x·x at 3", x.grad, 6)
x = torch.tensor([-1.2784, 0.0, 1.0, 2.0], requires_grad=True)
silu(x).sum().backward()
show("silu", silu(x), [-0.2785, 0, 0.7311, 1.7616])
show("x σ(x)", x * sigmoid(x), silu(x))
show("torch's silu", F.silu(x), silu(x))
show("slopes of silu", x.grad, [0, 0.5, 0.9277, 1.0908])
show("difference quotients", difference_quotient(silu, x.double(), 1e-6), x.grad)
x = torch.linspace(-4, 4, 81).half()  # −4.0, −3.9, …, 4.0 in float16
assert torch.equal(silu(x), silu(x.double()).half())

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Write `silu_slope(x)`: the derivative of x · σ(x) at each number of `x`. You may use `torch.exp`
# and `torch.sigmoid`, but not `.backward()`. The result has the length of `x`. Then run
# `scratchlm-learn 6 --check FILE`. Four usual mistakes are recognised by what they return.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 写出 `silu_slope(x)`：x · σ(x) 在 `x` 的每个数处的导数。可以用 `torch.exp` 和 `torch.sigmoid`，
# 但不用 `.backward()`。结果与 `x` 一样长。然后运行 `scratchlm-learn 6 --check FILE`。
# 四种常见错误能从返回值认出来。


# %% tags=["exercise"]
def silu_slope(x):
    raise NotImplementedError


# %% tags=["answer"]
def silu_slope(x):
    s = torch.sigmoid(x)
    return s + x * s * (1 - s)


# %% tags=["check"]
def check(silu_slope, same):
    for numbers in [[0.0], [-1.0, 1.0], [-4.0, -1.2785, 0.5, 2.0, 6.0]]:
        x = torch.tensor(numbers, requires_grad=True)
        silu(x).sum().backward()
        same(silu_slope(x.detach()), x.grad)


def no_second_term(x):
    """The term u·v′ of the product rule is missing. | 缺少乘积法则中的 u·v′ 一项。"""
    return torch.sigmoid(x)


def no_first_term(x):
    """The term u′·v of the product rule is missing. | 缺少乘积法则中的 u′·v 一项。"""
    return x * torch.sigmoid(x) * torch.sigmoid(-x)


def slopes_multiplied(x):
    """You multiplied the slopes: (uv)′ is not u′·v′. | 把两个斜率相乘了：(uv)′ 不是 u′·v′。"""
    return torch.sigmoid(x) * torch.sigmoid(-x)


def wrong_sigmoid_slope(x):
    """The slope of σ is σ(1 − σ), not σ. | σ 的斜率是 σ(1 − σ)，不是 σ。"""
    return torch.sigmoid(x) * (1 + x)


EXERCISE = "silu_slope"
WRONG = [no_second_term, no_first_term, slopes_multiplied, wrong_sigmoid_slope]
FAULTS = [
    ("scratchlm.functional", "wide * wide.sigmoid()", "wide * (-wide).sigmoid()"),
    ("scratchlm.functional", "wide * wide.sigmoid()", "wide * wide.sigmoid().detach()"),
    ("scratchlm.functional", "torch.promote_types(x.dtype, torch.float32)", "x.dtype"),
    ("scratchlm.functional", "torch.promote_types(x.dtype, torch.float32)", "torch.float32"),
]
