# %% [markdown] lang="en"
# # 15 · Heads, grouped heads
# Question: why does a model compute attention several times side by side, and what can be shared?
#
# You know from lesson 14 how a token takes an average of the values. Here one token takes two
# averages at once. Then you meet the layer of this library's models.

# %% [markdown] lang="zh"
# # 15 · 多头与分组
# 问题：模型为什么要并排算好几次注意力？其中什么可以共用？
#
# 第 14 课讲过，一个 token 怎样对各个值做平均。这一课里，一个 token 同时做两个平均。
# 然后介绍本库的模型所用的那一层。

# %%
import einx
import torch

from scratchlm.functional import linear, scaled_dot_product_attention, softmax
from scratchlm.lessons.show import figure, show
from scratchlm.model.attention import MultiHeadAttention, sdpa

tokens = ["the", "cat", "sat", "down"]
q = torch.tensor([[4.0, 0, 4, 0], [0, 4, 4, 0], [-4, 0, 0, 4], [0, -4, -4, 0]])
k = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1], [-1, 0, -1, 0], [0, -1, 0, -1]])
v = torch.tensor([[1.0, 2, 10, 20], [3, 4, 30, 40], [5, 6, 50, 60], [7, 8, 70, 80]])

# %% [markdown] lang="en"
# ## 1. One average is not enough
# `down` wants to know two things: its own value, and the value of `sat`, the token before it. The
# first two numbers of its query fit its own key, the last two fit the key of `sat`. But a score
# adds up all four products. It is 4 with itself and 4 with `sat`, or 2 after the division by √4. So
# both get the weight 0.491, and the output is their average. It has no order: exchange the values
# of `sat` and `down`, and the output stays the same.

# %% [markdown] lang="zh"
# ## 1. 一个平均不够用
# `down` 想知道两件事：它自己的值，和它前面的 token `sat` 的值。它的查询的前两个数与自己的键匹配，
# 后两个数与 `sat` 的键匹配。可是分数把四个乘积全加起来：与自己是 4，与 `sat` 也是 4，
# 除以 √4 后都是 2。所以两者的权重都是 0.491，输出是两者的平均，不分先后：
# 把 `sat` 和 `down` 的值对调，输出不变。

# %%
allowed = torch.ones(4, 4, dtype=torch.bool).tril()  # True: may attend
scores = (q @ k.T / 4**0.5).where(allowed, -torch.inf)
show("scores of down", scores[3], [-2, -2, 2, 2])
one = softmax(scores)
show("weights of down", one[3], [0.009, 0.009, 0.491, 0.491])
show("output of down", one[3] @ v, [5.9281, 6.9281, 59.2806, 69.2806])
show("sat and down exchanged", one[3] @ v[[0, 1, 3, 2]], one[3] @ v)

# %% [markdown] lang="en"
# ## 2. Two heads
# So the model cuts each vector into parts. An **attention head** has its own part of `q`, `k` and
# `v`, its own scores and its own weights. Here, head 0 has the numbers 0 and 1 of each vector, and
# head 1 has the numbers 2 and 3. `unflatten` cuts the last axis: (seq, 4) becomes (seq, 2, 2), and
# the axes are seq, head, d_head. `transpose(0, 1)` exchanges the first two axes, so that the head
# comes first. `.mT` exchanges the last two. In einx, `(head d)` is an axis made of two. A `reshape`
# to the same shape is wrong: it cuts the list of tokens, and head 0 gets only `the` and `cat`.
#
# The division is now by √d_head = √2. In head 0, `down` has the score 4 / √2 = 2.8284 with itself,
# and 0 with `sat`. In head 1, it is the other way round. So each head finds its own token.

# %% [markdown] lang="zh"
# ## 2. 两个头
# 所以模型把每个向量切成几段。每个**注意力头**有自己那一段 `q`、`k`、`v`，有自己的分数和权重。这里，
# 头 0 拿每个向量的第 0、1 个数，头 1 拿第 2、3 个数。`unflatten` 切开最后一条轴：
# (seq, 4) 变成 (seq, 2, 2)，三条轴是 seq、head、d_head。`transpose(0, 1)` 交换前两条轴，
# 让 head 排在最前。`.mT` 交换最后两条轴。在 einx 里，`(head d)` 是由两条轴合成的一条。
# 直接 `reshape` 成同样的形状是错的：它切的是 token 的序列，头 0 只拿到 `the` 和 `cat`。
#
# 现在除以 √d_head = √2。在头 0 里，`down` 与自己的分数是 4 / √2 = 2.8284，与 `sat` 是 0。
# 在头 1 里正好相反。于是每个头各找到自己的 token。

# %%
q_heads, k_heads, v_heads = [x.unflatten(-1, (2, 2)).transpose(0, 1) for x in (q, k, v)]
show("head 0 of q", q_heads[0], [[4, 0], [0, 4], [-4, 0], [0, -4]])
show("head 1 of q", q_heads[1], [[4, 0], [4, 0], [0, 4], [-4, 0]])
assert torch.equal(einx.id("seq (head d) -> head seq d", q, head=2), q_heads)
show("reshape, head 0", q.reshape(2, 4, 2)[0], [[4, 0], [4, 0], [0, 4], [4, 0]])
scores = q_heads @ k_heads.mT / 2**0.5
weights = softmax(scores.where(allowed, -torch.inf))
show("scores of down", scores[:, 3], [[0, -2.8284, 0, 2.8284], [-2.8284, 0, 2.8284, 0]])
by_hand = [[0.0527, 0.0031, 0.0527, 0.8915], [0.0031, 0.0527, 0.8915, 0.0527]]
show("weights of down", weights[:, 3], by_hand)
heads = weights @ v_heads
show("outputs of down", heads[:, 3], [[6.566, 7.566], [49.8754, 59.8754]])
ours = scaled_dot_product_attention(q_heads, k_heads, v_heads, causal=True)
show("the library's function", ours[:, 3], heads[:, 3])

# %% tags=["figure"]
with figure("15-maps", 7.6, 2.9) as axes:
    gap = torch.full((4, 1), torch.nan)
    maps = torch.cat([one, gap, weights[0], gap, weights[1]], 1)
    axes.imshow(maps, cmap="Blues", vmin=0, vmax=1)
    for y, x in (maps > 0).nonzero():
        ink = "white" if maps[y, x] > 0.6 else "black"
        axes.text(x, y, f"{maps[y, x]:.2f}", color=ink, ha="center", va="center", size=8)
    for x, name in [(1.5, "one head"), (6.5, "head 0"), (11.5, "head 1")]:
        axes.text(x, -0.8, name, ha="center", weight="bold")
    axes.set_xticks([left + i for left in (0, 5, 10) for i in range(4)], tokens * 3)
    axes.set_yticks(range(4), tokens)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)

# %% [markdown] lang="en"
# ## 3. Join the heads, and mix them
# Each head has an output of two numbers for each token. The same two steps backwards join them to
# four numbers. We made the values of head 1 ten times larger, so that you see which is which. The
# vector of `down` begins with 6.566, near its own value 7, and ends with 59.8754, near the 60 of
# `sat`. Now the order counts. A last linear layer, W_o, mixes the heads. Ours subtracts a tenth of
# head 1 from head 0. So its first number tells how much the value has grown since the last token.

# %% [markdown] lang="zh"
# ## 3. 把头接起来，再混合
# 每个头为每个 token 输出两个数。把那两步倒过来做，就接成四个数。我们特意让头 1 的值大十倍，
# 好看出谁是谁。`down` 的向量以 6.566 开头，接近它自己的值 7；以 59.8754 结尾，接近 `sat` 的 60。
# 现在先后有了区别。最后一个线性层 W_o 把各个头混合起来。我们的 W_o 从头 0 减去头 1 的十分之一。
# 于是第一个数说明：值比上一个 token 增长了多少。

# %%
joined = heads.transpose(0, 1).flatten(1)
show("joined", joined[2:], [[4.8756, 5.8756, 30, 40], [6.566, 7.566, 49.8754, 59.8754]])
assert torch.equal(einx.id("head seq d -> seq (head d)", heads), joined)
W_o = torch.tensor([[1, 0, -0.1, 0], [0, 1, 0, -0.1], [0, 0, 0.1, 0], [0, 0, 0, 0.1]])
out = linear(joined, W_o)
show("output of down", out[3], [1.5785, 1.5785, 4.9875, 5.9875])

# %% [markdown] lang="en"
# ## 4. The layer
# `MultiHeadAttention(4, 2)` does all this. Three linear layers turn the same input `x` into `q`,
# `k` and `v`. To get exactly ours, we use a trick: for a one-hot `x` (lesson 13), a linear layer
# returns the columns of its weight. So `x` is `torch.eye(4)`, and the weights are `q.T`, `k.T` and
# `v.T`. In a batch, texts do not see each other: a second text, here ours backwards (`flip`),
# changes nothing. PyTorch has such a layer too. It also returns the weights of each head.
#
# Why do `q` and `k` need two matrices? With `k` in the place of `q`, the scores would be symmetric:
# `sat` would fit `down` exactly as `down` fits `sat`. With two, `down` can look for `sat` while
# `sat` looks for `cat`. Then the score of `sat` for `down` is −4, and of `down` for `sat` it is 4.
#
# The layer has four matrices of 4·4 numbers, 64 in all, for any number of heads: more heads are
# narrower heads. `bias=True` adds 4 biases to each matrix, and `qkv_bias=True` to three of them.
#
# Inside, the layer calls `sdpa`, the fast version of our function. Both take a `mask` (True: may
# attend), alone or with `causal`. A token that may attend to nothing gets zeros. If there are fewer
# queries than keys, the queries are the last tokens.

# %% [markdown] lang="zh"
# ## 4. 这一层
# `MultiHeadAttention(4, 2)` 把这些全做了。三个线性层把同一个输入 `x` 变成 `q`、`k`、`v`。
# 要得到和我们一样的数，有个窍门：对于独热的 `x`（第 13 课），线性层返回其权重的各列。
# 所以让 `x` 等于 `torch.eye(4)`，让权重等于 `q.T`、`k.T`、`v.T`。同一批量里的文本互不相看：
# 再加一段文本，这里是倒过来的原文（`flip`），结果不变。PyTorch 也有这样一层，它还返回每个头的权重。
#
# 为什么 `q` 和 `k` 要用两个矩阵？如果用 `k` 代替 `q`，分数就是对称的：`sat` 与 `down` 有多匹配，
# `down` 与 `sat` 也就有多匹配。有了两个矩阵，`down` 可以找 `sat`，而 `sat` 去找 `cat`。
# 这时，`sat` 对 `down` 的分数是 −4，`down` 对 `sat` 的分数是 4。
#
# 这一层有四个 4·4 的矩阵，共 64 个数，不论有几个头：头越多，每个头越窄。
# `bias=True` 给每个矩阵加 4 个偏置，`qkv_bias=True` 只加给其中三个。
#
# 这一层在内部调用 `sdpa`，它是我们那个函数的快速版本。两者都可以带 `mask`（True 表示可以看），
# 单独用，或与 `causal` 一起用。什么都不许看的 token 得到零。如果查询比键少，
# 这些查询就是最后几个 token。

# %%
layer, x = MultiHeadAttention(4, 2), torch.eye(4)
with torch.no_grad():
    for each, weight in [(layer.q_proj, q.T), (layer.k_proj, k.T), (layer.v_proj, v.T)]:
        each.weight.copy_(weight)
    layer.o_proj.weight.copy_(W_o)
show("MultiHeadAttention", layer(x)[3], out[3])
assert torch.allclose(layer(torch.stack([x.flip(0), x]))[1], out, atol=1e-5)
torch_layer = torch.nn.MultiheadAttention(4, 2, bias=False, batch_first=True)
with torch.no_grad():
    torch_layer.in_proj_weight.copy_(torch.cat([q.T, k.T, v.T]))
    torch_layer.out_proj.weight.copy_(W_o)
theirs, maps = torch_layer(
    x[None], x[None], x[None], attn_mask=~allowed, average_attn_weights=False
)
show("torch", theirs[0, 3], out[3])
show("torch, weights of down", maps[0, :, 3], weights[:, 3])
show("head 1: sat and down look at", weights[1, 2:].argmax(-1), [1, 2])
keys = layer.k_proj(x)
two, single = layer.q_proj(x) @ keys.T, keys @ keys.T
show("sat for down, down for sat", [two[2, 3], two[3, 2]], [-4, 4])
show("with one matrix", [single[2, 3], single[3, 2]], [0, 0])


def size(*layers):
    return [sum(weight.numel() for weight in layer.parameters()) for layer in layers]


heads_124 = [MultiHeadAttention(4, num_heads) for num_heads in (1, 2, 4)]
show("parameters, 1, 2, 4 heads", size(*heads_124), [64, 64, 64])
biased = MultiHeadAttention(4, 2, bias=True), MultiHeadAttention(4, 2, qkv_bias=True)
show("with bias, with qkv_bias", size(*biased), [80, 76])
itself = torch.eye(4).bool()
for mask, causal, first, expected in [
    (itself, False, 0, v_heads[:, 3]),
    (~itself, True, 0, [[3, 4], [48.756, 58.756]]),
    (None, True, 2, heads[:, 3]),
]:
    given = q_heads[:, first:], k_heads, v_heads, mask
    ours = scaled_dot_product_attention(*given, causal=causal)
    show(f"mask {mask is not None}, causal {causal}", ours[:, -1], expected)
    assert torch.allclose(sdpa(*given, causal=causal), ours, atol=1e-5)
    assert (ours[:, 0] == 0).all() == (mask is not None and causal)

# %% [markdown] lang="en"
# ## 5. Heads that share keys and values
# A model that writes must keep the keys and values of all tokens so far, for each head. In
# **grouped-query attention**, a group of heads shares one head of keys and values. Below, four
# heads of `q` use two heads of `k` and `v`. There is only one token, so each weight is 1, and each
# output is a value. Neighbours share: heads 0 and 1 get 10, heads 2 and 3 get 20. With the wrong
# order, 10 20 10 20, there is no error, only wrong text.
#
# `MultiHeadAttention(8, 4, 2)` has four heads that use two. Its matrices for `k` and `v` have half
# as many rows, so it has 192 parameters instead of 256. It computes the same as a layer with four
# heads in which `k` and `v` have each head twice. `repeat_interleave` writes each head twice, and
# `load_state_dict` copies the weights. In Llama 3 8B, each of the 32 layers has 32 heads that use
# 8, with 128 numbers each. So for each token, it keeps 65,536 numbers instead of 262,144.

# %% [markdown] lang="zh"
# ## 5. 共用键和值的头
# 模型生成文本时，必须为每个头保存到目前为止所有 token 的键和值。
# 在**分组查询注意力**里，一组头共用一个头的键和值。下面，`q` 的四个头用 `k` 和 `v` 的两个头。
# 只有一个 token，所以权重都是 1，输出就是值。相邻的头共用：头 0 和 1 得到 10，头 2 和 3 得到 20。
# 如果次序错了，得到 10 20 10 20，也不会报错，只是生成的文本不对。
#
# `MultiHeadAttention(8, 4, 2)` 的四个头用两个头。它的 `k`、`v` 矩阵只有一半的行，
# 所以参数是 192 个，而不是 256 个。另有一层，四个头，`k` 和 `v` 的每个头重复两次，结果与它相同。
# `repeat_interleave` 把每个头写两遍，`load_state_dict` 复制权重。Llama 3 8B 有 32 层，
# 每层 32 个头用 8 个头，每个头 128 个数。所以每个 token 要保存 65,536 个数，而不是 262,144 个。

# %%
q4, k2, v2 = torch.ones(4, 1, 2), torch.ones(2, 1, 2), torch.tensor([[[10.0]], [[20.0]]])
show("grouped", scaled_dot_product_attention(q4, k2, v2).flatten(), [10, 10, 20, 20])
show("fast version", sdpa(q4, k2, v2).flatten(), [10, 10, 20, 20])
torch.manual_seed(0)
grouped, full, x = MultiHeadAttention(8, 4, 2), MultiHeadAttention(8, 4), torch.randn(3, 8)
show("parameters, 4 on 2, 4 on 4", size(grouped, full), [192, 256])
state = grouped.state_dict()
for name in ("k_proj.weight", "v_proj.weight"):
    state[name] = state[name].unflatten(0, (2, 2)).repeat_interleave(2, 0).flatten(0, 1)
full.load_state_dict(state)
show("grouped - repeated", (grouped(x) - full(x)).abs().max(), 0, within=1e-6)
show("Llama 3 8B, numbers kept", [2 * 32 * 8 * 128, 2 * 32 * 32 * 128], [65_536, 262_144])

# %% [markdown] lang="en"
# ## 6. A window, several texts, and a gate
# A long text has many keys, and each query computes a score for each of them. With `window=2`, a
# token may attend only to its own key and to the key before it. So `down` keeps the scores of `sat`
# and `down`. In head 0, these are 0 and 2.8284, and their softmax is 0.0558 and 0.9442. Now one
# more token costs the same in a long text as in a short one. The second layer sees one token
# further back than the first, because the first has already mixed each token with the one before.
# The loop below compares the fast version with ours, for several masks and for fewer queries.
#
# A row may also contain several texts. `first` has the first key that each query may attend to.
# With 0 0 2 2, `the cat` and `sat down` are two texts: `sat` sees only itself, so it gets its own
# value. The fast version computes each text alone, without the scores between them.
#
# A gate lets a part of attention's output pass. A linear layer computes a number from `x`, and the
# sigmoid of this number (lesson 6) is the part, between 0 and 1. With `headwise`, each head has one
# gate. With `elementwise`, each number of a head has its own. If the weights are 0, each gate is
# sigmoid(0) = 0.5, so the output is half of the output above. Below, head 0 gets the weights −100,
# and its gates close: sigmoid(−100) is almost 0. Then only half of head 1 is left.

# %% [markdown] lang="zh"
# ## 6. 窗口、几段文本、门
# 长文本的键很多，每个查询都要对每个键算一个分数。设了 `window=2`，一个 token 只能看自己的键和
# 前一个键。所以 `down` 只剩下 `sat` 和 `down` 的分数。在头 0 里，它们是 0 和 2.8284，
# softmax 是 0.0558 和 0.9442。这样，再加一个 token 的代价，在长文本里和在短文本里一样。
# 第二层比第一层多看到前面一个 token，因为第一层已经把每个 token 与它前面那个混合起来了。
# 下面的循环用不同的掩码和更少的查询，比较快速版本和我们的函数。
#
# 一行里也可以放几段文本。`first` 写明每个查询可以看的第一个键。如果是 0 0 2 2，
# `the cat` 和 `sat down` 就是两段文本：`sat` 只看得到自己，所以得到自己的值。
# 快速版本单独计算每段文本，不算两段之间的分数。
#
# 门只让注意力输出的一部分通过。一个线性层由 `x` 算出一个数，这个数的 sigmoid（第 6 课）就是
# 通过的比例，在 0 和 1 之间。用 `headwise`，每个头有一个门。用 `elementwise`，头里的每个数
# 有自己的门。如果权重都是 0，每个门都是 sigmoid(0) = 0.5，输出就是上面的一半。
# 下面让头 0 的权重为 −100，它的门就关上了：sigmoid(−100) 几乎是 0。于是只剩下头 1 的一半。

# %%
in_window = scaled_dot_product_attention(q_heads, k_heads, v_heads, window=2)
show("window 2, down", in_window[:, 3], [[6.8884, 7.8884], [51.1161, 61.1161]])
show("window 2, the", in_window[:, 0], v_heads[:, 0])
nothing = torch.zeros(2, 1, dtype=torch.bool)
for first, window, mask in [
    (0, 2, None), (0, 1, None), (3, 2, None), (2, 2, None), (1, 3, None), (1, 9, None),
    (0, 2, ~itself), (2, 2, ~itself[2:]), (1, 3, ~itself[1:]), (2, 2, nothing), (2, 2, ~nothing),
]:  # fmt: skip
    given = q_heads[:, first:], k_heads, v_heads, mask
    ours = scaled_dot_product_attention(*given, window=window)
    assert torch.allclose(sdpa(*given, window=window), ours, atol=1e-5)
last = scaled_dot_product_attention(q_heads[:, 3:], k_heads, v_heads, window=2)
show("last query alone", last[:, 0], in_window[:, 3])
two_texts = torch.tensor([0, 0, 2, 2])
apart = scaled_dot_product_attention(q_heads, k_heads, v_heads, causal=True, first=two_texts)
show("two texts, sat", apart[:, 2], v_heads[:, 2])
show("two texts, cat", apart[:, 1], heads[:, 1])
for first, mask, causal, window in [
    ([0, 0, 2, 2], None, True, None), ([0, 1, 1, 3], None, False, 2), ([0, 0, 1, 2], None, True, 3),
    ([0, 0, 2, 2], ~itself, True, None), ([1, 2, 1, 0], None, False, None), ([2, 2], None, True, 2),
]:  # fmt: skip
    first = torch.tensor(first)
    given = q_heads[:, -len(first) :], k_heads, v_heads, mask
    ours, fast = [
        attend(*given, causal=causal, window=window, first=first)
        for attend in (scaled_dot_product_attention, sdpa)
    ]
    assert torch.allclose(fast, ours, atol=1e-5)
assert torch.allclose(layer(torch.eye(4), first=two_texts)[2:], layer(torch.eye(4)[2:]), atol=1e-5)
windowed = MultiHeadAttention(4, 2, window=2)
windowed.load_state_dict(layer.state_dict())
mixed = linear(in_window.transpose(0, 1).flatten(1), W_o)
show("a layer with window 2", windowed(torch.eye(4))[3], mixed[3])
for gate, width in [("headwise", 1), ("elementwise", 2)]:
    gated = MultiHeadAttention(4, 2, gate=gate)
    show(f"{gate}, parameters", size(gated), [64 + 2 * width * 4])
    gated.load_state_dict(layer.state_dict(), strict=False)  # False: the gate keeps its weights
    with torch.no_grad():
        gated.gate.proj.weight.zero_()
        show("gates half open", gated(torch.eye(4)), out / 2)
        gated.gate.proj.weight[:width] = -100
    show("head 0 closed, down", gated(torch.eye(4))[3], [-2.4938, -2.9938, 2.4938, 2.9938])

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Write `attend_in_heads(q, k, v, num_heads)`: split `q`, `k` and `v` of shape (seq, d) into heads,
# let each head attend causally, and join the heads. The result has the shape (seq, d). You may use
# `scaled_dot_product_attention`.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 写出 `attend_in_heads(q, k, v, num_heads)`：把形状为 (seq, d) 的 `q`、`k`、`v` 切成多个头，
# 每个头做因果注意力，再把头接起来。结果的形状是 (seq, d)。可以用 `scaled_dot_product_attention`。


# %% tags=["exercise"]
def attend_in_heads(q, k, v, num_heads):
    raise NotImplementedError


# %% tags=["answer"]
def attend_in_heads(q, k, v, num_heads):
    split = [x.unflatten(-1, (num_heads, -1)).transpose(0, 1) for x in (q, k, v)]
    return scaled_dot_product_attention(*split, causal=True).transpose(0, 1).flatten(1)


# %% tags=["check"]
def check(answer, same):
    for seq, d, num_heads in [(1, 4, 2), (3, 4, 2), (4, 6, 3)]:
        q, k, v = torch.randn(3, seq, d, generator=torch.Generator().manual_seed(seq))
        split = [einx.id("seq (head d) -> head seq d", x, head=num_heads) for x in (q, k, v)]
        want = einx.id("head seq d -> seq (head d)", sdpa(*split, causal=True))
        same(answer(q, k, v, num_heads), want)


def tokens_cut(q, k, v, num_heads):
    """The split cuts the tokens: a transpose is missing. | 切的是 token：缺了 transpose。"""
    split = [x.reshape(num_heads, len(x), -1) for x in (q, k, v)]
    return scaled_dot_product_attention(*split, causal=True).transpose(0, 1).flatten(1)


def joined_wrong(q, k, v, num_heads):
    """The heads are joined without a transpose. | 接起来时缺了 transpose。"""
    split = [x.unflatten(-1, (num_heads, -1)).transpose(0, 1) for x in (q, k, v)]
    return scaled_dot_product_attention(*split, causal=True).reshape(q.shape)


def interleaved(q, k, v, num_heads):
    """A head takes every num_heads-th number, not neighbours. | 每个头隔着取数，应取相邻的数。"""
    split = [x.unflatten(-1, (-1, num_heads)).movedim(-1, 0) for x in (q, k, v)]
    return scaled_dot_product_attention(*split, causal=True).movedim(0, -1).flatten(1)


def sees_the_future(q, k, v, num_heads):
    """There is no causal mask: `causal=True` is missing. | 没有因果掩码：少了 `causal=True`。"""
    split = [x.unflatten(-1, (num_heads, -1)).transpose(0, 1) for x in (q, k, v)]
    return scaled_dot_product_attention(*split).transpose(0, 1).flatten(1)


def scaled_by_d(q, k, v, num_heads):
    """The scores are divided by √d, not by √d_head. | 分数除以了 √d，应除以 √d_head。"""
    return attend_in_heads(q / num_heads**0.5, k, v, num_heads)


EXERCISE = "attend_in_heads"
WRONG = [tokens_cut, joined_wrong, interleaved, sees_the_future, scaled_by_d]
FAULTS = [  # planted in the library, each must make this lesson fail
    ("scratchlm.functional", "... (kv_head group) key d", "... (group kv_head) key d"),
    ("scratchlm.model.attention", "(y.transpose(-3, -2).", "(y.transpose(-3, -2).mT."),
    ("scratchlm.model.attention", "k_norm(self.k_proj", "k_norm(self.q_proj"),
    ("scratchlm.model.attention", ".tril(last)", ".tril(0)"),
    ("scratchlm.model.attention", "last - window + 1", "last - window"),
    ("scratchlm.model.attention", "y * gate.sigmoid()", "y + gate.sigmoid()"),
]
