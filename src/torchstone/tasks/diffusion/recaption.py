"""Re-captioning in three stages: a captioner is trained, it writes captions, a decoder is trained on them."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from tokenizers import Tokenizer
from torch import Tensor

from torchstone.data.sampler import itself, load_position, position_state
from torchstone.data.text.tokenizers import from_metadata, to_metadata
from torchstone.data.vision.augment import make_augmentation
from torchstone.data.vision.caption_batches import DrawCaptions, MixedCaptions
from torchstone.data.vision.captioned import Captioned, split_words, token_ids, word_tokenizer
from torchstone.data.vision.dataset import ImageSplit, normalize
from torchstone.data.vision.descriptions import Attribute, Described, details_of, load_described, with_details
from torchstone.data.vision.diffusion_batches import DiffusionBatch, DiffusionBatches
from torchstone.data.vision.preprocess import preprocess
from torchstone.data.vision.question_batches import (
    END_ID,
    IMAGE_ID,
    SPECIAL_TOKENS,
    Conversations,
    QuestionBatches,
)
from torchstone.data.vision.questions import Question, QuestionSplit
from torchstone.engine import parallel
from torchstone.engine.run import Examples, Run
from torchstone.errors import BadInput, did_you_mean
from torchstone.files import atomic_write
from torchstone.metrics import memorization
from torchstone.parts.indices import evenly_spaced
from torchstone.parts.metrics.fidelity_diversity import class_frequencies
from torchstone.parts.modes import eval_mode
from torchstone.plots import sample_grid
from torchstone.tasks.diffusion.sampler import PSample, SamplingConfig, sample_images
from torchstone.tasks.diffusion.train import (
    MAX_SHEET_STEPS,
    NEAREST_SAMPLES,
    SHEET_SAMPLES,
    TrainingLoss,
    caption_context,
    coarse_loss,
    evaluation_loss,
)
from torchstone.tasks.inference import list_files
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.text.generate import generate
from torchstone.tasks.vision.answer import BLANK, Reader, score
from torchstone.tasks.vision.feature_classifier import ClassifierSpec, train_or_load_classifier
from torchstone.tasks.vision.stream import image_batches

Pixels = UInt8[Tensor, "count channel height width"]

DESCRIBE, EXPAND = "describe it", "expand: {}"  # what the captioner is asked: of an image, of a short caption
MIN_COUNT = 2  # of the captioner's captions that a word is in; others are unknown to it
CHUNK = 64  # images that are captioned in one step of the second stage
CAPTIONS_FILE, PROMPTS_FILE = "captions.tsv", "prompts.tsv"  # in the run folder
# the prompts that samples are evaluated by: prefix of the metrics, and what is given to the decoder
PROMPTS = ("", "short_", "upsampled_")
UPSAMPLE = ("auto", "always", "never")


# --------------------------------------------------------------------------------------- captioner


class Captions(NamedTuple):
    """How the captioner's questions and captions become tokens; `most` of a caption."""

    conversations: Conversations
    most: int

    @classmethod
    def from_metadata(cls, model: Any, metadata: Mapping[str, Any]) -> "Captions":
        saved = metadata["captioner"]
        tokenizer = from_metadata(saved["tokenizer"])
        return cls(Conversations(tokenizer, model.captioner.image_tokens), saved["most"])

    def to_metadata(self) -> dict[str, Any]:
        return {"tokenizer": to_metadata(self.conversations.tokenizer), "most": self.most}


def caption_tokenizer(data: Described) -> Tokenizer:
    """The words that several captions of the captioner's part have."""
    texts = [text for row in data.captioner.labels.tolist() for text in (data.short[row], data.long[row])]
    splitter, counts = word_tokenizer([]), Counter()
    for text in texts:
        counts.update(set(split_words(splitter, text)))
    frequent = [word for word, count in counts.items() if count >= MIN_COUNT]
    return word_tokenizer([*frequent, DESCRIBE, EXPAND.format("")], SPECIAL_TOKENS)


def caption_questions(data: Described, split: ImageSplit) -> QuestionSplit:
    """Each image with the request to describe it; then blank images, with the request to expand each short
    caption. The answer is the description both times."""
    assert isinstance(split.images, Tensor)
    rows, count = split.labels.tolist(), len(split)
    of_images = [Question(i, DESCRIBE, data.long[row]) for i, row in enumerate(rows)]
    of_texts = [
        Question(count + i, EXPAND.format(data.short[row]), data.long[row]) for i, row in enumerate(rows)
    ]
    pixels = torch.cat([split.images, torch.full_like(split.images, BLANK)])
    return QuestionSplit(pixels, (*of_images, *of_texts))


def longest_turn(data: Described, conversations: Conversations) -> int:
    """Tokens of the longest request with its answer."""
    return max(
        len(conversations.turn(each)[0])
        for split in (data.captioner, data.train, data.val, data.test)
        for each in caption_questions(data, split).questions
    )


@torch.no_grad()
def write(
    captioner: Any,
    images: Float[Tensor, "batch channel height width"],
    captions: Captions,
    questions: Sequence[str],
) -> list[str]:
    """The greedy answer to one question about each image."""
    conversations = captions.conversations
    prompts = [conversations.prompt(each) for each in questions]
    texts = [""] * len(prompts)
    with eval_mode(captioner):
        for length in sorted(set(map(len, prompts))):  # those of one length at a time: no padding in between
            own = [i for i, prompt in enumerate(prompts) if len(prompt) == length]
            image = [IMAGE_ID] * conversations.image_tokens
            tokens = torch.tensor([image + prompts[i] for i in own], device=images.device)
            reader = Reader(captioner, captioner.encode(images[own]))
            rows = generate(reader, tokens, captions.most, greedy=True, eos=END_ID)[:, tokens.shape[1] :]
            for i, row in zip(own, rows.tolist(), strict=True):
                ids = [token for token in row[: [*row, END_ID].index(END_ID)] if token >= len(SPECIAL_TOKENS)]
                texts[i] = conversations.tokenizer.decode(ids)
    return texts


def describe_images(model: Any, images: Pixels, captions: Captions, picture: Mapping[str, Any]) -> list[str]:
    """What the captioner writes about images."""
    x = normalize(images, dict(picture))
    return write(model.captioner, x, captions, [DESCRIBE] * len(x))


def upsample(model: Any, prompts: Sequence[str], captions: Captions, picture: Mapping[str, Any]) -> list[str]:
    """Short prompts as descriptions: the captioner, without an image, writes the details; the prompt's own
    words follow."""
    size, device = picture["size"], next(model.parameters()).device
    blank = torch.full((len(prompts), 3, size, size), BLANK, dtype=torch.uint8, device=device)
    x = normalize(blank, dict(picture))
    written = write(model.captioner, x, captions, [EXPAND.format(each) for each in prompts])
    return [with_details(details_of(text), each) for text, each in zip(written, prompts, strict=True)]


# ------------------------------------------------------------------------------------------ stages


class Setup(NamedTuple):
    """What the stages share.

    Args:
        model: with `captioner` and `decoder`.
        model_config: constructor arguments of `model`, saved with the weights.
        classifier: how the classifiers of attributes are made and trained.
    """

    model: Any
    recipe: Any
    data: Described
    captions: Captions
    model_config: dict[str, Any]
    classifier: ClassifierSpec

    def sampling(self) -> SamplingConfig:
        recipe = self.recipe
        return SamplingConfig(recipe.sampling_steps, recipe.sampler, guidance_scale=recipe.guidance_scale)

    def metadata(self) -> dict[str, Any]:
        return {
            "task": "diffuse",
            "variant": self.recipe.variant,
            "model_config": self.model_config,
            "picture": self.data.metadata,
            "data": self.data.description,
            "source": self.data.name,
            "sampling": dataclasses.asdict(self.sampling()),
            "captioner": self.captions.to_metadata(),
            "length": self.model.decoder.text_encoder.max_length,
            "synthetic_caption_ratio": self.recipe.synthetic_caption_ratio,
            "eval_prompts": self.recipe.eval_prompts,
            "examples": [self.data.short[row] for row in self.data.test.labels.tolist()[:4]],
        }


def train_captioner(setup: Setup, loss: Callable[[Any, Any], dict[str, Tensor]]) -> Run:
    """A Run of the first stage: the captioner, on the images that have descriptions.

    Of the recipe: captioner_steps, captioner_batch_size, captioner_lr, captioner_augment. Metrics: `loss` in
    nats a token, and in training `token_accuracy`.
    """
    model, recipe, data = setup.model, setup.recipe, setup.data
    model.decoder.requires_grad_(False)
    optim = dataclasses.replace(
        recipe.optim, lr=recipe.captioner_lr, optimizer="adamw", weight_decay=0.05, ema_decay=0.0
    )
    update, state, _ = gradient_update(
        model, optim, loss, steps=recipe.captioner_steps, forward_module=model.captioner
    )
    conversations, questions = setup.captions.conversations, caption_questions(data, data.captioner)
    stream = QuestionBatches(
        questions,
        recipe.captioner_batch_size,
        conversations,
        seed=recipe.seed,
        metadata=data.metadata,
        augment=make_augmentation(recipe.captioner_augment),
        **parallel.share(),
    )

    def measure(split: ImageSplit) -> dict[str, float]:
        held_out = caption_questions(data, split)
        return {"loss": score(model.captioner, held_out, conversations, data.metadata)[1]}

    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: measure(data.val),
        best_metric=None,  # the last ones write the captions
        examples=Examples(recipe.captioner_batch_size, len(questions), 2 * len(data.val), "images"),
        state={**state, "stream": stream},
        steps=recipe.captioner_steps,
        test=lambda: measure(data.test),
        metadata=setup.metadata(),
    )


class RowChunks:
    """`count` rows, `size` at a time."""

    def __init__(self, count: int, size: int):
        self.count, self.size, self.position = count, size, 0

    __iter__, state_dict, load_state_dict = itself, position_state, load_position

    def __next__(self) -> Int64[Tensor, " rows"]:
        first, self.position = self.position, self.position + self.size
        return torch.arange(first, min(self.position, self.count))


class CaptionWriter:
    """The captions written so far of `images`, in their order; all of them in a file of the run folder, too.

    Args:
        labels: the images' rows of captions in `data`.
    """

    def __init__(self, setup: Setup, images: Pixels, labels: list[int]):
        self.setup, self.images, self.labels = setup, images, labels
        self.texts: list[str] = []
        self.folder: Path | None = None

    def attach(self, folder: Path | None) -> None:
        self.folder = folder

    def state_dict(self) -> dict[str, Any]:
        return {"texts": list(self.texts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.texts = list(state["texts"])

    def update(self, rows: Int64[Tensor, " rows"]) -> dict[str, float]:
        """Write the captions of the images `rows`, which follow those written so far."""
        setup, images = self.setup, self.images[rows.to(self.images.device)]
        texts = describe_images(setup.model, images, setup.captions, setup.data.metadata)
        self.texts += texts
        if len(self.texts) == len(self.labels) and self.folder is not None and parallel.rank() == 0:
            self.save(self.folder / CAPTIONS_FILE)
        return {"caption_words": sum(len(text.split()) for text in texts) / len(texts)}

    def save(self, file: Path) -> None:
        """A line each: short caption, the caption written, the description that it stands for."""
        data = self.setup.data
        lines = ["short\twritten\tdescription"]
        lines += [
            f"{data.short[row]}\t{text}\t{data.long[row]}"
            for row, text in zip(self.labels, self.texts, strict=True)
        ]
        with atomic_write(file) as new:
            new.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def accuracy(self) -> dict[str, float]:
        """The share of images whose caption says what is true, by attribute; 0 before there are any."""
        found = {}
        for name, attribute in self.setup.data.attributes.items():
            right = [
                attribute.is_in(text, row)
                for row, text in zip(self.labels, self.texts, strict=False)
                if attribute.labels[row] >= 0
            ]
            found[f"caption_{name}_accuracy"] = sum(right) / max(1, len(right))
        return found


def write_captions(setup: Setup) -> tuple[Run, CaptionWriter]:
    """A Run of the second stage: the captioner, which has not been shown these images, describes each.

    Metrics: `caption_words` of a caption, and by attribute the share of captions that say what is true.
    """
    data = setup.data
    both = (data.train, data.val)
    images = torch.cat([each.take(torch.arange(len(each))) for each in both])
    labels = torch.cat([data.train.labels, data.val.labels]).tolist()
    writer, stream = CaptionWriter(setup, images, labels), RowChunks(len(labels), CHUNK)
    steps = -(-len(labels) // CHUNK)
    run = Run(
        stream=stream,
        update=writer.update,
        evaluate=writer.accuracy,
        best_metric=None,
        examples=Examples(CHUNK, len(labels), len(labels), "images"),
        state={"model": setup.model, "captions": writer, "stream": stream},
        steps=steps,
        test=writer.accuracy,
        metadata=setup.metadata(),
    )
    return run, writer


class MixedData(NamedTuple):
    """What the decoder is trained on: `captions` of `data` are the short ones, then the written ones."""

    data: Captioned
    tokenizer: Tokenizer
    table: Int64[Tensor, "captions tokens"]


def mix_captions(setup: Setup, writer: CaptionWriter) -> MixedData:
    """The decoder's captions, and the words of those that it is trained on; any other word is unknown."""
    data, ratio = setup.data, setup.recipe.synthetic_caption_ratio
    device, count = data.train.labels.device, len(data.short)
    written = [""] * count
    # none are written yet where a run is only made to be looked at
    for row, text in zip(writer.labels, writer.texts, strict=False):
        written[row] = text
    rows = data.train.labels.tolist()
    texts = [data.short[row] for row in rows] * (ratio < 1) + [written[row] for row in rows] * (ratio > 0)
    tokenizer, all_captions = word_tokenizer(texts), (*data.short, *written)
    length = setup.model.decoder.text_encoder.max_length
    table = token_ids(tokenizer, list(all_captions), length).to(device)
    # of validation as many have each kind of caption as in training, always the same ones
    generator = torch.Generator().manual_seed(0)
    is_written = torch.rand(len(data.val), generator=generator).to(device) < ratio
    val = ImageSplit(data.val.labels + count * is_written, data.val.images)
    mixed = Captioned(
        data.name, all_captions, data.train, val, data.test, metadata=data.metadata, description=""
    )
    return MixedData(mixed, tokenizer, table)


def train_decoder(
    setup: Setup,
    mixed: MixedData,
    draw_captions: DrawCaptions,
    training_loss: TrainingLoss,
    p_sample: PSample,
) -> Run:
    """A Run of the third stage: the decoder, on short captions and written ones.

    Metrics: `loss` of the EMA weights, in validation with the same noise each time, in training with that of
    the coarse image head; at the end those of `evaluate_prompts`.
    """
    model, recipe, data = setup.model, setup.recipe, setup.data
    model.captioner.requires_grad_(False)
    model.decoder.requires_grad_(True)
    process = model.decoder.process
    schedule, device = process.noise_schedule().to(data.train.labels.device), data.train.labels.device
    sampling = setup.sampling()
    sampling.process(process)  # refused now, not after training
    has_coarse_head = model.decoder.coarse_head is not None

    def denoising_loss(net: Any, batch: DiffusionBatch) -> Tensor:
        return training_loss(net, process, schedule, batch)

    def loss(net: Any, batch: DiffusionBatch) -> dict[str, Tensor]:
        denoising = denoising_loss(net, batch)
        if not has_coarse_head:
            return {"loss": denoising}
        coarse = coarse_loss(model.decoder, batch)
        return {"loss": denoising + coarse, "denoising_loss": denoising, "coarse_loss": coarse}

    update, state, eval_model = gradient_update(
        model, recipe.optim, loss, steps=recipe.steps, forward_module=model.decoder
    )
    empty = token_ids(mixed.tokenizer, [""], mixed.table.shape[1]).to(device)
    make_context = caption_context(mixed.table, empty)
    batches = MixedCaptions(image_batches(recipe, data.train, data.metadata), draw_captions)
    stream = DiffusionBatches(
        batches, len(schedule), make_context=make_context, cond_drop_prob=recipe.cond_drop_prob
    )
    metadata = setup.metadata() | {"tokenizer": to_metadata(mixed.tokenizer)}
    num_val, sheet_steps = len(data.val), min(recipe.sampling_steps, MAX_SHEET_STEPS)
    passes = sheet_steps * (1 + (recipe.guidance_scale not in (0, 1)))

    def example_prompts(count: int) -> list[str]:
        rows = data.test.labels.cpu()[evenly_spaced(len(data.test), count)]
        return [data.long[row] for row in rows.tolist()]

    def sample(prompts: Sequence[str], config: SamplingConfig = sampling) -> Pixels:
        context = decoder_tokens(metadata, prompts)
        return sample_images(p_sample, eval_model.decoder, len(context), config, context=context)

    def sample_sheet() -> Pixels:
        config = dataclasses.replace(sampling, sampler="ddim", steps=sheet_steps)
        return sample(example_prompts(SHEET_SAMPLES), config)

    def test() -> dict[str, float]:
        numbers, rows = evaluate_prompts(
            eval_model, metadata, data, p_sample, setup.classifier, training_loss=training_loss
        )
        if rows and run.folder is not None and parallel.rank() == 0:
            save_prompts(rows, run.folder / PROMPTS_FILE)
        return numbers

    def report(folder: Path) -> None:
        prompts = example_prompts(NEAREST_SAMPLES)
        memorization.save_nearest_sheet(sample(prompts), mixed.data, folder / "nearest.png", captions=prompts)
        sample_grid.save_final_samples(sample_sheet(), folder, columns=10)

    run = Run(
        stream=stream,
        update=update,
        evaluate=lambda: {
            "loss": evaluation_loss(eval_model.decoder, mixed.data.val, denoising_loss, make_context)
        },
        best_metric="loss",
        examples=Examples(
            recipe.batch_size,
            len(data.train),
            num_val,
            "images",
            evaluation=num_val + min(SHEET_SAMPLES, len(data.test)) * passes,
        ),
        state={**state, "stream": stream},
        steps=recipe.steps,
        test=test,
        report=report,
        metadata=metadata,
    )
    return sample_grid.log_samples(run, sample_sheet, columns=10)


# -------------------------------------------------------------------------------------- evaluation


class PromptRow(NamedTuple):
    """A held-out image's prompt, and by attribute what it is and what the classifier finds."""

    kind: str
    prompt: str
    expected: dict[str, str]
    found: dict[str, str]


def decoder_tokens(metadata: Mapping[str, Any], prompts: Sequence[str]) -> Int64[Tensor, "count tokens"]:
    """Prompts as the decoder reads them; words of no training caption are unknown."""
    return token_ids(from_metadata(metadata["tokenizer"]), list(prompts), metadata["length"])


def make_prompts(
    model: Any, metadata: Mapping[str, Any], data: Described, rows: Sequence[int]
) -> dict[str, list[str]]:
    """The prompts by kind: descriptions of held-out images, which no captioner has written; their short
    captions; and these upsampled."""
    short = [data.short[row] for row in rows]
    captions = Captions.from_metadata(model, metadata)
    return {
        "": [data.long[row] for row in rows],
        "short_": short,
        "upsampled_": upsample(model, short, captions, data.metadata),
    }


def evaluate_prompts(
    model: Any,
    metadata: Mapping[str, Any],
    data: Described,
    p_sample: PSample,
    classifier: ClassifierSpec,
    *,
    training_loss: TrainingLoss,
) -> tuple[dict[str, float], list[PromptRow]]:
    """The loss on held-out images with their descriptions, and what samples of their prompts show.

    Of each kind of prompt one sample each, from the same noise; `NAME_accuracy` is the share in which a
    classifier of real images finds the attribute's value that the held-out image has, `attribute_accuracy`
    the mean over attributes, `short_…` and `upsampled_…` those of other prompts, `real_…` what the classifier
    reaches on the held-out images themselves, and `majority_…` the value most frequent in training.
    """
    process, device = model.decoder.process, data.test.labels.device
    schedule = process.noise_schedule().to(device)
    described = decoder_tokens(metadata, data.long).to(device)
    empty = decoder_tokens(metadata, [""]).to(device)
    numbers = {
        "loss": evaluation_loss(
            model.decoder,
            data.test,
            lambda net, batch: training_loss(net, process, schedule, batch),
            caption_context(described, empty),
        )
    }
    if not metadata["eval_prompts"]:
        return numbers, []
    index = evenly_spaced(len(data.test), metadata["eval_prompts"]).to(device)
    rows, images = data.test.labels[index].tolist(), data.test.take(index)
    labeled = {name: data.labeled(name) for name in data.attributes}
    classifiers = {name: train_or_load_classifier(each, classifier) for name, each in labeled.items()}
    sampling = SamplingConfig.from_metadata(metadata["sampling"])
    shown = {"real_": images}
    prompts = make_prompts(model, metadata, data, rows)
    for kind, texts in prompts.items():
        context = decoder_tokens(metadata, texts)
        shown[kind] = sample_images(p_sample, model.decoder, len(context), sampling, context=context)
    found = {
        kind: {name: each.extract(pixels).labels for name, each in classifiers.items()}
        for kind, pixels in shown.items()
    }
    for name, attribute in data.attributes.items():
        train = class_frequencies(labeled[name].train.labels.cpu(), len(attribute.classes))
        found.setdefault("majority_", {})[name] = train.argmax().expand(len(rows))
    for kind, labels in found.items():
        shares = {name: share_right(data.attributes[name], rows, each) for name, each in labels.items()}
        numbers |= {f"{kind}{name}_accuracy": share for name, share in shares.items()}
        numbers[f"{kind}attribute_accuracy"] = sum(shares.values()) / len(shares)
    table = [
        PromptRow(
            kind.strip("_") or "description",
            prompts[kind][i],
            {n: a.classes[int(a.labels[row])] for n, a in data.attributes.items() if a.labels[row] >= 0},
            {n: data.attributes[n].classes[int(each[i])] for n, each in found[kind].items()},
        )
        for kind in PROMPTS
        for i, row in enumerate(rows)
    ]
    return numbers, table


def share_right(attribute: Attribute, rows: Sequence[int], found: Int64[Tensor, " count"]) -> float:
    """The share of the images `rows` that have the attribute whose value is the one found."""
    labels = attribute.labels[torch.tensor(rows)]
    return float((labels == found)[labels >= 0].double().mean())


def save_prompts(rows: Sequence[PromptRow], file: Path) -> None:
    """A line each: kind of prompt, prompt, what is expected and what was found, as JSON."""
    lines = ["kind\tprompt\texpected\tfound"]
    lines += [f"{r.kind}\t{r.prompt}\t{json.dumps(r.expected)}\t{json.dumps(r.found)}" for r in rows]
    with atomic_write(file) as new:
        new.write_text("\n".join(lines) + "\n", encoding="utf-8")


def evaluate(
    model: Any,
    metadata: dict[str, Any],
    source: str,
    *,
    held_out: bool,
    p_sample: PSample,
    training_loss: TrainingLoss,
    classifier: ClassifierSpec,
) -> dict[str, Any]:
    """`evaluate_prompts` on the test split of `source`, or on all of its images."""
    check_decoder(metadata, "evaluate")
    data = load_described(source, size=metadata["picture"]["size"], device=next(model.parameters()).device)
    if not held_out:
        splits = (data.captioner, data.train, data.val, data.test)
        parts = (torch.cat([getattr(each, name) for each in splits]) for name in ("labels", "images"))
        data = dataclasses.replace(data, test=ImageSplit(*parts))
    numbers, _ = evaluate_prompts(model, metadata, data, p_sample, classifier, training_loss=training_loss)
    return numbers | {"images": len(data.test)}


# ---------------------------------------------------------------------------------------------- use


def check_decoder(metadata: Mapping[str, Any], verb: str) -> None:
    """Refuse a run whose decoder is not trained yet."""
    if "tokenizer" not in metadata:
        raise BadInput(
            f"nothing to {verb} yet: the decoder of this run is trained in its last stage; resume the run"
        )


def upsampled_prompt(model: Any, metadata: Mapping[str, Any], prompt: str, how_to: str) -> str:
    """The prompt as the decoder is to get it: upsampled `always`, `never`, or (`auto`) if the decoder knows
    descriptions for the most part and the prompt is none.

    Raises:
        BadInput: no words, a word that neither captioner nor decoder knows, or too many.
    """
    if how_to not in UPSAMPLE:
        raise BadInput(f"unknown --upsample {how_to!r}: {did_you_mean(how_to, UPSAMPLE)}")
    tokenizer, captions = from_metadata(metadata["tokenizer"]), Captions.from_metadata(model, metadata)
    words = split_words(tokenizer, prompt)
    known = {**tokenizer.get_vocab(), **captions.conversations.tokenizer.get_vocab()}
    if not words:
        raise BadInput("the prompt is empty: describe the image, in words of the captions")
    if unknown := [word for word in words if word not in known]:
        plain = sorted(word for word in known if not word.startswith("["))
        raise BadInput(f"no caption had the word {unknown[0]!r}: {did_you_mean(unknown[0], plain)}")
    if len(words) > metadata["length"] - 1:
        raise BadInput(f"a prompt has at most {metadata['length'] - 1} words, not {len(words)}")
    is_long = ":" in words or metadata["synthetic_caption_ratio"] < 0.5
    if how_to == "never" or (how_to == "auto" and is_long):
        return prompt
    room = model.captioner.context - model.captioner.image_tokens - captions.most
    if len(captions.conversations.prompt(EXPAND.format(prompt))) > room:
        raise BadInput(f"the prompt is too long to be upsampled ({len(words)} words): --upsample never")
    (text,) = upsample(model, [prompt], captions, metadata["picture"])
    return text


def sample(
    model: Any,
    metadata: dict[str, Any],
    *,
    p_sample: PSample,
    num_samples: int = 16,
    seed: int = 0,
    prompt: str | None = None,
    upsample: str = "auto",
    guidance_scale: float | None = None,
    sampling_steps: int | None = None,
    out: str | Path | None = None,
) -> list:
    """Images, uint8 (channel, height, width), or the name of the sheet they were written to.

    Args:
        prompt: a short caption, or a description; by default some of held-out images.
        upsample: auto, always or never: rewrite a short prompt as a description first.
        guidance_scale, sampling_steps: by default the recipe's.

    Raises:
        BadInput: a number, a word or a file that is not possible; no trained decoder.
    """
    check_decoder(metadata, "sample")
    if num_samples < 1:
        raise BadInput(f"num_samples must be at least 1, not {num_samples}")
    given = {"steps": sampling_steps, "guidance_scale": guidance_scale, "seed": seed}
    sampling = dataclasses.replace(
        SamplingConfig.from_metadata(metadata["sampling"]),
        **{name: value for name, value in given.items() if value is not None},
    )
    wanted = metadata["examples"] if prompt is None else [prompt]
    texts = [upsampled_prompt(model, metadata, each, upsample) for each in wanted]
    prompts = [texts[i % len(texts)] for i in range(num_samples)]
    context = decoder_tokens(metadata, prompts)
    images = sample_images(p_sample, model.decoder, num_samples, sampling, context=context)
    return list(images) if out is None else [str(sample_grid.save_image_grid(images, out))]


def predict(model: Any, metadata: dict[str, Any], inputs: Sequence[Path | str]) -> list[dict[str, Any]]:
    """The caption that the captioner writes about each image file; a folder stands for the images in it.

    Raises:
        BadInput: a file is missing, or is no image.
    """
    captions, answers = Captions.from_metadata(model, metadata), []
    device = next(model.parameters()).device
    for file in list_files(inputs):
        pixels = preprocess(file, metadata["picture"]).to(device)
        (text,) = describe_images(model, pixels, captions, metadata["picture"])
        answers.append({"input": str(file), "text": text})
    return answers
