# %% [markdown] lang="en"
# # 1 · Your first model
# Question: can I train a language model, now, on my own computer?
#
# Yes. You need a little Python (lists, functions, loops). No other knowledge is necessary.
# You train a model on a text of 20 lines. Training takes a few seconds. Then the model recites the
# text. Lesson 2 shows what happens inside the model.

# %% [markdown] lang="zh"
# # 1 · 你的第一个模型
# 问题：我能不能现在就在自己的电脑上训练一个语言模型？
#
# 能。你只要会一点 Python（列表、函数、循环），不需要别的知识。
# 这一课用一篇 20 行的短文训练一个模型，只要几秒钟，然后让它把全文背出来。
# 模型内部发生了什么，第 2 课再讲。

# %%
import math

import torch

import scratchlm
from scratchlm import AdamW, ModelConfig, Transformer, cross_entropy, generate, get_batch
from scratchlm.lessons.show import figure, show

ZEN = """The Zen of Python, by Tim Peters

Beautiful is better than ugly.
Explicit is better than implicit.
Simple is better than complex.
Complex is better than complicated.
Flat is better than nested.
Sparse is better than dense.
Readability counts.
Special cases aren't special enough to break the rules.
Although practicality beats purity.
Errors should never pass silently.
Unless explicitly silenced.
In the face of ambiguity, refuse the temptation to guess.
There should be one-- and preferably only one --obvious way to do it.
Although that way may not be obvious at first unless you're Dutch.
Now is better than never.
Although never is often better than *right* now.
If the implementation is hard to explain, it's a bad idea.
If the implementation is easy to explain, it may be a good idea.
Namespaces are one honking great idea -- let's do more of those!"""

# %% [markdown] lang="en"
# ## 1. Cut the text into tokens
# A model computes with numbers, not with letters. So we cut the text into short pieces, and each
# piece gets a number. Such a piece is a **token**. The program that cuts the text is the
# **tokenizer**. Its list of all possible tokens is the **vocabulary**.
#
# `scratchlm.train_bpe_from_texts` makes a tokenizer for our text. Letters that often occur together
# become one token. Lesson 4 explains how. `encode` turns a text into the numbers of its tokens,
# and `decode` turns the numbers back into the text. In Python,
# `[tokenizer.decode([number]) for number in line]` is a list. It has one decoded piece for every
# `number` in `line`.
#
# `show(name, value, expected)` prints a value. The third entry is the value that we expect. If the
# two differ by more than 0.0001, the lesson stops. `within=0.05` permits a larger difference.
# `assert` also stops the lesson if the condition after it is false. So every number is checked.

# %% [markdown] lang="zh"
# ## 1. 把文本切成 token
# 模型只会算数，不认识字母。所以先把文本切成小段，每一段对应一个编号。
# 这样的一段叫做一个 **token**。负责切分的程序叫**分词器**（tokenizer），
# 所有可能的 token 列成的表叫**词表**。
#
# `scratchlm.train_bpe_from_texts` 为我们的文本做一个分词器：经常连在一起出现的字母会合成
# 一个 token，具体做法见第 4 课。`encode` 把文本变成各个 token 的编号，`decode` 再把编号变回文本。
#
# `[tokenizer.decode([number]) for number in line]` 是列表：`line` 里每个 `number` 解码成一段。
#
# `show(name, value, expected)` 打印一个值，第三项是我们预期的值。两者相差超过 0.0001，
# 这一课就会停下。`within=0.05` 表示允许更大的误差。`assert` 也一样：后面的条件不成立，
# 这一课就会停下。所以这里的每一个数都检查过。

# %%
tokenizer = scratchlm.train_bpe_from_texts([ZEN], vocab_size=512)
ids = tokenizer.encode(ZEN)
show("size of the vocabulary", len(tokenizer), 512)
show("letters, signs, spaces", len(ZEN), 856)
show("tokens", len(ids), 227)
line = tokenizer.encode("Beautiful is better than ugly.")
show("numbers", line, [486, 264, 273, 272, 490, 46])
pieces = [tokenizer.decode([number]) for number in line]
show("pieces", pieces, ["Beautiful", " is", " better", " than", " ugly", "."])
assert tokenizer.decode(ids) == ZEN

# %% [markdown] lang="en"
# ## 2. Make a model
# A language model is a function. It reads the first tokens of a text. Then it gives every token of
# the vocabulary a score: how well does this token continue the text?
# The function contains many numbers, and training changes them. Such a number is a **parameter**.
#
# `torch` is PyTorch, a Python package that computes with many numbers at once. A `Transformer` is
# the usual kind of language model today. Ours has 172,352 parameters. At first they are random.
# `torch.manual_seed` fixes the random numbers, so every run of this lesson gives the same model.
# `ModelConfig` sets the size of the model: the vocabulary has `vocab_size` tokens, and a text has
# at most 256 tokens. Lessons 13 to 19 explain the other numbers.
#
# To write text, we give the model a beginning, the **prompt**. `generate` appends the token with
# the best score. Then it runs the model on the longer text, and so on. `temperature=0` means
# "always the best score". Our model has learned nothing yet, so it writes nonsense.

# %% [markdown] lang="zh"
# ## 2. 造一个模型
# 语言模型是一个函数：它读文本开头的若干 token，然后给词表里的每个 token 打分，
# 分数表示这个 token 接在后面有多合适。
# 函数里有很多数，训练就是修改这些数。这样的一个数叫做一个**参数**。
#
# `torch` 就是 PyTorch，一个能同时计算许多数的 Python 软件包。`Transformer` 是如今最常见的
# 一种语言模型。我们的模型有 172,352 个参数，一开始都是随机的。`torch.manual_seed` 固定了随机数，
# 所以这一课每次运行得到的模型都一样。`ModelConfig` 规定模型的大小：
# 词表有 `vocab_size` 个 token，一段文本最多有 256 个 token。其余的数在第 13 到 19 课解释。
#
# 要让模型写文本，先给它一个开头，叫做**提示词**。`generate` 把得分最高的 token 接到后面，
# 再把变长的文本交给模型，如此反复。`temperature=0` 表示“总是选得分最高的”。现在模型什么都没有学过，
# 写出来的只是胡乱拼凑的片段。


# %%
def new_model(vocab_size):
    torch.manual_seed(2)
    config = ModelConfig(vocab_size, context_length=256, d_model=64, num_layers=2, num_heads=4)
    return Transformer(config)


def continued(model, tokenizer, prompt, count):
    new = generate(model, tokenizer.encode(prompt), max_tokens=count, temperature=0)
    return prompt + tokenizer.decode(new)


model = new_model(len(tokenizer))
show("parameters", model.num_parameters(), 172352)
show("before training", continued(model, tokenizer, "Beautiful", 5), "BeautifulesIticDutchH")

# %% [markdown] lang="en"
# ## 3. Questions and answers from a text
# A text contains its own exercises. The question is: which token comes next? The answer is in the
# text, one place further. `get_batch` cuts rows from random places of the text: `inputs` are the
# questions, and `targets` are the answers. Several rows together are a **batch**.
#
# Here the "text" is the ten numbers from 0 to 9, and the batch has 2 rows of 4 tokens. Each place
# of a row is a question. In the first row: after 0 comes 1; after 0, 1 comes 2; after 0, 1, 2 comes
# 3; … `torch.tensor` turns a Python list into numbers of PyTorch. `device="cpu"` says which part of
# the computer works with them: the main processor, not a graphics card.

# %% [markdown] lang="zh"
# ## 3. 文本自带问题和答案
# 文本里本来就有练习题。问题是：下一个 token 是什么？答案就在文本里，往后一位。
# `get_batch` 从文本的随机位置切出几行：`inputs` 是问题，`targets` 是答案。
# 几行合在一起叫做一个**批量**。
#
# 下面的“文本”是 0 到 9 这十个数，批量有 2 行，每行 4 个 token。行里的每个位置都是一道题。第一行是：
# 0 后面是 1；0, 1 后面是 2；0, 1, 2 后面是 3；……`torch.tensor` 把 Python 的列表变成 PyTorch 的数。
# `device="cpu"` 说明由计算机的哪个部分来算：这里是主处理器，不是显卡。

# %%
torch.manual_seed(2)
digits = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
inputs, targets = get_batch(digits, batch_size=2, context_length=4, device="cpu")
show("inputs", inputs, [[0, 1, 2, 3], [3, 4, 5, 6]])
show("targets", targets, [[1, 2, 3, 4], [4, 5, 6, 7]])

# %% [markdown] lang="en"
# ## 4. How wrong is the model?
# The **loss** is one number that says how wrong the scores are. Compare it with a guess:
#
# - Someone who chooses blindly between 512 tokens has the loss ln 512 = 6.2383.
# - Someone who knows that one of 2 tokens is right, but not which one, has the loss ln 2 = 0.6931.
# - Someone who is sure and right has the loss 0.
#
# `cross_entropy` computes the loss from the scores and the right answer. Here the right answer is
# token 7. Equal scores are a blind guess: `torch.zeros(1, 512)` is a table of one row with 512
# zeros. Then we increase the scores of tokens 7 and 8. `scores[0, 7]` is the score in row 0 for
# token 7 (Python counts from 0). At last we increase the score of token 7 alone.
#
# The last line uses our new model. `model(tokens[:-1])` gives the scores after each token, from the
# first to the one before the last. `tokens[1:]` are the right answers. The model is as bad as a
# blind guess.

# %% [markdown] lang="zh"
# ## 4. 模型错得多离谱？
# **损失**是一个数，表示打分错得有多厉害。可以拿猜谜来比：
#
# - 在 512 个 token 里闭眼乱猜，损失是 ln 512 = 6.2383。
# - 知道 2 个 token 中有一个是对的，但不知道是哪一个，损失是 ln 2 = 0.6931。
# - 有把握而且猜对了，损失是 0。
#
# `cross_entropy` 根据分数和正确答案算出损失。这里的正确答案是 7 号 token。
# 分数全都一样就是乱猜：`torch.zeros(1, 512)` 是一张只有一行的表，里面是 512 个零。
# 接着提高 7 号和 8 号 token 的分数：`scores[0, 7]` 是第 0 行里 7 号 token 的分数
# （Python 从 0 数起）。然后只再提高 7 号的分数。
#
# 最后一行用到我们的新模型。`model(tokens[:-1])` 从第一个 token 到倒数第二个，
# 在每一个之后都给出分数；`tokens[1:]` 是相应的正确答案。结果表明，新模型和乱猜差不多。

# %%
show("ln 512, ln 2", [math.log(512), math.log(2)], [6.2383, 0.6931])
answer = torch.tensor([7])
show("512 equal scores", cross_entropy(torch.zeros(1, 512), answer), 6.2383)
scores = torch.zeros(1, 512)
scores[0, 7] = 100
scores[0, 8] = 100
show("two best scores", cross_entropy(scores, answer), 0.6931)
scores[0, 7] = 200
show("sure and right", cross_entropy(scores, answer), 0)
tokens = torch.tensor(ids)
show("our model", cross_entropy(model(tokens[:-1]), tokens[1:]), 6.32, within=0.05)

# %% [markdown] lang="en"
# ## 5. Train
# Training repeats four actions:
#
# 1. Get a batch, and compute the loss.
# 2. `loss.backward()` finds out for every parameter: does the loss fall if this parameter grows,
#    or if it shrinks? Lessons 6 to 11 explain how.
# 3. `optimizer.step()` moves every parameter a little in the better direction. The **optimizer** is
#    the rule for these moves. `lr` decides how far they go.
# 4. `optimizer.zero_grad()` forgets the old directions.
#
# Our optimizer is `AdamW` (lesson 23). It gets all parameters: `model.parameters()`. We repeat the
# four actions 120 times with batches of 4 rows. (`for _ in` has the name `_` because we do not use
# the number.) `losses` collects the loss of every step: `.item()` turns one number of PyTorch into
# an ordinary number of Python.
#
# Then `figure` draws `losses` (the code is hidden). The dashed line is a blind guess. The loss
# begins there and falls to almost 0. A terminal cannot show the picture. Open its file with a
# browser: `figures/01-loss.svg` in the folder where you started the lesson.

# %% [markdown] lang="zh"
# ## 5. 训练
# 训练就是反复做四件事：
#
# 1. 取一个批量，算出损失。
# 2. `loss.backward()` 对每个参数判断：要让损失下降，这个参数该变大还是变小？
#    第 6 到 11 课讲它是怎么做到的。
# 3. `optimizer.step()` 让每个参数朝好的方向挪一小步。**优化器**就是挪动的规则，
#    `lr` 决定一步挪多远。
# 4. `optimizer.zero_grad()` 清除旧的方向。
#
# 我们用的优化器是 `AdamW`（见第 23 课），`model.parameters()` 把全部参数交给它。
# 这四件事重复 120 次，每个批量 4 行。（`for _ in` 里的名字写成 `_`，因为这个数用不到。）
# `losses` 记下每一步的损失：`.item()` 把 PyTorch 的一个数变成 Python 的普通数。
#
# 随后 `figure` 画出 `losses`（画图的代码没有显示）。虚线表示乱猜：损失从那里开始，
# 一直降到几乎为 0。终端显示不了图，只打印图的文件名 `figures/01-loss.svg`。
# 这个文件位于你启动这一课的文件夹中，可以用浏览器打开。

# %%
optimizer = AdamW(model.parameters(), lr=0.005)
losses = []
for _ in range(120):
    inputs, targets = get_batch(tokens, batch_size=4, context_length=200, device="cpu")
    loss = cross_entropy(model(inputs), targets)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
show("loss at steps 0, 1, 2", losses[:3], [6.33, 5.63, 5.11], within=0.05)
show("loss at steps 10, 25, 119", [losses[i] for i in (10, 25, 119)], [2.3, 0.25, 0.0], within=0.3)

# %% tags=["figure"]
with figure("01-loss") as axes:
    axes.plot(losses, linewidth=2)
    axes.axhline(math.log(512), color="grey", linestyle="--")
    axes.text(119, 6.1, "ln 512", color="grey", ha="right", va="top")
    axes.set(xlabel="step", ylabel="loss", ylim=(0, 7))

# %% [markdown] lang="en"
# ## 6. The model recites
# We give the model the first four words as the prompt, and it writes the rest. All 20 lines are
# right, and the empty one too: the model has learned the text by heart. (`splitlines` cuts a text
# into lines. `zip` goes through two lists side by side. `strict=True` refuses different lengths.)
#
# Large models are trained in the same way, but on so much text that they cannot learn it by heart.
# They must find rules that also fit new text. So they can write what nobody wrote before.

# %% [markdown] lang="zh"
# ## 6. 模型背诵全文
# 我们把开头四个词作为提示词交给模型，让它写出其余的 token。20 行全对，空行也对：
# 模型把全文背下来了。（`splitlines` 把文本按行切成列表。`zip` 并排走过两个列表：第一行配第一行，
# 第二行配第二行。`strict=True` 要求两个列表一样长。）
#
# 大模型也是这样训练的，只是文本多得背不下来。它们只好去找对新文本也适用的规律，
# 于是能写出从来没有人写过的东西。

# %%
prompt = "The Zen of Python"
text = continued(model, tokenizer, prompt, len(ids) - len(tokenizer.encode(prompt)))
assert len(text) == len(ZEN)
for line, true_line in zip(text.splitlines(), ZEN.splitlines(), strict=True):
    show("", line, true_line)

# %% [markdown] lang="en" tags=["exercise"]
# ## Exercise
# Write `recite(text, start)`. It trains a tokenizer with `vocab_size=280` and a `new_model` on
# `text`. Then it gives the model the prompt `start`, which is the beginning of `text`, and returns
# the whole text: `start` and everything that the model writes after it.
#
# The check uses three short Chinese poems, of about 40 tokens each. So a batch of one row with the
# whole text is enough: `batch_size=1`, `context_length=len(ids) - 1` (the last token is only an
# answer). 60 steps are plenty.
#
# Write your code in place of `raise NotImplementedError`. The file needs no `import`: it may use
# everything that this lesson imports and defines. Then try your function on two or three sentences
# of your own: add a line such as `print(recite("my text", "my"))` at the end of the file, and check
# the file again. The text must have at most 256 tokens: about 400 letters of English, or 100
# characters of Chinese. The start must end before a space or a sign (lesson 5). In Chinese, take
# all characters before the first comma.

# %% [markdown] lang="zh" tags=["exercise"]
# ## 练习
# 写出 `recite(text, start)`：用 `text` 训练一个 `vocab_size=280` 的分词器和一个 `new_model`；
# 然后把 `start`（也就是 `text` 的开头）作为提示词交给模型；最后返回全文，
# 即 `start` 加上模型接着写出的全部内容。
#
# 检查用的是三首唐诗，每首约 40 个 token，所以批量里的一行就能装下全文：`batch_size=1`，
# `context_length=len(ids) - 1`（最后一个 token 只作答案）。训练 60 步绰绰有余。
#
# 把你的代码写在 `raise NotImplementedError` 的位置。文件里不必写 `import`：
# 这一课导入和定义的东西都能直接用。
#
# 通过之后，用你自己写的两三句话试一试：在文件末尾加一行 `print(recite("my text", "my"))`，
# 换上你的文本，再检查一次。文本最多 256 个 token：英文大约 400 个字母，中文大约 100 个字。
# 开头要在空格或标点之前结束，原因见第 5 课。如果是中文，就取第一个逗号之前的全部文字。


# %% tags=["exercise"]
def recite(text, start):
    raise NotImplementedError


# %% tags=["answer"]
def recite(text, start):
    tokenizer = scratchlm.train_bpe_from_texts([text], vocab_size=280)
    ids = tokenizer.encode(text)
    model = new_model(len(tokenizer))
    optimizer = AdamW(model.parameters(), lr=0.005)
    for _ in range(60):
        inputs, targets = get_batch(torch.tensor(ids), 1, len(ids) - 1, "cpu")
        loss = cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return continued(model, tokenizer, start, len(ids) - len(tokenizer.encode(start)))


# %% tags=["check"]
def check(answer, same):
    for start, rest in [
        ("床前明月光", "，疑是地上霜。举头望明月，低头思故乡。"),
        ("白日依山尽", "，黄河入海流。欲穷千里目，更上一层楼。"),
        ("红豆生南国", "，春来发几枝。愿君多采撷，此物最相思。"),
    ]:
        same(answer(start + rest, start), start + rest)


def encoded(text, start):
    tokenizer = scratchlm.train_bpe_from_texts([text], vocab_size=280)
    return tokenizer, tokenizer.encode(text), tokenizer.encode(start)


def not_trained(text, start):
    """No parameter changes: step or backward is missing. | 参数没变：少 step 或 backward。"""
    tokenizer, ids, prompt = encoded(text, start)
    return continued(new_model(len(tokenizer)), tokenizer, start, len(ids) - len(prompt))


def not_shifted(text, start):
    """The loss must use targets, not inputs. | 损失应对照 targets，不是 inputs。"""
    tokenizer, ids, prompt = encoded(text, start)
    return start + tokenizer.decode(prompt[-1:] * (len(ids) - len(prompt)))


def only_the_rest(text, start):
    """start is missing: generate returns only new ids. | 少了 start：generate 只返回新的部分。"""
    return text.removeprefix(start)


def counts_characters(text, start):
    """max_tokens must count tokens, not characters. | max_tokens 应数 token，不是数字符。"""
    tokenizer, ids, prompt = encoded(text, start)
    return tokenizer.decode(ids[: len(prompt) + len(text) - len(start)])


EXERCISE = "recite"
WRONG = [not_trained, not_shifted, only_the_rest, counts_characters]
FAULTS = [  # planted in the library, each must make this lesson fail
    ("scratchlm.data.batches", "windows[:, 1:].contiguous()", "windows[:, :-1].contiguous()"),
    ("scratchlm.functional", "losses.sum() / (targets", "losses.sum() / 2 / (targets"),
    ("scratchlm.optim.adamw", "maximize=False", "maximize=True"),
    ("scratchlm.generation.sampling", "logits.argmax(-1)", "logits.argmin(-1)"),
]
