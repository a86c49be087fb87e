# %% [markdown] lang="en"
# # 20 · Initialization
# Question: training changes every weight. Why does it matter where the weights start?
#
# You know all layers of the model from lesson 19, and from lesson 17 how numbers grow or vanish
# with depth. Here you choose the first weights: not equal, not too large, not too small.

# %% [markdown] lang="zh"
# # 20 · 初始化
# 问题：训练会改变每个权重，那么权重从哪里开始为什么重要？
#
# 第 19 课讲了模型的所有层，第 17 课讲了数怎样逐层变大或消失。
# 这一课来选择最初的权重：不能都相等，不能太大，也不能太小。

# %%
from dataclasses import replace
from itertools import product
from math import log

import torch
import torch.nn.functional as F

from scratchlm.figures.initializations import init_runs, made_up_language
from scratchlm.lessons.show import figure, show
from scratchlm.model.config import ModelConfig
from scratchlm.model.initialization import initialize
from scratchlm.model.layers import Linear, truncated_normal_
from scratchlm.model.transformer import Transformer

# %% [markdown] lang="en"
# ## 1. Not equal
# **Initialization** is the choice of the first weights. Suppose that all are equal. Below, `W`
# makes two numbers from `x`, and `v` adds them up. Both rows of `W` get the same gradient (2, 3).
# So they stay equal after every step, and two numbers do the work of one. If `W` and `v` both start
# at 0, all gradients are 0, and nothing is ever learned. So weights must start at random.

# %% [markdown] lang="zh"
# ## 1. 不能都相等
# **初始化**就是选择最初的权重。假设权重都相等。下面的 `W` 由 `x` 算出两个数，`v` 把它们加起来。
# `W` 的两行得到同样的梯度 (2, 3)，所以每一步之后仍然相等，两个数只起到一个数的作用。
# 如果 `W` 和 `v` 都从 0 开始，所有梯度都是 0，什么也学不到。所以权重必须从随机数开始。

# %%
x = torch.tensor([2.0, 3])
for start, expected in [(0.5, [[2, 3], [2, 3]]), (0.0, [[0, 0], [0, 0]])]:
    W = torch.full((2, 2), start, requires_grad=True)
    v = torch.full((2,), 1.0 if start else 0.0, requires_grad=True)
    (v @ (W @ x)).backward()
    show(f"gradient of W, start {start}", W.grad, expected)
show("gradient of v, start 0", v.grad, [0, 0])

# %% [markdown] lang="en"
# ## 2. Not too large, not too small: 1/√in
# The variance is the mean square of the differences from the mean (lesson 17). Its root is the
# **standard deviation** (std). For the numbers −1 and 1, both are 1. Now add 2 such numbers. The
# four possible sums are −2, 0, 0, 2, and their variance is (4 + 0 + 0 + 4) / 4 = 2. For `n` numbers
# it is `n`, because the variances of independent numbers add up. `product` lists all cases, and
# `correction=0` divides by the number of cases.
#
# An output of a linear layer is a sum of `in` products w·x. If x has the variance 1, the output has
# the variance in · var(w). It stays 1 if var(w) = 1/in, so if the std of w is 1/√in. With `in` =
# 256 this is 1/16 = 0.0625. Twice this std doubles the numbers at each layer, and half of it halves
# them.

# %% [markdown] lang="zh"
# ## 2. 不太大也不太小：1/√in
# 方差是各数与平均值之差的均方（第 17 课），它的平方根叫做**标准差**（std）。对 −1 和 1 这两个数，
# 方差与标准差都是 1。现在把 2 个这样的数相加。四种可能的和是 −2、0、0、2，
# 方差是 (4 + 0 + 0 + 4) / 4 = 2。`n` 个数相加，方差就是 `n`，因为互相独立的数，方差可以相加。
# `product` 列出所有情形，`correction=0` 表示除以情形的个数。
#
# 线性层的一个输出是 `in` 个乘积 w·x 之和。如果 x 的方差是 1，输出的方差就是 in · var(w)。
# 当 var(w) = 1/in，也就是 w 的标准差为 1/√in 时，方差仍是 1。`in` = 256 时，这就是
# 1/16 = 0.0625。标准差大一倍，每层的数就大一倍；标准差小一半，每层的数就小一半。

# %%
for n in (2, 3, 8):
    sums = torch.tensor([sum(signs) for signs in product([-1.0, 1], repeat=n)])
    show(
        f"{n} numbers: variance, std", [sums.var(correction=0), sums.std(correction=0)], [n, n**0.5]
    )
torch.manual_seed(0)
layer, x = Linear(256, 512), torch.randn(500, 256)
show("std of weights", layer.weight.std(), 0.0617, within=5e-4)
sizes = [F.linear(x, factor * layer.weight).std() for factor in (0.5, 1, 2)]
show("std of outputs: ½, 1, 2", sizes, [0.5, 1, 2], within=0.04)

# %% [markdown] lang="en"
# ## 3. Which random numbers?
# A **normal distribution** gives mostly small numbers, and seldom large ones. About 68% are within
# 1 std, 95% within 2, 99.7% within 3. The rest can be far out. `truncated_normal_` draws from it
# and cuts at ±3 std, so no weight is very large. The cut makes the std 1.3% smaller: 0.0197 instead
# of 0.02 here, and 0.0617 instead of 0.0625 above. Torch's own function with the same cut agrees.

# %% [markdown] lang="zh"
# ## 3. 用什么样的随机数？
# **正态分布**给出的大多是小的数，很少有大的数。约 68% 在 1 个标准差以内，95% 在 2 个以内，
# 99.7% 在 3 个以内，其余的可能很远。`truncated_normal_` 从正态分布取数，并在 ±3 个标准差处截断，
# 所以没有特别大的权重。截断使标准差小了 1.3%：这里不是 0.02 而是 0.0197，
# 上面不是 0.0625 而是 0.0617。torch 自己的函数用同样的截断，结果一致。

# %%
noise = torch.randn(1_000_000)
within = [(noise.abs() < far).float().mean() for far in (1, 2, 3)]
show("normal: within 1, 2, 3 std", within, [0.6827, 0.9545, 0.9973], within=9e-4)
ours, theirs = torch.empty(1000, 1000), torch.empty(1000, 1000)
truncated_normal_(ours, 0.02)
torch.nn.init.trunc_normal_(theirs, std=0.02, a=-0.06, b=0.06)
for name, weight in [("truncated_normal_", ours), ("torch", theirs)]:
    within = [(weight.abs() < far * 0.02).float().mean() for far in (1, 2, 3.0001)]
    show(name, within, [0.6845, 0.957, 1], within=9e-4)
    show("std, largest", [weight.std(), weight.abs().max()], [0.0197, 0.06], within=1e-4)

# %% [markdown] lang="en"
# ## 4. Four strategies
# `initialize` knows four. `truncated` has 1/√in, and half of it for the tables of the vocabulary.
# `gpt2` has 0.02 everywhere. `xavier` has √(2/(in + out)), a compromise between the forward and the
# backward pass. `kaiming` has √(2/in), made for ReLU, which removes half of the numbers. Biases
# start at 0, and the weights of norms at 1.
#
# Each row below has the std of 6 matrices: embedding (512 × 256), positions (256 × 256), `lm_head`
# (512 × 256), `q_proj` (256 × 256), `gate_proj` (1024 × 256) and `down_proj` (256 × 1024, so its
# `in` is 1024). By hand for `kaiming`: √(2/256) = 0.0884 five times, then √(2/1024) = 0.0442.
# `truncated` is again 1.3% smaller than 1/32 and 1/16.

# %% [markdown] lang="zh"
# ## 4. 四种方案
# `initialize` 提供四种。`truncated` 用 1/√in，与词表有关的表取它的一半。`gpt2` 处处用 0.02。
# `xavier` 用 √(2/(in + out))，是前向传播与反向传播之间的折中。`kaiming` 用 √(2/in)，
# 它为 ReLU 而设，因为 ReLU 会去掉一半的数。偏置从 0 开始，归一化的权重从 1 开始。
#
# 下面每一行是 6 个矩阵的标准差：嵌入（512 × 256）、位置（256 × 256）、`lm_head`（512 × 256）、
# `q_proj`（256 × 256）、`gate_proj`（1024 × 256）和 `down_proj`（256 × 1024，所以它的 `in`
# 是 1024）。手算 `kaiming`：前五个是 √(2/256) = 0.0884，最后一个是 √(2/1024) = 0.0442。
# `truncated` 同样比 1/32 和 1/16 小 1.3%。

# %%
wide = ModelConfig(512, 256, 256, num_layers=1, num_heads=4, d_ff=1024, position="learned")
model = Transformer(replace(wide, bias=True, norm="layernorm"))
stds = {
    "truncated": [0.0308, 0.0308, 0.0308, 0.0617, 0.0617, 0.0308],
    "gpt2": [0.02, 0.02, 0.02, 0.02, 0.02, 0.02],
    "xavier": [0.0510, 0.0625, 0.0510, 0.0625, 0.0395, 0.0395],
    "kaiming": [0.0884, 0.0884, 0.0884, 0.0884, 0.0884, 0.0442],
}
block = model.layers[0]
parts = [model.embedding, model.position_embedding, model.lm_head]
parts += [block.attn.q_proj, block.ffn.gate_proj, block.ffn.down_proj]
for init, expected in stds.items():
    initialize(model, init)
    show(init, [part.weight.std() for part in parts], expected, within=6e-4)
show("bias, weight of the norm", [model.norm.bias[0], model.norm.weight[0]], [0, 1])
assert not any(w.any() for name, w in model.named_parameters() if name.endswith("bias"))

# %% [markdown] lang="en"
# ## 5. The first loss tells
# At the start the model knows nothing, so it should give all 256 tokens the same probability, and
# the loss is ln 256 = 5.5452 (lesson 1). Random logits of variance `s` add about s/2 to the loss:
# the model prefers some tokens, and it is wrong. In a model with `d_model` = 64, the last norm
# gives 64 numbers of size about 1, so s = 64 · std², with the std of `lm_head`. For `kaiming` s =
# 64 · 2/64 = 2, and the loss is 1 higher. For `gpt2` s = 64 · 0.0004, and it is 0.0128 higher.
#
# If `lm_head` is 10 times too large, the loss is between 13 and 17: the model is sure, and wrong.
# Now s = 25, and ln 256 + s/2 would be 18: the rule s/2 holds only for small s. So look at the
# first loss of each run. If it is far above ln V, with V tokens, the start is wrong. `replace`
# copies a config with changes.

# %% [markdown] lang="zh"
# ## 5. 看第一个损失就知道
# 开始时模型什么都不知道，应该给 256 个 token 同样的概率，损失就是 ln 256 = 5.5452（第 1 课）。
# 方差为 `s` 的随机 logits 大约使损失增加 s/2：模型偏爱某些 token，却偏错了。
# 在 `d_model` = 64 的模型里，最后的归一化给出 64 个大小约为 1 的数，所以 s = 64 · std²，
# 其中 std 属于 `lm_head`。`kaiming` 的 s = 64 · 2/64 = 2，损失增加 1。
# `gpt2` 的 s = 64 · 0.0004，损失只增加 0.0128。
#
# 如果 `lm_head` 大了 10 倍，损失就在 13 与 17 之间：模型很有把握，却是错的。这时 s = 25，
# 而 ln 256 + s/2 是 18，高出太多：s/2 这条规则只适用于小的 s。
# 所以每次训练都要看第一个损失。V 个 token 时，如果它远高于 ln V，初始化就有问题。
# `replace` 复制一份配置并作修改。

# %%
config = ModelConfig(vocab_size=256, context_length=32, d_model=64, num_layers=4, num_heads=4)
ids = torch.randint(256, (32, 33))


def loss(model):
    return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).detach()


show("ln 256", log(256), 5.5452)
for init, added in {"truncated": 0.125, "gpt2": 0.0128, "xavier": 0.2, "kaiming": 1}.items():
    model = Transformer(replace(config, init=init))
    show(init, loss(model), 5.5452 + added, within=0.01 if init == "gpt2" else 0.1)
model = Transformer(config)
model.lm_head.weight.data *= 10
show("lm_head 10 times too large", loss(model), 15, within=2)

# %% [markdown] lang="en"
# ## 6. Many branches: 1/√(2L)
# Each of the `L` layers adds two branches to the residual stream, attention and feed-forward. With
# 4 layers these are 8 branches. If each has the variance 1, their sum has the std √8 = 2.8284, as
# in part 2. So the two matrices that write into the stream, `o_proj` and `down_proj`, start with
# only 1/√(2L) = 1/√8 = 0.3536 of their std. Then the sum of all branches has the variance 1.
# `torch.manual_seed` repeats the same random numbers, so the ratio below is exact. With
# `residual_init="zero"` these matrices start at 0: every block returns its input, and learns its
# own part only later.

# %% [markdown] lang="zh"
# ## 6. 分支很多：1/√(2L)
# `L` 层中的每一层都往残差流里加两个分支：注意力和前馈网络。4 层就有 8 个分支。
# 如果每个分支的方差是 1，它们之和的标准差就是 √8 = 2.8284，与第 2 部分一样。
# 所以写入残差流的两个矩阵 `o_proj` 和 `down_proj`，开始时只取自己标准差的
# 1/√(2L) = 1/√8 = 0.3536。这样所有分支之和的方差是 1。
# `torch.manual_seed` 让随机数重复出现，所以下面的比值是精确的。设 `residual_init="zero"`，
# 这些矩阵就从 0 开始：每个块原样返回输入，以后才学会自己的部分。

# %%
names = ["attn.q_proj", "attn.o_proj", "ffn.up_proj", "ffn.down_proj"]
torch.manual_seed(0)
initialize(model, "truncated", residual_scale=1)
whole = [model.layers[3].get_submodule(name).weight.clone() for name in names]
torch.manual_seed(0)
model.reset_parameters()
scaled = [model.layers[3].get_submodule(name).weight for name in names]
factors = [(a.std() / b.std()).item() for a, b in zip(scaled, whole, strict=True)]
show("scaled / whole", factors, [1, 0.3536, 1, 0.3536])
block, x = Transformer(replace(config, residual_init="zero")).layers[0], torch.randn(5, 64)
show("largest change, zero", (block(x) - x).abs().max(), 0)

# %% [markdown] lang="en"
# ## 7. Does it matter? Four runs
# `init_runs` trains each strategy for 40 steps on the same batches of a made-up language. First see
# the RMS of the residual stream after the embedding and after each layer. It starts at the std of
# the embedding. It grows to 1.6 with `kaiming` and to 0.6 with `truncated`, and stays at 0.02 with
# `gpt2`. Then see the losses: the first, and the mean of the last 5. In such a short run the small
# weights of `gpt2` learn fastest, and `kaiming` starts 1 too high. This is one small and short run,
# so measure your own model: `scratchlm-plot init` draws these curves for it.

# %% [markdown] lang="zh"
# ## 7. 真的重要吗？四次训练
# `init_runs` 用每种方案训练 40 步，用的是一种虚构语言的同一些批量。先看残差流在嵌入之后和每一层
# 之后的 RMS。它从嵌入的标准差开始，用 `kaiming` 时增长到 1.6，用 `truncated` 时增长到 0.6，
# 用 `gpt2` 时一直在 0.02 附近。再看损失：第一个，和最后 5 个的平均。在这样短的训练里，
# `gpt2` 的小权重学得最快，而 `kaiming` 一开始就高出 1。这只是一次又小又短的训练，
# 所以要测一测自己的模型：`scratchlm-plot init` 为它画出这些曲线。

# %%
runs = init_runs(config, made_up_language(256, 20_000), steps=40)
sizes = {
    "truncated": [0.062, 0.262, 0.396, 0.503, 0.593],
    "gpt2": [0.020, 0.021, 0.021, 0.021, 0.022],
    "xavier": [0.080, 0.221, 0.344, 0.448, 0.561],
    "kaiming": [0.178, 0.802, 1.120, 1.365, 1.608],
}
losses = {
    "truncated": [5.64, 5.37],
    "gpt2": [5.55, 4.67],
    "xavier": [5.80, 5.38],
    "kaiming": [6.52, 5.58],
}
for init, run in runs.items():
    within = [0.1 * size for size in sizes[init]]
    show(f"{init}: RMS by layer", run.activations, sizes[init], within)
    show("loss, first and last", [run.losses[0], sum(run.losses[-5:]) / 5], losses[init], 0.1)

# %% tags=["figure"]
with figure("20-rms", 3.6, 3.4) as axes:
    for init, run in runs.items():
        axes.plot(run.activations, marker="o", label=init)
    axes.set(yscale="log", xlabel="layer", ylabel="RMS", xticks=range(5))
    axes.figure.legend(loc="outside upper center", ncols=2)

# %% tags=["figure"]
with figure("20-loss", 3.6, 3.4) as axes:
    for init, run in runs.items():
        axes.plot(run.losses, label=init)
    axes.axhline(log(256), color="grey", linestyle=":", label="ln 256")
    axes.set(xlabel="step", ylabel="loss")
    axes.figure.legend(loc="outside upper center", ncols=2)

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Write `start(noise, layers, residual)`. `noise` (out, in) comes from a truncated normal
# distribution with the std 1. Return the first weights of a matrix of this shape in a model of
# `layers` layers, as `truncated` has them. `residual` is True if the matrix writes into the
# residual stream. The matrix is never a table of the vocabulary.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 写出 `start(noise, layers, residual)`。`noise`（out, in）来自标准差为 1 的截断正态分布。
# 模型有 `layers` 层，返回其中一个同样形状的矩阵的最初权重，与 `truncated` 相同。
# 如果矩阵写入残差流，`residual` 就是 True。这个矩阵不会是与词表有关的表。


# %% tags=["exercise"]
def start(noise, layers, residual):
    raise NotImplementedError


# %% tags=["answer"]
def start(noise, layers, residual):
    std = 1 / noise.shape[1] ** 0.5
    if residual:
        std /= (2 * layers) ** 0.5
    return std * noise


# %% tags=["check"]
def check(start, same):
    for layers, width in [(1, 16), (2, 32), (6, 16)]:
        model = Transformer(ModelConfig(8, 4, width, num_layers=layers, num_heads=2))
        torch.manual_seed(layers)
        noises = {name: torch.empty_like(weight) for name, weight in model.named_parameters()}
        for noise in noises.values():
            if noise.ndim == 2:
                truncated_normal_(noise, 1)
        torch.manual_seed(layers)
        model.reset_parameters()
        for name in ("attn.k_proj", "attn.o_proj", "ffn.up_proj", "ffn.down_proj"):
            noise, weight = noises[f"layers.0.{name}.weight"], model.layers[0].get_submodule(name)
            residual = name in ("attn.o_proj", "ffn.down_proj")
            same(start(noise, layers, residual), weight.weight.detach())


def by_out(noise, layers, residual):
    """It takes the number of outputs, not of inputs. | 用了输出的个数，而不是输入的个数。"""
    return start(noise.T, layers, residual).T


def divided_by_in(noise, layers, residual):
    """It divides by in, not by √in. | 除以了 in，而不是 √in。"""
    return start(noise, layers, residual) / noise.shape[1] ** 0.5


def root_of_layers(noise, layers, residual):
    """It divides by √L, not √(2L). | 除以了 √L，而不是 √(2L)。"""
    return start(noise, layers / 2 if residual else layers, residual)


def all_scaled(noise, layers, residual):
    """It scales every matrix by 1/√(2L). | 把每个矩阵都乘了 1/√(2L)。"""
    return start(noise, layers, True)


def none_scaled(noise, layers, residual):
    """It does not scale the matrices that write into the stream. | 写入残差流的矩阵没有缩小。"""
    return start(noise, layers, False)


EXERCISE = "start"
WRONG = [by_out, divided_by_in, root_of_layers, all_scaled, none_scaled]
FAULTS = [  # planted in the library, each must make this lesson fail
    ("scratchlm.model.initialization", "std *= residual_scale", "std *= 1"),
    (
        "scratchlm.model.initialization",
        "(0.5 if in_vocabulary else 1) / math.sqrt",
        "1 / math.sqrt",
    ),
    ("scratchlm.model.transformer", "1 / math.sqrt(2 * self", "1 / math.sqrt(self"),
    ("scratchlm.model.layers", "math.erf(3 / math", "math.erf(2 / math"),
]
