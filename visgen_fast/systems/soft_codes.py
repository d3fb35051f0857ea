"""What is trained when a model of residual codes is, with targets that know of the codes nearby."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..autoregression.prior import CodePrior
from ..nn.class_condition import Labels
from ..nn.conditions import AnyCondition
from ..nn.residual_quantizer import ResidualQuantizer
from ..tokenizers.code_stage import CodeStage
from ..tokenizers.grid import GridTokenizer
from ..tokenizers.soft_codes import soft_codes
from .codes import CodeSystem


class SoftCodeSystem(CodeSystem):
    """A `CodeSystem` on the codes of a residual quantizer, as of Lee et al., 2022, section 3.2.3.

    temperature: of the targets, which are distributions over the codes by their distances (`soft_codes`); 0 for the
    codes themselves. stochastic: whether training draws the codes that it shows from these distributions.

    ValueError for another tokenizer, and for stochastic codes without a temperature.
    """

    def __init__(
        self,
        prior: CodePrior,
        condition: Labels,
        first_stage: CodeStage,
        *,
        temperature: float = 0.0,
        stochastic: bool = False,
    ) -> None:
        super().__init__(prior, condition, first_stage)
        tokenizer = self.tokenizer
        if not (isinstance(tokenizer, GridTokenizer) and isinstance(tokenizer.quantizer, ResidualQuantizer)):
            raise ValueError(f"tokenizer must be a GridTokenizer with a residual quantizer, got {tokenizer!r:.80}")
        if stochastic and not temperature:
            raise ValueError("stochastic_codes needs soft_targets above 0: their temperature draws the codes")
        self.temperature, self.stochastic = temperature, stochastic

    def code_loss(self, images: Tensor, told: AnyCondition, seeds: Tensor) -> Tensor:
        tokenizer = self.tokenizer
        if not self.temperature:
            return super().code_loss(images, told, seeds)
        assert isinstance(tokenizer, GridTokenizer) and isinstance(tokenizer.quantizer, ResidualQuantizer)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            codes, targets = soft_codes(
                tokenizer.latents(images),
                tokenizer.quantizer.codebook.vectors(),
                depth=tokenizer.quantizer.depth,
                temperature=self.temperature,
                seeds=seeds if self.stochastic else None,
            )
        logits = self.model(codes, told).flatten(0, -2)
        losses = F.cross_entropy(logits.float(), targets.flatten(0, -2), reduction="none")
        return losses.view(len(images), -1).mean(1)
