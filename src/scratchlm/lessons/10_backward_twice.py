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
# keeps, because these numbers need memory. So the second call raises the error `FREED`. (Lesson 9
# explains `error_of`.) With `retain_graph=True` the numbers stay for another pass. Then `a.grad`
# holds the sum of both gradients: (5, 10, 15, 20). PyTorch adds because the gradient of a sum of
# losses is the sum of the gradients. So the last line gets the same numbers with one pass. This way
# is better: the graph does not have to stay in memory for a second pass.

# %% [markdown] lang="zh"
# ## 1. 两个损失：梯度会相加，计算图会消失
# 设 b = 2a²。第一个损失是 `b` 的平均值，第二个是 `b` 的和。2a² 的导数是 4a；四个数取平均，
# 还要除以 4。所以两个梯度是 a 和 4a：(1, 2, 3, 4) 和 (4, 8, 12, 16)。
#
# 两个损失要用同一张计算图。但是第一次 `.backward()` 一用完图里留着的数，就把它们释放掉，
# 因为它们占内存。所以第二次调用会报错 `FREED`。（`error_of` 就是第 9 课用过的那个函数。）
# 写上 `retain_graph=True`，这些数就留着，可以再传播一次，`a.grad` 里便是两个梯度的和：
# (5, 10, 15, 20)。PyTorch 之所以相加，是因为损失之和的梯度就等于梯度之和。所以最后一行
# 只传播一次，就得到同样的数。这种写法更好：不必为第二次传播把计算图留在内存里。

# %%
from types import SimpleNamespace

import torch

from scratchlm.devices.batch import Batch
from scratchlm.functional import cross_entropy, silu
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
# Every batch is a random sample of the text. Its answers are its targets (`targets`). The mean over
# many targets depends less on chance. But the graph of a large batch may not fit in memory. So we
# cut the batch into pieces. Each is a **micro-batch**. We call `.backward()` for each micro-batch,
# let the gradients add up in `.grad`, and make one step at the end. This is **gradient
# accumulation**. Each `.backward()` frees its graph, so only one graph is in memory at a time.
#
# The model here is one number, w = 1. A target t has the loss (w − t)², and its derivative is
# 2(w − t). So the target 3 adds −4, and each of three targets 0 adds 2. The mean over all targets
# is (−4 + 2 + 2 + 2) / 4 = 0.5. With micro-batches, divide each sum by 4, the number of all
# targets. A usual mistake is the mean of the means: the mean of 2, 2 and 2 is 2, and
# (−4 + 2) / 2 = −1. Here its sign is wrong too,
# because the 1 target of the first micro-batch counts as much as the 3 others together.

# %% [markdown] lang="zh"
# ## 2. 分成几块的批量
# 批量是从文本里随机取的，每个答案叫一个目标（`targets`）。目标越多，平均值受偶然的影响就越小。但批
# 量大了，计算图可能放不进内存。所以把批量分成几块，每一块叫一个**微批量**。对每个微批量调用
# `.backward()`，让梯度在 `.grad` 里相加，最后才更新一步。这叫**梯度累积**。每次 `.backward()` 都会
# 释放自己的计算图，所以内存里同时只有一张图。
#
# 这里的模型只有一个数，w = 1。目标 t 的损失是 (w − t)²，导数是 2(w − t)。所以目标 3 贡献 −4，三个目
# 标 0 各贡献 2。对所有目标取平均：(−4 + 2 + 2 + 2) / 4 = 0.5。分成微批量时，每个微批量求和，都除以
# 4，也就是所有目标的个数。常见的错误是先对每一块取平均，再对这些平均值取平均：2、2、2 的平均值是
# 2，而 (−4 + 2) / 2 = −1。连符号都错了，因为第一个微批量里 1 个目标所占的比重，和另外 3 个合起来一
# 样大。

# %%
w = torch.tensor(1.0, requires_grad=True)
((w - torch.tensor([3.0, 0, 0, 0])) ** 2).mean().backward()
show("one batch", w.grad, 0.5)

w.grad = None
pieces = [torch.tensor([3.0]), torch.tensor([0.0, 0, 0])]
for t in pieces:
    (((w - t) ** 2).sum() / 4).backward()
show("sums / 4", w.grad, 0.5)

w.grad = None
for t in pieces:
    (((w - t) ** 2).mean() / 2).backward()
show("mean of means", w.grad, -1)

# %% [markdown] lang="en"
# ## 3. The library's trainer
# The library's `Trainer` runs the training loop of lesson 1, with gradient accumulation. Our model
# is a table: `torch.nn.Embedding(2, 2)` has one row for each of 2 tokens. A row contains 2 logits
# for the next token, all 0 at first. −100 marks a place without a target: `cross_entropy` ignores
# this place.
#
# First we make two steps by hand, each with a batch of 2 rows and 3 targets. In step 1 the input is
# always token 0. One target is 1 and two are 0, so in row 0 of the table the logit of 0 grows. In
# step 2 the input is token 1, and the targets are 1, 1, 0. The size of the change, 1/6, comes from
# a rule of lesson 22.
#
# The model gives logits for each place of each row, and `cross_entropy` takes the mean over all
# these places. Then a trainer makes the same two steps, each with 2 micro-batches (`accumulate`) of
# 1 row. Both tables must be equal. The trainer calls `stream.batch(i)` to get micro-batch `i`:
# `SimpleNamespace` makes an object that contains this function, and `Batch` contains the inputs and
# the targets. Both losses are ln 2 = 0.6931, because all logits of the row are 0 before its step.

# %% [markdown] lang="zh"
# ## 3. 本库的训练器
# 本库的 `Trainer` 做的就是第 1 课的训练循环，再加上梯度累积。这里的模型是一张表：
# `torch.nn.Embedding(2, 2)` 为 2 个 token 各留一行，每行有 2 个 logits，用来预测下一个 token，
# 一开始全是 0。−100 标记没有目标的位置：`cross_entropy` 会忽略这个位置。
#
# 先手工做两步，每步的批量有 2 行，共 3 个目标。第 1 步的输入总是 token 0，
# 目标中一个是 1，两个是 0，所以表的第 0 行里，0 的 logit 变大。
# 第 2 步的输入是 token 1，目标是 1、1、0。变化的大小是 1/6，出自第 22 课的一条规则。
#
# 模型对每一行的每个位置都给出 logits，`cross_entropy` 对所有这些位置取平均。
# 再让训练器做同样的两步，每步 2 个微批量（`accumulate`），各 1 行。两张表必须相等。
# 训练器调用 `stream.batch(i)` 来取微批量 `i`：`SimpleNamespace` 造出一个带有这个函数的对象，
# `Batch` 存放输入和目标。
# 两步的损失都是 ln 2 = 0.6931，因为更新之前，那一行的 logits 全是 0。

# %%
inputs = torch.tensor([[0, 0], [0, 0], [1, 1], [1, 1]])
targets = torch.tensor([[1, -100], [0, 0], [1, 1], [0, -100]])


def new_table():
    model = torch.nn.Embedding(2, 2)
    with torch.no_grad():
        model.weight.zero_()
    return model, SGD(model.parameters(), lr=1.0)


model, optimizer = new_table()
for start, end in [(0, 2), (2, 4)]:
    optimizer.zero_grad()
    cross_entropy(model(inputs[start:end]), targets[start:end]).backward()
    optimizer.step()
show("table", model.weight, [[0.1667, -0.1667], [-0.1667, 0.1667]])

stream = SimpleNamespace(batch=lambda i: Batch(inputs[i : i + 1], targets[i : i + 1]))
other, optimizer = new_table()
trainer = Trainer(other, optimizer, stream, TrainerConfig(iterations=2, batch_size=1, accumulate=2))
losses = [trainer.train_step()["loss"], trainer.train_step()["loss"]]
show("the trainer's losses", losses, [0.6931, 0.6931])
show("the trainer's table", other.weight, model.weight)

# %% [markdown] lang="en"
# ## 4. The gradient of a gradient
# The derivative of a derivative is the second derivative, and so on. From the second on, it is a
# **higher-order derivative**. x³ has the derivative 3x², then 6x, then 6. At x = 4 these are 64,
# 48, 24, 6. `torch.autograd.grad(y, x)` returns a list of gradients of `y`, and does not change
# `x.grad`. We give it one `x`, so the list has one entry, and `[0]` picks it. With
# `create_graph=True` it also records a graph of its own computation. So the result has a gradient
# too. Without it, PyTorch refuses the second derivative, with the error `NO_GRAPH`.

# %% [markdown] lang="zh"
# ## 4. 梯度的梯度
# 导数的导数叫二阶导数；二阶及以上统称**高阶导数**。x³ 的导数是 3x²，然后是 6x，然后是 6；
# 在 x = 4 处依次是 64、48、24、6。`torch.autograd.grad(y, x)` 返回 `y` 的梯度的列表，
# 不改变 `x.grad`。这里只给了一个 `x`，所以列表里只有一项，用 `[0]` 取出来。
# 写上 `create_graph=True`，它还会把自己的计算也记成一张图，所以结果又有梯度。不写的话，
# PyTorch 会拒绝求二阶导数，报错 `NO_GRAPH`。

# %%
x = torch.tensor(4.0, requires_grad=True)
y = x**3
for name, expected in [("x³", 64), ("3x²", 48), ("6x", 24), ("6", 6)]:
    show(name, y, expected)
    y = torch.autograd.grad(y, x, create_graph=True)[0]

NO_GRAPH = "does not require grad and does not have a grad_fn"
slope = torch.autograd.grad(x**3, x)[0]
show("without create_graph", error_of(slope.backward, NO_GRAPH), NO_GRAPH)

# %% [markdown] lang="en"
# The library's `silu` is x · σ(x). Write s for σ(x). The sign ″ stands for the second derivative.
# Lesson 6 gives s′ = s(1 − s) = s − s². The product rule (uv)′ = u′v + uv′ gives the rest:
# ```
# s″    = s′ − 2s · s′ = s′(1 − 2s)
# silu′ = (x · s)′     = s + x · s′
# silu″ = s′ + s′ + x · s″ = 2s′ + x · s″
# ```
# At x = 1: s = 0.7311, s′ = 0.1966, and s″ = 0.1966 · (1 − 2 · 0.7311) = −0.0909. torch finds the
# gradient of one number only. So the code passes a sum. Each number in it depends only on its x.
#
# In the picture, each curve is the slope of the curve before. Where `silu` is lowest, its first
# derivative is 0. Where the first derivative is highest, the second derivative is 0. The black dots
# are the three numbers at x = 1.

# %% [markdown] lang="zh"
# 本库的 `silu` 是 x · σ(x)。把 σ(x) 写作 s，二阶导数用 ″ 表示。第 6 课讲过，
# s′ = s(1 − s) = s − s²。用乘积法则 (uv)′ = u′v + uv′ 得到其余的：
# ```
# s″    = s′ − 2s · s′ = s′(1 − 2s)
# silu′ = (x · s)′     = s + x · s′
# silu″ = s′ + s′ + x · s″ = 2s′ + x · s″
# ```
# 在 x = 1 处：s = 0.7311，s′ = 0.1966，s″ = 0.1966 · (1 − 2 · 0.7311) = −0.0909。
# torch 只能求一个数的梯度，所以代码里先求和；和里的每个数只取决于它自己的 x。
#
# 图中每条曲线都是前一条的斜率：`silu` 最低的地方，一阶导数是 0；
# 一阶导数最高的地方，二阶导数是 0。黑点是 x = 1 处的三个数。

# %%
x = torch.tensor([-3.0, 0.0, 1.0], requires_grad=True)
values = silu(x)
first = torch.autograd.grad(values.sum(), x, create_graph=True)[0]
s = x.sigmoid()
s1 = s * (1 - s)
s2 = s1 * (1 - 2 * s)
show("silu = x s", values, x * s)
show("silu′ = s + x s′", first, s + x * s1)
second = torch.autograd.grad(first.sum(), x)[0]
show("silu″ = 2 s′ + x s″", second, 2 * s1 + x * s2)
show("at 1", [values[2], first[2], second[2]], [0.7311, 0.9277, 0.3024])

# %% tags=["figure"]
with figure("10-slopes") as axes:
    at = torch.linspace(-5, 5, 201, requires_grad=True)
    curve = silu(at)
    for name in ("silu", "silu′", "silu″"):
        axes.plot(at.detach(), curve.detach(), label=name, linewidth=2)
        curve = torch.autograd.grad(curve.sum(), at, create_graph=True)[0]
    axes.plot([1, 1, 1], [0.7311, 0.9277, 0.3024], "o", color="black", markersize=4)
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.set(xlabel="x", ylim=(-0.5, 2))
    axes.legend(loc="upper left", frameon=False)

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# The output of a model should not change too fast. A gradient penalty is a loss that is large if
# the output changes fast. Let f = σ(w₁x₁ + w₂x₂ + …), and let P be the sum of the squares of
# ∂f/∂x₁, ∂f/∂x₂, … Write `penalty(w, x)`: `w` and `x` are lists of equally many numbers. Return the
# gradient of P for `w`: ∂P/∂w₁, ∂P/∂w₂, … Use torch. The result may be a list, or numbers of torch.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 输入变化时，模型的输出不应变得太快。梯度惩罚是一种损失，输出变得快，它就大。
# 设 f = σ(w₁x₁ + w₂x₂ + …)，P 是 ∂f/∂x₁、∂f/∂x₂、… 的平方和。写出 `penalty(w, x)`：
# `w` 和 `x` 是两个列表，里面的数一样多。返回 P 对 `w` 的梯度：∂P/∂w₁、∂P/∂w₂、… 用 torch 来写。
# 结果可以是列表，也可以是 torch 的数。


# %% tags=["exercise"]
def penalty(w, x):
    raise NotImplementedError


# %% tags=["answer"]
def penalty(w, x):
    w, x = (torch.tensor(each, requires_grad=True) for each in (w, x))
    f = (w * x).sum().sigmoid()
    slopes = torch.autograd.grad(f, x, create_graph=True)[0]
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
    """This is the gradient for x, not for w. | 这是对 x 的梯度，不是对 w 的。"""
    w, _, d1, d2 = parts(w, x)
    return 2 * d1 * d2 * (w**2).sum() * w


def no_graph(w, x):
    """The slopes have no graph: create_graph is missing. | 斜率没有计算图：少了 create_graph。"""
    w, x = (torch.tensor(each, requires_grad=True) for each in (w, x))
    slopes = torch.autograd.grad((w * x).sum().sigmoid(), x)[0]
    (slopes * slopes).sum().backward()


EXERCISE = "penalty"
WRONG = [constant_slope, adds_up, not_squared, by_x, no_graph]
FAULTS = [  # planted in the library, each must make this lesson fail
    (
        "scratchlm.training.trainer",
        "mean = loss / num_terms + ",
        "mean = loss / batch.num_terms() / len(micro) + ",
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
