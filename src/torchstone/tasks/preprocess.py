"""From what a user has to what a run's network takes, as training made it: `ts.load(RUN).preprocess`."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchstone.errors import BadInput

KINDS = "images, rows of a table, texts, sounds"
Inputs = Any  # a path, a text, a Pillow image, …, or a list of them


def preprocessor(metadata: Mapping[str, Any]) -> Callable[[Inputs], Any]:
    """The preprocessing of a run's network, by its metadata; it takes one input or a list of them.

    - images (paths, Pillow images): float32 (count, channel, size, size), framed and normalized
    - a table's file, or its cells as text: rows of the network's type
    - texts to label or to fill in: `Rows`, for `model.logits(*rows)`: tokens, mask and segments, each (count,
      time), padded; a pair is `first ||| second`
    - texts to continue: token ids (count, time), of equal length, since a language model has no padding
    - texts to rewrite or translate: token ids (count, time), with the end, padded
    - sounds (paths): features (count, frames, width), padded, and the number of frames of each (count,)

    Of other networks it raises BadInput.
    """
    task = metadata["task"]
    if "picture" in metadata and task in ("classify", "segment", "image_text"):
        return partial(images, metadata=metadata)
    if "schema" in metadata or "features" in metadata:
        return partial(rows, metadata=metadata)
    return partial(PREPROCESSORS.get(task, refuse), metadata=metadata)


def refuse(inputs: Inputs, metadata: Mapping[str, Any]) -> Any:
    """Of networks whose input is no file or text of the user's.

    Raises:
        BadInput: always.
    """
    why = metadata.get("unprepared") or f"its task is {metadata['task']!r}"
    raise BadInput(f"this network has no preprocessing of {KINDS}: {why}")


def several(inputs: Inputs) -> list[Any]:
    """One input as a list of it."""
    if isinstance(inputs, list | tuple) and not inputs:
        raise BadInput("nothing to prepare: give one input, or several")
    return list(inputs) if isinstance(inputs, list | tuple) else [inputs]


def images(inputs: Inputs, metadata: Mapping[str, Any]) -> Tensor:
    """Images, float32 (count, channel, size, size)."""
    from torchstone.data.vision.dataset import normalize
    from torchstone.data.vision.preprocess import preprocess
    from torchstone.data.vision.segmentation import preprocess as uncropped

    picture = metadata["picture"]
    frame = preprocess if metadata["task"] != "segment" else lambda x, m: uncropped(x, m)[0]
    return normalize(torch.cat([frame(each, picture) for each in several(inputs)]), picture)


def rows(inputs: Inputs, metadata: Mapping[str, Any]) -> Any:
    """Rows of a table."""
    if "schema" in metadata:
        from torchstone.data.tabular.encoding import Schema
        from torchstone.data.tabular.mixed import load_mixed_rows

        return load_mixed_rows(inputs, Schema.from_metadata(metadata["schema"]))
    from torchstone.data.tabular.dataset import load_rows

    return load_rows(inputs, metadata["features"])


def labeled_texts(inputs: Inputs, metadata: Mapping[str, Any]) -> Any:
    """Texts, pairs or words to label, as `Rows`."""
    from torchstone.data.text import tokenizers
    from torchstone.data.text.sentence_batches import SpecialTokens, collate
    from torchstone.tasks.text.bert_data import build_rows
    from torchstone.tasks.text.bert_inference import as_unlabeled, read_texts

    texts = [text for each in several(inputs) for text in read_texts(each, dict(metadata))]
    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    special = SpecialTokens.from_tokenizer(tokenizer, metadata["length"])
    return collate(build_rows(as_unlabeled(texts, dict(metadata)), tokenizer, special)[0], special)


def masked_texts(inputs: Inputs, metadata: Mapping[str, Any]) -> Any:
    """Texts, with `[MASK]` where words are to be filled in, as `Rows`."""
    from torchstone.data.text import tokenizers
    from torchstone.data.text.sentence_batches import SpecialTokens, collate
    from torchstone.tasks.text.bert_inference import read_texts
    from torchstone.tasks.text.masked_lm import MASK, masked_tokens

    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    special = SpecialTokens.from_tokenizer(tokenizer, metadata["length"])
    built = []
    for text in (text for each in several(inputs) for text in read_texts(each, dict(metadata))):
        has_gap = MASK in text
        ids = (
            masked_tokens(text, tokenizer, special)
            if has_gap
            else tokenizers.encode(tokenizer, text).tolist()
        )
        built.append(special.build_row(ids, None))
    return collate(built, special)


def continued_texts(inputs: Inputs, metadata: Mapping[str, Any]) -> Tensor:
    """Texts to continue, int64 (count, time)."""
    from torchstone.data.text import tokenizers

    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    ids = [tokenizers.encode(tokenizer, str(text)) for text in several(inputs)]
    if not ids or not all(map(len, ids)):
        raise BadInput("empty input: give a text")
    if len(lengths := {len(row) for row in ids}) > 1:
        raise BadInput(
            f"the texts have {min(lengths)} to {max(lengths)} tokens, and a language model has no padding: "
            "give one at a time"
        )
    return torch.stack(ids)


def source_texts(inputs: Inputs, metadata: Mapping[str, Any]) -> Tensor:
    """Texts to rewrite or translate, with their ends, int64 (count, time)."""
    from torchstone.data.text import tokenizers
    from torchstone.data.text.bucket_batches import PackedSequences
    from torchstone.tasks.text import text_to_text_data, translation_inference

    texts = list(map(str, several(inputs)))
    if not texts or not all(text.strip() for text in texts):
        raise BadInput("empty input: give a text")
    is_translation = metadata["task"] == "translate"
    end = translation_inference.EOS if is_translation else text_to_text_data.END
    pad = translation_inference.PAD if is_translation else text_to_text_data.PAD
    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    ids = [[*row, end] for row in translation_inference.encode_batch(texts, tokenizer)]
    return PackedSequences(ids, torch.device("cpu")).pad_rows(torch.arange(len(ids)), pad)


def speech(inputs: Inputs, metadata: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Sounds to transcribe: features (count, frames, width) and numbers of frames (count,)."""
    from torchstone.data.audio.files import Recording, expand_audio_paths, read_audio
    from torchstone.data.audio.speech_batches import collate
    from torchstone.parts.audio.spectrogram import AudioFeatures
    from torchstone.tasks.audio.transcribe import feature_extractor

    sample_rate = AudioFeatures.from_metadata(metadata["audio_features"]).sample_rate
    files = expand_audio_paths(several(inputs))
    recordings = [Recording(read_audio(file, sample_rate), "", "", str(file)) for file in files]
    batch = collate(recordings, metadata["alphabet"])
    return feature_extractor(dict(metadata), torch.device("cpu"))(batch.waveforms, batch.lengths)


def voices(inputs: Inputs, metadata: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Sounds of speakers, or files of vectors: features (count, frames, width) and numbers of frames
    (count,)."""
    from torchstone.data.audio.sequence_batches import collate
    from torchstone.tasks.audio.speaker_id import prepare_rows, read_items

    items, _ = read_items(several(inputs), dict(metadata))
    batch = collate(prepare_rows(items, dict(metadata)), [0] * len(items), "cpu")
    return batch.x, batch.lengths


PREPROCESSORS: dict[str, Callable[..., Any]] = {
    "labels": labeled_texts,
    "label": labeled_texts,
    "masked": masked_texts,
    "language": continued_texts,
    "in_context": continued_texts,
    "texts": source_texts,
    "denoise": source_texts,
    "translate": source_texts,
    "speech": speech,
    "voices": voices,
}
