# %% [markdown] lang="en"
# # 13 · Embeddings
# Question: where do the numbers of a word come from, and why are similar words near each other?
#
# You know from lesson 2 that a model turns each id into an embedding, a vector of its own. Lesson
# 12 multiplied tables of numbers. Here you look up, train and compare embeddings.

# %% [markdown] lang="zh"
# # 13 · 嵌入
# 问题：一个词对应的那些数从哪里来？为什么意思相近的词会靠在一起？
#
# 第 2 课讲过，模型把每个 id 变成一个嵌入，也就是它自己的向量。第 12 课做了数表的乘法。
# 这一课要查找嵌入、训练嵌入、比较嵌入。

# %%
import torch
import torch.nn.functional as F

from scratchlm.functional import cross_entropy, embedding
from scratchlm.lessons.show import figure, show
from scratchlm.model.layers import Embedding, Linear
from scratchlm.optim.sgd import SGD

# %% [markdown] lang="en"
# ## 1. A table with one row for each token
# The vocabulary has five tokens: `我` has the id 0, `爱` 1, `AI` 2, `学` 3 and `习` 4. The table
# has 5 × 4 numbers, which we made up. Each row is the embedding of one token. The text `我爱学习`
# has the ids 0, 1, 3, 4, so its vectors are the rows 0, 1, 3 and 4. In torch, `table[ids]` picks
# these rows. The library's `embedding` does the same, and takes ids with any number of axes. Here
# it gets a batch of two texts, `我爱AI` and `AI爱我`. The shape of the ids is (2, 3), so the result
# has the shape (2, 3, 4).

# %% [markdown] lang="zh"
# ## 1. 一张表，每个 token 一行
# 词表有五个 token：`我` 的 id 是 0，`爱` 是 1，`AI` 是 2，`学` 是 3，`习` 是 4。
# 表里有 5 × 4 个数，是我们编的。每一行就是一个 token 的嵌入。文本 `我爱学习` 的 id 是 0、1、3、4，
# 它的向量就是第 0、1、3、4 行。在 torch 里，`table[ids]` 取出这些行。本库的 `embedding` 也一样，
# 而且 id 可以有任意多条轴。下面给它一个批量，两段文本：`我爱AI` 和 `AI爱我`。id 的形状是 (2, 3)，
# 结果的形状就是 (2, 3, 4)。

# %%
rows = [
    [0.1, 0.3, -0.2, 0.5],
    [-0.4, 0.2, 0.6, 0.1],
    [0.7, -0.1, 0.0, 0.2],
    [0.3, 0.8, -0.5, -0.3],
    [0.0, -0.6, 0.4, 0.9],
]
table = torch.tensor(rows, requires_grad=True)
ids = torch.tensor([0, 1, 3, 4])
show("table[ids]", table[ids], [rows[0], rows[1], rows[3], rows[4]])
two_texts = embedding(torch.tensor([[0, 1, 2], [2, 1, 0]]), table)
show("shape of two texts", two_texts.shape, [2, 3, 4])
show("AI爱我", two_texts[1], [rows[2], rows[1], rows[0]])
assert torch.equal(F.embedding(ids, table), embedding(ids, table))

# %% [markdown] lang="en"
# ## 2. The same as a matrix product
# Write the id 3 as 0 0 0 1 0: as many numbers as the vocabulary has tokens, with a single 1, at
# place 3 (counted from 0). Such a vector is called **one-hot**. A one-hot vector times the table
# gives row 3, because all other rows are multiplied by 0. So an embedding is a linear layer with
# one-hot input. `torch.eye(5)` is the table of all five one-hot vectors. But a model looks the row
# up instead. In OpenAI's model GPT-2, with 50,257 tokens of 768 numbers, the product costs
# 50,257 · 768 multiplications for each token.

# %% [markdown] lang="zh"
# ## 2. 等于一次矩阵乘法
# 把 id 3 写成 0 0 0 1 0：词表有多少个 token，就写多少个数，只有第 3 位（从 0 数起）是 1。
# 这样的向量叫**独热**向量。独热向量乘以这张表，得到第 3 行，因为其他各行都乘以 0。所以，
# 嵌入就是以独热向量为输入的线性层。`torch.eye(5)` 是全部五个独热向量组成的表。
# 不过模型是直接查表的。OpenAI 的模型 GPT-2 有 50,257 个 token，每个 768 个数，用乘法来算，
# 每个 token 要做 50,257 · 768 次乘法。

# %%
one_hot = torch.eye(5)
show("one-hot vector of 3", one_hot[3], [0, 0, 0, 1, 0])
show("one-hot @ table", one_hot[3] @ table, rows[3])
assert torch.equal(one_hot[ids] @ table, table[ids])
show("multiplications saved", 50257 * 768, 38597376)

# %% [markdown] lang="en"
# ## 3. Only the rows that were looked up learn
# `Embedding(5, 4)` is the layer that keeps such a table as a parameter. A text uses `爱`, `学` and
# `爱` again: ids 1, 3, 1. As the loss we take a sum: multiply the three vectors by `push`, place by
# place, and add up. If a number of the vectors grows by h, the loss grows by h times the number of
# `push` at the same place. So `push` is the gradient of these vectors. How does it reach the table?
# Row 3 of the table was used at place 1, so it gets row 1 of `push`. Row 1 of the table was used at
# the places 0 and 2, so it gets the sum of rows 0 and 2 of `push`: 1 + 5 = 6, 2 + 0 = 2, 0 + 5 = 5,
# 0 + 0 = 0. The other rows get zeros. A token that never occurs in training learns nothing.

# %% [markdown] lang="zh"
# ## 3. 只有查到的行才学习
# `Embedding(5, 4)` 这一层把这样一张表作为参数保存。一段文本用到 `爱`、`学`，又一次 `爱`：
# id 是 1、3、1。把三个向量与 `push` 逐个数对应相乘，再全部相加，当作损失。向量里的一个数增加 h，
# 损失就增加 h 乘以 `push` 在同一位置的数，所以 `push` 就是这些向量的梯度。
# 它怎样传到表里？表的第 3 行用在位置 1，所以得到 `push` 的第 1 行。表的第 1 行用在位置 0 和 2，
# 所以得到 `push` 的第 0 行与第 2 行之和：1 + 5 = 6，2 + 0 = 2，0 + 5 = 5，0 + 0 = 0。
# 其余各行得到的都是零。训练文本里从不出现的 token，什么也学不到。

# %%
ids = torch.tensor([1, 3, 1])
push = torch.tensor([[1.0, 2, 0, 0], [0, 0, 3, 4], [5, 0, 5, 0]])
layer = Embedding(5, 4)
with torch.no_grad():
    layer.weight.copy_(table)
assert torch.equal(layer(ids), table[ids])
(layer(ids) * push).sum().backward()
expected = [[0, 0, 0, 0], [6, 2, 5, 0], [0, 0, 0, 0], [0, 0, 3, 4], [0, 0, 0, 0]]
show("gradient of the table", layer.weight.grad, expected)
(embedding(ids, table) * push).sum().backward()
assert torch.equal(table.grad, layer.weight.grad)

# %% [markdown] lang="en"
# ## 4. How near are two vectors?
# Draw two vectors as arrows. Do they point in the same direction? The **cosine similarity** shows
# it: the dot product, divided by both lengths. It is 1 for the same direction, 0 for a right angle
# and −1 for opposite directions. By hand for (3, 4) and (4, 3): the dot product is 3·4 + 4·3 = 24,
# and both lengths are √(9 + 16) = 5, so 24 / 25 = 0.96. In torch, `norm` is the length.
# `norm(dim=1)` goes along axis 1, so it is the length of each row.

# %% [markdown] lang="zh"
# ## 4. 两个向量有多近？
# 把两个向量画成箭头，它们是否指向同一个方向？看它们的**余弦相似度**：
# 点积除以两者的长度。方向相同是 1，成直角是 0，方向相反是 −1。手算 (3, 4) 和 (4, 3)：
# 点积是 3·4 + 4·3 = 24，长度都是 √(9 + 16) = 5，所以 24 / 25 = 0.96。
# 在 torch 里，`norm` 是长度；`norm(dim=1)` 沿轴 1 计算，所以是每一行的长度。


# %%
def cosine(a, b):
    return a @ b / (a.norm() * b.norm())


a = torch.tensor([3.0, 4])
others = torch.tensor([[4.0, 3], [6, 8], [-4, 3], [-3, -4]])
show("cosine", [cosine(a, b) for b in others], [0.96, 1, 0, -1])
show("torch", F.cosine_similarity(a, others), [0.96, 1, 0, -1])

# %% [markdown] lang="en"
# ## 5. Words with the same neighbours come near
# In a made-up language, `cat` and `dog` are followed by `eats` or `sleeps`, and `car` and `bus` by
# `drives` or `stops`. No sentence has `fox`. `this_word` and `next_word` list the ids of all eight
# sentences. A model learns to predict the next word. Its `Embedding` looks up a vector, and its
# `Linear` turns the vector into nine logits. `cross_entropy` is the loss, and lesson 21 explains
# it. At first, all nine words are about equally likely, so the loss is near ln 9 = 2.197. At the
# end, only two words are likely, and the loss is near ln 2 = 0.693.
#
# A new table is random, and its rows have a length near 0.5. Two random vectors with many numbers
# are nearly at a right angle, because positive and negative products cancel in the sum. So all
# cosines start near 0. But `cat` and `dog` need the same next words. Already in the first step,
# their rows get almost the same gradient: the cosine of the two gradients is 1.00. After 60 such
# steps, the rows of `cat` and `dog` point in almost the same direction. `cat` and `car` need
# opposite things: `cat` must make `eats` likely and `drives` unlikely. So their cosine falls
# below 0. The row of `fox` has not changed at all. (`before` is a copy: `.clone()` copies the
# numbers.)
#
# The picture shows the four words that begin a sentence, and `fox`. Each word goes from the empty
# dot to the full dot: further right is nearer to `cat`, further up is nearer to `car`. `fox` has
# the same row as before. But its dot moves, because the rows of `cat` and `car` changed.

# %% [markdown] lang="zh"
# ## 5. 邻居相同的词会靠近
# 在一种编造的语言里，`cat` 和 `dog` 后面是 `eats` 或 `sleeps`，`car` 和 `bus` 后面是 `drives` 或
# `stops`。没有一个句子用到 `fox`。`this_word` 和 `next_word` 列出全部八个句子的 id。
# 让一个模型学着预测下一个词：它先用 `Embedding` 查出向量，再用 `Linear` 把它变成九个 logits。
# 损失是 `cross_entropy`，第 21 课讲它。开始时，九个词的可能性差不多，所以损失接近 ln 9 = 2.197。
# 最后只有两个词可能，损失接近 ln 2 = 0.693。
#
# 新的表是随机数，每一行的长度接近 0.5。两个由许多随机数组成的向量几乎成直角，
# 因为求和时正负乘积会抵消。所以余弦开始时都接近 0。可是 `cat` 和 `dog` 要预测的词相同。
# 在第一步，它们的行得到的梯度就几乎一样：两个梯度的余弦是 1.00。这样走了 60 步，
# `cat` 和 `dog` 的行几乎指向同一个方向。`cat` 和 `car` 的要求则相反：`cat` 要让 `eats`
# 的可能性变大，让 `drives` 的变小。所以它们的余弦降到 0 以下。`fox` 的行一点没变。
# （`before` 是一份副本：`.clone()` 把数复制一份。）
#
# 图中是句子开头的四个词，还有 `fox`。每个词从空心点移到实心点：越往右，离 `cat` 越近；越往上，
# 离 `car` 越近。`fox` 的行没变，它的点却动了，因为 `cat` 和 `car` 的行变了。

# %%
words = ["cat", "dog", "car", "bus", "eats", "sleeps", "drives", "stops", "fox"]
this_word = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
next_word = torch.tensor([4, 5, 4, 5, 6, 7, 6, 7])
torch.manual_seed(2)
embed, predict = Embedding(9, 256), Linear(256, 9)
before = embed.weight.detach().clone()
show("length of new rows", before.norm(dim=1).mean(), 0.49, within=0.02)
optimizer = SGD([embed.weight, predict.weight], lr=1.0)
losses, gradients = [], []
for _ in range(60):
    loss = cross_entropy(predict(embed(this_word)), next_word)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    gradients.append(embed.weight.grad)
after = embed.weight.detach()
show("first and last loss", [losses[0], losses[-1]], [2.197, 0.693], within=0.05)
show("cat, dog: first gradients", cosine(gradients[0][0], gradients[0][1]), 1, within=0.01)
pairs = [(0, 1), (2, 3), (0, 2)]  # cat-dog, car-bus, cat-car
show("pairs before", [cosine(before[i], before[j]) for i, j in pairs], [0, 0, 0], within=0.15)
show("pairs after", [cosine(after[i], after[j]) for i, j in pairs], [0.95, 0.95, -0.3], within=0.05)
assert torch.equal(after[8], before[8])

# %% tags=["figure"]
with figure("13-before-and-after", 4.4, 4.2) as axes:
    axes.axhline(0, color="0.85")
    axes.axvline(0, color="0.85")
    spots = [(0, 0.14, -0.03, "C0"), (1, -0.02, -0.15, "C0"), (2, 0, 0.07, "C1")]
    spots += [(3, -0.16, -0.1, "C1"), (8, 0.14, 0.04, "C7")]
    for i, x, y, color in spots:
        points = [[cosine(t[i], t[0]), cosine(t[i], t[2])] for t in (before, after)]
        arrow = {"arrowstyle": "->", "color": color, "shrinkA": 4, "shrinkB": 4, "alpha": 0.6}
        axes.annotate("", points[1], points[0], arrowprops=arrow)
        axes.plot(*points[0], "o", color=color, fillstyle="none")
        axes.plot(*points[1], "o", color=color)
        axes.text(points[1][0] + x, points[1][1] + y, words[i], color=color, ha="center")
    axes.set(xlim=(-0.6, 1.3), xticks=[-0.5, 0, 0.5, 1], xlabel="cosine with cat")
    axes.set(ylim=(-0.6, 1.3), yticks=[-0.5, 0, 0.5, 1], ylabel="cosine with car")

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Write `table_gradient(ids, push, vocab_size)`, the gradient of the table, without `backward`.
# `ids` has the shape (n), and `push` has the shape (n, d). Row i of `push` is the gradient of the
# vector that was looked up for `ids[i]`. Return a tensor of the shape (vocab_size, d).

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 不用 `backward`，写出表的梯度 `table_gradient(ids, push, vocab_size)`。`ids` 的形状是 (n)，
# `push` 的形状是 (n, d)。`push` 的第 i 行，是为 `ids[i]` 查到的那个向量的梯度。
# 返回形状为 (vocab_size, d) 的张量。


# %% tags=["exercise"]
def table_gradient(ids, push, vocab_size):
    raise NotImplementedError


# %% tags=["answer"]
def table_gradient(ids, push, vocab_size):
    gradient = torch.zeros(vocab_size, push.shape[1])
    for token, row in zip(ids, push, strict=True):
        gradient[token] += row
    return gradient


# %% tags=["check"]
def check(answer, same):
    for ids, vocab_size, d in [([0], 2, 3), ([1, 3, 1], 5, 4), ([2, 2, 2, 0], 4, 1)]:
        ids, push = torch.tensor(ids), torch.randn(len(ids), d)
        layer = Embedding(vocab_size, d)
        (layer(ids) * push).sum().backward()
        same(answer(ids, push, vocab_size), layer.weight.grad)


def last_one_wins(ids, push, vocab_size):
    """A repeated token keeps only its last row of push. | 重复的 token 只留下最后一行 push。"""
    gradient = torch.zeros(vocab_size, push.shape[1])
    for token, row in zip(ids, push, strict=True):
        gradient[token] = row
    return gradient


def averaged(ids, push, vocab_size):
    """The rows of a repeated token are averaged. | 重复 token 的各行取了平均，应当求和。"""
    times = torch.bincount(ids, minlength=vocab_size).clamp(min=1)
    return table_gradient(ids, push, vocab_size) / times[:, None]


def by_place(ids, push, vocab_size):
    """Row i is added to row i, not to row ids[i]. | 第 i 行加到了第 i 行，应加到第 ids[i] 行。"""
    return table_gradient(range(len(ids)), push, vocab_size)


def only_used_rows(ids, push, vocab_size):
    """The rows of tokens that do not occur are missing. | 缺少没有出现的 token 的行。"""
    return table_gradient(ids, push, vocab_size)[ids.unique()]


EXERCISE = "table_gradient"
WRONG = [last_one_wins, averaged, by_place, only_used_rows]
FAULTS = [  # planted in the library, each must make this lesson fail
    ("scratchlm.functional", "weight, ids)", "weight.roll(1, 0), ids)"),
    ("scratchlm.model.layers", "(ids, self.weight)", "(ids, self.weight.roll(1, 0))"),
    ("scratchlm.model.layers", "(ids, self.weight)", "(ids, self.weight, scale_grad_by_freq=True)"),
    ("scratchlm.model.layers", "0.5 / math.sqrt(self.d_model)", "0.5 / self.d_model"),
]
