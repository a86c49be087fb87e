# %% [markdown] lang="en"
# # 1 · Why are similar words near each other?
# Each word has a vector, and training moves the vectors. If two words are followed by the same
# words, they need the same predictions, so training pushes their vectors in the same direction.
# Nobody tells the model what `cat` means. Lesson 13 explains it. Here `cat` and `dog` have the same
# next words, and `car` has another. The cosine similarity is 1 for vectors of the same direction
# and 0 for a right angle. For `cat` with `dog` it is near 0 at first, and near 1 after 60 steps.

# %% [markdown] lang="zh"
# # 1 · 为什么意思相近的词会靠在一起？
# 每个词有一个向量，训练会移动这些向量。如果两个词后面跟着同样的词，它们就需要同样的预测，
# 所以训练把它们的向量推向同一个方向。没有人告诉模型 `cat` 是什么意思。第 13 课有解释。
# 下面的 `cat` 和 `dog` 后面的词相同，`car` 后面的词不同。两个向量方向相同，余弦相似度是 1；
# 成直角，就是 0。`cat` 与 `dog` 的余弦相似度起初在 0 附近，60 步之后接近 1。

# %%
import torch

from scratchlm.functional import cross_entropy
from scratchlm.lessons.show import show
from scratchlm.model.layers import Embedding, Linear
from scratchlm.optim.adamw import AdamW

words = ["cat", "dog", "car", "eats", "sleeps", "stops"]
word = torch.tensor([0, 0, 1, 1, 2])
following = torch.tensor([3, 4, 3, 4, 5])
torch.manual_seed(2)
table, head = Embedding(6, 32), Linear(32, 6)
optimizer = AdamW([table.weight, head.weight], lr=0.02)
before = torch.cosine_similarity(table.weight[0], table.weight[1:3])
for _ in range(60):
    optimizer.zero_grad()
    cross_entropy(head(table(word)), following).backward()
    optimizer.step()
after = torch.cosine_similarity(table.weight[0], table.weight[1:3])
show("cat with dog, with car", before, [0, 0], within=0.2)
show("after 60 steps", after, [0.97, -0.35], within=[0.1, 0.3])

# %% [markdown] lang="en"
# # 2 · Where do the numbers of an embedding come from?
# They are random at first. Each token has one row in a table. In each training step, only the
# rows of the tokens in the batch get a gradient (all rows, if the last layer shares the table). The
# optimizer may also move the other rows a little (weight decay, lesson 23). After many steps, the
# rows are useful for predicting the next token, and this is all that they mean. Lesson 13 explains
# it. Here a table has five rows, and the batch has the tokens 1 and 3. Weight decay multiplies the
# other rows by 0.999.

# %% [markdown] lang="zh"
# # 2 · 嵌入的那些数从哪里来？
# 起初是随机数。每个 token 在一张表里占一行。训练的每一步，只有这个批量里出现的 token 的行才有梯度
# （如果最后一层共用这张表，所有行都有梯度）。优化器也可能稍微移动其他的行（权重衰减，第 23 课）。
# 走过许多步以后，这些行就有助于预测下一个 token；它们的含义仅此而已。第 13 课有解释。
# 下面的表有五行，批量里有 token 1 和 3。权重衰减把其他的行乘以 0.999。

# %%
import torch

from scratchlm.lessons.show import show
from scratchlm.model.layers import Embedding
from scratchlm.optim.adamw import AdamW

torch.manual_seed(0)
table = Embedding(5, 4)
before = table.weight.detach().clone()
table(torch.tensor([1, 3, 1])).square().sum().backward()
gradient = table.weight.grad.any(dim=1)
show("is there a gradient?", gradient, [False, True, False, True, False])
AdamW(table.parameters(), lr=0.1, weight_decay=0.01).step()
others = [0, 2, 4]
show("other rows, after / before", (table.weight / before)[others], [[0.999] * 4] * 3)

# %% [markdown] lang="en"
# # 3 · What is the causal mask?
# A language model learns to predict the next token. If it could see this token, it would copy it
# and learn nothing. The causal mask hides it: in attention, each token sees only itself and the
# tokens before it. So a change in the future never changes the past. Lesson 14 explains it. Here
# the third of three tokens is replaced. The first two rows of the output stay equal.

# %% [markdown] lang="zh"
# # 3 · 什么是因果掩码？
# 语言模型要学的是预测下一个 token。如果它能看到这个 token，照抄就行，什么也学不到。
# 因果掩码把它遮住：在注意力里，每个 token 只能看到自己和前面的 token。
# 所以改动未来，绝不会改变过去。第 14 课有解释。下面把三个 token 中的第三个换掉，
# 输出的前两行仍然相等。

# %%
import torch

from scratchlm.functional import scaled_dot_product_attention
from scratchlm.lessons.show import show

torch.manual_seed(0)
x = torch.randn(3, 8)
changed = x.clone()
changed[2] = 100.0
a, b = [scaled_dot_product_attention(each, each, each, causal=True) for each in (x, changed)]
show("is the row equal?", (a == b).all(dim=1), [True, True, False])

# %% [markdown] lang="en"
# # 4 · What does a norm do?
# A layer multiplies vectors, and so it changes their size. If each layer doubles the size, 8 layers
# make it 256 times as large, and with more layers it grows on. A norm gives each vector a fixed
# size before the layer uses it, so the size cannot pile up. Lesson 17 explains it. Here are the
# sizes after 8 random layers that double, first without a norm and then with RMSNorm.

# %% [markdown] lang="zh"
# # 4 · 归一化有什么用？
# 一层要做乘法，所以会改变向量的大小。如果每层让大小加倍，8 层就变成 256 倍，层数更多还会再涨。
# 归一化在一层使用向量之前，先把它变成固定的大小，这样变化就不会层层累积。第 17 课有解释。
# 下面是经过 8 个会让大小加倍的随机层之后的大小，先是没有归一化的，再是有 RMSNorm 的。

# %%
import torch

from scratchlm.functional import rms_norm
from scratchlm.lessons.show import show

generator = torch.Generator().manual_seed(0)
plain = normed = torch.randn(32, 64, generator=generator)
for _ in range(8):
    layer = torch.randn(64, 64, generator=generator) / 4  # √64 / 4 = 2
    plain, normed = plain @ layer, rms_norm(normed, torch.ones(64)) @ layer
show("size without a norm", plain.std(), 256, within=60)
show("size with RMSNorm", normed.std(), 2, within=0.2)

# %% [markdown] lang="en"
# # 5 · Why divide by √d?
# A sum of `d` products of random numbers grows like √d. Without the division, softmax puts nearly
# all weight on one token. Lesson 14 explains it. Here is the largest of 64 weights at `d = 1024`,
# before the division and after.

# %% [markdown] lang="zh"
# # 5 · 为什么要除以 √d？
# `d` 个随机数乘积之和按 √d 增长。不除的话，softmax 会把几乎全部权重压在一个 token 上。
# 第 14 课有解释。下面是 `d = 1024` 时 64 个权重中最大的那个，先是不除的，再是除过的。

# %%
import torch

from scratchlm.functional import softmax
from scratchlm.lessons.show import show

generator = torch.Generator().manual_seed(0)
scores = torch.randn(500, 1024, generator=generator) @ torch.randn(1024, 64, generator=generator)
largest = [softmax(x).amax(-1).mean() for x in (scores, scores / 1024**0.5)]
show("largest weight", largest, [0.95, 0.11], within=0.04)

# %% [markdown] lang="en"
# # 6 · Why is the mask added as −∞, and not multiplied by 0?
# In attention, softmax turns scores into weights: it takes exp of each score, and divides by the
# sum. The mask must act before softmax, and there 0 hides nothing, because exp(0) = 1. But
# exp(−∞) = 0, so a hidden token gets the weight 0, and the other weights still add up to 1. If we
# multiply by 0 after softmax, the weights add up to less than 1. How much less depends on the
# hidden tokens, so the future still has an influence. Lesson 14 explains it. Here are the sums of
# three rows, masked before softmax and masked after it.

# %% [markdown] lang="zh"
# # 6 · 掩码为什么用 −∞ 去加，而不是用 0 去乘？
# 在注意力里，softmax 把分数变成权重：对每个分数取 exp，再除以总和。掩码要在 softmax 之前起作用，
# 而在那里 0 什么也遮不住，因为 exp(0) = 1。exp(−∞) = 0，所以被遮住的 token 权重是 0，
# 其余的权重加起来仍然是 1。如果到 softmax 之后才乘 0，权重之和就小于 1。小多少，
# 取决于被遮住的 token，所以未来还是有影响。第 14 课有解释。
# 下面是三行的和，先是在 softmax 之前遮的，再是在它之后遮的。

# %%
import torch

from scratchlm.functional import softmax
from scratchlm.lessons.show import show

scores = torch.tensor([[1, 0, 1], [0, 1.5, 0.5], [1, 1, 1.5]])
allowed = torch.ones(3, 3).tril().bool()
show("masked before", softmax(scores.where(allowed, -torch.inf)).sum(-1), [1, 1, 1])
show("masked after", (softmax(scores) * allowed).sum(-1), [0.4223, 0.7688, 1])

# %% [markdown] lang="en"
# # 8 · Does True in a mask mean "look" or "hide"?
# It depends on the function. In this library and in torch's `scaled_dot_product_attention`, True
# means "may look". In torch's `MultiheadAttention`, True means "hide". The wrong mask runs without
# an error, and the model sees only the future. So test it: change the last token, and the first
# output must stay equal. Lesson 14 explains it. Here are the weights of the first of three tokens.

# %% [markdown] lang="zh"
# # 8 · 掩码里的 True 是“可以看”还是“遮住”？
# 要看是哪个函数。在本库和 torch 的 `scaled_dot_product_attention` 里，True 是“可以看”。
# 在 torch 的 `MultiheadAttention` 里，True 是“遮住”。掩码弄反了也不报错，模型却只看得到未来。
# 所以要测试：改动最后一个 token，第一个输出必须不变。第 14 课有解释。
# 下面是三个 token 中第一个的权重。

# %%
import torch
import torch.nn.functional as F

from scratchlm.functional import scaled_dot_product_attention
from scratchlm.lessons.show import show

allowed = torch.ones(3, 3).tril().bool()
q = k = torch.zeros(1, 3, 4)  # equal scores
v = torch.eye(3)[None]
show("this library", scaled_dot_product_attention(q, k, v, allowed)[0, 0], [1, 0, 0])
show("torch", F.scaled_dot_product_attention(q, k, v, allowed)[0, 0], [1, 0, 0])
show("upside down", scaled_dot_product_attention(q, k, v, ~allowed)[0, 0], [0, 0.5, 0.5])
theirs = torch.nn.MultiheadAttention(4, 1, batch_first=True)
_, weights = theirs(q, k, k, attn_mask=~allowed)
show("MultiheadAttention", weights[0, 0], [1, 0, 0])

# %% [markdown] lang="en"
# # 9 · Why do queries and keys have different matrices?
# In attention, each token asks with a query and answers with a key. A matrix makes the query from
# the token's vector, and another makes the key. Attention is not mutual: `it` looks for a noun, but
# a noun does not look for `it`. With one matrix for both, the score of token 0 for token 1 is
# always the score of token 1 for token 0. Lesson 15 explains it. Here are the scores of two tokens.
# With two matrices, token 0 looks at token 1, and not the other way round.

# %% [markdown] lang="zh"
# # 9 · 查询和键为什么用不同的矩阵？
# 在注意力里，每个 token 用查询来问，用键来答。一个矩阵把 token 的向量变成查询，另一个把它变成键。
# 注意力不是相互的：`it` 要找一个名词，名词却不找 `it`。如果两者共用一个矩阵，token 0 对 token 1 的
# 分数总是等于 token 1 对 token 0 的分数。第 15 课有解释。
# 下面是两个 token 的分数。用两个矩阵时，token 0 看 token 1，反过来却不看。

# %%
import torch

from scratchlm.functional import linear
from scratchlm.lessons.show import show

x, a, b = torch.eye(2), torch.tensor([[0.0, 0], [1, 0]]), torch.eye(2)
show("two matrices", linear(linear(x, a), linear(x, b)), [[0, 1], [0, 0]])
show("the first alone", linear(linear(x, a), linear(x, a)), [[1, 0], [0, 0]])
x, a, b = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
one, two = linear(linear(x, a), linear(x, a)), linear(linear(x, a), linear(x, b))
equal = [torch.allclose(scores, scores.T, atol=1e-4) for scores in (one, two)]
show("mutual? one, two matrices", equal, [True, False])

# %% [markdown] lang="en"
# # 10 · Why are there many heads?
# A head is one run of attention: it gives each token one average of other tokens' values. If a
# token needs two things, such as its subject and its verb, one head mixes them, and the mixture
# cannot be separated again. Two heads look at two places, and put the results side by side. Lesson
# 15 explains it. Here a token needs the first number of token 0 and the second number of token 1.
# Both are 1. One head with equal weights gets 3 and 4: the other numbers, 7 and 5, are in the mean.

# %% [markdown] lang="zh"
# # 10 · 为什么要有许多头？
# 一个头就是做一次注意力：它给每个 token 一个平均，是其他 token 的值的平均。如果一个 token
# 需要两样东西，例如它的主语和它的动词，一个头就把它们混在一起，混了就分不开。
# 两个头看两个地方，再把结果并排放好。第 15 课有解释。
# 下面的 token 需要 token 0 的第一个数和 token 1 的第二个数，两个都是 1。
# 只有一个头，权重相等，就得到 3 和 4：平均里混进了另外两个数 7 和 5。

# %%
import torch

from scratchlm.functional import scaled_dot_product_attention
from scratchlm.lessons.show import show

v = torch.tensor([[1.0, 7], [5, 1]])  # token, number
one = scaled_dot_product_attention(torch.zeros(1, 2), torch.zeros(2, 2), v)
show("one head", one, [[3, 4]])
keys = torch.tensor([[[20.0], [0]], [[0], [20]]])  # head, token, 1
two = scaled_dot_product_attention(torch.ones(2, 1, 1), keys, v.T[:, :, None])
show("two heads", two.flatten(), [1, 1])

# %% [markdown] lang="en"
# # 11 · Why are there residual connections?
# The gradient tells each number of the model which way to change. It goes from the last layer back
# to the first, and each layer multiplies it. If each layer halves it, 16 layers leave almost
# nothing, and the first layers learn nothing. A residual connection adds the input of a layer to
# its output. So the gradient also has a way around the layer, and arrives. Lesson 17 explains it.
# Here is the size of the gradient before 16 random layers, without and with residual connections.

# %% [markdown] lang="zh"
# # 11 · 为什么要有残差连接？
# 梯度告诉模型的每个数该往哪边变。它从最后一层传回第一层，每一层都要乘一次。如果每层让它减半，
# 16 层之后就几乎不剩什么，前面的层学不到东西。残差连接把一层的输入加到它的输出上。
# 这样，梯度还有一条路绕过这一层，能够传到前面。第 17 课有解释。
# 下面是传过 16 个随机层之后梯度的大小，先是没有残差连接的，再是有残差连接的。

# %%
import torch

from scratchlm.lessons.show import show

for name, residual, expected, within in [("without", 0, 0, 1e-4), ("with", 1, 6, 3)]:
    generator = torch.Generator().manual_seed(0)
    x = y = torch.randn(64, generator=generator).requires_grad_()
    for _ in range(16):
        layer = torch.randn(64, 64, generator=generator) / 16  # √64 / 16 = 1/2
        y = residual * y + layer @ y
    y.sum().backward()
    show(f"gradient {name}", x.grad.square().mean().sqrt(), expected, within)

# %% [markdown] lang="en"
# # 12 · Why RMSNorm, and not BatchNorm?
# BatchNorm computes its mean over the batch. So in training, a text's result depends on the other
# texts in the batch. Later, BatchNorm uses stored means, which may not fit a new text. RMSNorm uses
# only the numbers of one vector. So the result is the same in training, alone or in any batch.
# Lesson 17 explains it. Here the vector (3, 4) is in a batch with (1, 2), and then with (5, 0).

# %% [markdown] lang="zh"
# # 12 · 为什么用 RMSNorm，而不用 BatchNorm？
# BatchNorm 的平均值是对整个批量算的。所以训练时，一段文本的结果取决于同批的其他文本。
# 训练之后，BatchNorm 用的是存下来的平均值，新文本未必适合。RMSNorm 只用一个向量
# 自己的数。所以不论在训练中、单独一个，还是在任何批量里，结果都一样。第 17 课有解释。
# 下面的向量 (3, 4) 先与 (1, 2) 同批，再与 (5, 0) 同批。

# %%
import torch
import torch.nn.functional as F

from scratchlm.functional import rms_norm
from scratchlm.lessons.show import show

for other, expected in [([1.0, 2], [1, 1]), ([5.0, 0], [-1, 1])]:
    batch = torch.tensor([[3.0, 4], other])
    show("BatchNorm", F.batch_norm(batch, None, None, training=True)[0], expected)
    show("RMSNorm", rms_norm(batch, torch.ones(2))[0], [0.8485, 1.1314])

# %% [markdown] lang="en"
# # 13 · Why does a model need positions?
# Attention adds up what it sees, and a sum has no order: 2 + 3 = 3 + 2. So for one layer of
# attention, `dog bites man` and `man bites dog` are the same words. A model adds a vector for each
# position, or turns queries and keys by an angle for each position. Lesson 16 explains it. Here the
# last token sees three others in two orders, without positions and with turned vectors.

# %% [markdown] lang="zh"
# # 13 · 模型为什么需要位置？
# 注意力把看到的东西加起来，而求和没有顺序：2 + 3 = 3 + 2。所以对一层注意力来说，
# `dog bites man`（狗咬人）和 `man bites dog`（人咬狗）是同样的几个词。
# 模型要给每个位置加一个向量，或者按位置把查询和键转一个角度。第 16 课有解释。
# 下面最后一个 token 看前面三个，这三个有两种次序。先是没有位置的，再是转过的。

# %%
import torch

from scratchlm.functional import rotate, scaled_dot_product_attention
from scratchlm.lessons.show import show

a = torch.tensor([[2.0, 0], [0, 1], [1, 1], [1, -1]])  # dog bites man .
b = a[[2, 1, 0, 3]]  # man bites dog .
for each in (a, b):
    out = scaled_dot_product_attention(each, each, each, causal=True)
    show("without positions", out[3], [1.3725, -0.2696])
for each, expected in [(a, [0.7804, 0.1684]), (b, [1.3014, -0.0227])]:
    turned = rotate(each, torch.arange(4))
    out = scaled_dot_product_attention(turned, turned, each, causal=True)
    show("with positions", out[3], expected)

# %% [markdown] lang="en"
# # 14 · What should the first loss be?
# It should be near ln V, where V is the number of tokens in the vocabulary. A new model knows
# nothing, so it gives each token about the same probability, 1/V, and the loss is −ln (1/V) = ln V.
# For GPT-2 with 50,257 tokens this is 10.82. A much larger first loss usually means that the random
# numbers at the start are too large. A much smaller one usually means that the model sees its
# targets. Lesson 21 explains it. Here is a new model with 321 tokens.

# %% [markdown] lang="zh"
# # 14 · 第一个损失应当是多少？
# 应当在 ln V 附近，V 是词表里 token 的个数。新模型什么都不懂，所以给每个 token 差不多相同的概率
# 1/V，损失就是 −ln (1/V) = ln V。GPT-2 有 50,257 个 token，这个数是 10.82。
# 如果第一个损失大得多，多半是起初的随机数太大；如果小得多，多半是模型看到了目标。
# 第 21 课有解释。下面是一个有 321 个 token 的新模型。

# %%
import math

import torch

from scratchlm import ModelConfig, Transformer, cross_entropy
from scratchlm.lessons.show import show

torch.manual_seed(0)
config = ModelConfig(vocab_size=321, context_length=32, d_model=64, num_layers=2, num_heads=4)
ids = torch.randint(321, (8, 33))
loss = cross_entropy(Transformer(config)(ids[:, :-1]), ids[:, 1:])
show("ln 50,257", math.log(50_257), 10.82, within=0.01)
show("first loss, ln 321", [loss, math.log(321)], [5.87, 5.77], within=[0.17, 0.01])

# %% [markdown] lang="en"
# # 21 · Why AdamW, and not Adam?
# Both can pull the weights to 0 in each step, and this is called weight decay. Adam adds the pull
# to the gradient, and then divides the sum by its usual size. So where gradients are large, almost
# nothing of the pull is left. AdamW keeps the pull out of the gradient, so it is always the same
# fraction of the weight. Lesson 23 explains it. Here are the weight 2 and the gradient 10. The pull
# should be 0.02. Adam's result is the same with it and without it.

# %% [markdown] lang="zh"
# # 21 · 为什么用 AdamW，而不用 Adam？
# 两者都可以在每一步把权重往 0 拉一点，这叫权重衰减。Adam 把这个拉力加进梯度，
# 再把和除以它平常的大小。所以在梯度大的地方，拉力几乎不剩什么。AdamW 不让拉力进入梯度，
# 所以拉力总是权重的同样比例。第 23 课有解释。下面的权重是 2，梯度是 10，拉力应当是 0.02。
# Adam 有没有拉力，结果都一样。

# %%
import torch

from scratchlm.lessons.show import show
from scratchlm.optim.adamw import AdamW

for kind, expected in [(torch.optim.Adam, [1.9, 1.9]), (AdamW, [1.9, 1.88])]:
    results = []
    for decay in (0, 0.1):
        weight = torch.tensor([2.0], requires_grad=True)
        weight.grad = torch.tensor([10.0])
        kind([weight], lr=0.1, weight_decay=decay).step()
        results.append(weight.item())
    show(f"{kind.__name__}: without, with", results, expected)

# %% [markdown] lang="en"
# # 25 · Can I train a model without a GPU?
# Yes, a small one. A GPU does the same computations, only faster. A model with 100,000 parameters
# learns a short text by heart in seconds on an ordinary computer. A model like GPT-2 has 124M
# parameters (M: million) and reads billions of tokens, so it needs GPUs. Lesson 1 trains your first
# model. Here an even smaller model of bytes trains for 80 steps, and then continues a sentence of
# its text.

# %% [markdown] lang="zh"
# # 25 · 没有 GPU 能训练模型吗？
# 能，训练一个小的。GPU 做的是同样的计算，只是更快。一个有 100,000 个参数的模型，在普通电脑上
# 只要几秒钟就能背出一段短文。像 GPT-2 那样的模型有 124M 个参数（M 是百万），
# 要读几十亿个 token，就需要 GPU。第 1 课训练你的第一个模型。
# 下面是一个更小的模型，token 就是字节。它训练 80 步，然后把文中的一句话接下去。

# %%
from time import process_time

import torch

from scratchlm import AdamW, ModelConfig, Transformer, cross_entropy, generate, get_batch
from scratchlm.lessons.show import show

start = process_time()
text = "Readability counts. Sparse is better than dense. Flat is better than nested. "
tokens = torch.tensor(list(text.encode()))
torch.manual_seed(0)
model = Transformer(
    ModelConfig(vocab_size=128, context_length=32, d_model=48, num_layers=2, num_heads=4)
)
show("parameters", sum(parameter.numel() for parameter in model.parameters()), 67_824)
optimizer = AdamW(model.parameters(), lr=0.003)
for _ in range(80):
    inputs, targets = get_batch(tokens, 4, 32, "cpu")
    loss = cross_entropy(model(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
show("last loss", loss, 0.15, within=0.14)
assert process_time() - start < 60  # seconds
ids = generate(model, list(b"Sparse"), 22, temperature=0)
show("Sparse …", bytes(ids).decode(), " is better than dense.")

# %% [markdown] lang="en"
# # 26 · Why can a model not spell or add?
# A model does not see letters or digits. It sees the numbers of its tokens, and a token is often a
# whole word or several digits. How many letters does the token 267 have? The number does not tell.
# And `677` may be one token while `127` is three. So the model must learn by heart how each token
# is spelled. Lesson 5 explains it. Here are the tokens of `strawberry`, `677` and `127` in a small
# tokenizer.

# %% [markdown] lang="zh"
# # 26 · 模型为什么不会拼写，也不会加法？
# 模型看不到字母，也看不到一位一位的数字，只看到 token 的编号，而一个 token 往往是整个词，
# 或者几位数字。
# token 267 有几个字母？从编号看不出来。而且 `677` 可能是一个 token，`127` 却是三个。
# 所以模型只能把每个 token 的拼法背下来。第 5 课有解释。
# 下面是 `strawberry`、`677` 和 `127` 在一个小分词器里的 token。

# %%
from scratchlm import train_bpe_from_texts
from scratchlm.lessons.show import show

text = "677 677 677 677 677 strawberry strawberry 127 "
tokenizer = train_bpe_from_texts([text], vocab_size=270)
for word, ids in [("strawberry", [267]), ("677", [257]), ("127", [49, 50, 55])]:
    show(word, tokenizer.encode(word), ids)

# %% [markdown] lang="en"
# # 27 · Why does Chinese need more tokens?
# In UTF-8, an English letter is one byte, and a Chinese character is mostly three. A tokenizer
# starts with bytes, and joins only what is frequent in its training text. If this text is mostly
# English, Chinese characters stay in pieces of up to three tokens. You pay and wait for each token.
# Lesson 5 explains it. Here is one sentence in both languages, 23 and 7 characters. A tokenizer
# trained on English text needs 7 and 21 tokens, and one trained on Chinese text needs 23 and 8.

# %% [markdown] lang="zh"
# # 27 · 中文为什么更费 token？
# 在 UTF-8 里，一个英文字母是一个字节，一个汉字大多是三个字节。分词器从字节开始，
# 只把训练文本里常见的字节合起来。如果训练文本大多是英文，汉字就一直是碎的，一个字最多要三个 token。
# 而费用和时间都按 token 算。第 5 课有解释。下面是同一句话的两种语言，分别是 23 个和 7 个字符。
# 用英文训练的分词器要 7 个和 21 个 token，用中文训练的要 23 个和 8 个。

# %%
from scratchlm import train_bpe_from_texts
from scratchlm.lessons.show import show

english = "the cat sat on the log."
chinese = "猫坐在木头上。"
show("characters", [len(english), len(chinese)], [23, 7])
show("bytes", [len(text.encode()) for text in (english, chinese)], [23, 21])
for name, text, expected in [
    ("trained on English", "the dog sat on the log. the cat sat on the mat. ", [7, 21]),
    ("trained on Chinese", "狗坐在木头上。猫坐在垫子上。", [23, 8]),
]:
    tokenizer = train_bpe_from_texts([text * 4], vocab_size=300)
    show(name, [len(tokenizer.encode(each)) for each in (english, chinese)], expected)
