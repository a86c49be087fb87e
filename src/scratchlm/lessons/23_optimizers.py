# %% [markdown] lang="en"
# # 23 · Optimizers
# Question: which way should each number move, and how far?
#
# You know from lesson 7 that a step goes against the gradient, and that one learning rate for all
# numbers is a problem: it is too large for a steep direction and too small for a flat one. Here
# four ideas change the step: a memory, a scale for each number, a pull to 0, and a scale for each
# direction of a matrix.

# %% [markdown] lang="zh"
# # 23 · 优化器
# 问题：每个数该往哪边走，走多远？
#
# 第 7 课讲过，每一步逆着梯度走。那里还有一个难题：所有的数共用一个学习率，
# 对陡的方向太大，对平的方向又太小。这一课用四个办法改变这一步：
# 记住从前的梯度，给每个数一个尺度，把数拉向 0，给矩阵的每个方向一个尺度。

# %%
import torch

from scratchlm.lessons.show import figure, show
from scratchlm.model.config import ModelConfig
from scratchlm.model.transformer import Transformer
from scratchlm.optim.adamw import AdamW
from scratchlm.optim.groups import adamw_groups, muon_groups
from scratchlm.optim.muon import Muon, muon_update, orthogonalize
from scratchlm.optim.sgd import SGD, SGDDecay

# %% [markdown] lang="en"
# ## 1. Momentum
# An optimizer sees only gradients. So we give it some: `follow` starts with θ = 1, uses one
# gradient in each step, and returns the values of θ. With the rate 0.1, SGD subtracts 0.1 · g. The
# gradients 1, 1, −1 lead to 0.9, 0.8, 0.9.
#
# **Momentum** remembers. It keeps a sum b of all gradients, and the old ones fade:
# ```
# b ← μ b + g        θ ← θ − lr · b
# ```
# With μ = 0.5, b is 1, then 0.5 · 1 + 1 = 1.5, then 0.5 · 1.5 − 1 = −0.25. So θ is 0.9, 0.75,
# 0.775. What is the use? If all gradients are 1, b grows to 1 / (1 − μ) = 2: the step doubles. With
# the usual μ = 0.9 it is 10 times as long. If the gradients jump between 1 and −1, they cancel, and
# b has only the size 1 / (1 + μ) = 0.6667. So flat directions get long steps, and steep ones short
# steps.
#
# `SGD` has more settings. `nesterov` moves by g + μb, with the new b. `dampening` d adds only
# (1 − d) · g to b after the first step. Section 3 is about `weight_decay`. `SGDDecay` has no
# memory. It divides the rate of step t = 0, 1, 2, … by √(t + 1): first long steps, then short ones.

# %% [markdown] lang="zh"
# ## 1. 动量
# 优化器看到的只有梯度，所以我们直接给它梯度：`follow` 从 θ = 1 出发，每一步用一个梯度，
# 返回 θ 的各个值。学习率取 0.1，SGD 每步减去 0.1 · g。梯度 1、1、−1 使 θ 变成 0.9、0.8、0.9。
#
# **动量**有记忆。它保留所有梯度的一个和 b，越早的梯度影响越小：
# ```
# b ← μ b + g        θ ← θ − lr · b
# ```
# 取 μ = 0.5，b 先是 1，再是 0.5 · 1 + 1 = 1.5，再是 0.5 · 1.5 − 1 = −0.25。
# 所以 θ 是 0.9、0.75、0.775。这样做有什么好处？如果梯度都是 1，b 会增大到 1 / (1 − μ) = 2，
# 步子加倍；取常用的 μ = 0.9，步子是 10 倍。如果梯度在 1 和 −1 之间来回跳，就互相抵消，
# b 的大小只有 1 / (1 + μ) = 0.6667。所以平的方向步子长，陡的方向步子短。
#
# `SGD` 还有别的设置。`nesterov` 用新的 b，走 g + μb。`dampening`（记作 d）从第二步起只把
# (1 − d) · g 加进 b。`weight_decay` 在第 3 节讲。`SGDDecay` 没有记忆，它把第 t = 0, 1, 2, … 步的
# 学习率除以 √(t + 1)：先走长步，再走短步。


# %%
def follow(kind, gradients, start=1.0, **settings):
    theta = torch.tensor([start], requires_grad=True)
    optimizer, path = kind([theta], **settings), []
    for gradient in gradients:
        theta.grad = torch.tensor([float(gradient)])
        optimizer.step()
        path.append(theta.item())
    return path


for settings, expected in [
    ({}, [0.9, 0.8, 0.9]),
    ({"momentum": 0.5}, [0.9, 0.75, 0.775]),
    ({"momentum": 0.5, "nesterov": True}, [0.85, 0.675, 0.7875]),
    ({"momentum": 0.5, "dampening": 0.2}, [0.9, 0.77, 0.785]),
    ({"weight_decay": 0.2}, [0.88, 0.7624, 0.8472]),
]:
    show(", ".join(settings) or "SGD", follow(SGD, [1, 1, -1], lr=0.1, **settings), expected)
    show("  torch", follow(torch.optim.SGD, [1, 1, -1], lr=0.1, **settings), expected)
for name, gradients, b in [("1, 1, 1, …", [1] * 30, 2), ("1, −1, 1, …", [-1, 1] * 15, 0.6667)]:
    path = follow(SGD, gradients, lr=0.1, momentum=0.5)
    show(f"b for {name}", (path[-2] - path[-1]) / 0.1, b)
show("SGDDecay", follow(SGDDecay, [1, 1, 1], lr=0.1), [0.9, 0.8293, 0.7716])

# %% [markdown] lang="en"
# ## 2. AdamW: a scale for each number
# The size of a gradient does not tell how far to go: it is large where the loss is steep, and there
# the step must be short. AdamW divides the gradients of each number by their usual size. It keeps
# two running means for each number: m of the gradients, and v of their squares.
# ```
# m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
# m̂ = m / (1 − β₁ᵗ)              v̂ = v / (1 − β₂ᵗ)
# θ ← θ − lr · m̂ / (√v̂ + ε)
# ```
# m and v start at 0, so at first they are too small. After t gradients that are all g, m is
# (1 − β₁ᵗ) · g. The second line of the formulas divides by this factor: the **bias correction**.
# Step 1 is t = 1. With β₁ = 0.5, β₂ = 0.9, ε = 0:
# ```
# t    g    m       m̂         v       v̂        m̂ / √v̂
# 1    2    1       2         0.4     4         1
# 2   −2   −0.5    −0.6667    0.76    4        −0.3333
# 3    1    0.25    0.2857    0.784   2.8930    0.1680
# ```
# The first step is always lr · 1, with the sign of g. Without the correction it is 1 / √0.4 =
# 1.5811 times lr, and with the usual β₁ = 0.9, β₂ = 0.999 it is 3.1623 times lr. Gradients
# 1,000 times as large lead to the same θ. ε is tiny. It is there because 0 / 0 is not a number. If
# ε is 2, the first step is only 2 / (2 + 2) = 0.5 times lr.

# %% [markdown] lang="zh"
# ## 2. AdamW：给每个数一个尺度
# 梯度的大小并不说明该走多远：损失陡的地方梯度大，而那里恰恰要走短步。AdamW 把每个数的梯度
# 除以它平常的大小。为此，它给每个数保留两个滑动平均：m 是梯度的，v 是梯度平方的。
# ```
# m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
# m̂ = m / (1 − β₁ᵗ)              v̂ = v / (1 − β₂ᵗ)
# θ ← θ − lr · m̂ / (√v̂ + ε)
# ```
# m 和 v 从 0 开始，所以起初太小。如果 t 个梯度都是 g，m 就是 (1 − β₁ᵗ) · g。
# 公式的第二行除以这个因子，这就是**偏差修正**。第 1 步的 t = 1。取 β₁ = 0.5，β₂ = 0.9，ε = 0：
# ```
# t    g    m       m̂         v       v̂        m̂ / √v̂
# 1    2    1       2         0.4     4         1
# 2   −2   −0.5    −0.6667    0.76    4        −0.3333
# 3    1    0.25    0.2857    0.784   2.8930    0.1680
# ```
# 第一步总是 lr · 1，符号与 g 相同。没有修正的话，它是 lr 的 1 / √0.4 = 1.5811 倍；
# 取常用的 β₁ = 0.9，β₂ = 0.999，则是 3.1623 倍。梯度放大 1,000 倍，θ 仍然一样。
# ε 非常小，有它是因为 0 / 0 不是数。如果 ε 取 2，第一步就只有 lr 的 2 / (2 + 2) = 0.5 倍。

# %%
m, v = 0, 0
for t, g, row in [
    (1, 2, [1, 2, 0.4, 4, 1]),
    (2, -2, [-0.5, -0.6667, 0.76, 4, -0.3333]),
    (3, 1, [0.25, 0.2857, 0.784, 2.8930, 0.1680]),
]:
    m, v = 0.5 * m + 0.5 * g, 0.9 * v + 0.1 * g * g
    m_hat, v_hat = m / (1 - 0.5**t), v / (1 - 0.9**t)
    show(f"m m̂ v v̂ m̂/√v̂ at t = {t}", [m, m_hat, v, v_hat, m_hat / v_hat**0.5], row)
betas = {"lr": 0.1, "betas": (0.5, 0.9), "weight_decay": 0}
expected = [1 - 0.1, 0.9 + 0.0333, 0.9333 - 0.0168]
show("AdamW", follow(AdamW, [2, -2, 1], eps=0, **betas), expected)
show("no correction: first steps", [1 / 0.4**0.5, 0.1 / 0.001**0.5], [1.5811, 3.1623])
show("gradients × 1,000", follow(AdamW, [2000, -2000, 1000], eps=0, **betas), expected)
show("gradient 0", follow(AdamW, [0], lr=0.1, weight_decay=0), [1])
show("ε = 2", follow(AdamW, [2], eps=2, **betas), [0.95])

# %% [markdown] lang="en"
# ## 3. Weight decay
# Weights should be no larger than necessary. **Weight decay** pulls each weight to 0, in each step
# by the fraction lr · λ. The old way adds λθ to the gradient, and in SGD this does exactly that:
# θ − lr (g + λθ) = (1 − lr · λ) θ − lr · g. But Adam, from which AdamW comes, then divides g + λθ
# by its own size. The first step is lr · sign, and the decay is gone. AdamW keeps the decay out of
# the gradient: first θ ← θ − lr · λ · θ, then section 2. This is the W in the name.
#
# Take θ = 2, g = 10, lr = 0.1, λ = 0.1. The decay is 0.1 · 0.1 · 2 = 0.02. SGD goes to
# 2 − 0.1 · 10 − 0.02 = 0.98, AdamW to 2 − 0.02 − 0.1 = 1.88, and Adam to 2 − 0.1 = 1.9, as without
# decay. The library has three forms of AdamW: for one tensor, for a list of tensors (`foreach`),
# and all in one operation of torch (`fused`). With ε = 1 and λ = 0.1, step 1 of section 2 is
# 1 − 0.01 − 0.1 · 2 / (2 + 1) = 0.9233.

# %% [markdown] lang="zh"
# ## 3. 权重衰减
# 权重不应当大过需要。**权重衰减**在每一步把每个权重往 0 拉一点，拉的比例是 lr · λ。
# 旧的做法是把 λθ 加进梯度。用 SGD 时，效果正是这样：
# θ − lr (g + λθ) = (1 − lr · λ) θ − lr · g。可是 AdamW 的前身 Adam 随后把 g + λθ 除以它自己的大小，
# 第一步成了 lr · 符号，衰减就没有了。AdamW 不让衰减进入梯度：
# 先做 θ ← θ − lr · λ · θ，再做第 2 节的一步。名字里的 W 就是这个意思。
#
# 取 θ = 2，g = 10，lr = 0.1，λ = 0.1。衰减是 0.1 · 0.1 · 2 = 0.02。SGD 走到
# 2 − 0.1 · 10 − 0.02 = 0.98，AdamW 走到 2 − 0.02 − 0.1 = 1.88，而 Adam 走到 2 − 0.1 = 1.9，
# 和没有衰减时一样。AdamW 在本库有三种写法：一次一个张量、一次一列张量（`foreach`），
# 以及用 torch 的一个运算全部做完（`fused`）。取 ε = 1，λ = 0.1，第 2 节的第 1 步就是
# 1 − 0.01 − 0.1 · 2 / (2 + 1) = 0.9233。

# %%
for kind, expected in [(SGD, 0.98), (AdamW, 1.88), (torch.optim.Adam, 1.9)]:
    show(kind.__name__, follow(kind, [10], 2.0, lr=0.1, weight_decay=0.1), [expected])
settings = {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1, "weight_decay": 0.1}
for name, kind, form in [
    ("one by one", AdamW, {"foreach": False}),
    ("foreach", AdamW, {"foreach": True}),
    ("fused", AdamW, {"fused": True}),
    ("torch", torch.optim.AdamW, {}),
]:
    path = follow(kind, [2, -2, 1], **settings, **form)
    show(name, path, [0.9233, 0.9363, 0.9164])

# %% [markdown] lang="en"
# ## 4. Three paths in one bowl
# The loss x² + 25y² has its lowest point at (0, 0). We start at (5, 1), and go 20 steps with a good
# rate for each optimizer. With the rate 0.03, SGD multiplies x by 1 − 0.06 and y by 1 − 1.5 = −0.5:
# y jumps from side to side, and x is slow. With a rate above 0.04, y would grow. Momentum and AdamW
# come closer. AdamW's first step is 0.4 in x and in y, because only the signs count.

# %% [markdown] lang="zh"
# ## 4. 一个碗里的三条路
# 损失 x² + 25y² 的最低点是 (0, 0)。我们从 (5, 1) 出发，走 20 步，给每个优化器一个合适的学习率。
# 学习率取 0.03，SGD 每步把 x 乘以 1 − 0.06，把 y 乘以 1 − 1.5 = −0.5：y 来回跳，x 走得慢；
# 学习率超过 0.04，y 反而会越来越大。动量和 AdamW 走得更近。
# AdamW 的第一步，在 x 和 y 上都是 0.4，因为起作用的只有符号。


# %%
def descend(kind, **settings):
    place = torch.tensor([5.0, 1.0], requires_grad=True)
    optimizer, path = kind([place], **settings), [[5.0, 1.0]]
    for _ in range(20):
        optimizer.zero_grad()
        (place[0] ** 2 + 25 * place[1] ** 2).backward()
        optimizer.step()
        path.append(place.tolist())
    return torch.tensor(path)


paths = {
    "SGD": descend(SGD, lr=0.03),
    "momentum": descend(SGD, lr=0.03, momentum=0.7),
    "AdamW": descend(AdamW, lr=0.4, betas=(0.7, 0.95), weight_decay=0),
}
ends = [2.1040, 0.0300, 0.0293]
for (name, path), end in zip(paths.items(), ends, strict=True):
    x, y = path[-1]
    show(f"{name}: last loss", x**2 + 25 * y**2, end, within=1e-3)
show("SGD: x after 20 steps", paths["SGD"][-1, 0], 5 * 0.94**20)
show("AdamW: after one step", paths["AdamW"][1], [4.6, 0.6])

# %% tags=["figure"]
with figure("23-paths", 5.0, 3.0) as axes:
    xs, ys = torch.linspace(-1.5, 5.5, 120), torch.linspace(-1.1, 1.2, 80)
    heights = xs**2 + 25 * ys[:, None] ** 2
    axes.contour(xs, ys, heights, [1, 4, 9, 16, 25, 36, 49], colors="0.8", linewidths=0.8)
    for (name, path), mark in zip(paths.items(), "so^", strict=True):
        axes.plot(*path.T, marker=mark, markersize=4, linewidth=1.2, label=name)
    axes.plot(0, 0, "k*", markersize=10)
    axes.set(xlabel="x", ylabel="y")
    axes.legend(loc="upper left", fontsize=8)

# %% [markdown] lang="en"
# ## 5. Muon: a scale for each direction of a matrix
# A weight matrix turns vectors into vectors, and its gradient is a matrix too. The gradient
# G = ((3, 0), (0, 0.1)) multiplies x by 3 and y by 0.1, so it turns a circle into an ellipse. The
# half axes of the ellipse, 3 and 0.1, are the **singular values**. A step along G moves the layer
# 30 times as far in one direction as in the other. **Muon** keeps the directions, and gives all
# about the same length, 1.
#
# It needs only matrix products. It divides G by √(3² + 0.1²) = 3.0017, so that no singular value s
# is above 1. Then it replaces s by 3.4445s − 4.7750s³ + 2.0315s⁵, five times. The table shows both
# values. The small one grows fast, and both end between 0.69 and 1.13. (X Xᵀ) X is a matrix with
# the singular values s³. A turn (lesson 16) before or after G changes no singular value, and the
# result turns with it.

# %% [markdown] lang="zh"
# ## 5. Muon：给矩阵的每个方向一个尺度
# 权重矩阵把向量变成向量，它的梯度也是一个矩阵。梯度 G = ((3, 0), (0, 0.1)) 把 x 乘以 3，
# 把 y 乘以 0.1，所以它把圆变成椭圆。椭圆的两条半轴 3 和 0.1，叫作**奇异值**。
# 沿着 G 走一步，这一层在一个方向上动得是另一个方向的 30 倍。
# **Muon** 保持各个方向，让它们的长度都差不多是 1。
#
# 它只要用矩阵乘法。先把 G 除以 √(3² + 0.1²) = 3.0017，使每个奇异值 s 都不超过 1。
# 再把 s 换成 3.4445s − 4.7750s³ + 2.0315s⁵，换五次。下表是两个值的变化：小的长得很快，
# 最后两个都在 0.69 与 1.13 之间。(X Xᵀ) X 是一个矩阵，它的奇异值是 s³。
# 在 G 之前或之后转一个角度（第 16 课），奇异值不变，结果也跟着转。

# %%
G = torch.tensor([[3.0, 0], [0, 0.1]])
s = torch.tensor([3, 0.1]) / 9.01**0.5
table = [s]
for _ in range(5):
    s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    table.append(s)
show("3", [row[0] for row in table], [0.9994, 0.7014, 1.1132, 0.7201, 1.0907, 0.6970])
show("0.1", [row[1] for row in table], [0.0333, 0.1146, 0.3875, 1.0747, 0.6872, 1.1288])
show("orthogonalize", orthogonalize(G), [[0.6970, 0], [0, 1.1288]])
turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
both = torch.stack([turn @ G, G @ turn])
show("singular values", torch.linalg.svdvals(both), [[3, 0.1], [3, 0.1]])
show("turned after G", orthogonalize(both[0]), [[0.4182, -0.9030], [0.5576, 0.6773]])
show("turned before G", orthogonalize(both[1]), [[0.4182, -0.5576], [0.9030, 0.6773]])

# %% [markdown] lang="en"
# A step of Muon: b ← μb + (1 − μ)G, then u = (1 − μ)G + μb, then weight decay, then
# W ← W − lr · √max(1, rows / columns) · orthogonalize(u). In step 1, u is a multiple of G. With a
# row of zeros added to G, W = 1 everywhere, lr = 0.5 and λ = 0.1, the first number of W becomes
# 0.95 − 0.5 · √1.5 · 0.6970 = 0.5232. torch's Muon computes with fewer digits, so it differs a
# little. A gradient twice as large leads to the same W, because only its directions count.
#
# Which rule for which parameter? Muon is for the matrices in the blocks. A row of the embedding
# belongs to one token, so AdamW does the embedding, the last layer and the norms. A norm's weight
# of 0 would switch its number off, so norms have no weight decay. `muon_groups` and `adamw_groups`
# sort a model in this way. A model of one block has 4 matrices for attention and 3 for the
# feed-forward network, 2 for embedding and last layer, and 3 norms.

# %% [markdown] lang="zh"
# Muon 的一步：先 b ← μb + (1 − μ)G，再取 u = (1 − μ)G + μb，再做权重衰减，最后
# W ← W − lr · √max(1, 行数 / 列数) · orthogonalize(u)。在第 1 步，u 是 G 的倍数。给 G 添一行零，
# W 全取 1，lr = 0.5，λ = 0.1，W 的第一个数就变成 0.95 − 0.5 · √1.5 · 0.6970 = 0.5232。
# torch 的 Muon 用较少的位数计算，所以略有不同。梯度放大一倍，W 仍然一样，因为起作用的只有方向。
#
# 哪个参数用哪条规则？Muon 用于各个块里的矩阵。嵌入的一行属于一个 token，
# 所以嵌入、最后一层和归一化由 AdamW 负责。归一化的权重如果是 0，对应的数就被关掉了，
# 所以归一化没有权重衰减。`muon_groups` 和 `adamw_groups` 就这样把模型的参数分组。
# 一个块的模型，注意力有 4 个矩阵，前馈网络有 3 个，嵌入和最后一层有 2 个，归一化有 3 个。

# %%
tall = torch.tensor([[3.0, 0], [0, 0.1], [0, 0]])
other = torch.tensor([[0.0, 0], [0, 1], [1, 0]])
settings = {"lr": 0.5, "momentum": 0.75, "weight_decay": 0.1}
for gradients, nesterov, expected in [
    ([tall], True, [0.5232, 0.95]),
    ([tall, other], True, [0.0195, 0.9025]),
    ([tall.T, other.T], False, [0.2496, 0.9025]),
]:
    ours, twin, theirs = [torch.ones_like(gradients[0], requires_grad=True) for _ in range(3)]
    readable, b = torch.ones_like(ours).detach(), torch.zeros_like(ours)
    more = {"nesterov": nesterov, **settings}
    optimizers = Muon([ours, twin], **more), torch.optim.Muon([theirs], **more)
    for gradient in gradients:
        ours.grad, twin.grad, theirs.grad = gradient, 2 * gradient, gradient
        for optimizer in optimizers:
            optimizer.step()
        muon_update(readable, gradient, b, ns_steps=5, ns_dtype=torch.float32, **more)
    for name, weight in [("Muon", ours), ("2 × gradient", twin), ("muon_update", readable)]:
        show(name, weight[0, :2], expected)
    show("torch", theirs[0, :2], expected, within=0.04)

config = ModelConfig(vocab_size=5, context_length=4, d_model=4, num_layers=1, num_heads=2)
named = list(Transformer(config).named_parameters())
for name, groups, expected in [
    ("AdamW", adamw_groups(named, weight_decay=0.1), [[9, 0.1], [3, 0]]),
    ("Muon", muon_groups(named, weight_decay=0.1), [[7, 0.1], [2, 0.1], [3, 0]]),
]:
    pairs = [[len(group["params"]), group["weight_decay"]] for group in groups]
    show(f"{name}: parameters, decay", pairs, expected)
show("rules", [group["algorithm"] for group in groups], ["muon", "adamw", "adamw"])
show("rates", [group["lr"] for group in groups], [0.02, 0.0003, 0.0003])

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Write `adamw(theta, gradients, lr, beta1, beta2, eps, decay)`: AdamW for one number. `theta` is
# the first value, and `gradients` is a list of numbers, one for each step. Return the list of the
# values of θ after each step. Use no torch.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 写出 `adamw(theta, gradients, lr, beta1, beta2, eps, decay)`：对一个数做 AdamW。
# `theta` 是最初的值，`gradients` 是一个列表，每一步用其中一个数。
# 返回每一步之后 θ 的值，排成列表。不用 torch。


# %% tags=["exercise"]
def adamw(theta, gradients, lr, beta1, beta2, eps, decay):
    raise NotImplementedError


# %% tags=["answer"]
def adamw(theta, gradients, lr, beta1, beta2, eps, decay):
    m, v, path = 0, 0, []
    for t, g in enumerate(gradients, start=1):
        theta -= lr * decay * theta
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        theta -= lr * m / (1 - beta1**t) / ((v / (1 - beta2**t)) ** 0.5 + eps)
        path.append(theta)
    return path


# %% tags=["check"]
def check(adamw, same):
    for theta, gradients, lr, beta1, beta2, eps, decay in [
        (1.0, [2.0], 0.1, 0.5, 0.9, 1e-8, 0.0),
        (-2.0, [0.5, -3.0, 1.0], 0.2, 0.9, 0.99, 0.1, 0.5),
        (3.0, [0.0, 4.0, 4.0, -1.0], 0.3, 0.8, 0.95, 1.0, 0.1),
    ]:
        more = {"lr": lr, "betas": (beta1, beta2), "eps": eps, "weight_decay": decay}
        given = theta, gradients, lr, beta1, beta2, eps, decay
        same(adamw(*given), follow(AdamW, gradients, theta, **more))


def divided(theta, gradients, lr, beta1, beta2, eps, decay, by=(1, 1)):
    m, v, path = 0, 0, []
    for g in gradients:
        theta -= lr * decay * theta
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        theta -= lr * m / by[0] / ((v / by[1]) ** 0.5 + eps)
        path.append(theta)
    return path


def no_correction(*given):
    """The bias correction is missing. | 没有偏差修正。"""
    return divided(*given)


def corrected_without_a_power(*given):
    """The correction needs βᵗ, not β. | 修正要用 βᵗ，不是 β。"""
    return divided(*given, by=(1 - given[3], 1 - given[4]))


def t_from_0(*given):
    """t must start at 1, because 1 − β⁰ is 0. | t 要从 1 开始，因为 1 − β⁰ 是 0。"""
    return divided(*given, by=(0, 0))


def decay_without_lr(*given):
    """The decay lacks the factor lr. | 衰减少乘了 lr。"""
    return adamw(*given[:-1], given[-1] / given[2])


def only_the_last(*given):
    """Return all values, not only the last. | 要返回所有的值，不只是最后一个。"""
    return adamw(*given)[-1]


def decay_in_the_gradient(theta, gradients, lr, beta1, beta2, eps, decay):
    """The decay is added to the gradient: this is Adam. | 衰减加进了梯度：这是 Adam。"""
    more = {"lr": lr, "betas": (beta1, beta2), "eps": eps, "weight_decay": decay}
    return follow(torch.optim.Adam, gradients, theta, **more)


def no_decay(theta, gradients, lr, beta1, beta2, eps, decay):
    """The weight decay is missing. | 没有权重衰减。"""
    return adamw(theta, gradients, lr, beta1, beta2, eps, 0)


EXERCISE = "adamw"
WRONG = [no_correction, corrected_without_a_power, t_from_0, only_the_last]
WRONG += [decay_without_lr, decay_in_the_gradient, no_decay]
FAULTS = [  # planted in the library, each must make this lesson fail
    ("scratchlm.optim.adamw", "value=-lr / (1 - beta1**step)", "value=-lr"),
    (
        "scratchlm.optim.adamw",
        "param.mul_(1 - lr * weight_decay)",
        "grad.add_(param, alpha=weight_decay)",
    ),
    ("scratchlm.optim.sgd", "math.sqrt(t + 1)", "(t + 1)"),
    ("scratchlm.optim.muon", "gram, beta=b, alpha=c), x, beta=a)", "gram, beta=b, alpha=c), x)"),
]
