"""The definitions: each operation of a language model in a few readable lines.

`scratchlm.model` contains fast versions of these functions, and tests check that both are equal.

einx gives each axis a name. `einx.dot("query [d], key [d] -> query key", q, k)` sums over the axis
in brackets. `...` means any number of other axes. `einx.id("(head d) -> head d", x, head=4)` only
rearranges. einx refuses an axis of length 0.

The functions compute sums and exponentials in at least fp32, and round once to the input's dtype.
Only the cross-entropies return the wide dtype.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scratchlm.config import takes_synonyms


# This must be an object, because Python ignores a module's `__getattr__` inside the module.
class _Einx:
    """Import einx at its first use. The import takes a second, and generation needs no einx."""

    def __getattr__(self, name: str) -> Any:
        import einx

        return getattr(einx, name)


einx = _Einx()

IGNORED = -100  # the losses ignore this target, as in torch


def _wide(x: Tensor) -> Tensor:
    """Return `x` in at least fp32, because 16-bit sums and exponentials lose digits or overflow."""
    if not x.is_floating_point():
        raise ValueError(f"values must be floating point ({x.dtype}); convert them with .float()")
    return x.to(torch.promote_types(x.dtype, torch.float32))


def softmax(x: Tensor, dim: int = -1) -> Tensor:
    """x (...) -> probabilities (...) along `dim`.

    softmax(x)_i = exp(x_i − max x) / Σ_j exp(x_j − max x)

    The maximum cancels out, and prevents an overflow of exp. A row of only −inf returns NaN, as in
    torch.
    """
    wide = _wide(x)
    exps = torch.exp(wide - wide.amax(dim, keepdim=True))
    return (exps / exps.sum(dim, keepdim=True)).to(x.dtype)


def log_softmax(x: Tensor, dim: int = -1) -> Tensor:
    """x (...) -> log-probabilities (...) along `dim`, in nats.

    log_softmax(x)_i = x_i − max x − log Σ_j exp(x_j − max x)

    log(softmax(x)) would return −inf for a probability below fp32's smallest number.
    """
    wide = _wide(x)
    shifted = wide - wide.amax(dim, keepdim=True)
    return (shifted - shifted.exp().sum(dim, keepdim=True).log()).to(x.dtype)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """logits (..., vocab), integer targets (...) -> () mean negative log-likelihood, in nats.

    mean over the targets t ≠ −100 of  max x + log Σ_j exp(x_j − max x) − x_t

    The result is at least fp32. It is NaN (0/0) if every target is −100, as in torch. A target
    outside the vocabulary raises an error. On a GPU, the error is a device assertion.
    """
    losses, _ = _target_losses(logits, targets)
    return losses.sum() / (targets != IGNORED).sum()


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """x (...) -> (...):  cap · tanh(x / cap), which is between −cap and cap.  arXiv 2408.00118

    Small numbers stay almost equal. Gemma 2 limits its logits with the cap 30.
    """
    return (cap * (_wide(x) / cap).tanh()).to(x.dtype)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """hidden (..., d_model), weight (vocab, d_model), integer targets (...) -> () loss, () nats.

    x = W h are the logits, and with `softcap`, x = soft_cap(W h). Both results are sums over the
    targets t ≠ −100:
    nats = Σ (log Σ_j exp x_j − x_t),  loss = nats + z_loss · Σ (log Σ_j exp x_j)²

    The nats are for the training log and have no gradient. The second term of the loss prevents
    large logits (PaLM, arXiv 2204.02311, section 5).
    """
    logits = linear(hidden, weight)
    logits = logits if softcap is None else soft_cap(logits, softcap)
    losses, log_sums = _target_losses(logits, targets)
    cross_entropy = losses.sum()
    return cross_entropy + z_loss * log_sums.square().sum(), cross_entropy.detach()


def _target_losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """logits (..., vocab), targets (...) -> cross-entropies (...) and logsumexps (...), in at least
    fp32. Both are 0 at an ignored target."""
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"logits ({tuple(logits.shape)}) must have the axes of targets "
            f"({tuple(targets.shape)}), followed by a vocabulary axis; reshape one of them"
        )
    if targets.is_floating_point():
        raise ValueError(f"targets must be ids ({targets.dtype}); convert targets with .long()")
    wide = _wide(logits)
    counted = targets != IGNORED
    # gather refuses a target of −1, but indexing would read the last entry of the vocabulary.
    index = targets.where(counted, 0).unsqueeze(-1)
    peak = wide.amax(-1, keepdim=True).detach()
    log_sum = (wide - peak).exp().sum(-1).log() + peak.squeeze(-1)
    losses = log_sum - wide.gather(-1, index).squeeze(-1)
    return losses.where(counted, 0), log_sum.where(counted, 0)


def sequence_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """logits (..., seq, vocab), integer targets (..., seq) -> (...) log-probabilities, in nats.

    log π(y) = Σ over the targets t ≠ −100 of log_softmax(logits)_t

    The targets of a prompt are −100, so the sum is the log-probability of the answer after the
    prompt. The result is at least fp32. It is 0 for a sequence without a target.
    """
    losses, _ = _target_losses(logits, targets)
    return -losses.sum(-1)


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """Four log-probabilities (pair,) -> losses (pair,).  DPO, arXiv 2305.18290, equation 7

    −log σ(beta · ((log π(y_w) − log π_ref(y_w)) − (log π(y_l) − log π_ref(y_l))))

    y_w is the chosen answer of a pair, and y_l is the rejected answer. `chosen` and `rejected` are
    the answers' `sequence_log_probs` of the model π in training. The other two are those of the
    frozen reference model π_ref. beta · (log π(y) − log π_ref(y)) is the reward that the model
    gives to an answer. A larger `beta` keeps the model closer to the reference. The loss of an
    unchanged model is log 2.

    Raise ValueError if the shapes differ, or if `beta` is not above 0.
    """
    shapes = [tuple(x.shape) for x in (chosen, rejected, reference_chosen, reference_rejected)]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"the four log-probabilities must have one shape ({shapes}); pass one number for each "
            "pair of answers"
        )
    if not beta > 0:
        raise ValueError(f"beta must be above 0 ({beta}); use e.g. 0.1")
    margin = (_wide(chosen) - reference_chosen) - (_wide(rejected) - reference_rejected)
    # −log σ(z) = log(e⁰ + e⁻ᶻ). A direct 1/(1 + e⁻ᶻ) would overflow for a large −z.
    return torch.logaddexp(torch.zeros_like(margin), -beta * margin)


def silu(x: Tensor) -> Tensor:
    """x (...) -> (...):  x · σ(x) = x / (1 + exp(−x)).  arXiv 1702.03118, "swish" in 1710.05941."""
    wide = _wide(x)
    return (wide * wide.sigmoid()).to(x.dtype)


def gelu(x: Tensor, tanh: bool = False) -> Tensor:
    """x (...) -> (...):  x · Φ(x) = x/2 · (1 + erf(x / √2)).  arXiv 1606.08415

    Φ(x) is the probability that a random number from the standard normal distribution is below x.
    With `tanh`, the function returns the approximation of the paper, which GPT-2 uses:
    x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))).
    """
    wide = _wide(x)
    if tanh:
        twice_phi = 1 + torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))
    else:
        twice_phi = 1 + torch.erf(wide / math.sqrt(2))
    return (wide / 2 * twice_phi).to(x.dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., in), weight (out, in), bias (out,) -> (..., out):  y = W x + b."""
    y = einx.dot("... [in], out [in] -> ... out", x, weight)
    return y if bias is None else y + bias


class FP8(NamedTuple):
    """A matrix of 8-bit floats: the entries of `codes`, times the number `scale` () in fp32."""

    codes: Tensor
    scale: Tensor

    @property
    def T(self) -> FP8:  # noqa: N802 (the name of torch)
        return FP8(self.codes.T, self.scale)


def to_fp8(x: Tensor, dtype: torch.dtype) -> FP8:
    """x (...) -> codes (...) in an 8-bit `dtype` and scale (), with x ≈ codes · scale.

    scale = max |x| / (the largest number of `dtype`),  codes = round(x / scale)

    The largest number is 448 for torch.float8_e4m3fn, which has 3 bits after the leading one, and
    57,344 for torch.float8_e5m2, which has 2 bits and more exponents. If x has an infinity or a
    NaN, each entry of the result is NaN. arXiv 2209.05433
    """
    # The bound avoids 0/0. It is so small that the smallest gradients keep their digits.
    peak = _wide(x).abs().amax().double().clamp(min=1e-30)
    scale = (peak / torch.finfo(dtype).max).float()
    return FP8(round_to_fp8(_wide(x) / scale, dtype), scale)


def round_to_fp8(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x (...) -> (...), the nearest number of an 8-bit `dtype`; of two, the one with an even code.

    A number beyond the largest number of `dtype` becomes the largest, and not an infinity or a NaN.
    """
    largest = torch.finfo(dtype).max
    return x.clamp(-largest, largest).to(dtype)


def fp8_product(a: FP8, b: FP8, dtype: torch.dtype = torch.float32) -> Tensor:
    """a (row, inner), b (inner, column) -> (row, column) in `dtype`.

    Σ_inner codes_a · codes_b · scale_a · scale_b, with products and sums in fp32
    """
    with torch.autocast(a.codes.device.type, enabled=False):
        codes = a.codes.float(), b.codes.float()
        sums = einx.dot("row [inner], [inner] column -> row column", *codes)
        return (sums * (a.scale * b.scale)).to(dtype)


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """ids (...) in 0…vocab−1, weight (vocab, d_model) -> (..., d_model):  weight[ids]."""
    return einx.get_at("[vocab] d_model, ... -> ... d_model", weight, ids)


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """x (..., d_model), weight (d_model,) -> (..., d_model).

    x / √(mean(x²) + eps) · weight, per vector.  arXiv 1910.07467
    """
    wide = _wide(x)
    mean_square = einx.mean("... [d_model] -> ... 1", wide.square())
    return (wide * torch.rsqrt(mean_square + eps) * weight).to(x.dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """x (..., d_model), weight and bias (d_model,) -> (..., d_model).

    (x − mean x) / √(var x + eps) · weight + bias, with the biased variance.  arXiv 1607.06450
    """
    wide = _wide(x)
    centred = wide - einx.mean("... [d_model] -> ... 1", wide)
    variance = einx.mean("... [d_model] -> ... 1", centred.square())
    y = centred * torch.rsqrt(variance + eps) * weight
    return (y if bias is None else y + bias).to(x.dtype)


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """x (..., d_model), gate and up (d_ff, d_model), down (d_model, d_ff) -> (..., d_model).

    W_down (silu(W_gate x) ⊙ W_up x).  arXiv 2002.05202
    """
    return linear(silu(linear(x, gate)) * linear(x, up), down)


def relu_squared(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """x (..., d_model), up (d_ff, d_model), down (d_model, d_ff) -> (..., d_model).

    W_down max(W_up x, 0)².  arXiv 2109.08668
    """
    return linear(linear(x, up).clamp(min=0).square(), down)


def mixture_of_experts(
    x: Tensor, router: Tensor, gate: Tensor, up: Tensor, down: Tensor, num_active: int
) -> Tensor:
    """x (..., d_model), router (expert, d_model), gate and up (expert, d_ff, d_model),
    down (expert, d_model, d_ff) -> (..., d_model).

    Σ_e w_e swiglu_e(x). To compute w, take softmax(router x), set all but the `num_active` largest
    entries to 0, and divide by the sum.  arXiv 2401.04088, section 2.1
    """
    weights = softmax(einx.dot("... [d_model], expert [d_model] -> ... expert", _wide(x), router))
    least = weights.topk(num_active, dim=-1).values[..., -1:]
    weights = weights * (weights >= least)
    weights = weights / weights.sum(-1, keepdim=True)
    y = torch.stack([swiglu(x, *matrices) for matrices in zip(gate, up, down, strict=True)])
    return einx.dot("... [expert], [expert] ... d_model -> ... d_model", weights, y).to(x.dtype)


def rotate(
    x: Tensor, positions: Tensor, theta: float = 10_000.0, interleaved: bool = False
) -> Tensor:
    """x (..., seq, d_head), positions (seq,) or (..., seq) -> (..., seq, d_head).

    Pair i of the vector at position p turns by the angle p · theta^(−2i / d_head) radians:
    (a, b) -> (a cos − b sin, b cos + a sin).  RoPE, arXiv 2104.09864, equation 34

    The pairs are (x_2i, x_2i+1) in the paper (`interleaved`), and (x_i, x_{i + d_head/2}) in Llama
    weights of Hugging Face.
    """
    layout = "(pair two)" if interleaved else "(two pair)"
    a, b = einx.id(f"... {layout} -> two ... pair", _wide(x), two=2)
    d_head = x.shape[-1]
    exponents = -torch.arange(0, d_head, 2, dtype=torch.float64, device=x.device) / d_head
    angles = einx.multiply("... seq, pair -> ... seq pair", positions.double(), theta**exponents)
    cos, sin = angles.cos().to(a.dtype), angles.sin().to(a.dtype)
    turned = torch.stack((a * cos - b * sin, b * cos + a * sin))
    return einx.id(f"two ... pair -> ... {layout}", turned).to(x.dtype)


@takes_synonyms()
def scaled_dot_product_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    window: int | None = None,
    first: Tensor | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """q (..., query, d_head), k (..., key, d_head), v (..., key, d_v) -> (..., query, d_v).

    softmax(q kᵀ / √d_head) v over the keys to which a query may attend.  arXiv 1706.03762, 3.2.1

    mask: boolean, broadcasts to (..., query, key), True where a query may attend.
    causal: query i may attend to keys j ≤ i + key − query. The last query is at the last key, as
    with a cache of past keys.
    window: query i may attend only to the last `window` of these keys (arXiv 2310.06825).
    first: whole numbers (..., query), with the leading axes of q but without heads. Query i may
    attend only to the keys j ≥ first[i]. If a row contains several documents, this is the first
    token of the query's own document.
    sinks: (head,), one more logit for each head in the softmax, without a key or a value. A head
    can give its weight to the sink instead of a key (gpt-oss, arXiv 2508.10925).
    A query attends to a key only if `mask`, `causal`, `window` and `first` allow the key. A query
    that may attend to no key gets zeros.

    `k` and `v` may have fewer heads (axis −3) than `q`. Then a group of neighbouring heads of `q`
    uses the same head of `k` and `v`.  arXiv 2305.13245

    Raise ValueError if `mask` is not boolean, if `window` is below 1, or if the shapes, the axes of
    `first` or the number of `sinks` do not fit.
    """
    check_heads(q, k, v)
    check_window(window)
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean ({mask.dtype}); use True where a query may attend")
    if first is not None:
        check_first(first, q)
    wide_q, wide_k, wide_v = _wide(q), _wide(k), _wide(v)
    if q.ndim > 2 and q.shape[-3] != k.shape[-3]:
        wide_k, wide_v = (_for_each_head(x, q.shape[-3]) for x in (wide_k, wide_v))
    scores = einx.dot("... query [d_head], ... key [d_head] -> ... query key", wide_q, wide_k)
    scores = scores / math.sqrt(q.shape[-1])
    allowed = torch.ones((), dtype=torch.bool, device=q.device) if mask is None else mask
    query, key = q.shape[-2], k.shape[-2]
    keys = torch.arange(key, device=q.device)
    if first is not None:
        own = first if q.ndim == 2 else first.unsqueeze(-2)  # the same for all heads
        allowed = allowed & einx.less_equal("... query, key -> ... query key", own, keys)
    if causal or window is not None:
        last = torch.arange(query, device=q.device) + key - query
        allowed = allowed & einx.less_equal("key, query -> query key", keys, last)
        if window is not None:
            allowed = allowed & einx.greater("key, query -> query key", keys, last - window)
    # The smallest number, unlike −inf, keeps a row without allowed keys finite. Then × allowed
    # makes this row 0.
    scores = scores.where(allowed, torch.finfo(scores.dtype).min)
    weights = softmax(scores) * allowed if sinks is None else _softmax_beside(scores, sinks)
    return einx.dot("... query [key], ... [key] d_v -> ... query d_v", weights, wide_v).to(q.dtype)


def _softmax_beside(scores: Tensor, sinks: Tensor) -> Tensor:
    """scores (..., head, query, key), sinks (head,) -> (..., head, query, key).

    The sums over the keys are below 1, because each softmax has the sink as one more key.
    """
    check_sinks(sinks, scores)
    column = einx.id("head -> head 1 1", _wide(sinks)).expand(*scores.shape[:-1], 1)
    return softmax(torch.cat((scores, column), -1))[..., :-1]


def flash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    window: int | None = None,
    first: Tensor | None = None,
    block: int = 64,
) -> Tensor:
    """q (..., query, d_head), k (..., key, d_head), v (..., key, d_v) -> (..., query, d_v).

    This is `scaled_dot_product_attention` in blocks: `block` queries meet `block` keys at a time,
    so no matrix has a row for each query and a column for each key. It is the algorithm of
    `kernels.flash_attention`, in plain torch, with its backward pass.  arXiv 2205.14135, 2307.08691

    Each query attends to an interval of keys. `causal` sets its last key. `window` and `first` set
    its first key. Blocks of keys outside every interval are skipped. An interval cannot describe a
    `mask`, so `mask` is refused.

    Computation is in the dtype of the inputs, at least in fp32, also under autocast. k and v must
    be finite: a block that is not skipped multiplies a forbidden key by 0, and 0 · NaN is NaN.

    Raise ValueError for a `mask`, if `window` or `block` is below 1, or if the shapes or the axes
    of `first` do not fit.
    """
    refuse_mask(mask)
    check_heads(q, k, v)
    check_window(window)
    if block < 1:
        raise ValueError(f"block must be at least 1 ({block}); pass e.g. 64")
    if q.ndim > 2 and q.shape[-3] != k.shape[-3]:  # autograd adds up the gradients of a group
        k, v = (_for_each_head(x, q.shape[-3]) for x in (k, v))
    positions = torch.arange(q.shape[-2], device=q.device) + k.shape[-2] - q.shape[-2]
    firsts, lasts = torch.zeros_like(positions), torch.full_like(positions, k.shape[-2] - 1)
    if causal or window is not None:
        lasts = positions
    if window is not None:
        firsts = (positions - window + 1).clamp(min=0)
    if first is not None:
        check_first(first, q)
        firsts = firsts.maximum(first if q.ndim == 2 else first.unsqueeze(-2))
    with torch.autocast(q.device.type, enabled=False):
        y = _FlashAttention.apply(_wide(q), _wide(k), _wide(v), firsts, lasts, block)
    return y.to(q.dtype)


class _FlashAttention(torch.autograd.Function):
    """For each block of queries, visit the blocks of keys, and keep three running results:

    peak: the largest score so far,  total: Σ exp(score − peak),  y: Σ exp(score − peak) · v

    A larger peak multiplies the sums before it by exp(old peak − new peak). At the end, y / total
    is the output, and log Σ exp(score) = peak + log total is all that the backward pass needs to
    compute the probabilities p again.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, firsts: Tensor, lasts: Tensor, block: int
    ) -> Tensor:
        output, log_sums = q.new_empty(*q.shape[:-1], v.shape[-1]), q.new_empty(q.shape[:-1])
        for rows in _blocks(0, q.shape[-2], block):
            peak = q.new_full(q[..., rows, 0].shape, -torch.inf)
            total, y = torch.zeros_like(peak), torch.zeros_like(output[..., rows, :])
            for keys in _key_blocks(firsts[..., rows], lasts[rows], block):
                scores = _scores(q, k, firsts, lasts, rows, keys)
                new_peak = peak.maximum(scores.amax(-1))
                # Without a key so far, the peak is −inf, and −inf − (−inf) would be NaN.
                base = new_peak.where(new_peak > -torch.inf, 0)
                p = torch.exp(scores - base[..., None])
                rescale = torch.exp(peak - base)
                total = total * rescale + p.sum(-1)
                y = y * rescale[..., None] + p @ v[..., keys, :]
                peak = new_peak
            # A query without a key gets zeros. Its log-sum +inf makes p 0 in the backward pass.
            empty = total == 0
            output[..., rows, :] = y / total.where(~empty, 1)[..., None]
            log_sums[..., rows] = (peak + total.log()).where(~empty, torch.inf)
        ctx.save_for_backward(q, k, v, firsts, lasts, output, log_sums)
        ctx.block = block
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad.device.type, enabled=False):
            return (*_gradients(ctx.block, grad, *ctx.saved_tensors), None, None, None)


def _gradients(
    block: int,
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    firsts: Tensor,
    lasts: Tensor,
    output: Tensor,
    log_sums: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v for the gradient of the output.

    With dp = grad vᵀ, softmax's gradient is p ⊙ (dp − Σ_keys p ⊙ dp). The sum over all keys is
    delta = Σ grad ⊙ output, one number per query, so each block computes its part alone.
    """
    grad_q, grad_k, grad_v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    delta = (grad * output).sum(-1)
    for rows in _blocks(0, q.shape[-2], block):
        for keys in _key_blocks(firsts[..., rows], lasts[rows], block):
            scores = _scores(q, k, firsts, lasts, rows, keys)
            p = torch.exp(scores - log_sums[..., rows, None])
            dp = grad[..., rows, :] @ v[..., keys, :].mT
            grad_scores = p * (dp - delta[..., rows, None]) / math.sqrt(q.shape[-1])
            grad_q[..., rows, :] += grad_scores @ k[..., keys, :]
            grad_k[..., keys, :] += grad_scores.mT @ q[..., rows, :]
            grad_v[..., keys, :] += p.mT @ grad[..., rows, :]
    return grad_q, grad_k, grad_v


def _blocks(start: int, stop: int, size: int) -> list[slice]:
    return [slice(at, min(at + size, stop)) for at in range(start, stop, size)]


def _key_blocks(firsts: Tensor, lasts: Tensor, size: int) -> list[slice]:
    """Return the blocks from the first to the last key of any of these queries."""
    if not firsts.numel():  # an empty batch
        return []
    return _blocks(int(firsts.min()) // size * size, int(lasts.max()) + 1, size)


def _scores(
    q: Tensor, k: Tensor, firsts: Tensor, lasts: Tensor, rows: slice, keys: slice
) -> Tensor:
    """Return the scores of one block. They are −inf outside the intervals."""
    scores = q[..., rows, :] @ k[..., keys, :].mT / math.sqrt(q.shape[-1])
    key = torch.arange(keys.start, keys.stop, device=q.device)
    inside = (key >= firsts[..., rows, None]) & (key <= lasts[rows, None])
    return scores.where(inside, -torch.inf)


def _for_each_head(x: Tensor, heads: int) -> Tensor:
    """x (..., kv_head, key, d) -> (..., head, key, d): each head of keys once for each of its
    query heads."""
    group = heads // x.shape[-3]
    return einx.id("... kv_head key d -> ... (kv_head group) key d", x, group=group)


def check_heads(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError if the shapes of q, k and v do not fit, or have no heads or no width."""
    heads, kv_heads = (x.shape[-3] if x.ndim > 2 else 1 for x in (q, k))
    fit = (
        q.ndim == k.ndim >= 2
        and q.shape[:-3] == k.shape[:-3]
        and q.shape[-1] == k.shape[-1]
        and k.shape[:-1] == v.shape[:-1]
        and min(kv_heads, q.shape[-1], v.shape[-1]) > 0
    )
    if not fit or heads == 0 or heads % kv_heads:
        shapes = [tuple(x.shape) for x in (q, k, v)]
        raise ValueError(
            "q (..., head, query, d_head), k (..., kv_head, key, d_head) and v (..., kv_head, key, "
            "d_v) must fit, kv_head must divide head, and heads and widths must not be 0 "
            f"({shapes}); reshape the tensors"
        )


def check_window(window: int | None) -> None:
    """Raise ValueError if `window` is not a positive whole number of keys."""
    if window is not None and not (isinstance(window, int) and window >= 1):
        raise ValueError(
            f"window must be a whole number of at least 1 ({window}); use 1 for the query's own key"
        )


def refuse_mask(mask: Tensor | None) -> None:
    """Raise ValueError for a mask, which need not be an interval of keys."""
    if mask is not None:
        raise ValueError(
            f"flash attention must get no mask (shape {tuple(mask.shape)}); describe the keys with "
            "causal, window and first, or use sdpa"
        )


def check_first(first: Tensor, q: Tensor) -> None:
    """Raise ValueError if `first` is not (..., query), with the leading axes of q but no heads."""
    expected = (*q.shape[:-3], q.shape[-2])
    if first.is_floating_point() or first.dtype == torch.bool or first.shape != expected:
        raise ValueError(
            f"first must contain a whole number for each query ({first.dtype}, shape "
            f"{tuple(first.shape)}, not {expected}); use the axes of q without heads and d_head"
        )


def check_sinks(sinks: Tensor, q: Tensor) -> None:
    """Raise ValueError unless q (..., head, query, d_head) has one head for each sink."""
    if q.ndim < 3 or sinks.shape != (q.shape[-3],):
        raise ValueError(
            f"sinks must contain one number for each head of q ({tuple(sinks.shape)}, q has the "
            f"shape {tuple(q.shape)}); use (head,) and (..., head, query, d_head)"
        )
