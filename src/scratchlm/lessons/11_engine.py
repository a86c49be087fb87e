# %% [markdown] lang="en"
# # 11 · An engine in 40 lines
# Question: what does PyTorch do in `.backward()`? Can we write it ourselves?
#
# Lesson 8 went through a graph by hand, with the chain rule. Here a program does this. Then it
# computes the 168 gradients of a small language model, and trains the model. PyTorch checks it.

# %% [markdown] lang="zh"
# # 11 · 40 行的引擎
# 问题：PyTorch 的 `.backward()` 做了什么？我们能自己写一个吗？
#
# 第 8 课用链式法则，手算走完了一张计算图。这一课让程序来走，再用它算出一个小语言模型的
# 168 个梯度，并训练这个模型。最后由 PyTorch 来检验。

# %% [markdown] lang="en"
# ## 1. Each operation knows its own derivatives
# An **autograd engine** is a program that computes gradients from the graph. Ours is one class. A
# class makes objects: `Number(2.0)` makes an object and runs `__init__` on it. There `self` is the
# object. It stores a value, a gradient and its parents: the numbers from which it was computed.
# With each parent it stores one derivative. These are all the derivatives that the engine knows:
# ```
# s = a + b: ∂s/∂a = 1, ∂s/∂b = 1     p = a · b: ∂p/∂a = b, ∂p/∂b = a     y = aⁿ: ∂y/∂a = n · aⁿ⁻¹
# y = exp(a): ∂y/∂a = exp(a)          y = log(a): ∂y/∂a = 1 / a
# ```
# Python runs `__add__` for `a + b`, `__mul__` for `a * b` and `__pow__` for `a ** n`. It runs
# `__radd__` and `__rmul__` for `1 + a` and `2 * a`, where the left side is not a `Number`.
# `*parents` collects all further arguments. `math.log` is the logarithm ln.
#
# ## 2. The order of the backward pass
# A number may pass its gradient on only when the gradient is complete. So it must wait for all
# numbers that use it. `order` makes a list in which each number comes after its parents: `visit`
# goes to the parents first, and then writes down the number itself, unless `seen` has it already.
# Such a list is in **topological order**. `backward` goes through the list from the end. If several
# paths lead to a number, `+=` adds their gradients.

# %% [markdown] lang="zh"
# ## 1. 每种运算只知道自己的导数
# **自动微分引擎**是根据计算图求梯度的程序。我们的引擎只有一个类。类用来造对象：
# `Number(2.0)` 造出一个对象，并对它运行 `__init__`，其中的 `self` 就是这个对象。
# 对象里存着一个值、一个梯度，还有它的父节点，也就是算出它时用到的那些数。
# 每个父节点旁边再存一个导数。引擎知道的导数全在这里：
# ```
# s = a + b: ∂s/∂a = 1, ∂s/∂b = 1     p = a · b: ∂p/∂a = b, ∂p/∂b = a     y = aⁿ: ∂y/∂a = n · aⁿ⁻¹
# y = exp(a): ∂y/∂a = exp(a)          y = log(a): ∂y/∂a = 1 / a
# ```
# 遇到 `a + b`，Python 运行 `__add__`；遇到 `a * b` 运行 `__mul__`；遇到 `a ** n` 运行 `__pow__`。
# 如果左边不是 `Number`，例如 `1 + a` 和 `2 * a`，就运行 `__radd__` 和 `__rmul__`。
# `*parents` 收下其余所有的参数。`math.log` 就是对数 ln。
#
# ## 2. 反向传播的顺序
# 一个数的梯度加全之后，才能往下传，所以它要等所有用到它的数都处理完。
# `order` 列出一张表，表中每个数都排在它的父节点之后：`visit` 先去父节点，
# 再记下这个数自己，除非 `seen` 里已经有它。这样的顺序叫**拓扑序**。`backward` 从表尾往前走。
# 如果有几条路通向同一个数，`+=` 就把各条路上的梯度加起来。

# %%
import math

import torch

from scratchlm import functional as library
from scratchlm.lessons.show import figure, show


class Number:
    def __init__(self, value, *parents):
        self.value, self.parents, self.gradient = value, parents, 0.0

    def __add__(self, other):
        other = as_number(other)
        return Number(self.value + other.value, (self, 1.0), (other, 1.0))

    def __mul__(self, other):
        other = as_number(other)
        return Number(self.value * other.value, (self, other.value), (other, self.value))

    def __pow__(self, n):
        return Number(self.value**n, (self, n * self.value ** (n - 1)))

    def exp(self):
        return Number(math.exp(self.value), (self, math.exp(self.value)))

    def log(self):
        return Number(math.log(self.value), (self, 1 / self.value))

    __radd__, __rmul__ = __add__, __mul__

    def order(self):
        done, seen = [], set()

        def visit(number):
            if number not in seen:
                seen.add(number)
                for parent, _ in number.parents:
                    visit(parent)
                done.append(number)

        visit(self)
        return done

    def backward(self):
        self.gradient = 1.0
        for number in reversed(self.order()):
            for parent, slope in number.parents:
                parent.gradient += slope * number.gradient


def as_number(value):
    return value if isinstance(value, Number) else Number(value)


# %% [markdown] lang="en"
# Try it with a = 2: c = a + 1, d = c · c, L = d + c. By hand: L = c² + c, so ∂L/∂c = 2c + 1 = 7.
# The gradient reaches `c` along three paths: 1 directly, and 3 + 3 through `d`, because c · c has
# `c` twice as a parent. If `c` did not wait for `d`, it would pass on 1 instead of 7.
# The last line of the output is the `silu` of lesson 10 and its derivative.

# %% [markdown] lang="zh"
# 取 a = 2 试一试：c = a + 1，d = c · c，L = d + c。手算：L = c² + c，所以 ∂L/∂c = 2c + 1 = 7。
# 梯度从三条路到达 `c`：直接来的是 1，经过 `d` 来的是 3 + 3，因为 `c` 两次作 c · c 的父节点。
# 如果 `c` 不等 `d`，往下传的就是 1，而不是 7。
# 输出的最后一行，是第 10 课的 `silu` 和它的导数。

# %%
a = Number(2.0)
c = a + 1
d = c * c
L = d + c
L.backward()
show("in order: a, 1, c, d, L", [number.value for number in L.order()], [2, 1, 3, 9, 12])
show("gradients of L, d, c, a", [each.gradient for each in (L, d, c, a)], [1, 1, 7, 7])


def silu(x):
    return x * (1 + (x * -1).exp()) ** -1


x = Number(1.0)
y = silu(x)
y.backward()
show("silu(1), silu′(1)", [y.value, x.gradient], [0.7311, 0.9277])

# %% tags=["figure"]
with figure("11-graph", 5, 2.8) as axes:
    spots = {"a": (a, 0, 0), "c": (c, 1.2, 0), "d": (d, 2.4, 1), "L": (L, 3.6, 0)}
    edges = [
        ("a", "c", "1", 0),
        ("c", "d", "3 + 3", -0.3),
        ("c", "L", "1", 0),
        ("d", "L", "1", 0.1),
    ]
    arrow = {"arrowstyle": "->", "shrinkA": 17, "shrinkB": 17, "color": "gray"}
    for start, end, slope, left in edges:
        (_, x0, y0), (_, x1, y1) = spots[start], spots[end]
        axes.annotate("", (x1, y1), (x0, y0), arrowprops=arrow)
        axes.text((x0 + x1) / 2 + left, (y0 + y1) / 2 + 0.08, slope, ha="center", color="gray")
    for name, (number, x0, y0) in spots.items():
        axes.plot(x0, y0, "o", markersize=30, color="white", markeredgecolor="black")
        axes.text(x0, y0, f"{number.value:.0f}", ha="center", va="center")
        axes.text(x0, y0 + 0.32, name, ha="center")
        gradient = f"∂L/∂{name} = {number.gradient:.0f}"
        axes.text(x0, y0 - 0.47, gradient, ha="center", color="tab:blue")
    axes.set(xlim=(-0.6, 4.2), ylim=(-0.6, 1.5))
    axes.axis("off")

# %% [markdown] lang="en"
# ## 3. A whole model from these five operations
# Here is a small language model. Lessons 12 to 19 explain each of its functions, so do not study
# them now. Look only at what they do with numbers: +, ·, powers, exp and log. The engine knows
# nothing else. `zip(a, b)` goes through two lists side by side, and `zip(*table)` goes through the
# columns of a table. `next(unused)` takes the next parameter. `|=` adds entries to a dictionary.
#
# The vocabulary has 5 tokens, and each vector has 4 numbers. After the tokens 0, 3, 1 the model
# should predict 3, 1, 4. The 168 parameters are sin 1, sin 2, … sin 168. From them the engine
# computes the loss, in a graph of 1799 numbers, and then all gradients.

# %% [markdown] lang="zh"
# ## 3. 用这五种运算搭出整个模型
# 下面是一个小语言模型。它的每个函数在第 12 课到第 19 课都会讲，现在不必细看，
# 只看它们对数做了什么：+、·、乘方、exp 和 log。引擎也只懂这些。
# `zip(a, b)` 并排走过两个列表，`zip(*table)` 走过一张表的各列，`next(unused)` 取出下一个参数，
# `|=` 往字典里添加条目。
#
# 词表有 5 个 token，每个向量有 4 个数。见到 token 0、3、1，模型应当依次预测 3、1、4。
# 168 个参数是 sin 1、sin 2、… sin 168。引擎由它们算出损失，计算图里有 1799 个数，
# 然后求出所有的梯度。


# %%
def product(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def add(a, b):
    return [x + y for x, y in zip(a, b, strict=True)]


def linear(x, table):
    return [product(row, x) for row in table]


def softmax(x):
    exps = [each.exp() for each in x]
    return [each * sum(exps) ** -1 for each in exps]


def rms_norm(x, weight):
    scale = (product(x, x) * (1 / 4) + 0.1) ** -0.5
    return [each * scale * factor for each, factor in zip(x, weight[0], strict=True)]


def loss_of(w):
    x = [w["embedding"][token] for token in ids]
    normed = [rms_norm(each, w["norm_1"]) for each in x]
    q, k, v = ([linear(each, w[name]) for each in normed] for name in "qkv")
    losses = []
    for t, target in enumerate(targets):
        weights = softmax([product(q[t], k[past]) * 0.5 for past in range(t + 1)])
        mixed = [product(weights, column) for column in zip(*v[: t + 1], strict=True)]
        y = add(x[t], linear(mixed, w["o"]))
        normed = rms_norm(y, w["norm_2"])
        gate = [silu(each) for each in linear(normed, w["gate"])]
        wide = [g * u for g, u in zip(gate, linear(normed, w["up"]), strict=True)]
        y = rms_norm(add(y, linear(wide, w["down"])), w["norm_3"])
        losses.append(softmax(linear(y, w["embedding"]))[target].log() * -1)
    return sum(losses) * (1 / 3)


ids, targets = [0, 3, 1], [3, 1, 4]
shapes = {"embedding": (5, 4), "norm_1": (1, 4), "norm_2": (1, 4), "norm_3": (1, 4)}
shapes |= {"q": (4, 4), "k": (4, 4), "v": (4, 4), "o": (4, 4)}
shapes |= {"gate": (6, 4), "up": (6, 4), "down": (4, 6)}
parameters = [Number(math.sin(i)) for i in range(1, 169)]
unused, ours = iter(parameters), {}
for name, (rows, columns) in shapes.items():
    ours[name] = [[next(unused) for _ in range(columns)] for _ in range(rows)]

loss = loss_of(ours)
loss.backward()
show("loss", loss.value, 2.5243)
show("numbers in the graph", len(loss.order()), 1799)
first_row = [number.gradient for number in ours["embedding"][0]]
show("gradients of token 0", first_row, [0.0386, 0.3623, 0.0480, 0.4608])

# %% [markdown] lang="en"
# ## 4. The same model in torch
# Now the library's own functions compute this loss with numbers of torch, and torch computes the
# gradients. `float64` has about 16 digits, like the numbers of Python. The two losses and all 168
# gradients differ by less than 0.000000000001. (`flatten` makes one long list of a table.)

# %% [markdown] lang="zh"
# ## 4. 用 torch 写同一个模型
# 现在由本库自己的函数，用 torch 的数算出这个损失，再由 torch 求梯度。
# `float64` 大约有 16 位有效数字，和 Python 的数一样。两个损失，以及全部 168 个梯度，
# 相差都小于 0.000000000001。
# （`flatten` 把一张表拉成一长列。）

# %%
theirs = {}
for name, table in ours.items():
    values = [[number.value for number in row] for row in table]
    theirs[name] = torch.tensor(values, dtype=torch.float64, requires_grad=True)


def torch_loss(w):
    x = library.embedding(torch.tensor(ids), w["embedding"])
    normed = library.rms_norm(x, w["norm_1"][0], eps=0.1)
    q, k, v = (library.linear(normed, w[name]) for name in "qkv")
    mixed = library.scaled_dot_product_attention(q, k, v, causal=True)
    x = x + library.linear(mixed, w["o"])
    normed = library.rms_norm(x, w["norm_2"][0], eps=0.1)
    x = x + library.swiglu(normed, w["gate"], w["up"], w["down"])
    x = library.rms_norm(x, w["norm_3"][0], eps=0.1)
    return library.cross_entropy(library.linear(x, w["embedding"]), torch.tensor(targets))


their_loss = torch_loss(theirs)
their_loss.backward()
show("loss in torch", their_loss, 2.5243)
show("difference of the losses", their_loss - loss.value, 0, within=1e-12)
gradients = torch.cat([table.grad.flatten() for table in theirs.values()]).tolist()
differences = [
    abs(gradient - number.gradient) for gradient, number in zip(gradients, parameters, strict=True)
]
show("largest of 168 differences", max(differences), 0, within=1e-12)

# %% [markdown] lang="en"
# ## 5. The engine trains the model
# Now 20 steps of gradient descent with the learning rate 0.05. Each step starts with all gradients
# at 0, because `+=` adds. The loss falls from 2.5243 to 0.9048.
#
# So is that all? Yes, the method is complete. PyTorch works with whole tables: one entry of its
# graph stands for many of our numbers. So the graph stays small when the tables become large.

# %% [markdown] lang="zh"
# ## 5. 用引擎训练模型
# 现在做 20 步梯度下降，学习率取 0.05。每一步开始时先把所有梯度置为 0，因为 `+=` 是累加的。
# 损失从 2.5243 降到 0.9048。
#
# 那么，就这么多吗？是的，方法全在这里了。PyTorch 处理的是整张表：它的计算图里的一个节点，
# 顶得上我们的许多个数。所以表再大，图也不大。

# %%
losses = []
for _ in range(21):
    for number in parameters:
        number.gradient = 0.0
    loss = loss_of(ours)
    loss.backward()
    losses.append(loss.value)
    for number in parameters:
        number.value -= 0.05 * number.gradient
show("after 0, 10, 20 steps", [losses[0], losses[10], losses[20]], [2.5243, 1.2683, 0.9048])

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Write the backward pass without a class. In the list `values`, the inputs come first. Then each of
# `steps` adds one number: `("*", 0, 2)` adds the product of `values[0]` and `values[2]`, `"+"` a
# sum, and `"max"` the larger of two numbers, which are never equal. So `values` has the results of
# the forward pass. Write `slopes(values, steps)`: return the derivatives of the last number
# with respect to each input, as a list. Use neither `Number` nor torch.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 不用类，写出反向传播。列表 `values` 的开头是各个输入，然后 `steps` 的每一步添一个数：
# `("*", 0, 2)` 添的是 `values[0]` 和 `values[2]` 的乘积，`"+"` 添的是两数之和，
# `"max"` 添的是两个数中较大的一个，这两个数不会相等。所以前向传播的结果都在 `values` 里。
# 写出 `slopes(values, steps)`：返回最后一个数对每个输入的导数，写成列表。
# 不要用 `Number`，也不要用 torch。


# %% tags=["exercise"]
def slopes(values, steps):
    raise NotImplementedError


# %% tags=["answer"]
def slopes(values, steps):
    inputs = len(values) - len(steps)
    gradients = [0.0] * (len(values) - 1) + [1.0]
    for place in reversed(range(inputs, len(values))):
        operation, i, j = steps[place - inputs]
        a, b = values[i], values[j]
        left, right = {"+": (1, 1), "*": (b, a), "max": (a > b, b > a)}[operation]
        gradients[i] += left * gradients[place]
        gradients[j] += right * gradients[place]
    return gradients[:inputs]


# %% tags=["check"]
def check(slopes, same):
    rules = {"+": torch.add, "*": torch.mul, "max": torch.maximum}
    for inputs, steps in [
        ([2.0, 1.0], [("+", 0, 1), ("*", 2, 2), ("+", 3, 2)]),
        ([3.0, -2.0, 5.0], [("*", 0, 1), ("max", 3, 1), ("*", 4, 2), ("+", 5, 0)]),
        ([1.5, 2.0, -1.0], [("*", 0, 1), ("*", 3, 0), ("max", 4, 2), ("+", 5, 3), ("*", 6, 1)]),
    ]:
        numbers = [torch.tensor(value, requires_grad=True) for value in inputs]
        for operation, i, j in steps:
            numbers.append(rules[operation](numbers[i], numbers[j]))
        numbers[-1].backward()
        wanted = [0.0 if each.grad is None else each.grad.item() for each in numbers[: len(inputs)]]
        same(slopes([each.item() for each in numbers], list(steps)), wanted)


def engine(values, steps, swap=False, both=False, overwrite=False, forward=False):
    gradients = [0.0] * (len(values) - 1) + [1.0]
    places = list(enumerate(steps, len(values) - len(steps)))
    for place, (operation, i, j) in places if forward else reversed(places):
        a, b = values[i], values[j]
        pair = {"+": (1, 1), "*": (a, b) if swap else (b, a), "max": (both or a > b, both or b > a)}
        for parent, slope in zip((i, j), pair[operation], strict=True):
            gradients[parent] = slope * gradients[place] + (not overwrite) * gradients[parent]
    return gradients[: len(values) - len(steps)]


def overwrites(values, steps):
    """A number used twice must add its gradients (+=). | 用了两次的数，梯度应当相加（+=）。"""
    return engine(values, steps, overwrite=True)


def own_factor(values, steps):
    """The derivative of a · b by a is b, not a. | a · b 对 a 的导数是 b，不是 a。"""
    return engine(values, steps, swap=True)


def max_to_both(values, steps):
    """Only the larger number gets the gradient of max. | max 的梯度只传给较大的数。"""
    return engine(values, steps, both=True)


def first_to_last(values, steps):
    """The backward pass must start at the last step. | 反向传播应当从最后一步开始。"""
    return engine(values, steps, forward=True)


EXERCISE = "slopes"
WRONG = [overwrites, own_factor, max_to_both, first_to_last]
FAULTS = [  # planted in the library, each must make this lesson fail
    (
        "scratchlm.functional",
        "exps / exps.sum(dim, keepdim=True)",
        "exps / exps.sum(dim, True).data",
    ),
    (
        "scratchlm.functional",
        "rsqrt(mean_square + eps) * weight).to",
        "rsqrt(mean_square) * weight).to",
    ),
    ("scratchlm.functional", "(wide - peak).exp().sum(-1)", "(wide - peak).exp().sum(-1).detach()"),
    ("scratchlm.functional", "scores / math.sqrt(q.shape[-1])", "scores / q.shape[-1]"),
]
