"""Cross-entropy of a large vocabulary without the logits of all tokens: the head runs chunk by chunk.

    loss_i = log Σ_v exp(x_i·w_v) − x_i·w_{y_i}

Forward keeps a running maximum and sum over chunks of the vocabulary; backward computes each chunk's logits
again: G = (softmax − onehot)·g_i, dX += G W_c, dW_c = Gᵀ X. Memory is one chunk of logits instead of all of
them. Sums are float32 whatever the dtype of the products. Paper: Cut Cross-Entropy, section 4.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from configs.errors import UsageError

IGNORED = -100
"""The label of a token without a loss."""


def cross_entropy(x_TD: Tensor, *, weight_ND: Tensor, labels_T: Tensor) -> Tensor:
    """The loss of each token, [T], from all logits at once: the plain form. Ignored tokens lose nothing."""
    check_labels(labels_T, num_tokens=x_TD.shape[0], vocabulary=weight_ND.shape[0])
    logits_TN = F.linear(x_TD, weight_ND).float()
    return F.cross_entropy(logits_TN, labels_T, ignore_index=IGNORED, reduction="none")


def cut_cross_entropy(x_TD: Tensor, *, weight_ND: Tensor, labels_T: Tensor, chunk: int = 8192) -> Tensor:
    """The same losses by chunks of the vocabulary; gradients flow to `x_TD` and `weight_ND`."""
    if chunk < 1:
        raise UsageError(f"a chunk of {chunk} words; at least 1 is needed")
    check_labels(labels_T, num_tokens=x_TD.shape[0], vocabulary=weight_ND.shape[0])
    return cast(Tensor, _CutCrossEntropy.apply(x_TD, weight_ND, labels_T, chunk))


def mean_loss(losses_T: Tensor, labels_T: Tensor) -> Tensor:
    """The mean over tokens that have a loss; 0 where there is none, and never a division by 0."""
    return losses_T.sum() / (labels_T != IGNORED).sum().clamp_min(1)


def check_labels(labels_T: Tensor, *, num_tokens: int, vocabulary: int) -> None:
    """Refuse labels of the wrong shape or kind. Values are the caller's: a look waits for the device."""
    if labels_T.shape != (num_tokens,):
        raise UsageError(
            f"{tuple(labels_T.shape)} labels for {num_tokens} tokens of a vocabulary of {vocabulary}"
        )
    if labels_T.dtype != torch.int64:
        raise UsageError(f"labels must be int64, got {labels_T.dtype}")


class _CutCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_ND: Tensor, labels_T: Tensor, chunk: int) -> Tensor:
        dtype = _product_dtype(x_TD)
        x_TD, weight_ND = x_TD.to(dtype), weight_ND.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        maximum_T = torch.full(labels_T.shape, -torch.inf, dtype=wide, device=x_TD.device)
        sum_T = torch.zeros_like(maximum_T)
        target_T = torch.zeros_like(maximum_T)
        for start in range(0, weight_ND.shape[0], chunk):
            logits_TC = (x_TD @ weight_ND[start : start + chunk].T).to(wide)
            larger_T = torch.maximum(maximum_T, logits_TC.amax(dim=1))
            sum_T = sum_T * torch.exp(maximum_T - larger_T) + torch.exp(logits_TC - larger_T[:, None]).sum(
                dim=1
            )
            maximum_T = larger_T
            inside_T, column_T = _columns(labels_T, start, logits_TC.shape[1])
            found_T = logits_TC.gather(1, column_T[:, None])[:, 0]
            target_T = torch.where(inside_T, found_T, target_T)
        log_sum_T = maximum_T + sum_T.log()
        ctx.save_for_backward(x_TD, weight_ND, labels_T, log_sum_T)
        ctx.chunk = chunk
        return torch.where(labels_T == IGNORED, 0.0, log_sum_T - target_T)

    @staticmethod
    def backward(ctx: Any, grad_T: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[override]
        x_TD, weight_ND, labels_T, log_sum_T = ctx.saved_tensors
        wide = log_sum_T.dtype
        grad_T = torch.where(labels_T == IGNORED, 0.0, grad_T.to(wide))
        grad_x_TD = torch.zeros_like(x_TD, dtype=wide)
        grad_weight_ND = torch.empty_like(weight_ND, dtype=wide)
        for start in range(0, weight_ND.shape[0], ctx.chunk):
            weight_CD = weight_ND[start : start + ctx.chunk]
            probs_TC = torch.exp((x_TD @ weight_CD.T).to(wide) - log_sum_T[:, None])
            inside_T, column_T = _columns(labels_T, start, weight_CD.shape[0])
            probs_TC.scatter_add_(1, column_T[:, None], -inside_T[:, None].to(wide))
            slope_TC = (probs_TC * grad_T[:, None]).to(x_TD.dtype)
            grad_x_TD += slope_TC @ weight_CD
            grad_weight_ND[start : start + ctx.chunk] = slope_TC.T @ x_TD
        return grad_x_TD, grad_weight_ND, None, None


def _columns(labels_T: Tensor, start: int, width: int) -> tuple[Tensor, Tensor]:
    """Which labels lie in a chunk, and their columns in it; 0 for those that don't."""
    column_T = labels_T - start
    inside_T = (column_T >= 0) & (column_T < width)
    return inside_T, torch.where(inside_T, column_T, 0)


def _product_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
