# %% [markdown] lang="en"
# # 12 · Matrices with named axes
# Question: a model multiplies whole tables of numbers. Which number is multiplied by which?
#
# You know from lesson 2 that a vector is a list of numbers, and that a model is built of layers.
# Here you multiply tables of numbers, first by hand. At the end they become a part of such a layer.

# %% [markdown] lang="zh"
# # 12 · 给矩阵的轴起名字
# 问题：模型把整张的数表相乘。到底是哪个数乘哪个数？
#
# 第 2 课讲过，向量是一列数，模型由一层一层组成。这一课做数表的乘法，先用手算，
# 最后用它搭出这种层里的一个部件。

# %%
import einx
import torch
import torch.nn.functional as F

from scratchlm.functional import linear
from scratchlm.lessons.show import figure, show
from scratchlm.model.layers import Linear

# %% [markdown] lang="en"
# ## 1. Tensors, axes and the matrix product
# Anna buys 2 apples, 1 bread and 3 milk. Ben buys 0, 4 and 2. In `amounts`, each person has a row
# and each item has a column. Such a table is called a matrix. A **tensor** is a vector, a matrix, a
# pile of matrices and so on. An **axis** is a direction of counting: a vector has one, a matrix has
# two (down and across), a pile one more. torch counts axes from 0; −1 is the last one. The `shape`
# says how many entries each axis has. `prices` has the axes item and shop: 3 items in 2 shops.
#
# What does Anna pay in shop 0? Multiply each amount by its price, then add: 2·1 + 1·3 + 3·2 = 11.
# This is a **dot product**: two vectors with equally many numbers go in, one number comes out.
# `amounts[0]` is row 0, and `prices[:, 0]` is column 0, because `:` means "all". `*` multiplies two
# vectors place by place. The **matrix product** is the table of all such dot products: each row of
# the first matrix with each column of the second. Here it contains what each person pays in each
# shop. The figure shows row 0 and column 0 in a darker blue, and the number that they give. We fill
# a table of zeros with three loops. torch needs only `@`.

# %% [markdown] lang="zh"
# ## 1. 张量、轴与矩阵乘法
# Anna 买 2 个苹果、1 个面包、3 瓶牛奶，Ben 买 0、4、2。`amounts` 里每人一行，每种商品一列。
# 这样的数表叫矩阵。向量、矩阵、一摞矩阵等等都叫**张量**。每个排列方向叫一条**轴**：向量有一条，
# 矩阵有两条（向下和向右），一摞矩阵再多一条。轴从 0 数起，−1 是最后一条。`shape`（形状）
# 说明每条轴上有几项。`prices` 的轴是 item（商品）和 shop（商店）：3 种商品，2 家商店。
#
# Anna 在商店 0 要付多少钱？每个数量乘以它的价格，再相加：2·1 + 1·3 + 3·2 = 11。
# 这叫**点积**：输入两个向量，它们的数一样多，输出一个数。`amounts[0]` 是第 0 行，
# `prices[:, 0]` 是第 0 列，因为 `:` 表示“全部”。`*` 把两个向量逐个数对应相乘。
# 让第一个矩阵的每一行与第二个矩阵的每一列做点积，排成一张表，就是**矩阵乘法**。
# 这里得到的是每个人在每家商店要付的钱。图中颜色较深的是第 0 行和第 0 列，以及它们得出的那个数。
# 我们用三层循环填满一张全零的表，torch 只要写 `@`。

# %%
amounts = torch.tensor([[2.0, 1, 3], [0, 4, 2]])  # person, item
prices = torch.tensor([[1.0, 2], [3, 2], [2, 1]])  # item, shop
show("shapes", [amounts.shape, prices.shape], [[2, 3], [3, 2]])
show("Anna, shop 0", sum(amounts[0] * prices[:, 0]), 11)
costs = torch.zeros(2, 2)
for person in range(2):
    for shop in range(2):
        for item in range(3):
            costs[person, shop] += amounts[person, item] * prices[item, shop]
show("costs", costs, [[11, 9], [16, 10]])
show("amounts @ prices", amounts @ prices, [[11, 9], [16, 10]])

# %% tags=["figure"]
with figure("12-product", 4, 3.6) as axes:
    grid = torch.full((6, 6), torch.nan)
    grid[4:, :3], grid[:3, 4:], grid[4:, 4:] = amounts, prices, costs
    shade = grid * 0 + 0.12
    shade[4, :3] = shade[:3, 4] = shade[4, 4] = 0.4
    axes.pcolormesh(shade, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=2)
    labels = [("person", -0.7, 5), ("item", 1.5, 6.3), ("item", 3.6, 1.5), ("shop", 5, 6.3)]
    labels += [("amounts", 1.5, 3.7), ("prices", 5, -0.3), ("costs", 5, 3.7)]
    labels += [(f"{grid[y, x]:.0f}", x + 0.5, y + 0.5) for y, x in (~grid.isnan()).nonzero()]
    for text, x, y in labels:
        weight = "bold" if text in ("amounts", "prices", "costs") else "normal"
        axes.text(x, y, text, ha="center", va="center", weight=weight)
    axes.set(xlim=(-1.3, 6), ylim=(6.6, -0.6))
    axes.axis("off")

# %% [markdown] lang="en"
# ## 2. Names instead of order
# `@` knows only the order of axes. `prices @ amounts` runs too: it pairs shops with persons,
# because both axes have 2 entries. The result means nothing, and nothing warns you.
#
# The package einx gives every axis a name. In `"person [item], [item] shop -> person shop"`, the
# brackets say: multiply along item, and add up. Then this axis is gone. The others stay, in the
# order after the arrow. `prices.T` is the same table with its axes exchanged, shop before item.
# With names, any order of axes gives the right result.
#
# Two axes with different names, person and shop, give all pairs. What if Anna goes only to shop 0,
# and Ben only to shop 1? Then row 0 of `prices.T` belongs to Anna and row 1 to Ben. So both tensors
# have an axis person, and the same name puts equal rows together: Anna pays 11, Ben 10.

# %% [markdown] lang="zh"
# ## 2. 用名字代替次序
# `@` 只认轴的次序。`prices @ amounts` 也能运行：它把 shop（商店）和 person（人）配成对，
# 因为这两条轴上都有 2 项。结果毫无意义，却没有任何警告。
#
# einx 这个包给每条轴起名字。在 `"person [item], [item] shop -> person shop"` 里，
# 方括号表示：沿 item 相乘，再求和。这条轴随后就没有了。其余的轴留下，按箭头后面的次序排列。
# `prices.T` 是同一张表，只是两条轴对调，shop 在前。有了名字，轴按什么次序排，结果都对。
#
# 两条轴名字不同，例如 person 和 shop，就得到所有的搭配。如果 Anna 只去商店 0，
# Ben 只去商店 1 呢？那么 `prices.T` 的第 0 行只对 Anna 有用，第 1 行只对 Ben 有用。
# 我们把它的行改称 person，于是两个张量都有 person 这条轴。名字相同，就让同一行与同一行对应：
# Anna 付 11，Ben 付 10。

# %%
show("prices @ amounts", (prices @ amounts).shape, [3, 3])
named = einx.dot("person [item], [item] shop -> person shop", amounts, prices)
show("einx.dot", named, [[11, 9], [16, 10]])
by_shop = einx.dot("person [item], shop [item] -> shop person", amounts, prices.T)
show("shop before person", by_shop, [[11, 16], [9, 10]])
each_own = einx.dot("person [item], person [item] -> person", amounts, prices.T)
show("Anna shop 0, Ben shop 1", each_own, [11, 10])

# %% [markdown] lang="en"
# ## 3. Any number of axes
# On the next day, Anna buys 1 apple and Ben buys 1 milk. `torch.stack` puts both days into one
# tensor with a new first axis. In einx, `...` means "all axes without a name here", and they stay.
# So the same line works for one person, a day or a year. In a model, `...` is usually the batch
# and the place in the text.
#
# Now each shop adds its fee, 1 or 5. torch compares shapes from the right: `costs` has (2, 2),
# `fee` has (2). The last axes match, and torch uses `fee` for each row: it repeats numbers along an
# axis that is missing or has 1 entry. This is **broadcasting**. It is a trap too: if 1 and 5 are
# fees of Anna and Ben, `costs + fee` still adds them by shop. `None` in `fee[:, None]` adds an axis
# with 1 entry: the shape is (2, 1), so torch adds by person. In einx, the names say which is meant.

# %% [markdown] lang="zh"
# ## 3. 任意多条轴
# 第二天，Anna 买 1 个苹果，Ben 买 1 瓶牛奶。`torch.stack` 把两天放进同一个张量，最前面多一条新轴。
# 在 einx 里，`...` 表示“这里没有名字的所有轴”，它们都留下。于是同一行代码可以算一个人、
# 一天或者一年。在模型里，`...` 通常是批量和文本中的位置。
#
# 现在每家商店另收费用，1 或 5。torch 从右边开始比较形状：`costs` 是 (2, 2)，`fee` 是 (2)，
# 最后一条轴一样长，每一行就都用 `fee`。如果一个张量缺一条轴，或者这条轴上只有 1 项，
# torch 就沿这条轴重复它的数。这叫**广播**。它也是一个陷阱：如果 1 和 5 是 Anna 和 Ben 的费用，
# `costs + fee` 仍然按商店相加。`fee[:, None]` 里，`None` 添一条只有 1 项的轴：形状是 (2, 1)，
# 所以按人相加。在 einx 里，名字说明了是哪一种。

# %%
days = torch.stack([amounts, torch.tensor([[1.0, 0, 0], [0, 0, 1]])])
show("days.shape", days.shape, [2, 2, 3])
each_day = einx.dot("... [item], [item] shop -> ... shop", days, prices)
show("costs, day 0", each_day[0], [[11, 9], [16, 10]])
show("costs, day 1", each_day[1], [[1, 2], [2, 1]])
fee = torch.tensor([1.0, 5])
show("costs + fee", costs + fee, [[12, 14], [17, 15]])
show("costs + fee[:, None]", costs + fee[:, None], [[12, 10], [21, 15]])
by_name = einx.add("person shop, person -> person shop", costs, fee)
show("einx.add", by_name, [[12, 10], [21, 15]])

# %% [markdown] lang="en"
# ## 4. The linear layer
# A **linear layer**, a small part of a layer of lesson 2, turns a vector `x` into a vector `y`:
# y = W x + b. The table `W` is called the weight: it says how much each number of `x` counts. It
# has one row for each number of `y`, so its shape is (out, in). Each number of `y` is the dot
# product of its row with `x`, plus a number of its own, the **bias**: 1·1 + 2·2 + 10 = 15,
# 3·1 + 4·2 + 20 = 31. With `@`, the right way is `x @ W.T`. Without `.T` we get 17 and 30, and no
# warning, because `W` has as many rows as columns. The library's `linear` cannot go wrong here: it
# is `einx.dot("... [in], out [in] -> ... out", x, W)` plus the bias. Our shopping was a linear
# layer too: `W` is `prices.T`, and `b` is the fee of each shop.
#
# `Linear(3, 2)` gets 3 numbers and returns 2. It keeps `W`, of the shape (2, 3), as a parameter,
# and with `bias=True` also `b`: 3·2 + 2 = 8 numbers that training changes (`.numel()` counts them).
# `copy_` overwrites them with ours, and `no_grad` tells torch that no gradient is needed here.

# %% [markdown] lang="zh"
# ## 4. 线性层
# **线性层**是第 2 课那种层里的小部件，把向量 `x` 变成向量 `y`：y = W x + b。数表 `W` 叫作权重，
# 表示 `x` 的每个数占多大比重。它为 `y` 的每个数准备一行，所以形状是 (out, in)。
# `y` 的每个数等于它那一行与 `x` 的点积，再加上它自己的一个数，即**偏置**：1·1 + 2·2 + 10 = 15，
# 3·1 + 4·2 + 20 = 31。用 `@` 时，正确的写法是 `x @ W.T`。不写 `.T` 就得到 17 和 30，而且没有警告，
# 因为 `W` 的行数和列数相同。本库的 `linear` 在这里不会出错：它就是
# `einx.dot("... [in], out [in] -> ... out", x, W)` 再加上偏置。前面的购物也是一个线性层：
# `W` 是 `prices.T`，`b` 是每家商店的费用。
#
# `Linear(3, 2)` 接收 3 个数，返回 2 个。它把形状为 (2, 3) 的 `W` 作为参数保存，
# 有 `bias=True` 时也保存 `b`：3·2 + 2 = 8 个数，由训练来改变（`.numel()` 数出有多少个）。
# `copy_` 用我们的数覆盖它们，`no_grad` 告诉 torch 这里不需要梯度。

# %%
x, W, b = torch.tensor([1.0, 2]), torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([10.0, 20])
show("by hand", [x @ W[0] + b[0], x @ W[1] + b[1]], [15, 31])
show("x @ W + b", x @ W + b, [17, 30])
show("linear", linear(x, W, b), [15, 31])
show("linear without b", linear(x, W), [5, 11])
shopping = linear(days, prices.T, fee)
show("shopping, day 0", shopping[0], costs + fee)
show("shopping, day 1", shopping[1], [[2, 7], [3, 6]])
assert torch.equal(F.linear(days, prices.T, fee), shopping)
layer = Linear(3, 2, bias=True)
show("parameters", sum([parameter.numel() for parameter in layer.parameters()]), 8)
show("new bias", layer.bias, [0, 0])
assert Linear(3, 2).bias is None
with torch.no_grad():
    layer.weight.copy_(prices.T)
    layer.bias.copy_(fee)
show("Linear, day 1", layer(days)[1], shopping[1])

# %% [markdown] lang="en"
# ## 5. How large are the first numbers?
# A new bias is 0, and a new `W` is random. "Size" here means: square all numbers, take the mean,
# then the root. For two random products, (p + q)² = p² + 2pq + q². Here 2pq is 0 on average,
# because it is as often negative as positive. Only the squares add up, so the square of a sum of n
# products is n times as large as the square of one. After the root, the sum has √n times the size
# of one. In a layer, n is `in`. So `Linear` makes numbers of the size 1/√in: then
# the output is about as large as the input. `torch.randn(100, 256)` makes 100 random vectors of 256
# numbers, with the mean 0 and a size near 1. √in · size of `W` is 0.99, not 1, because `Linear`
# uses no numbers above 3/√in or below −3/√in.

# %% [markdown] lang="zh"
# ## 5. 最初的数应当多大？
# 新的偏置是 0，新的 `W` 是随机数。这里的“大小”指平方的平均值再开方。两个随机乘积相加：
# (p + q)² = p² + 2pq + q²。其中 2pq 有正有负，机会均等，平均是 0，只有平方会累加，
# 所以 n 个乘积之和的平方，是一个乘积的平方的 n 倍。开方以后，和的大小是一个乘积的 √n 倍。
# 在线性层里，n 就是 `in`。因此 `Linear` 造出的数，大小为 1/√in，这样输出就和输入差不多大。
# `torch.randn(100, 256)` 造出 100 个随机向量，每个有 256 个数，平均值是 0，大小接近 1。
# √in 与 `W` 的大小的乘积是 0.99，不是 1，因为 `Linear` 不用大于 3/√in 或小于 −3/√in 的随机数。

# %%
torch.manual_seed(0)
wide, inputs = Linear(256, 512), torch.randn(100, 256)
sizes = [x.square().mean().sqrt() for x in (wide.weight, inputs, wide(inputs))]
show("√in · size of W", 256**0.5 * sizes[0], 0.987, within=0.005)
show("sizes of input, output", sizes[1:], [1, 0.987], within=0.02)

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Write `sums(x, y, w)` with einx or torch. `x` and `y` have the shape (row, d). `w` has the shape
# (layer, out, d): it contains the weights of several linear layers. Return three tensors:
# 1. shape (row): the dot product of each row of `x` with the same row of `y`;
# 2. shape (row of x, row of y): the dot product of each row of `x` with each row of `y` (in einx,
#    these two axes need two names);
# 3. shape (layer, row, out): `x` through each linear layer, without bias.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 用 einx 或 torch 写出 `sums(x, y, w)`。`x` 和 `y` 的形状是 (row, d)。
# `w` 的形状是 (layer, out, d)：里面是好几个线性层的权重。返回三个张量：
# 1. 形状 (row)：`x` 的每一行与 `y` 的同一行的点积；
# 2. 形状 (x 的行, y 的行)：`x` 的每一行与 `y` 的每一行的点积（在 einx 里，这两条轴要用两个名字）；
# 3. 形状 (layer, row, out)：让 `x` 经过每一个线性层，不加偏置。


# %% tags=["exercise"]
def sums(x, y, w):
    raise NotImplementedError


# %% tags=["answer"]
def sums(x, y, w):
    same_row = einx.dot("row [d], row [d] -> row", x, y)
    all_pairs = einx.dot("row [d], other [d] -> row other", x, y)
    return same_row, all_pairs, einx.dot("row [d], layer out [d] -> layer row out", x, w)


# %% tags=["check"]
def check(answer, same):
    for rows, d, layers, out in [(1, 3, 2, 4), (3, 3, 3, 3), (4, 5, 2, 3)]:
        generator = torch.Generator().manual_seed(rows)
        x, y = torch.randn(2, rows, d, generator=generator)
        w = torch.randn(layers, out, d, generator=generator)
        third = torch.stack([linear(x, each) for each in w])
        same(answer(x, y, w), ((x * y).sum(-1), linear(x, y), third))


def not_added_up(x, y, w):
    """The first result is not added up over d. | 第一个结果没有沿 d 求和。"""
    return x * y, x @ y.T, x @ w.mT


def pairs_turned(x, y, w):
    """The second result has the rows of y first. | 第二个结果把 y 的行排在了前面。"""
    return (x * y).sum(-1), y @ x.T, x @ w.mT


def rows_first(x, y, w):
    """The third result has the rows before the layers. | 第三个结果把 row 排在了 layer 前面。"""
    return (x * y).sum(-1), x @ y.T, (x @ w.mT).transpose(0, 1)


def layers_added_up(x, y, w):
    """The third result is added up over the layers. | 第三个结果沿 layer 求和了。"""
    return (x * y).sum(-1), x @ y.T, (x @ w.mT).sum(0)


def one_weight_only(x, y, w):
    """`linear` accepts a weight with two axes only. | `linear` 只接受有两条轴的权重。"""
    return linear(x, w)


EXERCISE = "sums"
WRONG = [not_added_up, pairs_turned, rows_first, layers_added_up, one_weight_only]
FAULTS = [  # planted in the library, each must make this lesson fail
    ("scratchlm.functional", '"... [in], out [in] -> ... out"', '"... [in], [in] out -> ... out"'),
    ("scratchlm.functional", "    return y if bias is None else y + bias", "    return y"),
    ("scratchlm.model.layers", "F.linear(x, self.weight, self.bias)", "F.linear(x, self.weight)"),
    ("scratchlm.model.layers", "1 / math.sqrt(self.in_features)", "1 / self.in_features"),
]
