# %% [markdown] lang="en"
# # 16 · Positions
# Question: how does a model know the order of the words?
#
# You know attention from lessons 14 and 15. One layer of attention forgets the order. Here two ways
# bring the order back: a vector for each position, and a turn.

# %% [markdown] lang="zh"
# # 16 · 位置
# 问题：模型怎样知道词的顺序？
#
# 第 14 课和第 15 课讲过注意力。单独一层注意力会丢掉顺序。
# 这里用两种办法把顺序找回来：给每个位置一个向量，或者按位置转一个角度。

# %%
import math

import torch

from scratchlm.functional import rotate, scaled_dot_product_attention
from scratchlm.lessons.show import figure, show
from scratchlm.model.layers import LearnedPositions
from scratchlm.model.rope import RotaryEmbedding


def attend(q, k, v):
    return scaled_dot_product_attention(q, k, v, causal=True)


# %% [markdown] lang="en"
# ## 1. Attention forgets the order
# `dog bites man .` and `man bites dog .` do not mean the same. Row i of `a` is the vector of word
# i in the first sentence. `a[[2, 1, 0, 3]]` takes the rows in this order, so `b` is the second
# sentence. To keep the example short, each vector is its own query, key and value. The last row of
# the output belongs to `.`, and it is a weighted sum over all 4 tokens. The order of a sum does
# not matter: 2 + 3 = 3 + 2. So `.` gets the same numbers in both sentences.

# %% [markdown] lang="zh"
# ## 1. 注意力丢掉顺序
# `dog bites man .`（狗咬人）和 `man bites dog .`（人咬狗）意思不同。
# `a` 的第 i 行是第一句中第 i 个词的向量。`a[[2, 1, 0, 3]]` 按这个次序取出各行，所以 `b` 是第二句。
# 为了让例子简短，每个向量同时用作查询、键和值。
# 输出的最后一行属于 `.`，它是全部 4 个 token 的加权和。求和与次序无关：2 + 3 = 3 + 2。
# 所以 `.` 在两句话里得到同样的数。

# %%
a = torch.tensor([[2.0, 0], [0, 1], [1, 1], [1, -1]])  # dog bites man .
b = a[[2, 1, 0, 3]]  # man bites dog .
show("dog bites man .", attend(a, a, a)[3], [1.3725, -0.2696])
show("man bites dog .", attend(b, b, b)[3], [1.3725, -0.2696])

# %% [markdown] lang="en"
# ## 2. A vector for each position
# The first way is a table. Row `p` is the **position vector** of position `p`. The model adds it to
# the token's vector before the first layer. The rows are parameters: training finds their numbers.
# GPT-2 has 1024 rows of 768 numbers. Here `weight.data = …` sets 4 rows of 2 numbers by hand. Now
# `.` gets different numbers in the two sentences. But the table ends: position 4 has no row.

# %% [markdown] lang="zh"
# ## 2. 给每个位置一个向量
# 第一种办法是一张表。第 `p` 行是位置 `p` 的**位置向量**，模型在第一层之前把它加到 token 的向量上。
# 表中各行都是参数，数值由训练得到。GPT-2 的表有 1024 行，每行 768 个数。
# 这里用 `weight.data = …` 手工填入 4 行，每行 2 个数。
# 现在 `.` 在两句话里得到不同的数。但是表有尽头：位置 4 没有对应的行。

# %%
learned = LearnedPositions(4, 2)
learned.weight.data = torch.tensor([[0, 0], [0.5, 0], [0, 0.5], [0.5, 0.5]])
positions = torch.arange(4)  # 0 1 2 3
a_at, b_at = learned(a, positions), learned(b, positions)
show("positions added", a_at, [[2, 0], [0.5, 1], [1, 1.5], [1.5, -0.5]])
show("dog bites man .", attend(a_at, a_at, a_at)[3], [1.6245, 0.0476])
show("man bites dog .", attend(b_at, b_at, b_at)[3], [1.5801, 0.2357])
try:
    learned(a, positions + 1)
except ValueError as error:
    show("no row", str(error), "positions must be in 0…3 (1 to 4); shorten the text")

# %% [markdown] lang="en"
# ## 3. A turn
# The second way changes the direction of a vector. Read a pair of numbers (x, y) as an arrow from
# the point (0, 0). The cosine and the sine of an angle turn the arrow to the left by this angle:
#
# ```
# (x, y)  →  (x cos angle − y sin angle,  y cos angle + x sin angle)
# ```
#
# The angle is in **radians**: a full turn is 2π ≈ 6.2832 radians, so 1 radian is about 57.3°.
# The rule is: at position `p`, turn by `p` radians. Position 0 changes nothing. At position 1, the
# arrow (1, 0) turns to (cos 1, sin 1). The arrow (3, 4) keeps its length, √(3² + 4²) = 5.

# %% [markdown] lang="zh"
# ## 3. 转一个角度
# 第二种办法改变向量的方向。把一对数 (x, y) 看作从点 (0, 0) 出发的箭头。
# 用一个角的余弦和正弦，可以让箭头向左（逆时针）转过这个角：
#
# ```
# (x, y)  →  (x cos angle − y sin angle,  y cos angle + x sin angle)
# ```
#
# 角的单位是**弧度**：一整圈是 2π ≈ 6.2832 弧度，所以 1 弧度约为 57.3°。
# 规则是：在位置 `p` 转 `p` 弧度。位置 0 什么都不变。在位置 1，箭头 (1, 0) 转到 (cos 1, sin 1)。
# 箭头 (3, 4) 的长度不变，仍是 √(3² + 4²) = 5。


# %%
def turned(x, y, angle):
    cos, sin = math.cos(angle), math.sin(angle)
    return [x * cos - y * sin, y * cos + x * sin]


circle = [turned(1, 0, p) for p in range(4)]
show("(1, 0) at 0 1 2 3", circle, [[1, 0], [0.5403, 0.8415], [-0.4161, 0.9093], [-0.99, 0.1411]])
show("(3, 4) at 1", turned(3, 4, 1), [-1.7450, 4.6856])
show("its length", math.hypot(*turned(3, 4, 1)), 5)
arrows = rotate(torch.tensor([[1.0, 0]] * 4), positions)
show("rotate", arrows, circle)

# %% [markdown] lang="en"
# ## 4. The score sees only the distance
# A **rotary embedding** (RoPE) turns the query and the key before their dot product. Take the arrow
# (1, 0) as query at position m and as key at position n. Their dot product is:
#
# ```
# cos m cos n + sin m sin n = cos(m − n)
# ```
#
# Only the **relative position** m − n is left. Rows below are queries and columns are keys: each
# diagonal has one number. This is true for all arrows. The query (3, 4) at position 3 and the key
# (1, 2) at position 1 have the same score as at positions 7 and 5. The value is not turned, because
# it carries the content.

# %% [markdown] lang="zh"
# ## 4. 分数只看距离
# **旋转位置编码**（RoPE）在算点积之前，先转查询和键。
# 让箭头 (1, 0) 在位置 m 当查询，在位置 n 当键，它们的点积是：
#
# ```
# cos m cos n + sin m sin n = cos(m − n)
# ```
#
# 剩下的只有**相对位置** m − n。下表的行是查询，列是键：每条对角线上都是同一个数。
# 任何箭头都是这样：查询 (3, 4) 在位置 3、键 (1, 2) 在位置 1 时的分数，
# 与它们在位置 7 和 5 时的分数相同。值不转，因为它承载的是内容。

# %%
c1, c2, c3 = 0.5403, -0.4161, -0.99  # cos 1, cos 2, cos 3
table = [[1, c1, c2, c3], [c1, 1, c1, c2], [c2, c1, 1, c1], [c3, c2, c1, 1]]
show("scores of (1, 0)", arrows @ arrows.T, table)
queries = rotate(torch.tensor([[3.0, 4]] * 2), torch.tensor([3, 7]))
keys = rotate(torch.tensor([[1.0, 2]] * 2), torch.tensor([1, 5]))
show("(3, 4) and (1, 2)", (queries * keys).sum(-1), [-2.7590, -2.7590])
a_at, b_at = rotate(a, positions), rotate(b, positions)
show("dog bites man .", attend(a_at, a_at, a)[3], [0.7804, 0.1684])
show("man bites dog .", attend(b_at, b_at, b)[3], [1.3014, -0.0227])

# %% [markdown] lang="en"
# ## 5. Many pairs, many speeds
# One pair is not enough: after 6.28 positions its arrow is back at the start. So a vector of d
# numbers is cut into d/2 pairs, and each pair has its own speed, like the hands of a clock. From
# one position to the next, pair i turns by `theta` to the power −2i/d (i = 0, 1, 2, …). With d = 4
# and `theta` = 16, the speeds are 1 and 1/4. The usual `theta` is 10,000: with d = 128, the slowest
# pair then needs 54,410 positions for a full turn.
#
# In code, `torch.arange(0, d, 2)` is 0 2 4 …, which is 2i. `chunk(2)` cuts a vector into two
# halves, and `torch.cat` joins them. Pair i is number i of both halves: 1 2 3 4 has the pairs
# (1, 3) and (2, 4). At position 2 they turn by 2 and by 1/2. `x[None]` is a matrix with `x` as its
# only row, because `rotate` expects one row for each position.

# %% [markdown] lang="zh"
# ## 5. 许多对，许多种速度
# 只有一对不够：走过 6.28 个位置，箭头就回到起点。所以把有 d 个数的向量分成 d/2 对，
# 每一对有自己的速度，就像钟表的指针。从一个位置到下一个位置，第 i 对转过的角是
# `theta` 的 −2i/d 次方 (i = 0, 1, 2, …)。当 d = 4、`theta` = 16 时，速度是 1 和 1/4。
# `theta` 通常取 10,000：若 d = 128，最慢的一对要 54,410 个位置才转一整圈。
#
# 代码里，`torch.arange(0, d, 2)` 是 0 2 4 …，也就是 2i。`chunk(2)` 把向量切成两半，
# `torch.cat` 把两半接起来。第 i 对由两半各自的第 i 个数组成：1 2 3 4 的两对是 (1, 3) 和 (2, 4)。
# 在位置 2，它们分别转 2 和 1/2。`x[None]` 是只有 `x` 这一行的矩阵，因为 `rotate` 要求每个位置一行。

# %%
speeds = 16.0 ** (-torch.arange(0, 4, 2) / 4)
show("speeds", speeds, [1, 0.25])
x = torch.tensor([1.0, 2, 3, 4])
left, right = x.chunk(2)
cos, sin = (2 * speeds).cos(), (2 * speeds).sin()
by_hand = torch.cat((left * cos - right * sin, right * cos + left * sin))
show("1 2 3 4 at 2", by_hand, [-3.1440, -0.1625, -0.3391, 4.4692])
at_2 = torch.tensor([2])
show("rotate", rotate(x[None], at_2, theta=16.0)[0], by_hand)
show("usual theta", rotate(x[None], at_2)[0], [-3.1440, 1.9196, -0.3391, 4.0392])
show("slowest turn of d = 128", 2 * math.pi * 10_000 ** (126 / 128), 54_410, within=0.5)

# %% tags=["figure"]
both = rotate(torch.tensor([[1.0, 1, 0, 0]] * 6), torch.arange(6), theta=16.0)
with figure("16-turns", 5.2, 2.8) as axes:
    for pair, title in enumerate(["speed 1", "speed 1/4"]):
        for position, arrow in enumerate(both[:, pair::2].tolist()):
            axes.arrow(2.8 * pair, 0, *arrow, color=f"C{pair}", head_width=0.08, overhang=0.2)
            label = 2.8 * pair + 1.25 * arrow[0], 1.25 * arrow[1]
            axes.text(*label, str(position), ha="center", va="center")
        axes.text(2.8 * pair, -1.65, title, ha="center")
    axes.set(aspect="equal", xlim=(-1.5, 4.3), ylim=(-1.8, 1.4))
    axes.axis("off")

# %% [markdown] lang="en"
# ## 6. Two layouts, and the model's own layer
# The paper pairs neighbours instead, (1, 2) and (3, 4): `interleaved=True`. Both layouts work, but
# training and use must have the same one. A wrong layout raises no error. Torch can check the
# numbers in another way. A complex number is a pair of numbers in one. Its product with a complex
# number of length 1 is a turn. `torch.polar(length, angle)` makes such a number.
#
# The model uses the layer `RotaryEmbedding`. This layer keeps the cosines and sines in a table, and
# its `turn` turns query and key at once. For input in `float16`, numbers of only 16 bits, the layer
# computes in `float32` and rounds at the end.

# %% [markdown] lang="zh"
# ## 6. 两种排法，与模型自己的层
# 论文改为把相邻的数配成对，(1, 2) 和 (3, 4)，即 `interleaved=True`。两种排法都行，
# 但训练和使用必须一致。排法弄错不会报错。torch 还能用另一种方式验证这些数：
# 一个复数由两个数组成，它乘以长度为 1 的复数就是旋转。`torch.polar(length, angle)` 给出这样的复数。
#
# 模型用的是 `RotaryEmbedding` 层。这一层把余弦和正弦存进一张表，它的 `turn` 一次转好查询和键。
# 输入是 `float16`（只有 16 位的数）时，这一层用 `float32` 计算，最后才舍入。

# %%
neighbours = rotate(x[None], at_2, theta=16.0, interleaved=True)
show("interleaved", neighbours[0], turned(1, 2, 2) + turned(3, 4, 0.5))
turn = torch.polar(torch.ones(2), 2 * speeds)
product = torch.view_as_complex(x.reshape(1, 2, 2)) * turn
show("complex", torch.view_as_real(product).flatten(1), neighbours)
xs = torch.arange(24.0).reshape(2, 3, 4) / 10
for interleaved in (False, True):
    layer = RotaryEmbedding(4, 4, theta=16.0, interleaved=interleaved)
    q, k = layer.turn(xs, -xs[:1], positions[1:])
    show("layer", q[0], rotate(xs, positions[1:], 16.0, interleaved)[0])
    assert torch.equal(k[0], -q[0])
    for turn_all in (layer, rotate):
        half = turn_all(xs.half(), positions[1:])
        assert torch.equal(half, turn_all(xs.half().float(), positions[1:]).half())

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Write `turn(x, positions, theta)`. It takes vectors `x` (seq, d) and their positions (seq,), and
# returns the turned vectors (seq, d), where pair i is number i of both halves. Use only `torch`.
# `positions[:, None]` makes a column, so `column * speeds` has all angles.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 写出 `turn(x, positions, theta)`。输入是向量 `x` (seq, d) 和它们的位置 (seq,)，
# 返回转好的向量 (seq, d)，第 i 对由两半各自的第 i 个数组成。只用 `torch`。
# `positions[:, None]` 变成一列，所以 `column * speeds` 就是所有的角。


# %% tags=["exercise"]
def turn(x, positions, theta):
    raise NotImplementedError


# %% tags=["answer"]
def turn(x, positions, theta):
    speeds = theta ** (-torch.arange(0, x.shape[-1], 2) / x.shape[-1])
    angles = positions[:, None] * speeds
    cos, sin = angles.cos(), angles.sin()
    left, right = x.chunk(2, -1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), -1)


# %% tags=["check"]
def check(turn, same):
    for length, width, theta in [(2, 2, 10_000.0), (3, 4, 16.0), (4, 6, 100.0)]:
        x = torch.randn(length, width, generator=torch.Generator().manual_seed(length))
        positions = 3 * torch.arange(length) + 2
        same(turn(x, positions, theta), rotate(x, positions, theta))


def backwards(x, positions, theta):
    """The turn goes the other way: a sine has the wrong sign. | 转反了：有一个正弦的符号不对。"""
    return turn(x, -positions, theta)


def pairs_neighbours(x, positions, theta):
    """The pairs are neighbours, not numbers of both halves. | 相邻的数配成了对，应由两半配对。"""
    return rotate(x, positions, theta, interleaved=True)


def one_speed(x, positions, theta):
    """All pairs have the same speed. | 所有的对速度都一样。"""
    return turn(x, positions, 1.0)


def forgets_the_2(x, positions, theta):
    """The power is −i/d, not −2i/d. | 指数写成了 −i/d，应为 −2i/d。"""
    return turn(x, positions, theta**0.5)


def counts_rows(x, positions, theta):
    """The angles use the row's number, not `positions`. | 角度用了行号，没有用 `positions`。"""
    return turn(x, torch.arange(len(x)), theta)


EXERCISE = "turn"
WRONG = [backwards, pairs_neighbours, one_speed, forgets_the_2, counts_rows]
FAULTS = [  # planted in the library, each must make this lesson fail
    ("scratchlm.functional", "b * cos + a * sin))", "b * cos - a * sin))"),
    ("scratchlm.functional", '"(pair two)" if interleaved', '"(pair two)" if not interleaved'),
    ("scratchlm.model.rope", "angles.cos(), angles.cos()", "angles.cos(), angles.sin()"),
    ("scratchlm.model.layers", "x + F.embedding(positions,", "F.embedding(positions,"),
]
