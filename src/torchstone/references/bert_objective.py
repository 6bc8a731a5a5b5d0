"""BERT as it is trained: outputs and losses together, to be held against another library's."""

import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.data.text.mlm_batches import MLMBatch
from torchstone.data.text.sentence_batches import IGNORE_INDEX, Rows
from torchstone.references.bert import answers
from torchstone.tasks.text.masked_lm import loss_of


class Judged(nn.Module):
    """The loss of a row by our objective, and the logits (or hidden states)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, mask: Tensor, segments: Tensor) -> tuple[Tensor, ...]:
        rows, told = Rows(tokens, mask, segments), answers(tokens, mask)
        output = self.model.logits(*rows)  # ty: ignore[not-callable]
        if self.model.head == "none":
            return output
        if self.model.head in ("sentence", "tokens"):
            labels = told[str(self.model.head)].flatten()
            return F.cross_entropy(output.flatten(0, -2), labels, ignore_index=IGNORE_INDEX), output
        known = told["words"] != IGNORE_INDEX
        places = known.int().argsort(dim=1, descending=True, stable=True)[:, : int(known.sum(1).max())]
        targets = told["words"].gather(1, places)
        there = self.model.logits(*rows, places)  # ty: ignore[not-callable]
        share = (targets != IGNORE_INDEX).to(self.model.word.weight.dtype) * len(tokens) / known.sum()  # ty: ignore
        loss = loss_of(there, MLMBatch(rows, places, targets, share, told["stray"]))["loss"]
        return (loss, *output) if isinstance(output, tuple) else (loss, output)
