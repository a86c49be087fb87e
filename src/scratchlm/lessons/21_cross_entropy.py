# %% [markdown] lang="en"
# # 21 · Cross-entropy, perplexity, bits per byte
# Question: how wrong is a model, in one number?
#
# You know from lesson 19 how a model computes logits, and from lesson 2 that softmax makes
# probabilities of them. Lesson 1 called one number the loss, and made it small. Here you compute
# this number by hand, and learn to read it in three units.

# %% [markdown] lang="zh"
# # 21 · 交叉熵、困惑度、每字节比特数
# 问题：模型错得有多厉害，怎样用一个数来说？
#
# 第 19 课讲过模型怎样算出 logits，第 2 课讲过 softmax 把它们变成概率。
# 第 1 课把一个数叫作损失，并让它越来越小。
# 这里手算这个数，并学会用三种单位来读它。

# %%
import math

import torch
import torch.nn.functional as F

from scratchlm import functional
from scratchlm.functional import cross_entropy, log_softmax, softmax
from scratchlm.kernels.linear_cross_entropy import linear_cross_entropy
from scratchlm.lessons.show import figure, show
from scratchlm.training.validation import bits_per_byte

# %% [markdown] lang="en"
# ## 1. One token: −ln p
# The vocabulary has three tokens, and their logits are 2, 1, 0. The exponentials are 7.3891, 2.7183
# and 1. Their sum is 11.1073. So the probabilities are 0.6652, 0.2447 and 0.0900. The text
# continues with one of the tokens: the target. Let p be the probability of the target. A good
# measure of the error is −ln p, the **negative log-likelihood**. The logarithm ln undoes exp:
# ln exp(x) = x. Why ln?
#
# - If the model is sure and right, p = 1, and −ln 1 = 0. If p goes to 0, −ln p grows without limit
#   (see the figure).
# - The probability of a whole text is a product. For 1,000 tokens with p = 0.5 it is 0.5¹⁰⁰⁰, and
#   `float32` rounds it to 0. But ln (a · b) = ln a + ln b. So the product becomes a sum:
#   1,000 · 0.69315 = 693.15.
#
# For token 0, −ln (7.3891 / 11.1073) = ln 11.1073 − 2 = 2.4076 − 2 = 0.4076. For tokens 1 and 2 it
# is 1.4076 and 2.4076. In general, it is ln Σ exp(x) − (the target's logit). The unit of −ln p is
# the **nat**.

# %% [markdown] lang="zh"
# ## 1. 一个 token：−ln p
# 词表有三个 token，logits 是 2、1、0。取指数，得到 7.3891、2.7183 和 1，和是 11.1073。
# 所以概率是 0.6652、0.2447 和 0.0900。文本接下来是其中一个 token，叫作目标。
# 设 p 是目标的概率。衡量错误的好办法是 −ln p，叫作**负对数似然**。
# 对数 ln 是 exp 的逆运算：ln exp(x) = x。为什么用 ln？
#
# - 如果模型又有把握又正确，p = 1，而 −ln 1 = 0。如果 p 趋于 0，−ln p 就无限增大（见插图）。
# - 整段文本的概率是一个乘积。1,000 个 token，每个 p = 0.5，就是 0.5¹⁰⁰⁰，`float32` 把它舍入成 0。
#   而 ln (a · b) = ln a + ln b，所以乘积变成了和：1,000 · 0.69315 = 693.15。
#
# 对 token 0，−ln (7.3891 / 11.1073) = ln 11.1073 − 2 = 2.4076 − 2 = 0.4076。对 token 1 和 2，
# 分别是 1.4076 和 2.4076。一般地，它等于 ln Σ exp(x) −（目标的 logit）。
# −ln p 的单位是**奈特**（nat）。

# %%
x = torch.tensor([2.0, 1, 0])
show("exp(x)", x.exp(), [7.3891, 2.7183, 1])
show("Σ exp(x)", x.exp().sum(), 11.1073)
p = x.exp() / x.exp().sum()
show("p", p, [0.6652, 0.2447, 0.0900])
show("−ln p", -p.log(), [0.4076, 1.4076, 2.4076])
show("ln Σ exp(x) − x", x.exp().sum().log() - x, [0.4076, 1.4076, 2.4076])
show("1,000 tokens: product", torch.full([1000], 0.5).prod(), 0)
show("1,000 tokens: sum", -torch.full([1000], 0.5).log().sum(), 693.1472, within=1e-2)

# %% tags=["figure"]
with figure("21-minus-log-p") as axes:
    line = torch.linspace(0.02, 1, 200)
    axes.plot(line, -line.log(), color="tab:blue", linewidth=2)
    axes.plot(p, -p.log(), "o", color="tab:red")
    for each in p.tolist():
        axes.text(each + 0.04, 0.05 - math.log(each), f"{-math.log(each):.4f}")
    axes.plot(1 / 3, math.log(3), "o", color="black")
    axes.text(1 / 3 + 0.04, math.log(3) + 0.05, "ln 3")
    axes.set(xlabel="p", ylabel="−ln p", xlim=(0, 1.05), ylim=(0, 4))

# %% [markdown] lang="en"
# ## 2. Many tokens: cross-entropy and perplexity
# The loss of a batch is the mean of −ln p over all its targets: the **cross-entropy**. With the
# targets 0 and 2 it is (0.4076 + 2.4076) / 2 = 1.4076.
#
# exp undoes ln. exp(0.4076) = 1.5032 = 1 / 0.6652. This is the **perplexity**: the model is as
# unsure as if it chose blindly among 1.5032 tokens. If all V logits are equal, each token has
# p = 1/V. Then the loss is ln V, and the perplexity is V. The logits of a new model are nearly
# equal. So a new GPT-2, with 50,257 tokens, must start near ln 50,257 = 10.8249. For a batch, take
# exp of the mean loss: exp(1.4076) = 4.0862. The mean of the two perplexities is 6.3053. This is
# not the perplexity of the batch.

# %% [markdown] lang="zh"
# ## 2. 许多 token：交叉熵与困惑度
# 一个批量的损失，是对其中所有目标的 −ln p 取平均，叫作**交叉熵**。
# 目标是 0 和 2 时，它是 (0.4076 + 2.4076) / 2 = 1.4076。
#
# exp 又是 ln 的逆运算：exp(0.4076) = 1.5032 = 1 / 0.6652。这就是**困惑度**：
# 模型的把握，相当于在 1.5032 个 token 里随机猜一个。如果 V 个 logits 全都相等，每个 token 都有
# p = 1/V，损失就是 ln V，困惑度就是 V。新模型的 logits 几乎相等。GPT-2 有 50,257 个 token，
# 所以刚建好时，损失应当在 ln 50,257 = 10.8249 附近。对一个批量，要先求平均损失，再取 exp：
# exp(1.4076) = 4.0862。两个困惑度的平均值是 6.3053，这不是整个批量的困惑度。

# %%
two = cross_entropy(torch.stack([x, x]), torch.tensor([0, 2]))
show("cross-entropy, targets 0 2", two, 1.4076)
show("perplexity of 0.4076", cross_entropy(x, torch.tensor(0)).exp(), 1.5032)
show("perplexity of both", two.exp(), 4.0862)
show("mean of perplexities", (1 / p[[0, 2]]).mean(), 6.3053)
new = cross_entropy(torch.zeros(50_257), torch.tensor(7))
show("50,257 equal logits", new, 10.8249)
show("their perplexity", new.exp(), 50_257, within=1)

# %% [markdown] lang="en"
# ## 3. Large logits
# exp(1000) is too large for `float32`: the result is inf, and inf / inf is nan, "not a number". But
# softmax does not change if we subtract the same m from all logits: exp(x − m) = exp(x) / exp(m),
# and exp(m) cancels. The library takes the largest logit as m. So 1000, 999, 998 is the same as
# 0, −1, −2 and as 2, 1, 0. The largest exponential is now exp(0) = 1.
#
# The logits 1000, 0, 0 have a second problem. Token 1 has p = exp(−1000). `float32` rounds this to
# 0, and ln 0 is −inf. So the loss must not go through p. `log_softmax` computes
# (x − m) − ln Σ exp(x − m) = −1000. The last line has 70,000 equal logits in `float16`, whose
# largest number is 65,504. The library computes the sum in `float32`, so it gets ln 70,000.

# %% [markdown] lang="zh"
# ## 3. 很大的 logits
# exp(1000) 超出了 `float32` 的范围：结果是 inf（无穷大），而 inf / inf 是 nan（不是数）。
# 不过，所有 logits 减去同一个 m，softmax 不变：exp(x − m) = exp(x) / exp(m)，exp(m) 约掉了。
# 本库取最大的 logit 作 m。所以 1000、999、998 与 0、−1、−2 一样，也与 2、1、0 一样。
# 现在最大的指数是 exp(0) = 1。
#
# logits 1000、0、0 还有第二个问题。token 1 的 p = exp(−1000)，`float32` 把它舍入成 0，
# 而 ln 0 是 −inf。所以算损失不能经过 p。`log_softmax` 计算的是
# (x − m) − ln Σ exp(x − m) = −1000。最后一行有 70,000 个相等的 logits，类型是 `float16`，
# 它最大的数是 65,504。本库用 `float32` 求和，所以得到 ln 70,000。

# %%
large = torch.tensor([[1000.0, 999, 998], [1000, 0, 0]])
show("exp(x) / Σ exp(x)", large[1].exp() / large[1].exp().sum(), [torch.nan, 0, 0])
show("softmax", softmax(large), [[0.6652, 0.2447, 0.0900], [1, 0, 0]])
show("softmax, then ln", softmax(large)[1].log(), [0, -torch.inf, -torch.inf])
show("log_softmax", log_softmax(large), [[-0.4076, -1.4076, -2.4076], [0, -1000, -1000]])
show("columns", log_softmax(large.T, dim=0), F.log_softmax(large.T, dim=0))
show("loss, target 1 twice", cross_entropy(large, torch.tensor([1, 1])), 500.7038)
many = torch.zeros(70_000).half()
sixteen = [log_softmax(many)[0], cross_entropy(many, torch.tensor(0))]
show("float16: ln 70,000", sixteen, [-11.1562, 11.1563], within=[0.004, 1e-4])

# %% [markdown] lang="en"
# ## 4. Texts of unlike length
# One text has three targets, the other has one. The rows of a tensor have equal lengths, so we fill
# up the short row. There the target is −100. It says: no target here. The loss must ignore it:
# ```
#  logits     target
#  2  1  0      0      ln 11.1073 − 2 = 0.4076
# −1  1  0      2      ln  4.0862 − 0 = 1.4076
#  1  2  0      2      ln 11.1073 − 0 = 2.4076
#  0  0  0      1      ln  3      − 0 = 1.0986
# ```
# The sum is 5.3214, and the loss is 5.3214 / 4 = 1.3304. There are two usual mistakes. Divided by
# all 6 places, the loss looks better than it is: 0.8869. The mean of the means of the rows,
# (1.4076 + 1.0986) / 2 = 1.2531, counts the target of the short text three times. If there is no
# target at all, the loss is 0 / 0 = nan.
#
# In the code, `logits[targets != -100]` takes the rows with a target. `counted[range(4), numbers]`
# takes one number of each row. `torch.full_like(targets, -100)` has the shape of `targets`.

# %% [markdown] lang="zh"
# ## 4. 长短不一的文本
# 一段文本有三个目标，另一段只有一个。张量的各行一样长，所以要把短的一行补齐，
# 补上的目标写成 −100，意思是这里没有目标。损失必须忽略它：
# ```
#  logits     target
#  2  1  0      0      ln 11.1073 − 2 = 0.4076
# −1  1  0      2      ln  4.0862 − 0 = 1.4076
#  1  2  0      2      ln 11.1073 − 0 = 2.4076
#  0  0  0      1      ln  3      − 0 = 1.0986
# ```
# 和是 5.3214，损失是 5.3214 / 4 = 1.3304。常见的错误有两种。除以全部 6 个位置，
# 损失看起来比实际的好：0.8869。先对各行取平均，再取平均，即
# (1.4076 + 1.0986) / 2 = 1.2531，短文本的那个目标就相当于被算了三次。
# 如果一个目标也没有，损失是 0 / 0 = nan。
#
# 代码里，`logits[targets != -100]` 取出有目标的各行。`counted[range(4), numbers]` 从每行取一个数。
# `torch.full_like(targets, -100)` 的形状与 `targets` 相同。

# %%
logits = torch.tensor([[[2.0, 1, 0], [-1, 1, 0], [1, 2, 0]], [[0, 0, 0], [9, -9, 0], [5, 5, 0]]])
targets = torch.tensor([[0, 2, 2], [1, -100, -100]])
counted, numbers = logits[targets != -100], targets[targets != -100]
show("numbers", numbers, [0, 2, 2, 1])
losses = counted.exp().sum(-1).log() - counted[range(4), numbers]
show("losses", losses, [0.4076, 1.4076, 2.4076, 1.0986])
show("mean", losses.mean(), 1.3304)
show("cross_entropy", cross_entropy(logits, targets), 1.3304)
show("torch", F.cross_entropy(logits.flatten(0, 1), targets.flatten()), 1.3304)
show(
    "/ 6, mean of means", [losses.sum() / 6, (losses[:3].mean() + losses[3]) / 2], [0.8869, 1.2531]
)
show("no target", cross_entropy(logits, torch.full_like(targets, -100)), torch.nan)

# %% [markdown] lang="en"
# ## 5. Not all logits at once
# The logits are the largest tensor of a training step: 2,048 tokens · 50,257 logits · 4 bytes are
# 411,705,344 bytes. The last layer makes them from the hidden states (lesson 19). So
# `linear_cross_entropy` does this layer and the loss together. The version in `kernels` keeps the
# logits of only `chunk` tokens in memory. Both versions return the sum of the losses, because the
# trainer divides by the targets of all micro-batches (lesson 10). The second result is this sum.
# The first result also has 0.01 · (ln Σ exp x)² for each target, if `z_loss=0.01`. This term keeps
# the logits small. Here it adds 0.01 · (2.4076² + 1.4076² + 2.4076² + 1.0986²) = 0.1478.
#
# The weight below turns the hidden state (x₁, x₂) into the logits (x₁, x₂, 0), as in section 4. The
# hidden states are the first two numbers of the logits: `logits[..., :2]`. `.backward()` runs too:
# all versions give the same gradients. A place with −100 gets the gradient 0.

# %% [markdown] lang="zh"
# ## 5. 不一次算出所有 logits
# logits 是训练一步里最大的张量：2,048 个 token · 50,257 个 logits · 4 个字节，
# 就是 411,705,344 个字节。它们由最后一层从隐藏状态算出（第 19 课）。
# 所以 `linear_cross_entropy` 把这一层和损失放在一起算。`kernels` 里的版本，内存中只留
# `chunk` 个 token 的 logits。两个版本都返回损失的和，因为训练器要除以所有微批量的目标总数
# （第 10 课）。第二个结果就是这个和。如果 `z_loss=0.01`，第一个结果还对每个目标加上
# 0.01 · (ln Σ exp x)²，这一项使 logits 不至于太大。这里加的是
# 0.01 · (2.4076² + 1.4076² + 2.4076² + 1.0986²) = 0.1478。
#
# 下面的权重把隐藏状态 (x₁, x₂) 变成 logits (x₁, x₂, 0)，与第 4 节的一样。
# 隐藏状态就是 logits 的前两个数：`logits[..., :2]`。
# 这里也运行 `.backward()`：各个版本的梯度相同。−100 的位置，梯度是 0。

# %%
show("bytes of the logits", 2048 * 50_257 * 4, 411_705_344)
results = []
for name, version, dtype, settings in [
    ("readable", functional.linear_cross_entropy, torch.float32, {}),
    ("chunks of 4", linear_cross_entropy, torch.float32, {"chunk": 4}),
    ("float16", linear_cross_entropy, torch.float16, {"chunk": 4}),
]:
    hidden = logits[..., :2].to(dtype).requires_grad_()
    weight = torch.tensor([[1.0, 0], [0, 1], [0, 0]], dtype=dtype, requires_grad=True)
    loss, nats = version(hidden, weight, targets, z_loss=0.01, **settings)
    show(name, [loss, nats], [5.4692, 5.3214])
    loss.backward()
    results.append((hidden.grad.float(), weight.grad.float()))
show("gradient of (2, 1)", results[0][0][0, 0], [-0.3027, 0.2565])
show("gradient at −100", results[0][0][1, 1:], [[0, 0], [0, 0]])
for more in results[1:]:
    pairs = zip(more, results[0], strict=True)
    assert all(torch.allclose(one, other, atol=4e-3) for one, other in pairs)

# %% [markdown] lang="en"
# ## 6. Bits per byte
# If a tokenizer makes longer tokens, a text has fewer of them, but each is harder to predict. So we
# cannot compare losses per token of different tokenizers. But the bytes of a text (lesson 3) are
# always the same, so we divide by the bytes. We also change the unit. A fair coin has p = 1/2, and
# its −ln p = ln 2 = 0.6931 nats is one bit. So **bits per byte** is
# (nats per token) / ln 2 / (bytes per token).
#
# A text has 12 bytes. Model A has 3 tokens, each with a loss of 2 nats: 6 nats. Model B has 6
# tokens, each with 1.2: 7.2 nats. The loss of B is lower, but A is better: 0.7213 against 0.8656. A
# model that knows nothing gives all 256 bytes the same probability: 8 bits per byte.

# %% [markdown] lang="zh"
# ## 6. 每字节比特数
# 分词器的 token 越长，一段文本的 token 就越少，但每个也越难预测。所以分词器不同，
# 每个 token 的损失就不能比较。而一段文本的字节数（第 3 课）总是不变，所以改为除以字节数。
# 单位也换一换。抛一枚均匀的硬币，p = 1/2，它的 −ln p = ln 2 = 0.6931 奈特，就是一比特。
# 于是**每字节比特数**等于（每个 token 的奈特数）/ ln 2 /（每个 token 的字节数）。
#
# 一段文本有 12 个字节。模型 A 把它分成 3 个 token，损失各 2 奈特，共 6 奈特。模型 B 分成 6 个，
# 损失各 1.2 奈特，共 7.2 奈特。B 的损失较低，但 A 更好：0.7213 对 0.8656。
# 什么都不懂的模型，给 256 个字节相同的概率：每字节 8 比特。

# %%
show("A", [6 / math.log(2) / 12, bits_per_byte(2, 12 / 3)], [0.7213, 0.7213])
show("B", [7.2 / math.log(2) / 12, bits_per_byte(1.2, 12 / 6)], [0.8656, 0.8656])
show("256 equal probabilities", bits_per_byte(math.log(256), 1), 8)

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Write `mean_loss(logits, targets)`, the cross-entropy of a batch. `logits` has the shape
# (text, place, vocabulary), and `targets` has (text, place). Some targets are −100. The logits may
# be as large as 1000. Use torch's `exp`, `log`, `sum`, `max` and loops or indices, but no ready
# softmax or loss.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 写出 `mean_loss(logits, targets)`，即一个批量的交叉熵。`logits` 的形状是（文本, 位置, 词表），
# `targets` 的形状是（文本, 位置）。有些目标是 −100，logits 可以大到 1000。
# 可以用 torch 的 `exp`、`log`、`sum`、`max`，以及循环或下标，但不用现成的 softmax 或损失。


# %% tags=["exercise"]
def mean_loss(logits, targets):
    raise NotImplementedError


# %% tags=["answer"]
def mean_loss(logits, targets):
    total, count = 0, 0
    for x, target in zip(logits.flatten(0, 1), targets.flatten(), strict=True):
        if target != -100:
            x = x - x.max()
            total += x.exp().sum().log() - x[target]
            count += 1
    return total / count


# %% tags=["check"]
def check(mean_loss, same):
    for texts, places, vocab, size in [(1, 3, 4, 1), (3, 4, 5, 1), (2, 5, 3, 1000)]:
        generator = torch.Generator().manual_seed(places)
        x = size * torch.rand(texts, places, vocab, generator=generator)
        t = torch.randint(vocab, (texts, places), generator=generator)
        t[0, 1:] = -100
        same(mean_loss(x, t), cross_entropy(x, t))


def all_places(logits, targets):
    """The sum is divided by all places, also by those of −100. | 除数里也算上了 −100 的位置。"""
    return mean_loss(logits, targets) * (targets != -100).sum() / targets.numel()


def summed(logits, targets):
    """The losses are summed, not averaged. | 损失求了和，没有取平均。"""
    return mean_loss(logits, targets) * (targets != -100).sum()


def mean_of_means(logits, targets):
    """This is the mean of the texts' means. | 先对每段文本取平均，再取了平均。"""
    pairs = zip(logits, targets, strict=True)
    return sum(cross_entropy(x, t) for x, t in pairs) / len(logits)


def ignores_nothing(logits, targets):
    """The target −100 is counted as token 0. | 把目标 −100 当成了 token 0。"""
    return mean_loss(logits, targets.clamp(min=0))


def overflows(logits, targets):
    """exp of a large logit is inf: subtract the maximum. | exp 成了 inf：要先减去最大的 logit。"""
    kept = targets != -100
    x = logits[kept]
    return (x.exp().sum(-1).log() - x[range(len(x)), targets[kept]]).mean()


def in_bits(logits, targets):
    """The logarithm has the base 2, not e. | 对数的底是 2，应当是 e。"""
    return mean_loss(logits, targets) / math.log(2)


EXERCISE = "mean_loss"
WRONG = [all_places, summed, mean_of_means, ignores_nothing, overflows, in_bits]
FAULTS = [  # planted in the library, each must make this lesson fail
    ("scratchlm.functional", "losses.sum() / (targets != IGNORED).sum()", "losses.mean()"),
    ("scratchlm.functional", "shifted = wide - wide.amax(dim, keepdim=True)", "shifted = wide"),
    ("scratchlm.functional", ".log() + peak.squeeze(-1)", ".log()"),
    ("scratchlm.training.validation", "/ math.log(2) / bytes_per_token", "/ bytes_per_token"),
]
