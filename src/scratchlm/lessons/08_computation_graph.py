# %% [markdown] lang="en"
# # 8 · The computation graph
# Question: how much does each number change the result?
#
# In lessons 6 and 7 `.backward()` found the gradients. Here you see how. You compute a result
# forward, then its gradient backward, by hand and step by step. Then torch must get the same.

# %% [markdown] lang="zh"
# # 8 · 计算图
# 问题：每个数对结果的影响有多大？
#
# 第 6 课和第 7 课里，`.backward()` 求出了梯度。这一课看它怎样做到。先向前算出结果，
# 再向后算出梯度，一步一步手算，然后与 torch 对照。

# %%
import torch

from scratchlm.functional import silu
from scratchlm.lessons.show import figure, show
from scratchlm.optim.sgd import SGD

# %% [markdown] lang="en"
# ## 1. Forward: from the input to the result
# Let y = 6x² + 2x + 4 at x = 3. We split the formula into small operations, and name each result:
# s = x², p = 6s, q = 2x, y = p + q + 4. Draw a circle for each name: these are the nodes. Draw an
# arrow from each node to every node that uses it: these are the edges. The drawing is the
# **computation graph** (see the figure). The **forward pass** computes the nodes along the edges:
# 9, 54, 6, 64. Every edge has a slope: the change at its end, divided by the change at its start.
# The edge s → p has the slope 6, because p = 6s. The edge x → s has the slope 2x = 6 at x = 3.

# %% [markdown] lang="zh"
# ## 1. 向前：从输入到结果
# 令 y = 6x² + 2x + 4，x = 3。把公式拆成小的运算，给每个结果起名：
# s = x²，p = 6s，q = 2x，y = p + q + 4。每个名字画一个圆圈，这是节点；再从每个节点
# 向每个用到它的节点画一个箭头，这是边。画出来的就是**计算图**（见插图）。**前向传播**
# 沿着边算出各个节点：9、54、6、64。每条边有一个斜率：终点的变化除以起点的变化。
# 边 s → p 的斜率是 6，因为 p = 6s；边 x → s 的斜率是 2x = 6，因为 x = 3。

# %%
x = 3.0
s = x * x
p = 6 * s
q = 2 * x
y = p + q + 4
show("s, p, q, y", [s, p, q, y], [9, 54, 6, 64])

# %% [markdown] lang="en"
# ## 2. The chain rule: multiply along a path, add the paths
# If x moves by 0.01, s moves by about 6 · 0.01 = 0.06, and p by 6 · 0.06 = 0.36. So the slopes of
# two edges in a row are multiplied: 6 · 6 = 36. From x to y there are two paths. The path over s
# and p has the product 6 · 6 · 1 = 36, the path over q has 2 · 1 = 2. Both change y, so their
# products are added: 38. This is the **chain rule**. The method of lesson 6 agrees: 12x + 2 = 38.
#
# Here the gradient of a node s is one number, ∂y/∂s. The **backward pass** finds it for all nodes,
# from the end to the start. It begins with ∂y/∂y = 1. For each node, take all nodes that use it.
# Multiply the gradient of each of these by the slope of the edge between the two. Then add the
# products. The code goes through section 1 from the last line to the first. `dp` stands for ∂y/∂p.
# In the figure, slopes are gray and gradients are red.

# %% [markdown] lang="zh"
# ## 2. 链式法则：沿一条路相乘，各条路相加
# 如果 x 动 0.01，s 大约动 6 · 0.01 = 0.06，p 就动 6 · 0.06 = 0.36。所以前后相接的两条边，
# 斜率相乘：6 · 6 = 36。从 x 到 y 有两条路。经过 s 和 p 的那条，乘积是 6 · 6 · 1 = 36；
# 经过 q 的那条，是 2 · 1 = 2。两条路都改变 y，所以两个乘积相加：38。
# 这就是**链式法则**。用第 6 课的方法验算：12x + 2 = 38。
#
# 这里，节点 s 的梯度是一个数：∂y/∂s。**反向传播**从终点走向起点，求出每个节点的梯度。
# 开始时 ∂y/∂y = 1。对节点 s，找出用到 s 的所有节点，把其中每一个的梯度乘以从 s 到它的边的斜率，
# 再相加。代码从最后一行到第一行，走一遍第 1 节。`dp` 表示 ∂y/∂p。插图中斜率是灰色，梯度是红色。

# %%
dy = 1.0
dp = dy * 1
dq = dy * 1
ds = dp * 6
dx = ds * 2 * x + dq * 2
show("dp, dq, ds, dx", [dp, dq, ds, dx], [1, 1, 6, 38])

# %% tags=["figure"]
with figure("08-graph", 5.0, 2.6) as axes:
    places = {"x": (0, 0), "s": (1, 0.6), "p": (2, 0.6), "q": (1.5, -0.6), "y": (3, 0)}
    numbers = {"x": (x, dx), "s": (s, ds), "p": (p, dp), "q": (q, dq), "y": (y, dy)}
    for name, (value, gradient) in numbers.items():
        a, b = places[name]
        axes.plot(a, b, "o", color="#cfe2f3", markersize=36)
        axes.text(a, b, f"{name} = {value:g}", ha="center", va="center", fontsize=9)
        axes.text(a, b - 0.42, f"∂y/∂{name} = {gradient:g}", color="C3", ha="center", fontsize=9)
    for edge in ["x s 2x=6 -0.15", "s p 6 0", "p y 1 0", "x q 2 0", "q y 1 0"]:
        start, end, slope, shift = edge.split()
        (a, b), (c, d) = places[start], places[end]
        arrow = {"arrowstyle": "-|>", "color": "0.4", "shrinkA": 19, "shrinkB": 19}
        axes.annotate("", (c, d), (a, b), arrowprops=arrow)
        middle = (a + c) / 2 + float(shift), (b + d) / 2 + 0.08
        axes.text(*middle, slope, color="0.3", ha="center", fontsize=9)
    axes.set(xlim=(-0.5, 3.5), ylim=(-1.2, 1.1))
    axes.axis("off")

# %% [markdown] lang="en"
# ## 3. What torch records
# torch builds the same graph while it computes. Every result has a `.grad_fn`, the operation that
# made it. A number that we made ourselves has none: it is a **leaf**. `.backward()` walks from the
# result to the leaves, and adds the gradient to `.grad` of each leaf. The nodes between them keep
# no gradient, unless we first call `.retain_grad()` on the node. In the output, `MulBackward0` and
# `AddBackward0` are torch's names for the backward step of a multiplication and of an addition.

# %% [markdown] lang="zh"
# ## 3. torch 记下了什么
# torch 一边计算，一边建起同样的图。每个结果都有 `.grad_fn`，就是产生它的运算。
# 我们自己造的数没有：它是**叶子**。`.backward()` 从结果走到叶子，把梯度加到每个叶子的
# `.grad` 上。中间的节点，torch 不保留梯度，除非事先对它调用 `.retain_grad()`。
# 输出的最后一行里，`MulBackward0` 是 torch 给乘法的反向一步起的名字，`AddBackward0` 是加法的。

# %%
x = torch.tensor(3.0, requires_grad=True)
s = x * x
p = 6 * s
q = 2 * x
y = p + q + 4
for node in (s, p, q, y):
    node.retain_grad()
y.backward()
show("ds, dp, dq, dy", [s.grad, p.grad, q.grad, y.grad], [6, 1, 1, 1])
show("x.grad", x.grad, 38)
show("leaf: x, s, y", [x.is_leaf, s.is_leaf, y.is_leaf], [True, False, False])
assert x.grad_fn is None
show("s.grad_fn, y.grad_fn", [s.grad_fn.name(), y.grad_fn.name()], ["MulBackward0", "AddBackward0"])

# %% [markdown] lang="en"
# ## 4. Five leaves, one backward pass
# A larger graph: b = w₁·a, c = w₂·a, d = w₃·b + w₄·c, and the loss L = 10 − d. The number a reaches
# L on two paths, over b and over c. The edge d → L has the slope −1. So ∂L/∂a = −w₃w₁ − w₄w₂. Each
# w has one path: ∂L/∂w₁ = −w₃·a, ∂L/∂w₂ = −w₄·a, ∂L/∂w₃ = −b, ∂L/∂w₄ = −c. The star in
# `loss(*start)` passes the five numbers one by one. `start.copy()` makes a second list.
#
# Why backward? For difference quotients, each leaf needs a forward pass of its own: 5 here, and one
# more for L itself. A model has one loss and very many parameters, so this would take too long. One
# backward pass gives all slopes, and uses each edge once.

# %% [markdown] lang="zh"
# ## 4. 五个叶子，一次反向传播
# 再看一张大一点的图：b = w₁·a，c = w₂·a，d = w₃·b + w₄·c，损失 L = 10 − d。
# a 到 L 有两条路，一条经过 b，一条经过 c。边 d → L 的斜率是 −1，所以 ∂L/∂a = −w₃w₁ − w₄w₂。
# 每个 w 只有一条路：∂L/∂w₁ = −w₃·a，∂L/∂w₂ = −w₄·a，∂L/∂w₃ = −b，∂L/∂w₄ = −c。
# 代码里，`loss(*start)` 的星号表示把五个数逐个传进去，`start.copy()` 复制一个列表。
#
# 为什么要向后算？用差商的话，每个叶子都要单独做一次前向传播：这里是 5 次，再加上算 L 本身的一次。
# 模型只有一个损失，参数却非常多，用差商太慢。反向传播一次就给出所有斜率，每条边只用一次。


# %%
def loss(a, w1, w2, w3, w4):
    b, c = w1 * a, w2 * a
    return 10 - (w3 * b + w4 * c)


start = [2.0, 3.0, -1.0, 1.0, 2.0]  # a, w1, w2, w3, w4
a, w1, w2, w3, w4 = start
b, c = w1 * a, w2 * a
show("b, c, L", [b, c, loss(*start)], [6, -2, 8])
by_hand = [-w3 * w1 - w4 * w2, -w3 * a, -w4 * a, -b, -c]
show("by hand: a, w1, w2, w3, w4", by_hand, [-1, -2, -4, -6, 2])
leaves = [torch.tensor(value, requires_grad=True) for value in start]
loss(*leaves).backward()
show("torch, one backward pass", [leaf.grad for leaf in leaves], by_hand)
quotients = []
for place in range(5):
    moved = start.copy()
    moved[place] += 1e-6
    quotients.append((loss(*moved) - loss(*start)) / 1e-6)
show("difference quotients", quotients, by_hand)

# %% [markdown] lang="en"
# ## 5. silu has two paths
# In the library's silu(x) = x · σ(x), x is used twice. One path goes straight to the product,
# with the slope σ(x). The other goes through σ, with the slope x · σ(x)(1 − σ(x)). Their sum is the
# product rule of lesson 6. `.detach()` returns a number without its graph: it cuts a path.
# `lambda x: …` is a short function without a name: it gets `x`, and returns what follows the colon.

# %% [markdown] lang="zh"
# ## 5. silu 有两条路
# 在本库的 silu(x) = x · σ(x) 中，x 用了两次。一条路直接到乘积，斜率是 σ(x)；
# 另一条经过 σ，斜率是 x · σ(x)(1 − σ(x))。两者之和就是第 6 课的乘积法则。
# `.detach()` 返回不带图的数：它剪断一条路。`lambda x: …` 是一个没有名字的短函数：
# 它接收 `x`，返回冒号后面的结果。


# %%
def slope_at_1(f):
    x = torch.tensor(1.0, requires_grad=True)
    f(x).backward()
    return x.grad


show("straight path", slope_at_1(lambda x: x * torch.sigmoid(x).detach()), 0.7311)
show("path through σ", slope_at_1(lambda x: x.detach() * torch.sigmoid(x)), 0.1966)
show("library's silu: the sum", slope_at_1(silu), 0.9277)

# %% [markdown] lang="en"
# ## 6. zero_grad, backward, step
# These three calls train every model. Lesson 1 had `zero_grad` at the end of each step; this title
# has it first. Both are right, because the old gradient is gone before the next `.backward()`.
#
# Take L = u · v at u = 1, v = 2. By hand ∂L/∂u = v = 2 and ∂L/∂v = u = 1. With the learning rate
# 0.5, u becomes 1 − 0.5 · 2 = 0, and v becomes 2 − 0.5 · 1 = 1.5. The next gradient is (1.5, 0).
# But `.backward()` adds to `.grad`: a second backward pass without `.zero_grad()` gives (3, 0),
# twice the gradient. The number `t` is not in the graph. So its `.grad` is None, and the step does
# not move `t`.

# %% [markdown] lang="zh"
# ## 6. zero_grad、backward、step
# 训练任何模型都靠这三个调用。第 1 课把 `zero_grad` 放在每一步的最后，标题里把它放在最前。
# 两种顺序都对，因为下一次 `.backward()` 之前，旧的梯度都已经清除。
#
# 取 L = u · v，u = 1，v = 2。手算得 ∂L/∂u = v = 2，∂L/∂v = u = 1。
# 学习率取 0.5，u 变成 1 − 0.5 · 2 = 0，v 变成 2 − 0.5 · 1 = 1.5。
# 下一个梯度是 (1.5, 0)。可是 `.backward()` 是往 `.grad` 上加：如果不先 `.zero_grad()`，
# 再做一次反向传播就得到 (3, 0)，是梯度的两倍。`t` 不在图里，所以它的 `.grad`
# 是 None，这一步也不移动 `t`。

# %%
u, v, t = [torch.tensor(value, requires_grad=True) for value in (1.0, 2.0, 7.0)]
optimizer = SGD([u, v, t], lr=0.5)
(u * v).backward()
show("gradient", [u.grad, v.grad], [2, 1])
optimizer.step()
show("after the step: u, v, t", [u, v, t], [0, 1.5, 7])
optimizer.zero_grad()
show("after zero_grad", [u.grad, v.grad, t.grad], [None, None, None])
(u * v).backward()
show("gradient", [u.grad, v.grad], [1.5, 0])
(u * v).backward()
show("without zero_grad: twice", [u.grad, v.grad], [3, 0])

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Let L = (a·b + a + c)². Write `backward(a, b, c)`. It must return the three numbers ∂L/∂a, ∂L/∂b,
# ∂L/∂c. Go backward by hand, without torch: start with s = a·b + a + c and ∂L/∂s. How many paths
# does a have?

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 令 L = (a·b + a + c)²。写出 `backward(a, b, c)`，返回三个数 ∂L/∂a、∂L/∂b、∂L/∂c。
# 不用 torch，手工向后算：先写 s = a·b + a + c 和 ∂L/∂s。a 有几条路？


# %% tags=["exercise"]
def backward(a, b, c):
    raise NotImplementedError


# %% tags=["answer"]
def backward(a, b, c):
    ds = 2 * (a * b + a + c)
    return ds * b + ds, ds * a, ds


# %% tags=["check"]
def check(backward, same):
    for values in [(1.0, 2.0, 3.0), (-2.0, 0.5, 4.0), (3.0, -1.5, 0.25)]:
        a, b, c = [torch.tensor(value, requires_grad=True) for value in values]
        ((a * b + a + c) ** 2).backward()
        same(backward(*values), [a.grad, b.grad, c.grad])


def one_path_of_a(a, b, c):
    """a has two paths: add the one without b. | a 有两条路：还要加上不经过 b 的那条。"""
    da, db, dc = backward(a, b, c)
    return da - dc, db, dc


def square_forgotten(a, b, c):
    """The slope of the square, 2s, is missing. | 缺少平方的斜率 2s。"""
    return b + 1, a, 1


def square_without_2(a, b, c):
    """The slope of s² is 2s, not s. | s² 的斜率是 2s，不是 s。"""
    return [slope / 2 for slope in backward(a, b, c)]


def factors_swapped(a, b, c):
    """The slope of a·b for a is b, and for b it is a. | a·b 对 a 的斜率是 b，对 b 的斜率是 a。"""
    ds = 2 * (a * b + a + c)
    return ds * a + ds, ds * b, ds


EXERCISE = "backward"
WRONG = [one_path_of_a, square_forgotten, square_without_2, factors_swapped]
FAULTS = [
    ("scratchlm.functional", "wide * wide.sigmoid()", "wide.detach() * wide.sigmoid()"),
    ("scratchlm.optim.sgd", "param.add_(grad, alpha=-lr)", "param.add_(grad, alpha=-lr * lr)"),
    ("scratchlm.optim.optimizer", "_zero_grad(self, set_to_none)\n", "_zero_grad(self, False)\n"),
    ("scratchlm.optim.optimizer", "self.update(group, params)", "self.update(group, params[:1])"),
]
