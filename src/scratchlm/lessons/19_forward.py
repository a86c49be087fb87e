# %% [markdown] lang="en"
# # 19 · The forward pass, every number
# Question: what does a whole model compute between the ids and the next token?
#
# You know all parts from lessons 13 to 18. Here you put them together into a model of 312
# parameters, and follow a text of three tokens through it.

# %% [markdown] lang="zh"
# # 19 · 前向传播，每一个数
# 问题：从编号到下一个 token，整个模型算了些什么？
#
# 各个部件在第 13 课到第 18 课都讲过了。这里把它们搭成一个有 312 个参数的模型，
# 再让一段三个 token 的文本走完全程。

# %%
import einx
import torch

from scratchlm import functional as f
from scratchlm.costs.model_costs import count_parameters
from scratchlm.lessons.show import figure, show
from scratchlm.model.config import ModelConfig
from scratchlm.model.transformer import Transformer, TransformerBlock

# %% [markdown] lang="en"
# ## 1. 312 parameters
# `ModelConfig` has the sizes: 5 tokens, at most 8 positions, vectors of 4 numbers, 2 layers, 2
# heads, and 6 numbers inside the feed-forward network. `Transformer(config)` makes the weights, and
# `named_parameters()` lists them. We write `0.attn.v_proj` for `layers.0.attn.v_proj.weight`, the
# matrix that makes the values of layer 0. We replace the random weights by multiples of 0.1, which
# are easier to read. Their rule has no meaning, so the predictions have no meaning either.
#
# The embedding has 5·4 numbers. Each layer has 4 · 4·4 in attention, 3 · 4·6 in SwiGLU and 2 · 4 in
# its norms: 144. The last norm has 4. So 20 + 2 · 144 + 4 = 312. The last matrix, `lm_head`, is the
# embedding itself. This is called **weight tying**. Untied, there are 20 more. Without the
# embedding and `lm_head`, 292 are left in both: research often counts only these. GPT-2 has the
# same plan with LayerNorm, learned positions, `gelu` and biases, and 124,439,808 parameters. It has
# 50,257 tokens. GPUs are faster with multiples of 64, so many programs give the embedding 50,304
# rows, and no token uses the last 47.

# %% [markdown] lang="zh"
# ## 1. 312 个参数
# `ModelConfig` 里写着各种大小：5 个 token，最多 8 个位置，向量有 4 个数，2 层，2 个头，
# 前馈网络内部 6 个数。`Transformer(config)` 造出全部权重，`named_parameters()` 把它们列出来。
# `layers.0.attn.v_proj.weight` 是第 0 层用来算值的矩阵，简写成 `0.attn.v_proj`。我们把随机的权重
# 换成 0.1 的倍数，读起来方便。这些数的规则没有含义，所以预测也没有意义。
#
# 嵌入有 5·4 个数。每一层里，注意力有 4 · 4·4 个，SwiGLU 有 3 · 4·6 个，归一化有 2 · 4 个，
# 共 144 个。最后的归一化有 4 个。所以 20 + 2 · 144 + 4 = 312。最后一个矩阵 `lm_head` 就是嵌入本身，
# 这叫**权重绑定**。不绑定就多出 20 个。不算嵌入和 `lm_head`，两者都剩 292 个：论文里常常只数这些。
# GPT-2 的结构相同，只是用 LayerNorm、可学习的位置、`gelu` 和偏置，有 124,439,808 个参数。
# 它有 50,257 个 token。数目是 64 的倍数时，GPU 算得更快，所以许多程序让嵌入有 50,304 行，
# 最后 47 行没有 token 用到。

# %%
config = ModelConfig(5, 8, d_model=4, num_layers=2, num_heads=2, d_ff=6, tie_embeddings=True)
model, w = Transformer(config), {}
rows = [[2, 0, 0, 0], [0, 1.2, 0, 1.6], [1, -1, 1, 1], [-1, 1, 1, 1], [0, -1.6, 1.2, 0]]
for n, (name, weight) in enumerate(model.named_parameters()):
    i = torch.arange(weight.numel()).reshape(weight.shape)  # 0 1 2 …
    grid = ((i * i + 7 * i + 3 * n) % 11 - 5) / 10 + ("norm" in name)  # −0.5 … 0.5; norms: + 1
    with torch.no_grad():
        weight.copy_(torch.tensor(rows) if name == "embedding.weight" else grid)
    w[name.removeprefix("layers.").removesuffix(".weight")] = weight.detach()
show("0.attn_norm", w["0.attn_norm"], [0.8, 0.5, 1.5, 0.5])
show("0.attn.v_proj", w["0.attn.v_proj"][:2], [[-0.4, 0.4, 0.3, 0.4], [-0.4, 0.1, -0.3, -0.5]])
count = count_parameters(config)
by_part = [count.embedding, count.attention, count.feed_forward, count.norms, count.head]
show("parameters by part", by_part, [20, 128, 144, 20, 0])
untied = Transformer(ModelConfig(5, 8, d_model=4, num_layers=2, num_heads=2, d_ff=6))
show("all, untied", [model.num_parameters(), untied.num_parameters()], [312, 332])
gpt2 = {"position": "learned", "norm": "layernorm", "ffn": "gelu", "bias": True}
small = ModelConfig(50_257, 1024, 768, num_layers=12, num_heads=12, tie_embeddings=True, **gpt2)
show("GPT-2", count_parameters(small).total, 124_439_808)
show(
    "without embeddings", [m.num_parameters(embeddings=False) for m in (model, untied)], [292, 292]
)
padded = ModelConfig(50_257, 1024, 768, num_layers=12, num_heads=12, vocab_multiple=64)
show("rows, of 50,257 tokens", padded.padded_vocab_size, 50_304)

# %% [markdown] lang="en"
# ## 2. The transformer block
# A layer of the model is a **transformer block**. It has two halves, and each half adds something
# to `x`. In the first half, tokens look at each other: norm, queries, keys, values, turn,
# attention, and `o_proj`, which mixes the heads. In the second half, each token works alone: norm,
# then SwiGLU. `f` has the library's functions from lessons 12 to 18. `mT` exchanges the last two
# axes, so `q @ k.mT` has the scores of each head. `masked_fill` puts −∞ where `triu(1)` leaves a 1:
# to the right of the diagonal, for later tokens. The function returns all numbers on the way.

# %% [markdown] lang="zh"
# ## 2. Transformer 块
# 模型的一层就是一个 **Transformer 块**。它分两半，每一半都往 `x` 上加一点东西。
# 前一半里 token 互相看：归一化，查询、键、值，旋转，注意力，再由 `o_proj` 把各个头混合起来。
# 后一半里每个 token 各做各的：归一化，然后是 SwiGLU。`f` 里是第 12 课到第 18 课用过的库函数。
# `mT` 交换最后两条轴，所以 `q @ k.mT` 就是每个头的分数。`triu(1)` 只在对角线右边留下 1，
# 那里是后面的 token，`masked_fill` 在这些地方填入 −∞。函数把沿途所有的数都返回。


# %%
def block(x, n):
    a = f.rms_norm(x, w[f"{n}.attn_norm"])
    qkv = [f.linear(a, w[f"{n}.attn.{each}_proj"]) for each in "qkv"]
    q, k, v = [einx.id("token (head d) -> head token d", each, head=2) for each in qkv]
    q, k = [f.rotate(each, torch.arange(len(x))) for each in (q, k)]
    scores = (q @ k.mT / 2**0.5).masked_fill(torch.ones(3, 3).triu(1).bool(), -torch.inf)
    weights = f.softmax(scores)
    heads = einx.id("head token d -> token (head d)", weights @ v)
    middle = x + f.linear(heads, w[f"{n}.attn.o_proj"])
    b = f.rms_norm(middle, w[f"{n}.ffn_norm"])
    gate, up = [f.linear(b, w[f"{n}.ffn.{each}_proj"]) for each in ("gate", "up")]
    y = middle + f.linear(f.silu(gate) * up, w[f"{n}.ffn.down_proj"])
    return a, q, k, v, weights, heads, middle, b, gate, up, y


# %% [markdown] lang="en"
# ## 3. `sat` in layer 0
# The ids 0 1 2 are `the cat sat`. We follow `sat`, row 2. Its row of the embedding is 1 −1 1 1. The
# mean of the squares is 1, so the norm only multiplies by its weight: 0.8 −0.5 1.5 0.5. Check the
# first number of its value, with row 0 of `0.attn.v_proj`:
# 0.8 · (−0.4) − 0.5 · 0.4 + 1.5 · 0.3 + 0.5 · 0.4 = 0.13. `sat` reads the keys and values of all
# three tokens. Head 1 mixes its values, and the first number is
# 0.3938 · (−0.8) + 0.2638 · (−0.5) + 0.3424 · (−0.3) = −0.5497.

# %% [markdown] lang="zh"
# ## 3. 第 0 层里的 `sat`
# 编号 0 1 2 是 `the cat sat`。我们跟着第 2 行的 `sat` 走。它在嵌入里的那一行是 1 −1 1 1，
# 平方的平均值是 1，所以归一化只是乘上权重：0.8 −0.5 1.5 0.5。验算它的值的第一个数，
# 要用 `0.attn.v_proj` 的第 0 行：0.8 · (−0.4) − 0.5 · 0.4 + 1.5 · 0.3 + 0.5 · 0.4 = 0.13。
# `sat` 要读三个 token 的键和值。头 1 把它的值混合起来，第一个数是
# 0.3938 · (−0.8) + 0.2638 · (−0.5) + 0.3424 · (−0.3) = −0.5497。

# %%
ids = [0, 1, 2]  # the cat sat
x = w["embedding"][ids]
a, q, k, v, weights, heads, middle, b, gate, up, y = block(x, 0)
show("norm", a[2], [0.8, -0.5, 1.5, 0.5])
show("query, 2 heads", q[:, 2], [[-0.4189, -0.5986], [0.5693, -0.6192]])
show("keys, head 0", k[0], [[0.64, 0.64], [-0.0253, 0.1826], [-1.3334, -0.2583]])
show("keys, head 1", k[1], [[0.48, 0.16], [0.0657, 0.6946], [-0.3452, -0.2790]])
show("values, head 0", v[0], [[-0.64, -0.64], [0.56, -0.34], [0.13, -1.07]])
show("values, head 1", v[1], [[-0.8, 0.64], [-0.5, -0.14], [-0.3, 0.57]])
show("weights, 2 heads", weights[:, 2], [[0.1960, 0.2897, 0.5143], [0.3938, 0.2638, 0.3424]])
show("mixed values", heads[2], [0.1036, -0.7743, -0.5497, 0.4103])
show("x + first half", middle[2], [1.4101, -1.4021, 0.7184, 1.5245])
show("norm", b[2], [1.2983, -0.9682, 0.4410, 1.0528])
show("gate", gate[2], [0.7101, 0.9466, 1.4857, 0.7774, 0.9518, -0.1213])
show("up", up[2], [-0.1708, -1.0924, -0.5533, 0.1665, -0.1442, -0.0592])
show("x + second half", y[2], [1.8768, -1.3094, 1.1927, 1.5834])

# %% [markdown] lang="en"
# ## 4. The residual stream
# Layer 1 does the same with its own weights. No step replaces `x`: four halves add to it. This
# growing sum is the **residual stream**. The five rows below are what `sat` collects: embedding,
# attention 0, feed-forward 0, attention 1, feed-forward 1. The figure shows it for all three.

# %% [markdown] lang="zh"
# ## 4. 残差流
# 第 1 层用自己的权重做同样的事。没有哪一步会替换 `x`：四个半块各往上加一点东西。
# 这个不断累加的和就是**残差流**。下面的五行是 `sat` 收集到的东西：
# 嵌入、注意力 0、前馈 0、注意力 1、前馈 1。图中三个 token 都有。

# %%
*_, middle_1, _, _, _, y_1 = block(y, 1)
parts = torch.stack([x, middle - x, y - middle, middle_1 - y, y_1 - middle_1])
collected = [[1, -1, 1, 1], [0.4101, -0.4021, -0.2816, 0.5245], [0.4667, 0.0928, 0.4743, 0.0589]]
collected += [[-0.0576, -0.2153, 0.0107, -0.1161], [-0.0185, -0.2498, 0.0676, -0.1224]]
show("sat", parts[:, 2], collected)
show("sum", parts[:, 2].sum(0), [1.8006, -1.7745, 1.2710, 1.3449])

# %% tags=["figure"]
with figure("19-stream", 7, 2.8) as axes:
    grid = torch.cat([parts, y_1[None]]).flatten(1)  # 6 rows, 3 tokens · 4 numbers
    axes.imshow(grid, cmap="RdBu", vmin=-3, vmax=3, aspect="auto")
    for row, column in torch.cartesian_prod(torch.arange(6), torch.arange(12)).tolist():
        number = grid[row, column].item()
        ink = "white" if abs(number) > 1.8 else "black"
        axes.text(column, row, f"{round(number, 2) + 0:.2f}", color=ink, ha="center", va="center")
    names = ["embedding", "+ attention 0", "+ feed-forward 0", "+ attention 1", "+ feed-forward 1"]
    axes.set(yticks=range(6), yticklabels=[*names, "sum"])
    axes.set(xticks=[1.5, 5.5, 9.5], xticklabels=["the", "cat", "sat"])
    axes.vlines([3.5, 7.5], -0.5, 5.5, color="black")
    axes.axhline(4.5, color="black")

# %% [markdown] lang="en"
# ## 5. Logits, and the library's model
# After the last block comes one more norm. The logit of a token is the dot product of this vector
# with the token's own row of `lm_head`, which is its row of the embedding. `the` has 2 0 0 0, so
# its logit is 2 · 0.8046 = 1.6092, or 1.6093 without rounding. After `sat`, the untrained model
# expects `sat` again. `Transformer` takes the same steps with faster layers. The first two tokens
# alone get the same logits, because no token sees a later one. Texts of a batch do not mix, and
# neither do two texts in one row, if `first` says where each begins (lesson 15).

# %% [markdown] lang="zh"
# ## 5. logits，与本库的模型
# 最后一个块之后还有一次归一化。某个 token 的 logit，是这个向量与 `lm_head` 中该 token
# 那一行的点积，也就是与它在嵌入里的那一行的点积。`the` 的那一行是 2 0 0 0，
# 所以它的 logit 是 2 · 0.8046 = 1.6092，不舍入则是 1.6093。
# 在 `sat` 之后，没有训练过的模型认为下一个还是 `sat`。`Transformer` 用更快的层做同样的几步。
# 只给前两个 token，logits 不变，因为谁也看不到后面的 token。一个批量里的各段文本互不影响。
# 一行里的两段文本也互不影响，只要 `first` 写明每段从哪里开始（第 15 课）。

# %%
hidden = f.rms_norm(y_1, w["norm"])
logits = f.linear(hidden, w["embedding"])
show("last norm", hidden[2], [0.8046, -1.6992, 1.1360, 1.2879])
show("logits", logits[2], [1.6093, 0.0216, 4.9276, -0.0800, 4.0818])
show("probabilities", f.softmax(logits)[2], [0.0245, 0.0050, 0.6759, 0.0045, 0.2901])
assert torch.allclose(model.layers[0](x), y, atol=1e-5)
assert torch.allclose(model.hidden(torch.tensor(ids)), hidden, atol=1e-5)
show("Transformer", model(ids), logits)
show("first two tokens", model(ids[:2]), logits[:2])
show("second text of a batch", model([[2, 0, 1], ids])[1], logits)
in_one_row = model([2, 0, *ids], first=torch.tensor([0, 0, 2, 2, 2]))
show("second text of a row", in_one_row[2:], logits)

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Write `gpt2_block(x, w, heads)`: a block of GPT-2, with `f.layer_norm`, `f.gelu(…, tanh=True)` and
# no turn. `x` has the shape (token, d). `w` has weights and biases: `w["attn.q_proj.weight"]`,
# `w["attn.q_proj.bias"]`, `w["attn_norm.bias"]` and so on. The feed-forward network has only
# `ffn.up_proj` and `ffn.down_proj`. You may use `f`, `einx` and `torch`.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 写出 `gpt2_block(x, w, heads)`：GPT-2 的一个块，用 `f.layer_norm` 和 `f.gelu(…, tanh=True)`，
# 不做旋转。`x` 的形状是 (token, d)。`w` 里有权重和偏置：`w["attn.q_proj.weight"]`、
# `w["attn.q_proj.bias"]`、`w["attn_norm.bias"]` 等等。前馈网络只有 `ffn.up_proj` 和
# `ffn.down_proj`。可以用 `f`、`einx` 和 `torch`。


# %% tags=["exercise"]
def gpt2_block(x, w, heads):
    raise NotImplementedError


# %% tags=["answer"]
def gpt2_block(x, w, heads, causal=True, tanh=True):
    def linear(x, name):
        return f.linear(x, w[name + ".weight"], w[name + ".bias"])

    a = f.layer_norm(x, w["attn_norm.weight"], w["attn_norm.bias"])
    qkv = [linear(a, f"attn.{each}_proj") for each in "qkv"]
    q, k, v = [einx.id("token (head d) -> head token d", each, head=heads) for each in qkv]
    mixed = f.scaled_dot_product_attention(q, k, v, causal=causal)
    x = x + linear(einx.id("head token d -> token (head d)", mixed), "attn.o_proj")
    b = f.layer_norm(x, w["ffn_norm.weight"], w["ffn_norm.bias"])
    return x + linear(f.gelu(linear(b, "ffn.up_proj"), tanh), "ffn.down_proj")


# %% tags=["check"]
def check(gpt2_block, same):
    for tokens, d, heads in [(1, 4, 2), (3, 4, 2), (5, 6, 3)]:
        torch.manual_seed(tokens)
        library = TransformerBlock(ModelConfig(5, 8, d, 1, heads, **gpt2))
        w = {name: torch.randn_like(weight) for name, weight in library.named_parameters()}
        library.load_state_dict(w)
        x = torch.randn(tokens, d)
        same(gpt2_block(x, w, heads), library(x))


def sees_the_future(x, w, heads):
    """Attention has no causal mask. | 注意力没有因果掩码。"""
    return gpt2_block(x, w, heads, causal=False)


def one_head(x, w, heads):
    """The heads are not split. | 没有分成多个头。"""
    return gpt2_block(x, w, 1)


def no_biases(x, w, heads):
    """The biases are missing. | 缺少偏置。"""
    return gpt2_block(x, {n: each * ("bias" not in n) for n, each in w.items()}, heads)


def added(x, w, heads, without):
    w = {name: each * (without not in name) for name, each in w.items()}
    return gpt2_block(x, w, heads) - x


def no_first_residual(x, w, heads):
    """The first half replaces x, but must add to it. | 前一半替换了 x，应当加到 x 上。"""
    x = added(x, w, heads, without="down_proj")
    return x + added(x, w, heads, without="o_proj")


def no_second_residual(x, w, heads):
    """The second half replaces x, but must add to it. | 后一半替换了 x，应当加到 x 上。"""
    x = x + added(x, w, heads, without="down_proj")
    return added(x, w, heads, without="o_proj")


def no_residuals(x, w, heads):
    """Both halves replace x, but must add to it. | 两半都替换了 x，应当加到 x 上。"""
    return added(added(x, w, heads, without="down_proj"), w, heads, without="o_proj")


def exact_gelu(x, w, heads):
    """GPT-2's gelu needs tanh=True. | GPT-2 的 gelu 要写 tanh=True。"""
    return gpt2_block(x, w, heads, tanh=False)


EXERCISE = "gpt2_block"
WRONG = [sees_the_future, one_head, no_biases, exact_gelu]
WRONG += [no_first_residual, no_second_residual, no_residuals]
FAULTS = [  # planted in the library, each must make this lesson fail
    ("scratchlm.model.transformer", "self.dropout(self.ffn(self.ffn_norm(x)))", "self.ffn(x)"),
    ("scratchlm.model.transformer", "        return self.norm(x)", "        return x"),
    ("scratchlm.model.transformer", "self.lm_head.weight = self.embedding.weight", "pass"),
    ("scratchlm.costs.model_costs", "] += weight.numel()\n", "] = weight.numel()\n"),
]
