# %% [markdown] lang="en"
# # 11 · An engine in 31 lines
# Question: what does PyTorch do in `.backward()`? Can we write it ourselves?
#
# Lesson 8 went through a graph by hand, with the chain rule. Here a program does this. Then it
# computes the 40 gradients of a tiny language model, and trains the model. PyTorch checks it.

# %% [markdown] lang="zh"
# # 11 · 31 行的引擎
# 问题：PyTorch 的 `.backward()` 做了什么？我们能自己写一个吗？
#
# 第 8 课用链式法则，手算走完了一张计算图。这一课让程序来走，再用它算出一个很小的语言模型的
# 40 个梯度，并训练这个模型。最后由 PyTorch 来检验。

# %% [markdown] lang="en"
# ## 1. Each operation knows its own derivatives
# An **autograd engine** is a program that computes gradients from the graph. Ours needs the
# derivatives of five operations, and nothing more:
# ```
# s = a + b: ∂s/∂a = 1, ∂s/∂b = 1     p = a · b: ∂p/∂a = b, ∂p/∂b = a     y = aⁿ: ∂y/∂a = n · aⁿ⁻¹
# y = exp(a): ∂y/∂a = exp(a)          y = log(a): ∂y/∂a = 1 / a
# ```
# You know the first line: lessons 6 and 7 had u², u³ and uv. The rule for aⁿ holds for every n,
# also for −1 and −0.5. For exp, the difference quotient is exp(a) · (exp(h) − 1) / h. For small h,
# (exp(h) − 1) / h is close to 1. `log` is the logarithm ln: if y = log(a), a = exp(y). If y moves
# by a small k, a moves by about h = exp(y) · k = a · k. So k = h / a: if a moves by h, y moves by
# h / a.
#
# The engine is a class. A class says what its objects store, and what we can do with them.
# `Number(2.0)` makes an object of the class `Number`, and Python runs `__init__` for it. In each
# function of a class, `self` is the object itself. A `Number` stores its value, its gradient and
# its parents: the numbers from which it was computed, each with the derivative for this parent.
# `parents=()` means: no parents, if we give none. Python runs `__add__` for `a + b`, `__mul__` for
# `a * b` and `__pow__` for `a ** n`. It runs `__radd__` and `__rmul__` for `1 + a` and `2 * a`,
# where the left side is not a `Number`. `sum` needs this, because it starts with 0.
# `isinstance(value, Number)` asks whether `value` is a `Number`. If not, `as_number` makes one.
#
# ## 2. The order of the backward pass
# A number may pass its gradient on only when the gradient is complete. So it must wait for all
# numbers that use it. `order` makes a list in which each number comes after its parents. For this,
# `order` first calls itself for each parent, and then appends the number. It does nothing if the
# number is in the list already. (`_` is a name for a value that we do not need, here the slope.)
# Such a list is in **topological order**. `backward` goes through the list from the end: this is
# what `reversed` does. If several paths lead to a number, `+=` adds their gradients.

# %% [markdown] lang="zh"
# ## 1. 每种运算只知道自己的导数
# **自动微分引擎**是根据计算图求梯度的程序。我们的引擎只需要五种运算的导数：
# ```
# s = a + b: ∂s/∂a = 1, ∂s/∂b = 1     p = a · b: ∂p/∂a = b, ∂p/∂b = a     y = aⁿ: ∂y/∂a = n · aⁿ⁻¹
# y = exp(a): ∂y/∂a = exp(a)          y = log(a): ∂y/∂a = 1 / a
# ```
# 第一行我们已经熟悉：第 6 课和第 7 课求过 u²、u³、uv 的导数。aⁿ 的规则对每个 n 都成立，
# 包括 −1 和 −0.5。exp 的差商是 exp(a) · (exp(h) − 1) / h，h 很小时，(exp(h) − 1) / h 接近 1。
# `log` 是对数 ln，与 exp 互逆：如果 y = log(a)，那么 a = exp(y)。y 变化很小的 h，
# a 就大约变化 exp(y) · h = a · h；反过来，a 变化 h，y 就大约变化 h / a。
#
# 引擎是一个类。类规定了它的对象里存什么、能对它们做什么。`Number(2.0)` 造出 `Number` 类的一个对象，
# 并对它运行 `__init__`。在类的每个函数里，`self` 就是这个对象自己。一个 `Number` 存着它的值、
# 梯度和父节点，也就是算出它时用到的那些数；与每个父节点一起，还存着它对这个父节点的导数。
# `parents=()` 表示：不写这一项，就没有父节点。遇到 `a + b`，Python 运行 `__add__`；
# 遇到 `a * b` 运行 `__mul__`；遇到 `a ** n` 运行 `__pow__`。如果左边不是 `Number`，
# 例如 `1 + a` 和 `2 * a`，就运行 `__radd__` 和 `__rmul__`；`sum` 也要靠它们，因为它从 0 加起。
# `isinstance(value, Number)` 问的是：`value` 是不是 `Number`？如果不是，`as_number` 就用它造一个。
#
# ## 2. 反向传播的顺序
# 一个数的梯度加全之后，才能往下传，所以它要等所有用到它的数都处理完。
# `order` 列出一张表，表中每个数都排在它的父节点之后：`order` 先对每个父节点调用自己，
# 再把这个数添到表尾；如果表里已经有这个数，就什么也不做。（名字 `_` 表示这个值用不到，
# 这里是斜率。）这样的顺序叫**拓扑序**。`backward` 从表尾往前走，这由 `reversed` 完成。
# 如果有几条路通向同一个数，`+=` 就把各条路上的梯度加起来。

# %%
import math

import torch

from scratchlm import functional as library
from scratchlm.lessons.show import figure, show


class Number:
    def __init__(self, value, parents=()):
        self.value, self.parents, self.gradient = value, parents, 0.0

    def __add__(self, other):
        other = as_number(other)
        return Number(self.value + other.value, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        other = as_number(other)
        return Number(self.value * other.value, [(self, other.value), (other, self.value)])

    def __pow__(self, n):
        return Number(self.value**n, [(self, n * self.value ** (n - 1))])

    def exp(self):
        return Number(math.exp(self.value), [(self, math.exp(self.value))])

    def log(self):
        return Number(math.log(self.value), [(self, 1 / self.value)])

    __radd__, __rmul__ = __add__, __mul__

    def backward(self):
        self.gradient = 1.0
        for number in reversed(order(self, [])):
            for parent, slope in number.parents:
                parent.gradient += slope * number.gradient


def as_number(value):
    if isinstance(value, Number):
        return value
    return Number(value)


def order(number, done):
    if number not in done:
        for parent, _ in number.parents:
            order(parent, done)
        done.append(number)
    return done


# %% [markdown] lang="en"
# Try it with a = 2: c = a + 1, d = c · c, L = d + c. By hand: L = c² + c, so ∂L/∂c = 2c + 1 = 7.
# The gradient reaches `c` along three paths: 1 directly, and 3 + 3 through `d`, because c · c has
# `c` twice as a parent. If `c` did not wait for `d`, it would pass on 1 instead of 7. In the
# figure, the slopes are gray and the gradients are red.
# The last line of the output is the `silu` of lesson 10 and its derivative.

# %% [markdown] lang="zh"
# 取 a = 2 试一试：c = a + 1，d = c · c，L = d + c。手算：L = c² + c，所以 ∂L/∂c = 2c + 1 = 7。
# 梯度从三条路到达 `c`：直接来的是 1，经过 `d` 来的是 3 + 3，因为 `c` 两次作 c · c 的父节点。
# 如果 `c` 不等 `d`，往下传的就是 1，而不是 7。插图中斜率是灰色，梯度是红色。
# 输出的最后一行，是第 10 课的 `silu` 和它的导数。

# %%
a = Number(2.0)
c = a + 1
d = c * c
L = d + c
L.backward()
show("in order: a, 1, c, d, L", [number.value for number in order(L, [])], [2, 1, 3, 9, 12])
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
    arrow = {"arrowstyle": "->", "shrinkA": 17, "shrinkB": 17, "color": "gray"}
    for edge in ["a c 1 0", "c d 3+3 -0.3", "c L 1 0", "d L 1 0.1"]:
        start, end, slope, left = edge.split()
        (_, x0, y0), (_, x1, y1) = spots[start], spots[end]
        axes.annotate("", (x1, y1), (x0, y0), arrowprops=arrow)
        middle = (x0 + x1) / 2 + float(left), (y0 + y1) / 2 + 0.08
        axes.text(*middle, slope, ha="center", color="gray")
    for name, (number, x0, y0) in spots.items():
        axes.plot(x0, y0, "o", markersize=30, color="white", markeredgecolor="black")
        axes.text(x0, y0, f"{number.value:.0f}", ha="center", va="center")
        axes.text(x0, y0 + 0.32, name, ha="center")
        axes.text(x0, y0 - 0.47, f"∂L/∂{name} = {number.gradient:.0f}", ha="center", color="C3")
    axes.set(xlim=(-0.6, 4.2), ylim=(-0.6, 1.5))
    axes.axis("off")

# %% [markdown] lang="en"
# ## 3. A whole model from these five operations
# Here is a tiny language model. Its vocabulary has 5 tokens, and each vector has 4 numbers. After
# the tokens 0, 3, 1 the model should predict 3, 1, 4. For each of the three places, `loss_of` goes
# through the steps of lesson 2:
# 1. `x` contains the vectors of the tokens up to this place.
# 2. Attention: `product` compares the last vector with each of them. It multiplies two vectors
#    place by place, and adds the products. softmax turns the results into weights, which have the
#    sum 1. Multiply each vector by its weight, and add: the result is `mixed`.
# 3. `scale` keeps the numbers at a moderate size.
# 4. `product` with each row of `out` gives the logits, and softmax turns them into probabilities.
# 5. The loss is −log of the probability of the right token.
#
# Lessons 12 to 19 explain why a model does this, and where 0.5, 0.25 and 0.1 come from. One thing
# matters here: each line uses only +, ·, powers, exp and log. The parameters are two tables, `out`
# and `embedding`, with 40 numbers, sin 1, sin 2, … sin 40. `parameters` takes each `row`, and from
# it each `number`. The engine computes the loss, in a graph of 439 numbers, and then all gradients.

# %% [markdown] lang="zh"
# ## 3. 用这五种运算搭出整个模型
# 下面是一个极小的语言模型。词表有 5 个 token，每个向量有 4 个数。见到 token 0、3、1，
# 模型应当依次预测 3、1、4。对这三个位置，`loss_of` 各走一遍第 2 课的步骤：
# 1. `x` 是到这个位置为止的各个 token 的向量。
# 2. 注意力：`product` 把最后一个向量与其中每一个作比较：两个向量逐个数对应相乘，再全部相加。
#    softmax 把结果变成权重，也就是各占多少，它们的和是 1。每个向量乘以自己的权重，
#    再全部相加，就得到 `mixed`。
# 3. `scale` 让数的大小保持适中。
# 4. 再用 `product` 与 `out` 的每一行做同样的计算，得到 logits，softmax 把它们变成概率。
# 5. 把正确 token 的概率取 −log，就是损失。
#
# 模型为什么这样做，0.5、0.25 和 0.1 又从哪里来，第 12 课到第 19 课会讲。这里只看一点：
# 每一行只用到 +、·、乘方、exp 和 log。参数是两张表，`out` 和 `embedding`，共 40 个数：sin 1、
# sin 2、… sin 40。`parameters` 先取每个 `row`（行），再取其中每个 `number`（数）。引擎算出损失，
# 计算图里有 439 个数，然后求出所有的梯度。


# %%
def product(a, b):
    return sum([x * y for x, y in zip(a, b, strict=True)])


def softmax(scores):
    exps = [score.exp() for score in scores]
    return [each * sum(exps) ** -1 for each in exps]


def loss_of(embedding, out):
    losses = []
    for place in range(3):
        x = [embedding[token] for token in ids[: place + 1]]
        weights = softmax([product(x[-1], each) * 0.5 for each in x])
        mixed = [product(weights, [each[i] for each in x]) for i in range(4)]
        scale = (product(mixed, mixed) * 0.25 + 0.1) ** -0.5
        normed = [number * scale for number in mixed]
        probabilities = softmax([product(row, normed) for row in out])
        losses.append(probabilities[targets[place]].log() * -1)
    return sum(losses) * (1 / 3)


def table(first):
    return [[Number(math.sin(first + 4 * row + i)) for i in range(4)] for row in range(5)]


ids, targets = [0, 3, 1], [3, 1, 4]
out, embedding = table(1), table(21)
parameters = [number for row in out + embedding for number in row]
loss = loss_of(embedding, out)
loss.backward()
show("loss", loss.value, 4.1866)
show("numbers in the graph", len(order(loss, [])), 439)
first_row = [number.gradient for number in embedding[0]]
show("gradients of token 0", first_row, [0.0168, -0.2130, -0.2470, -0.0539])

# %% [markdown] lang="en"
# ## 4. The same model in torch
# Now the library's own functions compute this loss, and torch computes the gradients. Later lessons
# explain these functions. In torch, numbers of the type `float64` have about 16 digits, like the
# numbers of Python. The two losses and all 40 gradients differ by less than 10⁻¹². In the output,
# `e-16` means 10⁻¹⁶, and `0.0e+00` is 0. (`tables` contains the rows of `out` and `embedding`.
# `flatten` puts them in one long row, and `tolist` makes a list of Python.)

# %% [markdown] lang="zh"
# ## 4. 用 torch 算同一个模型
# 现在由本库自己的函数算出这个损失，再由 torch 求梯度。这些函数后面的课会讲。在 torch 里，
# 类型为 `float64` 的数大约有 16 位有效数字，和 Python 的数一样。两个损失，以及全部 40 个梯度，
# 相差都小于 10⁻¹²。输出里的 `e-16` 表示 10⁻¹⁶，`0.0e+00` 就是 0。（`tables` 里是 `out`
# 和 `embedding` 的各行，`flatten` 把它们排成一长行，`tolist` 再变成 Python 的列表。）

# %%
values = [[number.value for number in row] for row in out + embedding]
tables = torch.tensor(values, dtype=torch.float64, requires_grad=True)
x = library.embedding(torch.tensor(ids), tables[5:])
mixed = library.scaled_dot_product_attention(x, x, x, causal=True)
normed = library.rms_norm(mixed, torch.ones(4), eps=0.1)
logits = library.linear(normed, tables[:5])
their_loss = library.cross_entropy(logits, torch.tensor(targets))
their_loss.backward()
show("loss in torch", their_loss, 4.1866)
show("difference of the losses", their_loss - loss.value, 0, within=1e-12)
theirs = tables.grad.flatten().tolist()
differences = [abs(a.gradient - b) for a, b in zip(parameters, theirs, strict=True)]
show("largest of 40 differences", max(differences), 0, within=1e-12)

# %% [markdown] lang="en"
# ## 5. The engine trains the model
# Now 20 steps of gradient descent with the learning rate 0.5. There are 21 rounds, because
# `losses[20]` is the loss after 20 steps. Each round sets all gradients to 0, because `+=` adds.
#
# So is that all that training needs? Yes, the method is complete. A large model has more tables,
# and more such lines. PyTorch works with whole tables: one node of its graph stands for many of our
# numbers. So the graph stays small when the tables become large.

# %% [markdown] lang="zh"
# ## 5. 用引擎训练模型
# 现在做 20 步梯度下降，学习率取 0.5。代码循环 21 次，因为 `losses[20]` 是 20 步之后的损失。
# 每次先把所有梯度置为 0，因为 `+=` 是累加的。
#
# 训练模型，只要这些吗？是的，方法全在这里了。大的模型只是表更多，这样的代码也更多。
# PyTorch 处理的是整张表：它的计算图里的一个节点，顶得上我们的许多个数。所以表再大，图也不大。

# %%
losses = []
for _ in range(21):
    for number in parameters:
        number.gradient = 0.0
    loss = loss_of(embedding, out)
    loss.backward()
    losses.append(loss.value)
    for number in parameters:
        number.value -= 0.5 * number.gradient
show("after 0, 10, 20 steps", [losses[0], losses[10], losses[20]], [4.1866, 0.5241, 0.1407])

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Write the backward pass without a class. The list `values` already contains all results of the
# forward pass: first the inputs, then the result of each of the `steps`, in the same order. The
# step `("*", 0, 2)` is the product of `values[0]` and `values[2]`, `"+"` is a sum, and `"max"` is
# the larger of two numbers, which are never equal. The slope of max is 1 for the larger number and
# 0 for the other: if the smaller number moves a little, the result stays the same.
#
# Write `slopes(values, steps)`: return a list with the derivatives of the last number, one for each
# input. Use neither `Number` nor torch.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 不用类，写出反向传播。列表 `values` 已经算好，里面是前向传播的全部结果：先是各个输入，
# 后面是 `steps` 中每一步的结果，顺序相同。`("*", 0, 2)` 这一步是 `values[0]` 和 `values[2]`
# 的乘积，`"+"` 是两数之和，`"max"` 是两个数中较大的一个，这两个数不会相等。
# max 对较大的数，斜率是 1；对另一个数，斜率是 0：较小的数变一点，结果不变。
#
# 写出 `slopes(values, steps)`：返回一个列表，里面是最后一个数对每个输入的导数。
# 不要用 `Number`，也不要用 torch。


# %% tags=["exercise"]
def slopes(values, steps):
    raise NotImplementedError


# %% tags=["answer"]
def slopes(values, steps):
    inputs = len(values) - len(steps)
    gradients = [0.0] * len(values)
    gradients[-1] = 1.0
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


def steps_again(values, steps):
    """`values` already contains the results of `steps`. | `values` 里已经有每一步的结果。"""
    return engine([*values, *steps], steps)


EXERCISE = "slopes"
WRONG = [overwrites, own_factor, max_to_both, first_to_last, steps_again]
FAULTS = [  # planted in the library, each must make this lesson fail
    ("scratchlm.functional", "exps.sum(dim, keepdim=True)).to", "exps.sum(dim, True).data).to"),
    ("scratchlm.functional", "rsqrt(mean_square + eps) * weight)", "rsqrt(mean_square) * weight)"),
    ("scratchlm.functional", "(wide - peak).exp().sum(-1)", "(wide - peak).exp().sum(-1).detach()"),
    ("scratchlm.functional", "scores / math.sqrt(q.shape[-1])", "scores / q.shape[-1]"),
]
