"""What counts as right, as functions of their inputs: noise levels, how much each counts, how errors are counted.

The signal-to-noise ratio (snr) of a timestep is a / (1 - a) with a = alphas_cumprod: 0 is pure noise, infinite a clear
picture. Both ends are met in practice (zero terminal SNR, schedules that begin clear) and give numbers, never NaN.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lora_studio.engine.config import ObjectiveConfig

SNR_CAP = 1000.0  # of debiased and p2: snr counts as at most this, and as at least its inverse where divided by
RANGE = 1000  # timestep_min and timestep_max are told in thousandths of the way to pure noise


def noisy_input(latents: Tensor, noise: Tensor, kept: Tensor) -> Tensor:
    """sqrt(kept) * latents + sqrt(1 - kept) * noise, each (B, C, h, w); kept (B,) is alphas_cumprod at timesteps."""
    share = kept.view(-1, 1, 1, 1)
    return share.sqrt() * latents + (1 - share).sqrt() * noise


def snr(alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """(B,) signal-to-noise ratio at timesteps (B,); alphas_cumprod is (T,). 0 at pure noise, infinite without any."""
    kept = alphas_cumprod[timesteps]
    return kept / (1 - kept)


# --- how much each noise level counts -------------------------------------------------------------------------------


def weights(snr: Tensor, prediction_type: str, config: ObjectiveConfig) -> Tensor:
    """(B,) how much the squared error of each picture counts at its noise level, from snr (B,).

    All weightings are written for the error in the noise (epsilon). The same error in v is (snr + 1) / snr times as
    large and in the picture itself 1 / snr times, so min_snr and p2 are multiplied by snr / (snr + 1) for
    v_prediction and by snr for sample: whatever the base predicts, the same thing is minimised.
    """
    if config.weighting == "min_snr" and config.min_snr_gamma:
        return _min_snr(snr, prediction_type, config.min_snr_gamma)
    if config.weighting == "debiased":
        return _debiased(snr, prediction_type)
    if config.weighting == "p2":
        return _p2(snr, prediction_type, config.p2_gamma)
    return torch.ones_like(snr)


def _min_snr(snr: Tensor, prediction_type: str, gamma: float) -> Tensor:
    """Min-SNR (Hang et al. 2023): min(snr, gamma) / snr for epsilon, / (snr + 1) for v, min(snr, gamma) for sample."""
    capped = snr.clamp(max=gamma)
    if prediction_type == "epsilon":  # written so that snr 0 gives 1
        return (gamma / snr).clamp(max=1.0)
    return capped if prediction_type == "sample" else capped / (snr + 1)


def _debiased(snr: Tensor, prediction_type: str) -> Tensor:
    """Debiased estimation (Yu et al. 2023): 1 / sqrt(snr) for epsilon. For v 1 / (snr + 1), as sd-scripts has it;
    for sample snr / sqrt(snr), the same thing as epsilon's."""
    capped = snr.clamp(min=1 / SNR_CAP, max=SNR_CAP)
    if prediction_type == "epsilon":
        return capped.rsqrt()
    return capped.sqrt() if prediction_type == "sample" else 1 / (snr.clamp(max=SNR_CAP) + 1)


def _p2(snr: Tensor, prediction_type: str, gamma: float) -> Tensor:
    """Perception prioritised (Choi et al. 2022): 1 / (k + snr)^gamma with k = 1 for epsilon; for the others times what
    `weights` tells, with snr capped so that gamma below 1 stays finite for sample."""
    capped = snr.clamp(max=SNR_CAP)
    factor = (1 + capped) ** -gamma
    if prediction_type == "epsilon":
        return factor
    return factor * capped if prediction_type == "sample" else factor * capped / (capped + 1)


def picture_weights(regularization: Sequence[bool], config: ObjectiveConfig) -> Tensor:
    """(B,) how much each picture of a batch counts: prior_weight for regularisation pictures, 1 for the others."""
    return torch.tensor([config.prior_weight if flag else 1.0 for flag in regularization])


# --- how errors are counted -----------------------------------------------------------------------------------------


def errors(
    answer: Tensor,
    target: Tensor,
    config: ObjectiveConfig,
    snr: Tensor,
    timesteps: Tensor,
    mask: Tensor | None = None,
    total: int = RANGE,
) -> Tensor:
    """(B,) mean error of each picture, from answer and target (B, C, h, w), snr and timesteps (B,) of `total` levels.

    `mask` (B, 1, h, w) in 0..1 says where errors count fully; outside they count mask_outside. The mean is over what
    counts, so that a mask of ones is the same as none, and a small mask weighs as much as a large one. A mask that
    leaves nothing gives 0.
    """
    difference = answer.to(torch.promote_types(answer.dtype, torch.float32)) - target
    values = difference.square()
    if config.loss != "l2":
        values = _huber(values, huber_sizes(config, snr, timesteps, total), config.loss)
    if mask is None:
        return values.mean(dim=(1, 2, 3))
    counts = (mask + (1 - mask) * config.mask_outside).to(values.dtype)
    share = counts.mean(dim=(1, 2, 3))
    return (values * counts).mean(dim=(1, 2, 3)) / torch.where(share > 0, share, 1)


def _huber(squares: Tensor, size: Tensor, loss: str) -> Tensor:
    """Pseudo-Huber of squared errors d2 (B, C, h, w): 2 (sqrt(d2 + c^2) - c), for `huber` times c, with c (B,).

    As in Song and Dhariwal 2023 and sd-scripts: huber is d2 for small errors, smooth_l1 is 2 d for large ones. Written
    as d2 / (sqrt(d2 + c^2) + c), which is the same without loss of digits.
    """
    size = size.to(squares.dtype).view(-1, 1, 1, 1)
    values = 2 * squares / ((squares + size.square()).sqrt() + size)
    return values * size if loss == "huber" else values


def huber_sizes(config: ObjectiveConfig, snr: Tensor, timesteps: Tensor, total: int = RANGE) -> Tensor:
    """(B,) size c from which an error counts as large, at snr and timesteps (B,) of `total` levels.

    exponential: from 1 at the clear picture to huber_c at pure noise, c^(t / total). snr (as sd-scripts):
    (1 - c) / (1 + sigma)^2 + c with sigma = sqrt(1 / snr), which goes from 1 to huber_c as well.
    """
    size = config.huber_c
    if config.huber_schedule == "exponential":
        return size ** (timesteps.to(snr.dtype) / total)
    if config.huber_schedule == "snr":
        return (1 - size) / (1 + snr.rsqrt()) ** 2 + size
    return torch.full_like(snr, size)


# --- which noise levels come up -------------------------------------------------------------------------------------


def timestep_range(total: int, config: ObjectiveConfig) -> tuple[int, int]:
    """First timestep trained and the one behind the last, of a base with `total` of them; at least one lies between."""
    low = min(config.timestep_min * total // RANGE, total - 1)
    return low, max(low + 1, -(-config.timestep_max * total // RANGE))


def draw_timesteps(count: int, total: int, config: ObjectiveConfig, generator: torch.Generator) -> Tensor:
    """(count,) timesteps on the CPU, of a base with `total` of them, within timestep_min and timestep_max.

    logit_normal: sigmoid of a normal draw (Esser et al. 2024). content: 1 - u^3, more noisy ones (the cubic sampling
    of T2I-Adapter, Mou et al. 2023); style: u^3, its mirror image, more clear ones.
    """
    low, high = timestep_range(total, config)
    if config.timestep_distribution == "uniform":
        return torch.randint(low, high, (count,), generator=generator)
    if config.timestep_distribution == "logit_normal":
        drawn = torch.randn(count, generator=generator)
        share = torch.sigmoid(config.logit_mean + config.logit_std * drawn)
    else:
        share = torch.rand(count, generator=generator) ** 3
        if config.timestep_distribution == "content":
            share = 1 - share
    return (low + (share * (high - low)).long()).clamp(max=high - 1)
