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
