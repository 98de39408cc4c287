# mypy: disable-error-code="import-not-found, no-any-return, misc, untyped-decorator"
"""Writes the network of a sentence-transformers folder as ONNX: `python export_sentences.py FOLDER FILE`."""

from __future__ import annotations

import sys
from typing import Any

import torch
from transformers import AutoModel

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "last_hidden_state"


class Tokens(torch.nn.Module):
    """The network by position, as the exporter calls it."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.network = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()

    def forward(self, *tokens: Any) -> Any:
        """A vector for each token: FP32 [batch, length, 384]."""
        return self.network(**dict(zip(INPUTS, tokens, strict=True))).last_hidden_state


def main(folder: str, file: str) -> None:
    """Export."""
    ones = torch.ones(2, 16, dtype=torch.int64)
    torch.onnx.export(
        Tokens(folder),
        (ones, ones, torch.zeros_like(ones)),
        file,
        input_names=list(INPUTS),
        output_names=[OUTPUT],
        dynamic_axes={name: {0: "batch", 1: "length"} for name in (*INPUTS, OUTPUT)},
        opset_version=17,
        dynamo=False,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
