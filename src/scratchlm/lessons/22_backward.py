# %% [markdown] lang="en"
# # 22 · Backward through a block by hand
# Question: what does `.backward()` do to a whole model?
#
# You know the backward pass from lesson 8 and the model with round weights from lesson 19. Here you
# take this model with one layer, and find all its gradients without `.backward()`.

# %% [markdown] lang="zh"
# # 22 · 手工反向走过一个块
# 问题：`.backward()` 对整个模型做了什么？
#
# 第 8 课讲过反向传播，第 19 课讲过权重都很整齐的那个模型。
# 这里取它的一层，不用 `.backward()`，求出全部梯度。

# %%
import einx
import torch

from scratchlm import functional as f
from scratchlm.kernels.linear_cross_entropy import linear_cross_entropy
from scratchlm.lessons.show import figure, show
from scratchlm.model.config import ModelConfig
from scratchlm.model.transformer import Transformer

# %% [markdown] lang="en"
# ## 1. It begins at the loss: p − y
# We write `dx` for the gradient of the loss with respect to `x`. It has the shape of `x`. Take the
# logits 2 1 0, where token 0 is right. Lesson 21 gives the loss. The derivative of log u is 1 / u,
# and exp is its own derivative, so the chain rule gives:
# ```
# loss = log(exp x₀ + exp x₁ + exp x₂) − x₀
# dxᵢ  = exp xᵢ / (exp x₀ + exp x₁ + exp x₂) − yᵢ = pᵢ − yᵢ
# ```
# Here y is one-hot: 1 for the right token, else 0. So `dx` is 0.6652 − 1 = −0.3348, then 0.2447 and
# 0.0900. To lower the loss, the right logit must rise and the others must fall.

# %% [markdown] lang="zh"
# ## 1. 从损失开始：p − y
# 我们用 `dx` 表示损失对 `x` 的梯度，它的形状与 `x` 相同。取 logits 2 1 0，正确的是 token 0。
# 损失见第 21 课。log u 的导数是 1 / u，exp 的导数是它自己，所以由链式法则得到：
# ```
# loss = log(exp x₀ + exp x₁ + exp x₂) − x₀
# dxᵢ  = exp xᵢ / (exp x₀ + exp x₁ + exp x₂) − yᵢ = pᵢ − yᵢ
# ```
# 其中 y 是独热向量：正确的 token 处是 1，其余是 0。所以 `dx` 是 0.6652 − 1 = −0.3348，
# 然后是 0.2447 和 0.0900。要让损失下降，正确的 logit 应当升高，其余的应当降低。

# %%
x = torch.tensor([2.0, 1, 0], requires_grad=True)
p = f.softmax(x).detach()
f.cross_entropy(x, torch.tensor(0)).backward()
show("p", p, [0.6652, 0.2447, 0.0900])
show("p − y", p - torch.tensor([1, 0, 0]), [-0.3348, 0.2447, 0.0900])
show("x.grad", x.grad, [-0.3348, 0.2447, 0.0900])

# %% [markdown] lang="en"
# ## 2. Back through a linear layer
# Let y = W x, and let `dy` be known. W[i, j] enters only y[i], multiplied by x[j]. So
# dW[i, j] = dy[i] · x[j]: each number of `dy` times each number of `x`. This table is the **outer
# product** of `dy` and `x`. The number x[j] enters all of y, so its shares are added:
# dx[j] = Σ dy[i] · W[i, j]. With W = 1 2 / 3 4, x = 1 2 and dy = 1 −1, dx[0] is 1·1 − 1·3 = −2.
# If X has a token in each row, `dY.T @ X` adds the outer products of all tokens, and row i of
# `dY @ W` is dx of token i.

# %% [markdown] lang="zh"
# ## 2. 反向走过线性层
# 设 y = W x，并且已知 `dy`。W[i, j] 只进入 y[i]，进入时乘上 x[j]。所以 dW[i, j] = dy[i] · x[j]：
# `dy` 的每个数乘以 `x` 的每个数。这张表叫 `dy` 与 `x` 的**外积**。x[j] 进入 y 的每一个数，
# 所以要把各份加起来：dx[j] = Σ dy[i] · W[i, j]。取 W = 1 2 / 3 4，x = 1 2，dy = 1 −1，
# 则 dx[0] 是 1·1 − 1·3 = −2。如果 X 的每一行是一个 token，
# `dY.T @ X` 就把所有 token 的外积加起来，`dY @ W` 的第 i 行就是 token i 的 dx。

# %%
x = torch.tensor([1.0, 2], requires_grad=True)
W = torch.tensor([[1.0, 2], [3, 4]], requires_grad=True)
dy = torch.tensor([1.0, -1])
f.linear(x, W).backward(dy)  # dy: the gradient with respect to W x
show("outer product", torch.outer(dy, x), [[1, 2], [-1, -2]])
show("dy @ W", dy @ W, [-2, -2])
show("W.grad", W.grad, [[1, 2], [-1, -2]])
show("x.grad", x.grad, [-2, -2])

# %% [markdown] lang="en"
# ## 3. Softmax and norm: the Jacobian
# In softmax, every output depends on every input. The table of all partial derivatives, with a row
# for each output and a column for each input, is the **Jacobian** J. For softmax it has pᵢ − pᵢpᵢ
# on the diagonal and −pᵢpⱼ elsewhere: 0.6652 − 0.6652² = 0.2227. In torch, `p.diag()` has p on the
# diagonal, and `torch.outer(p, p)` is an outer product. Going back, dx[j] = Σ dp[i] · J[i, j]. Two
# short formulas do this without the table:
# ```
# softmax  dx = p · (dp − Σ p · dp)
# RMSNorm  r = √(mean x² + eps),  n = x / r,  y = n · weight
#          dn = dy · weight,  dx = (dn − n · mean(n · dn)) / r
# ```
# In RMSNorm, x also changes r. This gives the second term. For x = 3 4, r is √12.5 = 3.5355, and n
# is 0.8485 1.1314. With dn = 1 0, mean(n · dn) is 0.4243, and dx is (1 − 0.36, −0.48) / 3.5355.

# %% [markdown] lang="zh"
# ## 3. softmax 与归一化：雅可比矩阵
# 在 softmax 里，每个输出都取决于每个输入。把全部偏导数排成一张表，每个输出一行，每个输入一列，
# 这张表就是**雅可比矩阵** J。softmax 的 J，对角线上是 pᵢ − pᵢpᵢ，其余是 −pᵢpⱼ：
# 0.6652 − 0.6652² = 0.2227。在 torch 里，`p.diag()` 的对角线上是 p，`torch.outer(p, p)` 是外积。
# 反向时，dx[j] = Σ dp[i] · J[i, j]。有两个短公式，不用写出整张表：
# ```
# softmax  dx = p · (dp − Σ p · dp)
# RMSNorm  r = √(mean x² + eps),  n = x / r,  y = n · weight
#          dn = dy · weight,  dx = (dn − n · mean(n · dn)) / r
# ```
# 在 RMSNorm 里，x 还会改变 r，第二项由此而来。当 x = 3 4 时，r 是 √12.5 = 3.5355，
# n 是 0.8485 1.1314。取 dn = 1 0，mean(n · dn) 是 0.4243，dx 是 (1 − 0.36, −0.48) / 3.5355。


# %%
def softmax_back(p, dp):
    return p * (dp - (p * dp).sum(-1, keepdim=True))


def norm_back(x, weight, dy):
    r = (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    n, dn = x / r, dy * weight
    return (dn - n * (n * dn).mean(-1, keepdim=True)) / r, (dy * n).sum(0)  # dx, dweight


J = p.diag() - torch.outer(p, p)
show("J", J, [[0.2227, -0.1628, -0.0599], [-0.1628, 0.1848, -0.0220], [-0.0599, -0.0220, 0.0819]])
show("torch", torch.autograd.functional.jacobian(f.softmax, torch.tensor([2.0, 1, 0])), J)
dp = torch.tensor([1.0, 2, -1])
show("dp @ J", dp @ J, [-0.0430, 0.2289, -0.1859])
show("softmax_back", softmax_back(p, dp), dp @ J)
x, dn = torch.tensor([[3.0, 4]], requires_grad=True), torch.tensor([[1.0, 0]])
f.rms_norm(x, torch.ones(2)).backward(dn)
show("norm_back", norm_back(x, torch.ones(2), dn)[0], [[0.1810, -0.1358]])
show("x.grad", x.grad, [[0.1810, -0.1358]])

# %% [markdown] lang="en"
# ## 4. Forward through the model
# These are the lines of lesson 19, now in float64 and with one layer. We keep all the numbers,
# because the way back needs them: `x` for dW, `p` for softmax. The right next tokens are 1 2 3.

# %% [markdown] lang="zh"
# ## 4. 前向走过模型
# 这就是第 19 课的那些代码，只是改用 float64，只有一层。所有的数都留着，
# 因为反向要用：算 dW 要用 `x`，过 softmax 要用 `p`。正确的下一个 token 是 1 2 3。

# %%
config = ModelConfig(5, 8, d_model=4, num_layers=1, num_heads=2, d_ff=6, tie_embeddings=True)
model, w = Transformer(config).double(), {}
rows = [[2, 0, 0, 0], [0, 1.2, 0, 1.6], [1, -1, 1, 1], [-1, 1, 1, 1], [0, -1.6, 1.2, 0]]
for n, (name, weight) in enumerate(model.named_parameters()):
    i = torch.arange(weight.numel()).reshape(weight.shape)
    grid = ((i * i + 7 * i + 3 * n) % 11 - 5) / 10 + ("norm" in name)
    with torch.no_grad():
        weight.copy_(torch.tensor(rows) if name == "embedding.weight" else grid)
    w[name.removeprefix("layers.0.").removesuffix(".weight")] = weight
ids, targets, positions = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 3]), torch.arange(3)
split, join = "token (head d) -> head token d", "head token d -> token (head d)"
x = f.embedding(ids, w["embedding"])
a = f.rms_norm(x, w["attn_norm"])
q, k, v = [einx.id(split, f.linear(a, w[f"attn.{each}_proj"]), head=2) for each in "qkv"]
q, k = f.rotate(q, positions), f.rotate(k, positions)
p = f.softmax((q @ k.mT / 2**0.5).masked_fill(torch.ones(3, 3).triu(1).bool(), -torch.inf))
heads = einx.id(join, p @ v)
middle = x + f.linear(heads, w["attn.o_proj"])
b = f.rms_norm(middle, w["ffn_norm"])
gate, up = f.linear(b, w["ffn.gate_proj"]), f.linear(b, w["ffn.up_proj"])
product = f.silu(gate) * up
y = middle + f.linear(product, w["ffn.down_proj"])
hidden = f.rms_norm(y, w["norm"])
logits = f.linear(hidden, w["embedding"])
loss = f.cross_entropy(logits, targets)
show("loss", loss, 4.0675)

# %% [markdown] lang="en"
# ## 5. Backward through the model
# Read the lines above from the bottom to the top. The loss is a mean over 3 tokens, so p − y is
# divided by 3. A sum passes the gradient on to both parts unchanged, so `dy` runs along the
# residual stream, and each half of the block adds its part. In a product, each factor gets the
# gradient times the other factor. In the matrix product `p @ v`, the gradients are `dheads @ v.mT`
# and `p.mT @ dheads`. The turn is undone with the negative angle. The embedding is used twice, so
# its gradient has two parts. `index_add_` adds the second one to the rows `ids`.
#
# Then we compare all numbers with three other ways: autograd through our lines, autograd through
# `Transformer`, and `linear_cross_entropy`, the loss used in training, which computes p − y by hand
# as we do. It adds up the losses of all tokens, 2 tokens at a time. A target of −100 does not
# count, and `z_loss=0.1` adds 0.1 · (log Σ exp x)², so that the logits stay small. The angles of
# `Transformer` are in float32, so the last digits differ. The gradients of the queries and keys
# come through softmax. Here they are smaller than those of the values.

# %% [markdown] lang="zh"
# ## 5. 反向走过模型
# 从下往上读上面的代码。损失是 3 个 token 的平均，所以 p − y 要除以 3。加法把梯度原样传给两边，
# 所以 `dy` 沿残差流一路传下去，块的每一半再加上自己的一份。在乘法里，每个因子得到的是梯度乘以
# 另一个因子。在矩阵乘法 `p @ v` 里，梯度是 `dheads @ v.mT` 和 `p.mT @ dheads`。
# 旋转则按相反的角度转回去。嵌入用了两次，所以它的梯度有两份，`index_add_` 把第二份加到 `ids` 各行。
#
# 然后用另外三种办法核对所有的数：对我们的代码自动求导，对 `Transformer` 自动求导，
# 以及 `linear_cross_entropy`，它是训练时用的损失，和我们一样手工计算 p − y。
# 它把所有 token 的损失加起来，每次处理 2 个。目标是 −100 的不算，`z_loss=0.1` 则加上
# 0.1 · (log Σ exp x)²，让 logits 不会太大。`Transformer` 的角度存成 float32，所以末尾几位不同。
# 查询和键的梯度要经过 softmax，在这里比值的梯度小。

# %%
grads = {}


def linear_back(name, x, dy):
    grads[name] = dy.T @ x
    return dy @ w[name]


def size(x):
    return x.square().mean().sqrt()


def difference(loss):
    theirs = torch.autograd.grad(loss, list(w.values()))
    return max((grads[name] - each).abs().max() for name, each in zip(w, theirs, strict=True))


with torch.no_grad():
    dlogits = (f.softmax(logits) - torch.eye(5)[targets]) / 3  # eye: one-hot rows
    dhidden = linear_back("embedding", hidden, dlogits)
    dy, grads["norm"] = norm_back(y, w["norm"], dhidden)
    dproduct, s = linear_back("ffn.down_proj", product, dy), gate.sigmoid()
    dgate = dproduct * up * (s + gate * s * (1 - s))  # the slope of silu, lesson 6
    db = linear_back("ffn.gate_proj", b, dgate)
    db += linear_back("ffn.up_proj", b, dproduct * f.silu(gate))
    dhalf, grads["ffn_norm"] = norm_back(middle, w["ffn_norm"], db)
    dmiddle = dy + dhalf
    dheads = einx.id(split, linear_back("attn.o_proj", heads, dmiddle), head=2)
    dscores = softmax_back(p, dheads @ v.mT) / 2**0.5
    dq, dk = f.rotate(dscores @ k, -positions), f.rotate(dscores.mT @ q, -positions)
    dqkv = zip("qkv", (dq, dk, p.mT @ dheads), strict=True)
    da = sum(linear_back(f"attn.{each}_proj", a, einx.id(join, d)) for each, d in dqkv)
    dhalf, grads["attn_norm"] = norm_back(x, w["attn_norm"], da)
    dx = dmiddle + dhalf
    grads["embedding"].index_add_(0, ids, dx)
show("dlogits of sat", dlogits[2], [0.0792, 0.0060, 0.2171, -0.3318, 0.0295])
show("dx of sat", dx[2], [0.1840, -0.1642, -0.2016, -0.2353])
sizes = [size(each) for each in (dx, dmiddle, dy, dhidden, dlogits)]
show("sizes, x to logits", sizes, [0.3182, 0.2943, 0.2740, 0.4306, 0.1834])
halves = [size(dx - dmiddle), size(dmiddle - dy)]
show("added by each half", halves, [0.0599, 0.0658])
qkv = [size(grads[f"attn.{each}_proj"]) for each in "qkv"]
show("sizes, q k v", qkv, [0.0130, 0.0134, 0.1856])
show("our lines", difference(loss), 0, within=1e-10)
show("Transformer", difference(f.cross_entropy(model(ids), targets)), 0, within=1e-6)
fused, nats = linear_cross_entropy(model.hidden(ids), w["embedding"], targets, chunk=2)
show("linear_cross_entropy", difference(fused / 3), 0, within=1e-6)
show("its loss", nats / 3, loss)
some, inputs = torch.tensor([1, -100, 3]), (hidden.detach().requires_grad_(), w["embedding"])
fused, slow = [  # loss, nats
    linear_cross_entropy(*inputs, some, z_loss=0.1, chunk=2),
    f.linear_cross_entropy(*inputs, some, z_loss=0.1),
]
show("with −100 and z_loss", fused, [14.3187, 9.5588])
show("the definition", slow, fused)
for each, other in zip(*[torch.autograd.grad(x[0], inputs) for x in (fused, slow)], strict=True):
    show("their gradients", (each - other).abs().max(), 0, within=1e-10)

# %% tags=["figure"]
with figure("22-stream", 7, 2.3) as axes:
    style = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "mutation_scale": 12}
    for at, name in enumerate(["attention", "feed-forward", "norm", "lm_head"]):
        main = style | {"color": "C0", "linewidth": 16 * sizes[at].item()}
        axes.annotate("", (at + 0.1, 0), (at + 0.9, 0), arrowprops=main)
        axes.text(at + 0.5, 0.62 if at < 2 else 0.18, name, ha="center")
    for at, each in enumerate(halves):
        curve = style | {"color": "C1", "linewidth": 16 * each.item()}
        curve |= {"connectionstyle": "arc3,rad=0.45"}
        axes.annotate("", (at + 0.1, 0.12), (at + 0.9, 0.12), arrowprops=curve)
        axes.text(at + 0.5, 0.42, f"{each:.2f}", color="C1", ha="center")
    for at, name in enumerate(["dx", "dmiddle", "dy", "dhidden", "dlogits"]):
        axes.text(at, -0.38, f"{name}\n{sizes[at]:.2f}", color="C0", ha="center")
    axes.set(xlim=(-0.4, 4.4), ylim=(-0.45, 0.8))
    axes.axis("off")

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# LayerNorm first subtracts the mean from each row of `x`, and then works like RMSNorm, with a bias
# at the end. Write `layer_norm_back(x, weight, dy)`, which returns `dx`, `dweight` and `dbias`. `x`
# and `dy` have the shape (token, d), and eps is 1e-5. You may use `norm_back`. A hint: subtracting
# the mean has the Jacobian 1 − 1/d on the diagonal and −1/d elsewhere. What does dx[j] become?

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# LayerNorm 先从 `x` 的每一行减去平均值，再像 RMSNorm 那样做，最后加上偏置。写出
# `layer_norm_back(x, weight, dy)`，返回 `dx`、`dweight` 和 `dbias`。`x` 和 `dy` 的形状是
# (token, d)，eps 是 1e-5。可以用 `norm_back`。提示：减去平均值这一步的雅可比矩阵，
# 对角线上是 1 − 1/d，其余是 −1/d。那么 dx[j] 等于什么？


# %% tags=["exercise"]
def layer_norm_back(x, weight, dy):
    raise NotImplementedError


# %% tags=["answer"]
def layer_norm_back(x, weight, dy):
    dcentred, dweight = norm_back(x - x.mean(-1, keepdim=True), weight, dy)
    return dcentred - dcentred.mean(-1, keepdim=True), dweight, dy.sum(0)


# %% tags=["check"]
def check(layer_norm_back, same):
    for tokens, d in [(1, 3), (3, 4), (5, 6)]:
        x, dy = torch.randn(2, tokens, d, generator=torch.Generator().manual_seed(d))
        inputs = [x, torch.arange(1.0, d + 1), torch.zeros(d)]
        y = f.layer_norm(*[each.requires_grad_() for each in inputs])
        right = torch.autograd.grad(y, inputs, dy)
        same(layer_norm_back(x.detach(), inputs[1].detach(), dy), right)


def mean_forgotten(x, weight, dy):
    """dx lacks the way back through the mean. | dx 少了反向走过平均值的一步。"""
    dx, dweight = norm_back(x - x.mean(-1, keepdim=True), weight, dy)
    return dx, dweight, dy.sum(0)


def r_is_fixed(x, weight, dy):
    """You forgot that x also changes r. | 忘了 x 还会改变 r。"""
    dn = dy * weight / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    return dn - dn.mean(-1, keepdim=True), *layer_norm_back(x, weight, dy)[1:]


def divided_by_n_minus_1(x, weight, dy):
    """The variance is divided by d − 1, as `x.var` does, not by d. | 方差除以了 d − 1，应为 d。"""
    r, dn = (x.var(-1, keepdim=True) + 1e-5).sqrt(), dy * weight
    n, dn = (x - x.mean(-1, keepdim=True)) / r, dn - dn.mean(-1, keepdim=True)
    return (dn - n * (n * dn).mean(-1, keepdim=True)) / r, (dy * n).sum(0), dy.sum(0)


def no_weight(x, weight, dy):
    """dx lacks the factor weight. | dx 少乘了 weight。"""
    return layer_norm_back(x, torch.ones_like(weight), dy)


def not_normed(x, weight, dy):
    """dweight needs the normed x, not x. | dweight 要用归一化后的 x，不是 x。"""
    dx, _, dbias = layer_norm_back(x, weight, dy)
    return dx, (dy * x).sum(0), dbias


EXERCISE = "layer_norm_back"
WRONG = [mean_forgotten, r_is_fixed, divided_by_n_minus_1, no_weight, not_normed]
FAULTS = [  # planted in the library, each must make this lesson fail
    ("scratchlm.functional", "exps / exps.sum(dim", "exps / exps.detach().sum(dim"),
    ("scratchlm.functional", "rsqrt(mean_square + eps)", "rsqrt(mean_square.detach() + eps)"),
    ("scratchlm.kernels.linear_cross_entropy", "grad * grad_loss", "grad"),
    ("scratchlm.model.transformer", "x = x + self.dropout(attended)", "x = x.detach() + attended"),
]
