# %% [markdown] lang="en"
# # 7 · Partial derivatives
# Question: which way is better when two numbers change at once?
#
# Lesson 6 found the derivative of a loss with one parameter. It also found the gradient of a sum in
# which each number stood alone. Here two numbers are multiplied: each slope depends on both.

# %% [markdown] lang="zh"
# # 7 · 偏导数
# 问题：两个数同时变化，往哪边走更好？
#
# 第 6 课求过损失的导数，那里只有一个参数；还求过一个总和的梯度，总和里的各项互不影响。
# 这一课里两个数相乘：每个斜率都与两个数有关。

# %%
import math

import torch

from scratchlm.lessons.show import figure, show
from scratchlm.optim.sgd import SGD

# %% [markdown] lang="en"
# ## 1. Freeze one number
# Let f = u³ + v² + 4uv. At u = 3 and v = 4 it is 27 + 16 + 48 = 91. Freeze v at 4: then only u
# changes, and f = u³ + 16 + 16u. The first line below is the difference quotient of u³. If h goes
# to 0, only 3u² stays. The part 16u has the slope 16, which is 4v. So f has the slope 3u² + 4v. We
# write it ∂f/∂u. For ∂f/∂v, u is frozen at 3, and v changes.
# ```
# ((u + h)³ − u³) / h = 3u² + 3uh + h²
# ∂f/∂u = 3u² + 4v = 27 + 16 = 43
# ∂f/∂v = 2v + 4u = 8 + 12 = 20
# ```
# The derivative for one number, with all others frozen, is a **partial derivative**. The list of
# both partial derivatives, (43, 20), is the gradient. We write it ∇f.

# %% [markdown] lang="zh"
# ## 1. 冻结一个数
# 令 f = u³ + v² + 4uv。在 u = 3、v = 4 处，它等于 27 + 16 + 48 = 91。把 v 冻结在 4：
# 这时只有 u 在变，f = u³ + 16 + 16u。下面第一行是 u³ 的差商：h 趋于 0 时，只剩下 3u²。
# 16u 的斜率是 16，也就是 4v。所以 f 的斜率是 3u² + 4v，记作 ∂f/∂u；求 ∂f/∂v 时，u 冻结在 3。
# ```
# ((u + h)³ − u³) / h = 3u² + 3uh + h²
# ∂f/∂u = 3u² + 4v = 27 + 16 = 43
# ∂f/∂v = 2v + 4u = 8 + 12 = 20
# ```
# 其余的数都冻结，只对一个数求的导数，叫作**偏导数**。两个偏导数排成一列，(43, 20)，就是梯度，
# 写作 ∇f。


# %%
def f(u, v):
    return u**3 + v**2 + 4 * u * v


def numbers(u, v):
    return torch.tensor(u, requires_grad=True), torch.tensor(v, requires_grad=True)


show("f(3, 4)", f(3, 4), 91)
h = 1e-6
show("quotient for u", (f(3 + h, 4) - f(3, 4)) / h, 43)
show("quotient for v", (f(3, 4 + h) - f(3, 4)) / h, 20)
u, v = numbers(3.0, 4.0)
f(u, v).backward()
show("torch's ∂f/∂u, ∂f/∂v", [u.grad, v.grad], [43, 20])

# %% [markdown] lang="en"
# ## 2. All directions at once
# Now both numbers move a little, by Δu and Δv. The two changes add up: f changes by about
# 43·Δu + 20·Δv. Which direction lowers f most? We try 360 directions from (3, 4), one for each
# degree, with steps of length 0.01. `math.radians` converts degrees for `math.cos` and `math.sin`.
# `changes.index` finds the place of a number in the list.
#
# f rises fastest at 25°. The gradient points there: the arrow (43, 20) goes 43 to the right and 20
# up. So the tangent of its angle is 20/43, and `math.atan` gives 24.94°. f falls fastest at 205°,
# exactly opposite. At 115°, at a right angle to the gradient, f hardly changes. This is true for
# every smooth function (without jumps and corners): the gradient points to the steepest way up.

# %% [markdown] lang="zh"
# ## 2. 同时看所有方向
# 现在两个数都动一点，分别动 Δu 和 Δv。两处变化相加：f 大约变化 43·Δu + 20·Δv。
# 哪个方向让 f 降得最多？我们从 (3, 4) 出发试 360 个方向：每隔一度取一个方向，每次走 0.01。
# `math.radians` 把度数换成 `math.cos` 和 `math.sin` 要用的单位。
# `changes.index` 给出一个数在列表中的位置。
#
# 上升最快的方向是 25°。梯度正指向那里：箭头 (43, 20) 向右 43，向上 20，
# 所以它的角度的正切是 20/43，用 `math.atan` 求出角度：24.94°。
# 下降最快的方向 205° 恰好相反。在 115°，也就是与梯度垂直的方向，f 几乎不变。
# 凡是光滑的函数（没有断开，也没有尖角）都是这样：梯度指向上升最快的方向。


# %%
def arrow(degree):
    angle = math.radians(degree)
    return 0.01 * math.cos(angle), 0.01 * math.sin(angle)


changes = []
for degree in range(360):
    du, dv = arrow(degree)
    changes.append(f(3 + du, 4 + dv) - f(3, 4))
down, up = changes.index(min(changes)), changes.index(max(changes))
show("steepest down, up: degrees", [down, up], [205, 25])
show("angle of the gradient", math.degrees(math.atan(20 / 43)), 24.9439)
show("change at 205°, 25°, 115°", [changes[i] for i in (205, 25, 115)], [-0.4733, 0.4751, -0.0004])
du, dv = arrow(25)
show("43·Δu + 20·Δv at 25°", 43 * du + 20 * dv, 0.4742)

# %% [markdown] lang="en"
# ## 3. A step downhill
# So the rule is: move every number a small step against its partial derivative. The arrow ← means
# that the number gets a new value:
# ```
# u ← u − 0.01 · 43 = 2.57
# v ← v − 0.01 · 20 = 3.80
# ```
# Now f is 70.4786, less than 91. A step with the gradient, with + in place of −, leads to 115.6176.
# This rule, applied many times, is **gradient descent**. The factor 0.01 is the **learning rate**,
# `lr`. The library's optimizer for this rule is `SGD`. The name means stochastic gradient descent,
# because in training the batches are random. `SGD` accepts the numbers in a list. `.step()` reads
# each number's `.grad` and moves the number. torch's own `SGD` does the same.

# %% [markdown] lang="zh"
# ## 3. 向下走一步
# 于是有了规则：每个数都逆着自己的偏导数走一小步。箭头 ← 表示这个数换成新的值：
# ```
# u ← u − 0.01 · 43 = 2.57
# v ← v − 0.01 · 20 = 3.80
# ```
# 现在 f 是 70.4786，比 91 小。如果顺着梯度走，即把 − 换成 +，f 就成了 115.6176。
# 反复运用这条规则，就是**梯度下降**。因子 0.01 是**学习率**，写作 `lr`。
# 本库中按这条规则工作的优化器是 `SGD`，意思是随机梯度下降，因为训练时的批量是随机取的。
# 把数放进列表交给 `SGD`，`.step()` 就读取每个数的 `.grad`，移动这个数。
# torch 自己的 `SGD` 做的事相同。

# %%
show("f after − and after +", [f(2.57, 3.80), f(3.43, 4.20)], [70.4786, 115.6176])
for name, optimizer in [("SGD", SGD), ("torch's SGD", torch.optim.SGD)]:
    u, v = numbers(3.0, 4.0)
    f(u, v).backward()
    optimizer([u, v], lr=0.01).step()
    show(f"{name}: u, v, f", [u, v, f(u, v)], [2.57, 3.80, 70.4786])

# %% [markdown] lang="en"
# ## 4. How large a step?
# Take a bowl: g = (u − 2)² + 4(v + 1)². Its lowest point is (2, −1). Multiply out: 4(v + 1)² =
# 4v² + 8v + 4, with the slope 8v + 8. So ∂g/∂v = 8(v + 1), and in the same way ∂g/∂u = 2(u − 2). A
# step changes the differences from the lowest point, u − 2 and v + 1:
# ```
# u − lr · 2(u − 2) − 2 = (1 − 2·lr)(u − 2)
# v − lr · 8(v + 1) + 1 = (1 − 8·lr)(v + 1)
# ```
# So each step multiplies the differences by 1 − 2·lr and 1 − 8·lr. With `lr=0.1` these factors are
# 0.8 and 0.2: both differences shrink. With 0.01 they are 0.98 and 0.92: this works, but slowly.
# With 0.22 the factor of v is −0.76: v jumps over the lowest point, but comes closer each time.
# With 0.3 it is −1.4: each jump is larger than the one before. The code takes 10 steps from (0, 0),
# where the differences are −2 and 1. By hand, each difference is multiplied 10 times by its factor.
# `.zero_grad()` removes the old gradient before each `.backward()`. Lesson 8 shows why. The picture
# shows the bowl from above: on a gray ring, g is the same everywhere, and the star is the lowest
# point. The path of 0.3 is not there, because it leaves the picture.
#
# The slow number u needs a larger rate than v. `SGD` accepts groups: `"params"` are the numbers of
# a group, and `"lr"` is its own rate. With 1/2 for u and 1/8 for v both factors are 0: one step is
# enough. Real losses are not such simple bowls, but lesson 23 has optimizers that adapt the step of
# each number.

# %% [markdown] lang="zh"
# ## 4. 一步走多大？
# 取一个碗：g = (u − 2)² + 4(v + 1)²，最低点是 (2, −1)。展开得 4(v + 1)² = 4v² + 8v + 4，
# 斜率 8v + 8，所以 ∂g/∂v = 8(v + 1)；同样 ∂g/∂u = 2(u − 2)。与最低点的差 u − 2 和 v + 1 每步变成：
# ```
# u − lr · 2(u − 2) − 2 = (1 − 2·lr)(u − 2)
# v − lr · 8(v + 1) + 1 = (1 − 8·lr)(v + 1)
# ```
# 所以每走一步，两个差就分别乘以 1 − 2·lr 和 1 − 8·lr。取 `lr=0.1`，两个因子是 0.8 和 0.2：
# 两个差都缩小。取 0.01，是 0.98 和 0.92：也行，但很慢。取 0.22，v 的因子是 −0.76：
# v 每次都越过最低点，但越来越近。取 0.3，这个因子是 −1.4：一次比一次跳得远。
# 代码从 (0, 0) 走 10 步，起点处的差是 −2 和 1；手算时，把每个差连乘 10 次自己的因子。
# `.zero_grad()` 在每次 `.backward()` 之前清除旧的梯度，为什么要清除，第 8 课再讲。
# 插图是从上往下看这个碗：同一个灰圈上 g 处处相等，星号是最低点。0.3 的路线没有画，
# 因为它跑出了图外。
#
# u 走得慢，需要比 v 更大的学习率。`SGD` 可以分组：`"params"` 是一组里的数，`"lr"` 是这组的学习率。
# u 用 1/2，v 用 1/8，两个因子都是 0：一步就够了。真实的损失不是这样简单的碗，
# 不过第 23 课的优化器会为每个数调整步长。


# %%
def bowl(u, v):
    return (u - 2) ** 2 + 4 * (v + 1) ** 2


def descend(lr, steps):
    u, v = numbers(0.0, 0.0)
    optimizer, path = SGD([u, v], lr=lr), [[0.0, 0.0]]
    for _ in range(steps):
        optimizer.zero_grad()
        bowl(u, v).backward()
        optimizer.step()
        path.append([u.item(), v.item()])
    return path


show("lr 0.1, one step", descend(0.1, 1)[-1], [0.4, -0.8])
ends = [[0.3659, -0.5656], [1.7853, -1], [1.9939, -0.9357], [1.9998, 27.9255]]
for lr, end in zip((0.01, 0.1, 0.22, 0.3), ends, strict=True):
    show(f"lr {lr}, 10 steps", descend(lr, 10)[-1], end)
    show("by hand", [2 - 2 * (1 - 2 * lr) ** 10, -1 + (1 - 8 * lr) ** 10], end)

u, v = numbers(0.0, 0.0)
bowl(u, v).backward()
SGD([{"params": [u], "lr": 1 / 2}, {"params": [v], "lr": 1 / 8}]).step()
show("a rate for each number", [u, v], [2, -1])

# %% tags=["figure"]
with figure("07-descent", 4.2, 3.4) as axes:
    us, vs = torch.linspace(-0.4, 3.2, 80), torch.linspace(-2.4, 0.8, 80)
    heights = bowl(us, vs[:, None])
    axes.contour(us, vs, heights, [0.25, 1, 2, 4, 6, 8, 12], colors="0.75", linewidths=0.8)
    for lr, mark, ink in [(0.01, "s", "C1"), (0.1, "o", "C0"), (0.22, "^", "C3")]:
        path = torch.tensor(descend(lr, 10))
        axes.plot(*path.T, marker=mark, color=ink, markersize=4, linewidth=1.2, label=f"lr = {lr}")
    axes.plot(2, -1, "k*", markersize=10)
    axes.set(xlabel="u", ylabel="v", aspect="equal")
    axes.legend(loc="upper right", fontsize=8)

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Let q = a·u² + b·u·v + c·v·u + d·v². Write `gradient(a, b, c, d, u, v)`. It must return the two
# numbers ∂q/∂u and ∂q/∂v, in this order, without torch.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 令 q = a·u² + b·u·v + c·v·u + d·v²。写出 `gradient(a, b, c, d, u, v)`：按顺序返回两个数
# ∂q/∂u 和 ∂q/∂v。不用 torch。


# %% tags=["exercise"]
def gradient(a, b, c, d, u, v):
    raise NotImplementedError


# %% tags=["answer"]
def gradient(a, b, c, d, u, v):
    return 2 * a * u + (b + c) * v, (b + c) * u + 2 * d * v


# %% tags=["check"]
def check(gradient, same):
    for a, b, c, d, u, v in [(1, 0, 0, 1, 3, 4), (2, 1, 5, -3, 1, 2), (0.5, -1, 2, 4, -2, 0.25)]:
        x, y = numbers(float(u), float(v))
        (a * x * x + b * x * y + c * y * x + d * y * y).backward()
        same(gradient(a, b, c, d, u, v), [x.grad, y.grad])


def squares_without_2(a, b, c, d, u, v):
    """The derivative of u² is 2u, not u. | u² 的导数是 2u，不是 u。"""
    return a * u + (b + c) * v, (b + c) * u + d * v


def one_product_only(a, b, c, d, u, v):
    """The product of u and v is there twice: use b + c. | u 和 v 的乘积出现两次：应当用 b + c。"""
    return 2 * a * u + b * v, c * u + 2 * d * v


def b_alone(a, b, c, d, u, v):
    """The product of u and v is there twice: use b + c. | u 和 v 的乘积出现两次：应当用 b + c。"""
    return 2 * a * u + b * v, b * u + 2 * d * v


def not_crossed(a, b, c, d, u, v):
    """The slope of u·v for u is v, and for v it is u. | u·v 对 u 的斜率是 v，对 v 的斜率是 u。"""
    return (2 * a + b + c) * u, (b + c + 2 * d) * v


def swapped(a, b, c, d, u, v):
    """The two partial derivatives are in the wrong order. | 两个偏导数的顺序反了。"""
    return gradient(a, b, c, d, u, v)[::-1]


def downhill(a, b, c, d, u, v):
    """This is the way down, −∇q; the gradient has no minus. | 这是下降方向 −∇q；梯度没有负号。"""
    return [-slope for slope in gradient(a, b, c, d, u, v)]


EXERCISE = "gradient"
WRONG = [squares_without_2, one_product_only, b_alone, not_crossed, swapped, downhill]
FAULTS = [
    ("scratchlm.optim.sgd", "param.add_(grad, alpha=-lr)", "param.add_(grad, alpha=lr)"),
    ("scratchlm.optim.sgd", "param.add_(grad, alpha=-lr)", "param.add_(grad, alpha=-1)"),
    ("scratchlm.optim.optimizer", "for group, params in work:", "for group, params in work[:1]:"),
    ("scratchlm.optim.sgd", 'float(group["lr"]), group', 'self.defaults["lr"], group'),
]
