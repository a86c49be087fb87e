# %% [markdown] lang="en"
# # 10 · More than one backward pass
# Question: what happens if we call `.backward()` more than once?
#
# Lesson 8: one backward pass stores the gradient of one loss in the leaves. Here there are two
# losses, then a batch in two pieces, and finally the gradient of a gradient.

# %% [markdown] lang="zh"
# # 10 · 不止一次反向传播
# 问题：多次调用 `.backward()` 会怎样？
#
# 第 8 课：一次反向传播把一个损失的梯度存进叶子。这一课先看两个损失，再看分成两块的一个批量，
# 最后看梯度的梯度。

# %% [markdown] lang="en"
# ## 1. Two losses: gradients add up, and the graph is gone
# Let b = 2a². The first loss is the mean of `b`, and the second loss is the sum of `b`. The
# derivative of 2a² is 4a. The mean of four numbers divides it by 4. So the two gradients are a and
# 4a: (1, 2, 3, 4) and (4, 8, 12, 16).
#
# Both losses need the same graph. But the first `.backward()` frees the numbers that the graph
# keeps, because these numbers need memory. So the second call raises an error. (Lesson 9 explains
# `error_of`.) With `retain_graph=True` the numbers stay for another pass. Then
# `a.grad` holds the sum of both gradients: (5, 10, 15, 20). PyTorch adds because the gradient of a
# sum of losses is the sum of the gradients. So the last line gets the same numbers with one
# pass. This way is better, because it frees the memory.

# %% [markdown] lang="zh"
# ## 1. 两个损失：梯度会相加，计算图会消失
# 设 b = 2a²。第一个损失是 `b` 的平均值，第二个是 `b` 的和。2a² 的导数是 4a；四个数取平均，
# 还要除以 4。所以两个梯度是 a 和 4a：(1, 2, 3, 4) 和 (4, 8, 12, 16)。
#
# 两个损失要用同一张计算图。但是第一次 `.backward()` 一用完图里留着的数，就把它们释放掉，
# 因为它们占内存。所以第二次调用会报错。（`error_of` 就是第 9 课用过的那个函数。）
# 写上 `retain_graph=True`，这些数就留着，可以再传播一次，`a.grad` 里便是两个梯度的和：
# (5, 10, 15, 20)。PyTorch 之所以相加，是因为损失之和的梯度就等于梯度之和。所以最后一行
# 只传播一次，就得到同样的数。这种写法更好，因为它会释放内存。

# %%
import math
from types import SimpleNamespace

import torch

from scratchlm.functional import silu
from scratchlm.lessons.show import error_of, figure, show
from scratchlm.optim.sgd import SGD
from scratchlm.training.trainer import Trainer
from scratchlm.training.trainer_config import TrainerConfig

FREED = "Trying to backward through the graph a second time"
a = torch.tensor([1.0, 2, 3, 4], requires_grad=True)
b = 2 * a * a
b.mean().backward()
show("gradient of the mean", a.grad, [1, 2, 3, 4])
show("backward from the sum", error_of(b.sum().backward, FREED), FREED)

a.grad = None
b = 2 * a * a
b.mean().backward(retain_graph=True)
b.sum().backward()
show("both", a.grad, [5, 10, 15, 20])

a.grad = None
b = 2 * a * a
(b.mean() + b.sum()).backward()
show("one pass", a.grad, [5, 10, 15, 20])

# %% [markdown] lang="en"
# ## 2. A batch in pieces
# A large batch makes the gradient steadier, but its graph may not fit in memory. So we cut the
# batch into pieces. Each is a **micro-batch**. We call `.backward()` for each micro-batch, let the
# gradients add up in `.grad`, and make one step at the end. This is **gradient accumulation**. Each
# `.backward()` frees its graph, so only one graph is in memory at a time.
#
# The model here is one number, w = 1. A target t has the loss (w − t)², and its derivative is
# 2(w − t). So the target 3 adds −4, and each of three targets 0 adds 2. The mean over all
# targets is (−4 + 2 + 2 + 2) / 4 = 0.5. With micro-batches, divide each sum by 4, the number of all
# targets. A usual mistake is the mean of the means: (−4 + 2) / 2 = −1. Here its sign is wrong too,
# because the 1 target of the first micro-batch counts as much as the 3 others together.
# (`torch.cat` joins the two micro-batches to one batch.)

# %% [markdown] lang="zh"
# ## 2. 分成几块的批量
# 批量大，梯度就更稳，但它的计算图可能放不进内存。所以把批量分成几块，每一块叫一个**微批量**。
# 对每个微批量调用 `.backward()`，让梯度在 `.grad` 里相加，最后才更新一步。这叫**梯度累积**。
# 每次 `.backward()` 都会释放自己的计算图，所以内存里同时只有一张图。
#
# 这里的模型只有一个数，w = 1。目标 t 的损失是 (w − t)²，导数是 2(w − t)。
# 所以目标 3 贡献 −4，三个目标 0 各贡献 2。对所有目标取平均：(−4 + 2 + 2 + 2) / 4 = 0.5。
# 分成微批量时，每个微批量求和，都除以 4，也就是所有目标的个数。常见的错误是取平均的平均：
# (−4 + 2) / 2 = −1。连符号都错了，因为第一个微批量里的 1 个目标顶了另外 3 个。
# （`torch.cat` 把两个微批量接成一个批量。）

# %%
w = torch.tensor(1.0, requires_grad=True)
pieces = [torch.tensor([3.0]), torch.tensor([0.0, 0, 0])]
((w - torch.cat(pieces)) ** 2).mean().backward()
show("one batch", w.grad, 0.5)

w.grad = None
for t in pieces:
    (((w - t) ** 2).sum() / 4).backward()
show("sums / 4", w.grad, 0.5)

w.grad = None
for t in pieces:
    (((w - t) ** 2).mean() / 2).backward()
show("mean of means", w.grad, -1)

# %% [markdown] lang="en"
# ## 3. The library's trainer
# Now the model is a table: for each of 3 tokens, 3 logits for the next token. All logits are 0, so
# each probability is 1/3, and the loss of each target is −ln(1/3) = 1.0986. The target −100 means
# that there is no target: the loss ignores it. We need one rule, which lesson 22 derives: the
# gradient of a logit is its probability minus the fraction of the targets that are its token.
#
# In step 1 the input is always token 0, and the targets are 1, 2, 2, 2. So the gradient of row 0 is
# (1/3 − 0, 1/3 − 1/4, 1/3 − 3/4) = (0.3333, 0.0833, −0.4167). In step 2 the input is token 1, and
# the targets are 0, 0, 1. With the learning rate 1, a step subtracts the gradient from the table.
#
# The trainer makes these two steps twice: with 2 micro-batches of 1 line in each step, and with 1
# micro-batch of 2 lines. The tables must be equal. `inputs.split(rows)` cuts the inputs after every
# `rows` lines. `from_pretrained` makes the model from a table of zeros. `SimpleNamespace` makes an
# object whose `batch(i)` is `batches[i]`. With `math.inf`, the trainer accepts any gradient.

# %% [markdown] lang="zh"
# ## 3. 本库的训练器
# 现在的模型是一张表：3 个 token 各有一行，每行 3 个 logits，用来预测下一个 token。logits 全是 0，
# 所以每个概率都是 1/3，每个目标的损失都是 −ln(1/3) = 1.0986。目标 −100 表示没有目标，
# 损失会忽略它。这里要用一条规则，第 22 课再推导：一个 logit 的梯度，等于它的概率，
# 减去它的 token 在目标中的比例。
#
# 第 1 步的输入总是 token 0，目标是 1、2、2、2。所以第 0 行的梯度是
# (1/3 − 0, 1/3 − 1/4, 1/3 − 3/4) = (0.3333, 0.0833, −0.4167)。第 2 步的输入是 token 1，
# 目标是 0、0、1。学习率取 1，所以一步就从表中减去整个梯度。
#
# 训练器把这两步做两遍：一遍是每步 2 个微批量，各 1 行；一遍是每步 1 个微批量，共 2 行。
# 两张表必须相等。`inputs.split(rows)` 把输入按每 `rows` 行切开。`from_pretrained` 用一张全零的表
# 造出模型。`SimpleNamespace` 造出一个对象，它的 `batch(i)` 就是 `batches[i]`。
# 写上 `math.inf`，梯度再大训练器也照样接受。

# %%
inputs = torch.tensor([[0, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 1]])
targets = torch.tensor([[1, -100, -100], [2, 2, 2], [0, 0, -100], [1, -100, -100]])
for rows in (1, 2):
    batches = list(zip(inputs.split(rows), targets.split(rows), strict=True))
    model = torch.nn.Embedding.from_pretrained(torch.zeros(3, 3), freeze=False)
    trainer = Trainer(
        model,
        SGD(model.parameters(), lr=1.0),
        SimpleNamespace(batch=batches.__getitem__),
        TrainerConfig(iterations=2, batch_size=rows, accumulate=2 // rows, max_grad_norm=math.inf),
    )
    losses = [trainer.train_step()["loss"] for step in range(2)]
    show(f"batch_size {rows}: losses", losses, [1.0986, 1.0986])
    table = [[-0.3333, -0.0833, 0.4167], [0.3333, 0, -0.3333], [0, 0, 0]]
    show("table", model.weight, table)

# %% [markdown] lang="en"
# ## 4. The gradient of a gradient
# The derivative of a derivative is a **higher-order derivative**. x³ has the derivative 3x², then
# 6x, then 6. At x = 4 these are 64, 48, 24, 6. `torch.autograd.grad(y, x)` returns the gradient of
# `y` and leaves `x.grad` alone. With `create_graph=True` it also records a graph of its own
# computation. So the result has a gradient too. Without it, PyTorch refuses the second derivative.

# %% [markdown] lang="zh"
# ## 4. 梯度的梯度
# 导数的导数叫**高阶导数**。x³ 的导数是 3x²，然后是 6x，然后是 6；在 x = 4 处依次是
# 64、48、24、6。`torch.autograd.grad(y, x)` 返回 `y` 的梯度，不动 `x.grad`。
# 写上 `create_graph=True`，它还会把自己的计算也记成一张图，所以结果又有梯度。
# 不写的话，PyTorch 会拒绝求二阶导数。

# %%
x = torch.tensor(4.0, requires_grad=True)
y = x**3
for name, expected in [("x³", 64), ("3x²", 48), ("6x", 24), ("6", 6)]:
    show(name, y, expected)
    (y,) = torch.autograd.grad(y, x, create_graph=True)

NO_GRAPH = "does not require grad and does not have a grad_fn"
(slope,) = torch.autograd.grad(x**3, x)
show("without create_graph", error_of(slope.backward, NO_GRAPH), NO_GRAPH)

# %% [markdown] lang="en"
# The library's `silu` is x · σ(x). Write s for σ(x). Lesson 6 gives s′ = s(1 − s). The product rule
# (uv)′ = u′v + uv′ gives the formulas below. At x = 1: s = 0.7311, s′ = 0.1966, and
# s″ = 0.1966 · (1 − 2 · 0.7311) = −0.0909. `grad` wants one number, so the code passes a sum. Each
# number in the sum depends only on its own x. In the picture, each curve is the slope of the curve
# before. Where `silu` is lowest, its first derivative is 0. Where the first derivative is highest,
# the second derivative is 0.

# %% [markdown] lang="zh"
# 本库的 `silu` 是 x · σ(x)。把 σ(x) 写作 s。由第 6 课，s′ = s(1 − s)。再用乘法法则
# (uv)′ = u′v + uv′，就得到下面的式子。在 x = 1 处：s = 0.7311，s′ = 0.1966，
# s″ = 0.1966 · (1 − 2 · 0.7311) = −0.0909。`grad` 只接受一个数，所以代码里先求和；
# 和里的每个数只取决于它自己的 x。图中每条曲线都是前一条的斜率：
# `silu` 最低的地方，一阶导数是 0；一阶导数最高的地方，二阶导数是 0。

# %%
x = torch.tensor([-3.0, 0.0, 1.0], requires_grad=True)
values = silu(x)
(first,) = torch.autograd.grad(values.sum(), x, create_graph=True)
s = x.sigmoid()
show("x s", values, x * s)
show("s + x s′", first, s + x * s * (1 - s))
(second,) = torch.autograd.grad(first.sum(), x)
show("2 s′ + x s″", second, s * (1 - s) * (2 + x * (1 - 2 * s)))
show("at 1", [values[2], first[2], second[2]], [0.7311, 0.9277, 0.3024])

# %% tags=["figure"]
with figure("10-slopes") as axes:
    at = torch.linspace(-5, 5, 201, requires_grad=True)
    curve = silu(at)
    for name in ("silu", "silu′", "silu″"):
        axes.plot(at.detach(), curve.detach(), label=name, linewidth=2)
        (curve,) = torch.autograd.grad(curve.sum(), at, create_graph=True)
    axes.plot([1, 1, 1], [0.7311, 0.9277, 0.3024], "o", color="black", markersize=4)
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.set(xlabel="x", ylim=(-0.5, 2))
    axes.legend(loc="upper left", frameon=False)

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# A model should not change too fast when its input changes. A gradient penalty is a loss that says
# so. Let f = σ(w₁x₁ + w₂x₂ + …), and let P be the sum of the squares of ∂f/∂x₁, ∂f/∂x₂, …
# Write `penalty(w, x)`: `w` and `x` are lists of numbers of the same length. Return the gradient of
# P with respect to `w`. Use torch.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 输入变化时，模型的输出不应变得太快。梯度惩罚就是表达这个要求的损失。
# 设 f = σ(w₁x₁ + w₂x₂ + …)，P 是 ∂f/∂x₁、∂f/∂x₂、… 的平方和。
# 写出 `penalty(w, x)`：`w` 和 `x` 是同样长的两个列表。返回 P 关于 `w` 的梯度。用 torch 来写。


# %% tags=["exercise"]
def penalty(w, x):
    raise NotImplementedError


# %% tags=["answer"]
def penalty(w, x):
    w, x = (torch.tensor(each, requires_grad=True) for each in (w, x))
    f = (w * x).sum().sigmoid()
    (slopes,) = torch.autograd.grad(f, x, create_graph=True)
    (slopes * slopes).sum().backward()
    return w.grad


# %% tags=["check"]
def parts(w, x):
    w, x = torch.tensor(w), torch.tensor(x)
    s = (w * x).sum().sigmoid()
    return w, x, s * (1 - s), s * (1 - s) * (1 - 2 * s)  # σ′, σ″


def check(penalty, same):
    for w, x in [([2.0], [0.5]), ([1.0, -2.0], [1.0, 0.5]), ([0.5, 1.0, -1.0], [2.0, 0.0, 0.3])]:
        weight, given, d1, d2 = parts(w, x)  # P = σ′² Σ w²
        same(penalty(w, x), 2 * d1 * d1 * weight + 2 * d1 * d2 * (weight**2).sum() * given)


def constant_slope(w, x):
    """The slope σ′ depends on w too. | 斜率 σ′ 也取决于 w。"""
    w, x, d1, _ = parts(w, x)
    return 2 * d1 * d1 * w


def adds_up(w, x):
    """w.grad also holds the gradient of f. | w.grad 里还有 f 的梯度。"""
    _, given, d1, _ = parts(w, x)
    return penalty(w, x) + d1 * given


def not_squared(w, x):
    """The slopes are added, but not squared. | 斜率直接相加，没有平方。"""
    w, x, d1, d2 = parts(w, x)
    return d2 * w.sum() * x + d1


def by_x(w, x):
    """This is the gradient with respect to x, not w. | 这是关于 x 的梯度，不是关于 w 的。"""
    w, _, d1, d2 = parts(w, x)
    return 2 * d1 * d2 * (w**2).sum() * w


EXERCISE = "penalty"
WRONG = [constant_slope, adds_up, not_squared, by_x]
FAULTS = [  # planted in the library, each must make this lesson fail
    (
        "scratchlm.training.trainer",
        "mean = total / num_targets + ",
        "mean = total / (targets != -100).sum() / len(micro) + ",
    ),
    (
        "scratchlm.training.micro_batches",
        "(self.config.first_micro_batch(step), number)",
        "(step, number)",
    ),
    (
        "scratchlm.training.trainer",
        "self.optimizer.zero_grad(set_to_none=True)",
        "self.optimizer.zero_grad",
    ),
    ("scratchlm.functional", "(wide * wide.sigmoid())", "(wide * wide.sigmoid().detach())"),
]
