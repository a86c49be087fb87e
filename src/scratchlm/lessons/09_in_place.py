# %% [markdown] lang="en"
# # 9 · In-place operations
# Question: why does PyTorch sometimes refuse to overwrite a number?
#
# You know from lesson 8 that the forward pass builds a graph, and that the backward pass goes back
# through it. The backward pass needs numbers from the forward pass. Here we overwrite such numbers.
# PyTorch refuses for two reasons. There is one case in which it notices nothing. And the optimizer
# may overwrite.

# %% [markdown] lang="zh"
# # 9 · 原地操作
# 问题：PyTorch 为什么有时不许我们改写一个数？
#
# 第 8 课讲过，前向传播建立计算图，反向传播沿着图往回走，并且要用到前向传播算出的数。
# 这一课故意改写这些数。PyTorch 有两种理由拒绝，还有一种情况它发现不了。
# 优化器则可以改写。

# %% [markdown] lang="en"
# ## 1. A new number, or a new value in the old number
# `a.add(1)` makes a new number and leaves `a` unchanged. `a.add_(1)` writes the result over the old
# value of `a`. This is an **in-place operation**. It needs no memory for a second result. That
# matters, because "a number of torch" can also be a list or a table of a million numbers. PyTorch
# ends the names of these operations with `_`: `sub_` subtracts, `mul_` multiplies, `zero_`
# writes 0. `b = a` copies nothing. `b` is a second name for the same number, so it changes too.
#
# PyTorch counts these writes. Each number of torch has a **version counter**, `_version`. The
# counter starts at 0, and each in-place operation adds 1. The last two lines of the output are a
# usual surprise. `a += 1` works in place, so `b` changes. `a = a + 1` makes a new number and gives
# it the name `a`, so `b` stays 3.

# %% [markdown] lang="zh"
# ## 1. 一个新的数，还是旧的数换了值
# `a.add(1)` 造出一个新的数，`a` 不变。`a.add_(1)` 则把结果直接写到 `a` 原来的值上，
# 这叫**原地操作**。它不必为结果另占内存。这很要紧，因为“torch 的数”也可以是一百万个数的列表或数表。
# PyTorch 让这类操作的名字以 `_` 结尾：`sub_` 是减，`mul_` 是乘，`zero_` 是写成 0。
# `b = a` 什么也不复制：`b` 只是同一个数的另一个名字，所以也跟着变。
#
# PyTorch 会记下改写的次数。torch 的每个数都有一个**版本计数器** `_version`，从 0 开始，
# 每做一次原地操作就加 1。输出的最后两行常常出人意料：`a += 1` 是原地操作，所以 `b` 也变；
# `a = a + 1` 却是先造一个新的数，再把名字 `a` 交给它，所以 `b` 仍然是 3。

# %%
import torch

from scratchlm.lessons.show import error_of, figure, show
from scratchlm.optim.adamw import AdamW
from scratchlm.optim.sgd import SGD

a = torch.tensor(1.0)
b = a
c = a.add(1)
show("a, b, c", [a, b, c], [1, 1, 2])
a.add_(1)
show("a, b, c after a.add_(1)", [a, b, c], [2, 2, 2])
show("their version counters", [a._version, b._version, c._version], [1, 1, 0])
a += 1
show("a, b after a += 1", [a, b], [3, 3])
a = a + 1
show("a, b after a = a + 1", [a, b], [4, 3])

# %% [markdown] lang="en"
# ## 2. The first refusal: the backward pass needs the old value
# Lesson 6: the derivative of s = σ(x) is s(1 − s). So PyTorch keeps `s` for the backward pass.
# At x = 1, s(1 − s) = 0.7311 · 0.2689 = 0.1966. Our loss is 2s: its gradient is 0.3932.
#
# After the next forward pass, `s.zero_()` sets `s` to 0. From this `s`, the backward pass would
# compute 2 · 0 · (1 − 0) = 0, which is wrong. PyTorch notices. It noted that `s` was at version 0.
# Now it finds version 1. That is what the error `STALE` says.
#
# `error_of(action, words)` runs an action. If PyTorch raises an error with the expected words, it
# returns these words. Without an error it returns `"no error"`. We write `loss.backward` without
# `()`, because `error_of` makes the call.

# %% [markdown] lang="zh"
# ## 2. 第一次拒绝：反向传播还要用旧值
# 第 6 课：s = σ(x) 的导数是 s(1 − s)。所以 PyTorch 把 `s` 留给反向传播用。
# 在 x = 1 处，s(1 − s) = 0.7311 · 0.2689 = 0.1966。这里的损失是 2s，梯度就是 0.3932。
#
# 再做一次前向传播，然后用 `s.zero_()` 把 `s` 改成 0。用这个 `s`，反向传播会算出
# 2 · 0 · (1 − 0) = 0，这是错的。PyTorch 发现了：它当时记下 `s` 的版本是 0，现在却是 1。
# 错误信息 `STALE` 说的就是这件事。
#
# `error_of(action, words)` 执行一个动作。如果 PyTorch 报错，而且错误信息里有预期的那几个词，
# 就返回这几个词；没有报错则返回 `"no error"`。`loss.backward` 后面没有 `()`，
# 因为这次调用由 `error_of` 来做。

# %%
STALE = "is at version 1; expected version 0"
x = torch.tensor(1.0, requires_grad=True)
s = x.sigmoid()
loss = 2 * s
loss.backward()
show("s, s(1 − s)", [s, s * (1 - s)], [0.7311, 0.1966])
show("gradient", x.grad, 0.3932)

s = x.sigmoid()
loss = 2 * s
s.zero_()
show("s.zero_(), then backward", error_of(loss.backward, STALE), STALE)

# %% [markdown] lang="en"
# ## 3. The second refusal: a leaf
# `x` is a leaf: we made it, not an operation. The backward pass stores its gradient in `x.grad`.
# If the graph recorded `x.add_(1)`, then `x` would be the result of an operation. There would be
# no leaf any more, and no place for its gradient. So PyTorch refuses at once and changes nothing.
# The error `LEAF` says that an in-place operation would change a leaf. ("Variable" is an old name
# for a number of torch.) `error_of` calls the function `lambda: x.add_(1)`.
#
# A result may change if the backward pass does not need its value. The derivative of h = x + 1 is
# 1, whatever `h` is. So `h.mul_(3)` is allowed. The graph records it, and the gradient is 3.
# Before that, `x.grad = None` removes the old gradient, as `.zero_grad()` does. Otherwise the new
# gradient would be added to the old one.

# %% [markdown] lang="zh"
# ## 3. 第二次拒绝：叶子
# `x` 是叶子：它由我们创建，不是运算的结果。反向传播把它的梯度存进 `x.grad`。
# 假如计算图记下了 `x.add_(1)`，`x` 就成了运算的结果，叶子没有了，梯度也就无处可放。
# 所以 PyTorch 当场拒绝，什么也不改。错误信息 `LEAF` 说：有人要用原地操作改写叶子。
# （Variable 是 torch 的数的旧名称。）`lambda: x.add_(1)` 是一个函数，由 `error_of` 来调用。
#
# 如果反向传播用不到某个结果的值，这个结果就可以改写。h = x + 1 的导数总是 1，与 `h` 的值无关。
# 所以允许 `h.mul_(3)`：计算图会记下它，梯度是 3。在这之前，`x.grad = None` 清除旧的梯度，
# 和 `.zero_grad()` 一样；不清除，新的梯度就会加到旧的上面。

# %%
LEAF = "a leaf Variable that requires grad is being used in an in-place operation"
show("x.add_(1)", error_of(lambda: x.add_(1), LEAF), LEAF)
show("x", x, 1)

x.grad = None
h = x + 1
h.mul_(3)
h.backward()
show("h", h, 6)
show("gradient of h", x.grad, 3)

# %% [markdown] lang="en"
# ## 4. The trap: `.data`
# `s.detach()` and `s.data` both return the number `s` without its graph, in the same memory. But
# `s.detach()` has the version counter of `s`, while `s.data` has its own. So PyTorch notices a
# write through `.detach()` and misses a write through `.data`. There is no error, and the gradient
# is 0 instead of 0.3932. Old programs often use `.data`. Do not copy this habit.
#
# The picture shows the loss 2σ(x). The blue line at x = 1 has the right slope. The red line has the
# slope that the backward pass found after `.data`: with it, no step ever moves `x`.

# %% [markdown] lang="zh"
# ## 4. 陷阱：`.data`
# `s.detach()` 和 `s.data` 都返回 `s` 这个数，不带计算图，用的是同一块内存。
# 但是 `s.detach()` 与 `s` 共用版本计数器，`s.data` 却有自己的一个。所以通过 `.detach()` 改写，
# PyTorch 会发现；通过 `.data` 改写，它就漏掉了：没有报错，梯度却是 0，而不是 0.3932。
# 老程序里常有 `.data`，不要学这个习惯。
#
# 图中的曲线是损失 2σ(x)。x = 1 处的蓝线斜率正确；红线的斜率是用了 `.data` 之后
# 反向传播求出来的，按它更新，`x` 一步也不会动。

# %%
s = x.sigmoid()
loss = 2 * s
s.detach().zero_()
show("s.detach().zero_()", error_of(loss.backward, STALE), STALE)

x.grad = None
s = x.sigmoid()
loss = 2 * s
s.data.zero_()
show("s.data.zero_()", error_of(loss.backward, STALE), "no error")
show("version counter of s", s._version, 0)
show("gradient", x.grad, 0)

# %% tags=["figure"]
with figure("09-slopes") as axes:
    at = torch.linspace(-4, 4, 81)
    axes.plot(at, 2 * at.sigmoid(), color="black", label="2σ(x)")
    for slope, colour in [(0.3932, "tab:blue"), (x.grad.item(), "tab:red")]:
        near = torch.tensor([-1.0, 3.0])
        line = 2 * 0.7311 + slope * (near - 1)
        axes.plot(near, line, color=colour, linewidth=2, label=f"slope {slope:.4f}")
    axes.plot(1, 2 * 0.7311, "o", color="black")
    axes.set(xlabel="x", ylim=(-0.1, 2.9))
    axes.legend(loc="upper left", frameon=False)

# %% [markdown] lang="en"
# ## 5. Where in-place is right: the optimizer
# A step must change the parameter itself, because the model uses this leaf. `x = x − rate · grad`
# would only give the name `x` to a new number. So an optimizer writes in place, inside
# `with torch.no_grad():`. In the indented lines below it PyTorch records no graph, so it allows a
# write to a leaf. The version counter still counts the write. By hand, with the learning rate 0.5,
# the new value is 1 − 0.5 · 0.3932 = 0.8034. The library's `SGD` makes the same step for `y`.

# %% [markdown] lang="zh"
# ## 5. 该用原地操作的地方：优化器
# 更新一步，必须改变参数本身，因为模型用的就是这个叶子。`x = x − rate · grad` 只是把名字 `x`
# 交给一个新的数。所以优化器在 `with torch.no_grad():` 里面做原地操作。在它下面缩进的各行里，
# PyTorch 不记录计算图，于是允许改写叶子；版本计数器照样计数。手算，学习率取 0.5，新的值是
# 1 − 0.5 · 0.3932 = 0.8034。本库的 `SGD` 对 `y` 做同样的一步。

# %%
x.grad = None
(2 * x.sigmoid()).backward()
with torch.no_grad():
    x.sub_(0.5 * x.grad)
y = torch.tensor(1.0, requires_grad=True)
(2 * y.sigmoid()).backward()
show("SGD.step()", error_of(SGD([y], lr=0.5).step, LEAF), "no error")
show("by hand, SGD", [x, y], [0.8034, 0.8034])
show("version counters", [x._version, y._version], [1, 1])
show("still leaves", [x.is_leaf, y.is_leaf], [True, True])

# %% [markdown] lang="en"
# ## 6. The usual accident: a step, then backward
# `AdamW` is the usual optimizer of this library. `old` is the loss before two steps of `AdamW`.
# After the steps, `old.backward()` would read the new `w`, but `old` belongs to the old `w`.
# PyTorch must refuse: the error `CHANGED` says that an in-place operation changed a number that
# backward needs. The library's `AdamW` has a form that is easy to read, and a faster form that
# does everything in one operation (`fused=True`). PyTorch has its own `AdamW`. All of them must get
# the same numbers, and increase the version counter. Lesson 23 explains these numbers, and `eps`.

# %% [markdown] lang="zh"
# ## 6. 常见的事故：先更新，再反向传播
# `AdamW` 是本库常用的优化器。`old` 是 `AdamW` 更新两步之前的损失。更新之后，`old.backward()`
# 读到的会是新的 `w`，而 `old` 属于旧的 `w`，所以 PyTorch 必须拒绝：
# 错误信息 `CHANGED` 说，反向传播要用的一个数被原地操作改写了。
# 本库的 `AdamW` 有两种实现方式：一种便于阅读，另一种更快，用一个运算做完全部计算（`fused=True`）。
# PyTorch 也有自己的 `AdamW`。它们必须得到同样的数，也都必须让版本计数器增加。
# 这些数和 `eps` 的含义，第 23 课再讲。


# %%
CHANGED = "has been modified by an inplace operation"


def moved(optimizer_of):
    w = torch.tensor([1.0, -2.0], requires_grad=True)
    old = (w * w).sum()
    optimizer = optimizer_of([w])
    for _ in range(2):
        optimizer.zero_grad()
        (w * w).sum().backward()
        optimizer.step()
    assert error_of(old.backward, CHANGED) == CHANGED
    return w


show("readable", moved(lambda ws: AdamW(ws, lr=0.1, eps=0.5, fused=False)), [0.8390, -1.8187])
show("fused", moved(lambda ws: AdamW(ws, lr=0.1, eps=0.5, fused=True)), [0.8390, -1.8187])
show("PyTorch's", moved(lambda ws: torch.optim.AdamW(ws, lr=0.1, eps=0.5)), [0.8390, -1.8187])

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# `broken` should do `steps` steps of gradient descent from the list `start`, and return `x`. The
# loss is the sum of σ(x)² over all numbers of `x`. `broken` has three errors. PyTorch refuses two
# of them. The third makes the numbers wrong from the second step on. Write `descend` without
# errors, without `.data` and without an optimizer.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# `broken` 应当从列表 `start` 出发做 `steps` 步梯度下降，再返回 `x`。损失是 σ(x)² 对 `x` 里
# 所有的数求和。`broken` 有三处错误：两处会被 PyTorch 拒绝，另一处让数从第二步起就不对。
# 请写出没有错误的 `descend`，不用 `.data`，也不用优化器。


# %% tags=["exercise"]
def broken(start, rate, steps):
    x = torch.tensor(start, requires_grad=True)
    for _ in range(steps):
        s = x.sigmoid()
        loss = s.mul_(s).sum()
        loss.backward()
        x.sub_(rate * x.grad)
    return x


def descend(start, rate, steps):
    raise NotImplementedError


# %% tags=["answer"]
def descend(start, rate, steps):
    x = torch.tensor(start, requires_grad=True)
    for _ in range(steps):
        x.grad = None
        s = x.sigmoid()
        loss = (s * s).sum()
        loss.backward()
        with torch.no_grad():
            x.sub_(rate * x.grad)
    return x


# %% tags=["check"]
def check(descend, same):
    for start, rate, steps in [([1.0], 0.5, 1), ([1.0, -2.0], 2.0, 2), ([0.0, 3.0, -1.0], 1.0, 4)]:
        x = torch.tensor(start, requires_grad=True)
        optimizer = SGD([x], lr=rate)
        for _ in range(steps):
            optimizer.zero_grad()
            x.sigmoid().square().sum().backward()
            optimizer.step()
        same(descend(start, rate, steps), x.detach())


def through_data(start, rate, steps):
    """.data hides the square from the backward pass. | 反向传播不知道 .data 写入的平方。"""
    x = torch.tensor(start)
    for _ in range(steps):
        s = x.sigmoid().square()
        x = x - rate * s * (1 - s)
    return x


def adds_up(start, rate, steps):
    """The gradients of earlier steps are still in x.grad. | x.grad 里还留着前几步的梯度。"""
    x, total = torch.tensor(start), 0
    for _ in range(steps):
        s = x.sigmoid()
        total = total + 2 * s * s * (1 - s)
        x = x - rate * total
    return x


def uphill(start, rate, steps):
    """The gradient is added, so the loss grows. | 加上了梯度，所以损失变大了。"""
    return descend(start, -rate, steps)


def never_moves(start, rate, steps):
    """x itself never changes: write to it in place. | x 本身没有变：应当原地改写它。"""
    return torch.tensor(start)


def new_x(start, rate, steps, recorded=True):
    """x = … makes a new x, not a leaf: write in place. | x = … 造出的 x 不是叶子：应当原地改写。"""
    x = torch.tensor(start, requires_grad=True)
    for _ in range(steps):
        s = x.sigmoid()
        (s * s).sum().backward()
        with torch.set_grad_enabled(recorded):
            x = x - rate * x.grad
    return x


def new_x_without_graph(start, rate, steps):
    """x = … makes a new x, not a leaf: write in place. | x = … 造出的 x 不是叶子：应当原地改写。"""
    return new_x(start, rate, steps, recorded=False)


EXERCISE = "descend"
WRONG = [through_data, adds_up, uphill, never_moves, new_x, new_x_without_graph]
FAULTS = [  # planted in the library, each must make this lesson fail
    ("scratchlm.optim.optimizer", "    @torch.no_grad()", "    @torch.enable_grad()"),
    ("scratchlm.optim.adamw", "exp_avg_sq.sqrt().div_(", "exp_avg_sq.sqrt_().div_("),
    ("scratchlm.optim.adamw", "param.mul_(1 - lr", "param = param * (1 - lr"),
    ("scratchlm.optim.adamw", "torch.autograd.graph.increment_version([", "list(["),
]
