"""Pictures and texts in one space: training as a `Run`, search among held-out pictures, zero-shot labels."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from tokenizers import Tokenizer, processors
from torch import Tensor, nn

from torchstone.data.text import tokenizers
from torchstone.data.vision.dataset import ImageSplit, normalize
from torchstone.data.vision.image_text_batches import (
    END,
    START,
    ImageTextBatch,
    ImageTextBatches,
    check_tokenizer,
    encode_texts,
)
from torchstone.data.vision.image_texts import LANGUAGES, ImageTexts, load_image_texts
from torchstone.data.vision.preprocess import preprocess
from torchstone.engine import checkpoint
from torchstone.engine.run import Examples, Run
from torchstone.errors import BadInput
from torchstone.hub import hf_folder
from torchstone.hub.weight_files import stated_statistics
from torchstone.parts.contrastive_loss import symmetric_contrastive_loss
from torchstone.parts.indices import evenly_spaced
from torchstone.parts.metrics.retrieval import mean_reciprocal_rank, recall_at, retrieval_ranks
from torchstone.parts.modes import eval_mode
from torchstone.plots.retrieval import plot_found, plot_retrieval
from torchstone.tasks.inference import label_prediction, list_files
from torchstone.tasks.optimization import decay_matrices_only, gradient_update
from torchstone.tasks.vision.stream import image_batches

RECALLS = (1, 5, 10)
CHUNK = 256  # pictures or texts at once in evaluation
NUM_QUERIES, NUM_FOUND = 12, 8  # of the report's picture
NUM_SHOWN = 12  # pictures that a search shows
BASELINE_SIDE = 8  # pixels per side of the pictures that the baseline compares
ADVICE = "say what to look for: --labels 'a cat,a dog', or --search 'red apple'"

# (network, batch) -> metrics with `loss`
PairLoss = Callable[[Any, ImageTextBatch], dict[str, Tensor]]


class Start(NamedTuple):
    """What training starts from: arguments of the network, its weights and tokenizer, and how it normalizes
    pictures (`mean` and `std`)."""

    model_config: dict[str, Any]
    tensors: dict[str, Tensor]
    tokenizer: Tokenizer
    statistics: dict[str, list[float]]


def parse_languages(languages: str) -> tuple[str, ...]:
    """`en,de`; `all` for every language that names are known in, English first."""
    return LANGUAGES if languages == "all" else tuple(each.strip() for each in languages.split(","))


def learn_tokenizer(data: ImageTexts, vocab_size: int) -> Tokenizer:
    """Word pieces of the captions of training pictures."""
    texts = [
        text
        for label in data.train.labels.tolist()
        for text in (*data.texts[label], *data.translations[label], *data.keywords[label])
    ]
    tokenizer = tokenizers.train("wordpiece", texts, vocab_size=vocab_size, special_tokens=(START, END))
    ends = [(name, tokenizer.token_to_id(name)) for name in (START, END)]
    # for other programs that read the tokenizer
    tokenizer.post_processor = processors.TemplateProcessing(f"{START} $A {END}", special_tokens=ends)
    return tokenizer


def load_start(source: str, system: str, from_config: Any, published: Any) -> Start:
    """A network of pictures and texts in a run of `system` or in Hugging Face layout (also `hf:ORG/NAME`).

    Args:
        from_config: a folder's config to (variant, arguments).
        published: (variant, tensors by the folder's names) -> tensors by ours.

    Raises:
        BadInput: it is another network; it lacks its tokenizer or image processor, or is not whole.
    """
    folder = hf_folder.fetch(source) if source.startswith("hf:") else Path(source)
    if (folder / "recipe.json").exists():
        path, meta, _ = checkpoint.find(folder / "checkpoint")
        if meta["system"] != system:
            raise BadInput(f"{source} is a run of {meta['system']}, not of {system}")
        tensors, metadata = checkpoint.weights(path, meta)
        picture, tokenizer = metadata["picture"], tokenizers.from_metadata(metadata["tokenizer"])
        statistics = {name: list(picture[name]) for name in ("mean", "std")}
        return Start(metadata["model_config"], tensors, tokenizer, statistics)
    config, tensors = hf_folder.read(folder)
    if (kind := hf_folder.system_of_config(config)) != system:
        raise BadInput(f"{source} is of {kind}, not of {system}")
    stated = stated_statistics(folder / "config.json", config)
    if stated is None:
        raise BadInput(
            f"{source} does not say how images are normalized: preprocessor_config.json is missing"
        )
    variant, model_config = from_config(config)
    tokenizer = tokenizers.load(folder)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    text = model_config["text"]
    check_tokenizer(tokenizer, text["vocab_size"], text["eos_id"], source)
    statistics = dict(zip(("mean", "std"), map(list, stated), strict=True))
    return Start(model_config, dict(published(variant, tensors)), tokenizer, statistics)


def train_image_text(
    model: Any,
    recipe: Any,
    data: ImageTexts,
    tokenizer: Tokenizer,
    loss: PairLoss,
    *,
    forward_module: nn.Module,
    max_logit_scale: float,
    model_config: dict[str, Any],
) -> Run:
    """A Run that trains `model` on pictures and their captions; metrics are of searches by text among the
    pictures of a split.

    Of the recipe: `augment`, `translation_prob`, `keyword_prob`, `languages`. Biases, norms and the
    temperature have no weight decay. The network with the best mean reciprocal rank in validation is tested.

    Args:
        loss: of a batch; it calls `forward_module`.
        max_logit_scale: largest logarithm of the temperature's inverse, held after each update.

    Raises:
        BadInput: gradient accumulation, which would compare the pairs of each micro-batch only.
    """
    if recipe.optim.grad_accum_steps > 1:
        raise BadInput(
            "the contrastive loss compares all pairs of a batch, and those of two micro-batches would not "
            "be: set --grad-accum-steps 1, or share the batch among more devices"
        )
    length = model.config.text.max_length
    stream = ImageTextBatches(
        image_batches(recipe, data.train, data.metadata),
        data,
        tokenizer,
        max_length=length,
        translation_prob=recipe.translation_prob,
        keyword_prob=recipe.keyword_prob,
    )
    if data.train.labels.device.type != "mps":
        model = model.to(memory_format=torch.channels_last)
    update, state, eval_model = gradient_update(
        model,
        recipe.optim,
        loss,
        steps=recipe.steps,
        parameters=decay_matrices_only(model, recipe.optim),
        forward_module=forward_module,
    )

    @torch.no_grad()
    def hold(*_: Any) -> None:
        model.logit_scale.clamp_(max=max_logit_scale)

    state["optimizer"].register_step_post_hook(hold)

    def test() -> dict[str, float]:
        captions, is_novel = data.captions(data.test), data.is_novel(data.test)
        baseline = nearest_word_similarity(data, data.test)
        ranks = retrieval_ranks(baseline, same_caption(captions))
        recalls = {f"nearest_word_recall_at_{k}": recall_at(ranks, k) for k in (1, 10)}
        metrics = retrieve(eval_model, data.test, captions, data.metadata, tokenizer, is_novel)
        return metrics | recalls

    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: retrieve(eval_model, data.val, data.captions(data.val), data.metadata, tokenizer),
        best_metric="mean_reciprocal_rank",
        examples=Examples(recipe.batch_size, len(data.train), len(data.val), "images"),
        state={**state, "stream": stream},
        steps=recipe.steps,
        test=test,
        report=lambda folder: save_report(eval_model, data, tokenizer, folder),
        metadata={
            "task": "image_text",
            "variant": recipe.variant,
            "model_config": model_config,
            "picture": data.metadata,
            "tokenizer": tokenizers.to_metadata(tokenizer),
            "length": length,
            "languages": recipe.languages,
            "data": data.description,
        },
    )


# -------------------------------------------------------------------------------------- evaluation


@torch.no_grad()
def embed_images(
    model: Any, images: Tensor, metadata: Mapping[str, Any]
) -> Float[Tensor, "images embed_dim"]:
    """Embeddings of uint8 images (count, channel, size, size), in evaluation mode."""
    device = model.logit_scale.device
    with eval_mode(model):
        return torch.cat(
            [model.encode_images(normalize(part.to(device), dict(metadata))) for part in images.split(CHUNK)]
        )


@torch.no_grad()
def embed_texts(model: Any, texts: Sequence[str], tokenizer: Tokenizer) -> Float[Tensor, "texts embed_dim"]:
    """Embeddings of texts, in evaluation mode."""
    tokens = encode_texts(tokenizer, texts, model.config.text.max_length).to(model.logit_scale.device)
    with eval_mode(model):
        return torch.cat([model.encode_texts(part) for part in tokens.split(CHUNK)])


def same_caption(captions: Sequence[str]) -> Bool[Tensor, "texts images"]:
    """True where a picture has the caption that is searched by."""
    number = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    numbers = torch.tensor([number[caption] for caption in captions])
    return numbers[:, None] == numbers


def retrieve(
    model: Any,
    split: ImageSplit,
    captions: Sequence[str],
    metadata: Mapping[str, Any],
    tokenizer: Tokenizer,
    is_novel: Bool[Tensor, " count"] | None = None,
) -> dict[str, float]:
    """Recall among the split's pictures, searched for by their captions, and the other way around; and the
    loss with the whole split as one batch.

    Args:
        is_novel: where some are not, the recall of those that are is measured apart, among all pictures.
    """
    images = embed_images(model, _pixels(split), metadata)
    texts = embed_texts(model, captions, tokenizer)
    similarity, relevant = (texts @ images.T).cpu(), same_caption(captions)
    ranks, image_ranks = retrieval_ranks(similarity, relevant), retrieval_ranks(similarity.T, relevant)
    logits = model.logit_scale.exp().item() * similarity.T
    novel = {}
    if is_novel is not None and bool(is_novel.any()) and not bool(is_novel.all()):
        novel = {f"novel_recall_at_{k}": recall_at(ranks[is_novel], k) for k in (1, 10)}
    return {
        "loss": symmetric_contrastive_loss(logits, relevant).item(),
        "mean_reciprocal_rank": mean_reciprocal_rank(ranks),
        **{f"recall_at_{k}": recall_at(ranks, k) for k in RECALLS},
        "image_to_text_recall_at_1": recall_at(image_ranks, 1),
        "image_to_text_recall_at_10": recall_at(image_ranks, 10),
        **novel,
    }


def _pixels(split: ImageSplit) -> Tensor:
    return split.take(torch.arange(len(split), device=split.labels.device))


def nearest_word_similarity(data: ImageTexts, split: ImageSplit) -> Float[Tensor, "texts images"]:
    """The baseline: a caption's words find training captions, and their pictures find pictures that look
    alike, pixel by pixel.

    The captions are compared by the cosine of their words' counts, each weighted with ln(captions / captions
    with that word); pictures by the cosine of their deviation from the mean picture, at 8 × 8 pixels. Of
    several training pictures of one thing the first is compared, which is in the hand of those searched for.
    """
    first = {label: row for row, label in reversed(list(enumerate(data.train.labels.tolist())))}
    rows = torch.tensor(sorted(first.values()), device=data.train.labels.device)
    train = ImageSplit(data.train.labels[rows], data.train.take(rows))
    known = [data.texts[label][0].split() for label in train.labels.tolist()]
    own = [caption.split() for caption in data.captions(split)]
    vocabulary = {word: i for i, word in enumerate(sorted({word for words in known for word in words}))}
    counts = [torch.zeros(len(each), len(vocabulary)) for each in (known, own)]
    for table, texts in zip(counts, (known, own), strict=True):
        for row, words in zip(table, texts, strict=True):
            for word in words:
                if word in vocabulary:
                    row[vocabulary[word]] += 1
    weight = (len(known) / (counts[0] > 0).sum(0)).log()
    words, queries = (F.normalize(each * weight, dim=1) for each in counts)
    small = [
        F.adaptive_avg_pool2d(_pixels(each).cpu().float(), BASELINE_SIDE).flatten(1)
        for each in (train, split)
    ]
    pictures, targets = (F.normalize(each - small[0].mean(0), dim=1) for each in small)
    return queries @ words.T @ (pictures @ targets.T)


def save_report(model: Any, data: ImageTexts, tokenizer: Tokenizer, folder: Path) -> None:
    """A picture of searches among the test pictures: evenly chosen captions, and what each found."""
    captions, pixels = data.captions(data.test), _pixels(data.test).cpu()
    chosen = evenly_spaced(len(captions), min(NUM_QUERIES, len(captions))).tolist()
    images = embed_images(model, pixels, data.metadata)
    texts = embed_texts(model, [captions[i] for i in chosen], tokenizer)
    found = (texts @ images.T).topk(min(NUM_FOUND, len(captions)), dim=1).indices.tolist()
    relevant = same_caption(captions)
    plot_retrieval(
        [captions[i] for i in chosen],
        [[pixels[j] for j in row] for row in found],
        folder / "retrieved.png",
        title=f"captions of the test split, and the pictures found among {len(captions)} held-out ones",
        captions=[[captions[j] for j in row] for row in found],
        relevant=[[bool(relevant[i, j]) for j in row] for i, row in zip(chosen, found, strict=True)],
    )


def evaluate(model: Any, metadata: dict, spec: str, *, held_out: bool) -> dict[str, float]:
    """Recall on the pictures of `spec`, each searched for by its first caption: on its test split if
    `held_out`, else on all.

    Raises:
        BadInput: no captioned pictures.
    """
    data = load_image_texts(
        spec,
        size=metadata["picture"]["size"],
        languages=parse_languages(metadata.get("languages", "en")),
        device=model.logit_scale.device,
    )
    splits = [data.test] if held_out else [data.train, data.val, data.test]
    split = ImageSplit(torch.cat([s.labels for s in splits]), torch.cat([_pixels(s) for s in splits]))
    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    is_novel = data.is_novel(split) if held_out else None
    metrics = retrieve(model, split, data.captions(split), metadata["picture"], tokenizer, is_novel)
    return metrics | {"images": len(split)}


# --------------------------------------------------------------------------------------------- use


def predict(
    model: Any,
    metadata: dict,
    inputs: Sequence[Path | str],
    *,
    labels: str | Sequence[str] | None = None,
    search: str | None = None,
    out: str | None = None,
) -> list[dict]:
    """Which of `labels` fits each picture best, or which of the pictures fit `search` best.

    Args:
        inputs: image files; a folder stands for the images in it.
        labels: texts, or one string of them separated by commas. Probabilities are among these only.
        search: a text. The pictures are listed from the most similar on, and shown in one picture.
        out: where the found pictures are drawn (.png), by default `search.png`.

    Raises:
        BadInput: neither or both of labels and search; a file is missing, or is no image.
    """
    if (labels is None) == (search is None):
        raise BadInput(ADVICE if labels is None else "give --labels or --search, not both")
    if labels is None and search is not None:
        return search_images(model, metadata, inputs, search, out=out or "search.png")
    if out is not None:
        raise BadInput("--out is for --search, whose pictures are drawn")
    texts = labels.split(",") if isinstance(labels, str) else list(labels or ())
    texts = [str(text).strip() for text in texts]
    if not all(texts) or len(set(texts)) < 2:
        raise BadInput(f"labels are at least two different texts: --labels 'a cat,a dog', not {labels!r}")
    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    files = list_files(inputs)
    images = embed_images(model, _read_images(files, metadata), metadata["picture"])
    logits = model.logit_scale.exp() * images @ embed_texts(model, texts, tokenizer).T
    probabilities = logits.detach().softmax(1).tolist()
    return [label_prediction(str(file), texts, row) for file, row in zip(files, probabilities, strict=True)]


def search_images(
    model: Any, metadata: dict, inputs: Sequence[Path | str], text: str, *, out: str | Path
) -> list[dict]:
    """The pictures from the most similar to `text` on, each with its cosine; the first are drawn to `out`.

    Raises:
        BadInput: an empty text; a file is missing, or is no image.
    """
    if not text.strip():
        raise BadInput("the search is empty: describe a picture, such as --search 'red apple'")
    files = list_files(inputs)
    images = _read_images(files, metadata)
    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    similarity = embed_images(model, images, metadata["picture"]) @ embed_texts(model, [text], tokenizer)[0]
    values, order = similarity.sort(descending=True, stable=True)
    values, order = values.tolist(), order.tolist()
    shown = order[:NUM_SHOWN]
    plot_found(text, [images[i] for i in shown], [files[i].name for i in shown], values[:NUM_SHOWN], out)
    answers = [
        {"input": str(files[i]), "search": text, "similarity": value}
        for i, value in zip(order, values, strict=True)
    ]
    answers[0]["file"] = str(out)
    return answers


def _read_images(files: Sequence[Path], metadata: Mapping[str, Any]) -> Tensor:
    return torch.cat([preprocess(file, metadata["picture"]) for file in files])
