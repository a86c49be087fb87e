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
# Take a tiny model with one parameter `w`. For the input 2, its output is 2w. The right answer is
# 10. The loss is the square of the error: (2w − 10)². At `w = 3` it is (6 − 10)² = 16. A larger `w`
# is better: the first line below shows the loss at 2.9, 3 and 3.1. But how fast does the loss fall?
# Move `w` from 3 to 3 + h, with a small h. Divide the change of the loss by h:
# ```
# (2(3 + h) − 10)² = (2h − 4)² = 16 − 16h + 4h²
# (16 − 16h + 4h² − 16) / h = −16 + 4h
# ```
# This is the **difference quotient**. The smaller h is, the closer the quotient is to −16. The
# number −16 is the **derivative** of the loss at 3: the slope of the curve. The same steps work for
# any `w`. Let a = 2(w + h) − 10 and b = 2w − 10. Then a − b = 2h and a + b = 4w + 2h − 20. Use
# a² − b² = (a − b)(a + b). Let h go to 0. The result is 8w − 40:
# ```
# (2(w + h) − 10)² − (2w − 10)² = 2h (4w + 2h − 20)
# 2h (4w + 2h − 20) / h = 8w − 40 + 4h
# ```
# Read the sign: if the derivative is negative, the loss falls when `w` grows, so `w` must grow. If
# it is positive, `w` must shrink. At `w = 5` it is 0, and the loss is lowest. Then read the size: a
# step of 0.01 changes the loss by about −16 · 0.01 = −0.16. The true change is −0.1596. In the
# figure, the straight lines at 3, 5 and 7 have the slopes −16, 0 and 16.
#
# torch finds derivatives too. `torch.tensor(3.0, requires_grad=True)` is the number 3, and torch
# records everything that we compute from it. `.backward()` then puts the derivative into `w.grad`.
# Lesson 8 shows how.

# %% [markdown] lang="zh"
# ## 1. 导数：损失变化得多快？
# 取一个极小的模型，只有一个参数 `w`。输入是 2，输出是 2w，正确答案是 10。损失是误差的平方：
# (2w − 10)²。当 `w = 3` 时，损失是 (6 − 10)² = 16。`w` 大一些更好：下面第一行是 2.9、3 和 3.1 处的
# 损失。但损失降得有多快？把 `w` 从 3 移到 3 + h，h 很小，再用损失的变化除以 h：
# ```
# (2(3 + h) − 10)² = (2h − 4)² = 16 − 16h + 4h²
# (16 − 16h + 4h² − 16) / h = −16 + 4h
# ```
# 这个商叫作**差商**。h 越小，差商越接近 −16。−16 就是损失在 3 处的**导数**，也就是曲线的斜率。
# 对任意的 `w`，步骤也一样。令 a = 2(w + h) − 10，b = 2w − 10，那么 a − b = 2h，
# a + b = 4w + 2h − 20。用 a² − b² = (a − b)(a + b)，最后让 h 趋于 0，就得到导数 8w − 40：
# ```
# (2(w + h) − 10)² − (2w − 10)² = 2h (4w + 2h − 20)
# 2h (4w + 2h − 20) / h = 8w − 40 + 4h
# ```
# 先看符号：导数为负，说明 `w` 变大时损失下降，所以 `w` 应当变大；导数为正，`w` 应当变小。
# 在 `w = 5` 处导数是 0，损失最低。再看大小：走 0.01 这么一小步，损失大约变化
# −16 · 0.01 = −0.16，真实的变化是 −0.1596。图中的三条直线是曲线在 3、5 和 7 处的切线，
# 斜率是 −16、0 和 16。
#
# torch 也会求导数。`torch.tensor(3.0, requires_grad=True)` 是数 3，torch 会记下用它做的
# 每一步计算。然后 `.backward()` 把导数存进 `w.grad`。怎样算的，第 8 课再讲。


# %%
def loss(w):
    return (2 * w - 10) ** 2


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
# σ(x) = 1 / (1 + exp(−x)). Here exp(x) is eˣ, with e = 2.718… We write σ′ for its derivative. To
# find σ′ by hand, we use one fact: if h is small, (1 − exp(−h)) / h is close to 1.
# ```
# σ(x + h) − σ(x) = 1 / (1 + exp(−x − h)) − 1 / (1 + exp(−x))
#                 = (exp(−x) − exp(−x − h)) / ((1 + exp(−x − h)) (1 + exp(−x)))
#                 = exp(−x) (1 − exp(−h)) / ((1 + exp(−x − h)) (1 + exp(−x)))
#           σ′(x) = exp(−x) / (1 + exp(−x))²
#                 = σ(x) (1 − σ(x))
# ```
# - Line 2: write both fractions with the same denominator, and subtract.
# - Line 3: exp(−x − h) is exp(−x) · exp(−h).
# - Line 4: divide by h, and let h go to 0.
# - Line 5: exp(−x) / (1 + exp(−x)) is 1 − σ(x).
#
# At 1: exp(−1) = 0.3679, so σ(1) = 1 / 1.3679 = 0.7311, and the slope is
# 0.7311 · 0.2689 = 0.1966. The code asks for `float64`, numbers with about 16 digits. The usual
# `float32` has only 7 digits, too few for a small h.

# %% [markdown] lang="zh"
# ## 2. 一条在 0 和 1 之间的曲线
# 模型要用到一条曲线，它把任何数变成 0 和 1 之间的数，名叫 **sigmoid**：σ(x) = 1 / (1 + exp(−x))。
# 其中 exp(x) 就是 eˣ，e = 2.718… 它的导数记作 σ′。手算 σ′，要用到一个事实：h 很小时，
# (1 − exp(−h)) / h 接近 1。
# ```
# σ(x + h) − σ(x) = 1 / (1 + exp(−x − h)) − 1 / (1 + exp(−x))
#                 = (exp(−x) − exp(−x − h)) / ((1 + exp(−x − h)) (1 + exp(−x)))
#                 = exp(−x) (1 − exp(−h)) / ((1 + exp(−x − h)) (1 + exp(−x)))
#           σ′(x) = exp(−x) / (1 + exp(−x))²
#                 = σ(x) (1 − σ(x))
# ```
# - 第 2 行：两个分数通分后相减。
# - 第 3 行：exp(−x − h) 就是 exp(−x) · exp(−h)。
# - 第 4 行：除以 h，再让 h 趋于 0。
# - 第 5 行：exp(−x) / (1 + exp(−x)) 就是 1 − σ(x)。
#
# 在 1 处，exp(−1) = 0.3679，所以 σ(1) = 1 / 1.3679 = 0.7311，斜率是
# 0.7311 · 0.2689 = 0.1966。代码里写明用 `float64`，它大约有 16 位有效数字。
# 平常的 `float32` 只有 7 位，h 很小时不够用。


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
# a loss tells all parameters at once which way is better. In the code, `torch.tensor` takes a list
# of three numbers, `.sum()` adds, and one `.backward()` finds the whole gradient.
# The slope at 3 is the smallest: there the curve is nearly flat, and a step changes little.

# %% [markdown] lang="zh"
# ## 3. 许多数：梯度
# 令 y = σ(x₁) + σ(x₂) + σ(x₃)，三个数取 1、2 和 3。每个数有自己的斜率。
# 把这些斜率按同样的顺序排成一列，每个数对应一个，得到的向量就是**梯度**。有了损失的梯度，
# 所有参数就同时知道往哪边走更好。代码里，`torch.tensor` 装着三个数的列表，`.sum()` 求和，
# 一次 `.backward()` 就求出整个梯度。3 处的斜率最小：那里曲线几乎是平的，走一步变化很小。

# %%
x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
sigmoid(x).sum().backward()
show("gradient", x.grad, [0.1966, 0.1050, 0.0452])
show("σ(x) (1 − σ(x))", sigmoid(x) * (1 - sigmoid(x)), x.grad)
show("torch.sigmoid", torch.sigmoid(x), sigmoid(x))

# %% [markdown] lang="en"
# ## 4. The product rule, and the library's silu
# Many language models use the curve silu(x) = x · σ(x). Lesson 18 shows what it is good for. It is
# a product of two factors that both change. If u changes by Δu and v by Δv, then
# (u + Δu)(v + Δv) = uv + v·Δu + u·Δv + Δu·Δv. The last part is tiny, so we drop it. The product
# has changed by v·Δu + u·Δv. Divide this by the change of x. The result is the **product rule**:
# (uv)′ = u′v + uv′. Try it on x · x: 1·x + x·1 = 2x, at 3 this is 6.
#
# The derivative of silu is the exercise. The code shows the library's `silu` at four numbers, and
# its slopes there. Near −1.28 the slope is 0: silu has its lowest point there. `.double()` converts
# numbers to `float64`, and `.half()` to `float16`, numbers with only 3 digits. For `float16`, the
# library computes in `float32`, and rounds only the result. So it is as good as a result that we
# compute in `float64` and then round: the last line shows that all numbers are exactly equal.

# %% [markdown] lang="zh"
# ## 4. 乘积法则，与本库的 silu
# 许多语言模型用到曲线 silu(x) = x · σ(x)，它有什么用处，第 18 课再讲。它是两个因子相乘，
# 两个都在变。如果 u 变化 Δu，v 变化 Δv，那么
# (u + Δu)(v + Δv) = uv + v·Δu + u·Δv + Δu·Δv。最后一项非常小，可以略去。
# 乘积变化了 v·Δu + u·Δv，再除以 x 的变化，就得到**乘积法则**：(uv)′ = u′v + uv′。
# 拿 x · x 试一试：1·x + x·1 = 2x，在 3 处是 6。
#
# silu 的导数留作练习。代码给出本库的 `silu` 在四个数处的值和斜率。在 −1.28 附近斜率是 0：
# 那里是 silu 的最低点。`.double()` 把数换成 `float64`，`.half()` 换成 `float16`，
# 后者只有 3 位有效数字。遇到 `float16`，本库用 `float32` 计算，只舍入结果。
# 所以它和用 `float64` 算出再舍入的结果一样好：最后一行说明，所有的数都完全相等。

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
short = (torch.arange(-40, 41) / 10).half()  # −4.0, −3.9, …, 4.0
assert torch.equal(silu(short), silu(short.double()).half())

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Write `silu_slope(x)`: the derivative of x · σ(x) at each number of `x`. You may use `torch.exp`
# and `torch.sigmoid`, but not `.backward()`. The result has as many numbers as `x`.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 写出 `silu_slope(x)`：x · σ(x) 在 `x` 的每个数处的导数。可以用 `torch.exp` 和 `torch.sigmoid`，
# 但不用 `.backward()`。结果里的数与 `x` 一样多。


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


def no_factor(x):
    """The factor u = x of the term u·v′ is missing. | 在 u·v′ 这一项里少了因子 u = x。"""
    return torch.sigmoid(x) * (1 + torch.sigmoid(-x))


def minus(x):
    """The product rule has a plus: u′v + uv′. | 乘积法则里是加号：u′v + uv′。"""
    return torch.sigmoid(x) * (1 - x * torch.sigmoid(-x))


def wrong_sign_in_exp(x):
    """σ(x) contains exp(−x), not exp(x). | σ(x) 里是 exp(−x)，不是 exp(x)。"""
    return torch.sigmoid(-x) * (1 + x * torch.sigmoid(x))


EXERCISE = "silu_slope"
WRONG = [no_second_term, no_first_term, slopes_multiplied, wrong_sigmoid_slope]
WRONG += [no_factor, minus, wrong_sign_in_exp]
FAULTS = [
    ("scratchlm.functional", "wide * wide.sigmoid()", "wide * (-wide).sigmoid()"),
    ("scratchlm.functional", "wide * wide.sigmoid()", "wide * wide.sigmoid().detach()"),
    ("scratchlm.functional", "torch.promote_types(x.dtype, torch.float32)", "x.dtype"),
    ("scratchlm.functional", "torch.promote_types(x.dtype, torch.float32)", "torch.float32"),
]
