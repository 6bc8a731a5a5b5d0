"""A prior over image embeddings and a decoder of them: training as two Runs, and what is drawn with them."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from tokenizers import Tokenizer
from torch import Tensor, nn

from torchstone.data.text import tokenizers
from torchstone.data.vision.dataset import ImageSplit
from torchstone.data.vision.image_text_batches import ImageTextBatches, encode_texts
from torchstone.data.vision.image_texts import ImageTexts, load_image_texts
from torchstone.data.vision.preprocess import preprocess
from torchstone.data.vision.unclip_batches import UnclipBatch, UnclipBatches
from torchstone.engine.run import Examples, Run
from torchstone.errors import BadInput
from torchstone.metrics.memorization import caption_match
from torchstone.parts.diffusion.slerp import slerp
from torchstone.parts.indices import evenly_spaced
from torchstone.parts.metrics.retrieval import recall_at, retrieval_ranks
from torchstone.parts.modes import eval_mode
from torchstone.plots.sample_grid import save_final_samples, save_image_grid, symmetric_range, to_uint8
from torchstone.tasks.diffusion.sampler import SamplingConfig
from torchstone.tasks.inference import with_options
from torchstone.tasks.optimization import gradient_update, train_only
from torchstone.tasks.vision.image_text import same_caption
from torchstone.tasks.vision.stream import image_batches

Pixels = UInt8[Tensor, "count channel height width"]
Picture = UInt8[Tensor, "1 channel height width"]
Images = Float[Tensor, "batch channel height width"]
Embeddings = Float[Tensor, "batch embed_dim"]

CHUNK = 128  # pictures or texts at a time
SHEET = 16  # captions of the sheet at the end
PICTURES = 4  # on the sheets of variations and paths
VARIATIONS = 7  # of each picture of the sheet of variations, and steps of each path
MAX_ANGLE = 0.5  # θ of the last picture that follows the difference of two captions (section 3.3: ¼ to ½)
STAGES = ("prior", "decoder")


class TextStates(NamedTuple):
    """What CLIP makes of texts: embeddings of length 1, hidden states, and where there is a token."""

    embedding: Embeddings
    hidden: Float[Tensor, "batch time width"]
    mask: Bool[Tensor, "batch time"]

    def expand(self, count: int) -> "TextStates":
        """One text, so many times."""
        return TextStates(*(each.expand(count, *each.shape[1:]) for each in self))

    def take(self, rows: Int64[Tensor, " count"]) -> "TextStates":
        return TextStates(*(each[rows] for each in self))


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """The system's sampling.

    Args:
        sample_embeddings: (prior, texts, empty text, config, generator) -> an image embedding of each text.
        keep_nearest: (several of each text, embeddings of the texts) -> one of each.
        sample_images: (decoder, embeddings, texts, empty text, x_T, config, generator) -> images, −1 to 1.
        invert: (decoder, images, their embeddings, empty text, steps) -> x_T.
    """

    sample_embeddings: Callable[..., Embeddings]
    keep_nearest: Callable[[Tensor, Embeddings], Embeddings]
    sample_images: Callable[..., Images]
    invert: Callable[..., Images]


@dataclasses.dataclass
class Setup:
    """What both stages share.

    Args:
        model: with `clip`, `prior`, `decoder`, `embed_texts` and `embed_images`.
        model_config: constructor arguments of `model`, saved with the weights.
    """

    model: Any
    recipe: Any
    data: ImageTexts
    tokenizer: Tokenizer
    model_config: dict[str, Any]

    @property
    def max_length(self) -> int:
        return self.model.clip.config.text.max_length

    def metadata(self, stage: str) -> dict[str, Any]:
        recipe = self.recipe
        sampling = {
            "prior": {"steps": recipe.prior_sampling_steps, "guidance_scale": recipe.prior_guidance_scale},
            "prior_samples": recipe.prior_samples,
            "decoder": {"steps": recipe.sampling_steps, "guidance_scale": recipe.guidance_scale},
            "uses_embedding": recipe.embedding_drop_prob < 1,
            "eval_samples": recipe.eval_samples,
        }
        return {
            "task": "unclip",
            "stage": stage,
            "variant": recipe.variant,
            "model_config": self.model_config,
            "picture": self.data.metadata,
            "tokenizer": tokenizers.to_metadata(self.tokenizer),
            "length": self.max_length,
            "sampling": sampling,
            "data": self.data.description,
        }

    def stream(self, shape: Sequence[int], timesteps: int, *, stage: str) -> UnclipBatches:
        recipe = self.recipe
        if stage == "prior":
            own = {"batch_size": recipe.prior_batch_size, "augment": recipe.prior_augment}
            drops = {"text_drop_prob": recipe.prior_drop_prob}
            recipe = dataclasses.replace(recipe, **own)
        else:
            drops = {
                "text_drop_prob": recipe.text_drop_prob,
                "embedding_drop_prob": recipe.embedding_drop_prob,
            }
        images = image_batches(recipe, self.data.train, self.data.metadata)
        batches = ImageTextBatches(images, self.data, self.tokenizer, max_length=self.max_length)
        empty = encode_texts(self.tokenizer, [""], self.max_length)[0]
        return UnclipBatches(batches, timesteps, shape, empty, **drops)


def train_part(model: Any, part: nn.Module) -> list[nn.Parameter]:
    """The parameters of `part`, the only ones that are not frozen; the scale of embeddings is."""
    train_only(model, part)
    for scale in (model.prior.mean, model.prior.std):
        scale.requires_grad_(False)
    return [parameter for parameter in part.parameters() if parameter.requires_grad]


@torch.no_grad()
def embed_batch(model: Any, batch: UnclipBatch) -> tuple[Embeddings, TextStates]:
    """Embeddings of the images of a batch, and its texts, by CLIP, which is not trained."""
    with eval_mode(model.clip):
        return model.embed_images(batch.images), model.embed_texts(batch.tokens)


def train_prior(setup: Setup, algorithm: Algorithm, loss: Callable[..., dict[str, Tensor]]) -> Run:
    """A Run of the prior. Of the recipe: what begins with `prior_`.

    Metrics: `loss` in the scale of √d z, `cosine` of x̂₀ and the image's embedding; of the test also those of
    `prior_metrics`.

    Args:
        loss: (network, prior, schedule, image embeddings, texts, batch) -> metrics with `loss`.
    """
    model, recipe, data = setup.model, setup.recipe, setup.data
    prior = model.prior
    schedule = prior.process.noise_schedule().to(data.train.labels.device)
    parameters = train_part(model, prior)

    def objective(net: Any, batch: UnclipBatch) -> dict[str, Tensor]:
        return loss(net, prior, schedule, *embed_batch(model, batch), batch)

    optim = dataclasses.replace(
        recipe.optim, lr=recipe.prior_lr, ema_decay=recipe.prior_ema_decay, precision="fp32", compile=False
    )
    update, state, eval_model = gradient_update(
        model, optim, objective, steps=recipe.prior_steps, parameters=parameters, forward_module=prior
    )
    shape = (model.clip.config.embed_dim,)
    stream = state["stream"] = setup.stream(shape, len(schedule), stage="prior")

    def evaluate() -> dict[str, float]:
        batch = fixed_batch(setup, data.val, shape, len(schedule))
        with eval_mode(eval_model), torch.no_grad():
            embeddings = embed_batch(eval_model, batch)
            metrics = loss(eval_model.prior, eval_model.prior, schedule, *embeddings, batch)
        return {name: float(value) for name, value in metrics.items()}

    metadata = setup.metadata("prior")
    return Run(
        stream=stream,
        update=update,
        evaluate=evaluate,
        best_metric=None,  # the average at the end: what is drawn is judged, not one step
        examples=Examples(recipe.prior_batch_size, len(data.train), len(data.val), "images"),
        state=state,
        steps=recipe.prior_steps,
        test=lambda: prior_metrics(algorithm, eval_model, metadata, data.test, data.captions(data.test)),
        metadata=metadata,
    )


def train_decoder(setup: Setup, algorithm: Algorithm, loss: Callable[..., Tensor]) -> Run:
    """A Run of the decoder; of the test also `prior_metrics`, and the `painted_metrics` of `eval_samples`.

    Args:
        loss: (network, process, schedule, image embeddings, texts, batch) -> the scalar to minimize.
    """
    model, recipe, data = setup.model, setup.recipe, setup.data
    decoder, process = model.decoder, model.decoder.process
    schedule = process.noise_schedule().to(data.train.labels.device)
    parameters = train_part(model, decoder)

    def objective(net: Any, batch: UnclipBatch) -> Tensor:
        return loss(net, process, schedule, *embed_batch(model, batch), batch)

    update, state, eval_model = gradient_update(
        model, recipe.optim, objective, steps=recipe.steps, parameters=parameters, forward_module=decoder
    )
    stream = state["stream"] = setup.stream(decoder.shape, len(schedule), stage="decoder")
    metadata = setup.metadata("decoder")

    def validation_loss(split: ImageSplit) -> float:
        batch = fixed_batch(setup, split, decoder.shape, len(schedule))
        if not metadata["sampling"]["uses_embedding"]:
            batch = batch._replace(keeps_embedding=torch.zeros_like(batch.keeps_embedding))
        with eval_mode(eval_model), torch.no_grad():
            embeddings = embed_batch(eval_model, batch)
            return float(loss(eval_model.decoder, process, schedule, *embeddings, batch))

    def test() -> dict[str, float]:
        captions = data.captions(data.test)
        metrics = {"loss": validation_loss(data.test)}
        if metadata["sampling"]["uses_embedding"]:
            metrics |= prior_metrics(algorithm, eval_model, metadata, data.test, captions)
        return metrics | painted_metrics(algorithm, eval_model, metadata, data.test, captions)

    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: {"loss": validation_loss(data.val)},
        best_metric="loss",
        examples=Examples(recipe.batch_size, len(data.train), len(data.val), "images"),
        state=state,
        steps=recipe.steps,
        test=test,
        report=lambda folder: save_report(algorithm, eval_model, metadata, data, folder),
        metadata=metadata,
    )


def fixed_batch(setup: Setup, split: ImageSplit, shape: Sequence[int], timesteps: int) -> UnclipBatch:
    """All of a split with its first captions, noise that is always the same, and timesteps evenly spaced."""
    generator, device = torch.Generator().manual_seed(0), split.labels.device
    count = len(split)
    order = torch.randperm(count, generator=generator)
    t = ((order + 0.5) / count * timesteps).long()
    epsilon = torch.randn(count, *shape, generator=generator)
    tokens = encode_texts(setup.tokenizer, setup.data.captions(split), setup.max_length)
    keeps = torch.ones(count, dtype=torch.bool)
    others = (each.to(device) for each in (tokens, t, epsilon, keeps))
    return UnclipBatch(to_float(_pixels(split)), *others)


def to_float(pixels: Pixels) -> Images:
    """From −1 to 1."""
    return pixels.float() / 127.5 - 1


def _pixels(split: ImageSplit) -> Pixels:
    return split.take(torch.arange(len(split), device=split.labels.device))


# ----------------------------------------------------------------------------------------- samples


def device_of(model: Any) -> torch.device:
    return next(model.parameters()).device


@torch.no_grad()
def read_texts(model: Any, metadata: dict[str, Any], texts: Sequence[str]) -> TextStates:
    """What CLIP makes of texts; the empty one is none."""
    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    tokens = encode_texts(tokenizer, texts, metadata["length"]).to(device_of(model))
    with eval_mode(model.clip):
        parts = [model.embed_texts(each) for each in tokens.split(CHUNK)]
    return TextStates(*(torch.cat(column) for column in zip(*parts, strict=True)))


@torch.no_grad()
def embed_pixels(model: Any, pixels: Pixels) -> Embeddings:
    """Embeddings of length 1."""
    with eval_mode(model.clip):
        return torch.cat(
            [model.embed_images(to_float(each.to(device_of(model)))) for each in pixels.split(CHUNK)]
        )


def candidates(
    algorithm: Algorithm, model: Any, metadata: dict[str, Any], text: TextStates, generator: torch.Generator
) -> Float[Tensor, "candidates batch embed_dim"]:
    """So many embeddings of each text as the recipe says."""
    empty, settings = read_texts(model, metadata, [""]), metadata["sampling"]
    config, count = SamplingConfig(**settings["prior"]), settings["prior_samples"]
    rows = torch.arange(len(text.embedding), device=text.embedding.device).repeat(count)
    found = algorithm.sample_embeddings(model.prior, text.take(rows), empty, config, generator)
    return found.unflatten(0, (count, -1))


def paint(
    algorithm: Algorithm,
    model: Any,
    metadata: dict[str, Any],
    embedding: Embeddings,
    text: TextStates,
    x_T: Images,
    config: SamplingConfig,
    generator: torch.Generator,
) -> Pixels:
    """Pictures of embeddings, whose length is made 1, as those of images are; and of texts."""
    empty, parts = read_texts(model, metadata, [""]), []
    embedding = F.normalize(embedding, dim=1) * metadata["sampling"]["uses_embedding"]
    for rows in torch.arange(len(embedding), device=embedding.device).split(CHUNK):
        own = (embedding[rows], text.take(rows), empty, x_T[rows])
        images = algorithm.sample_images(model.decoder, *own, config, generator)
        if not torch.isfinite(images).all():
            raise BadInput("the pictures are not finite: the network's weights are damaged, or diverged")
        parts.append(to_uint8(images, symmetric_range({"channels": 3})).cpu())
    return torch.cat(parts)


def decoder_config(metadata: dict[str, Any], **given: Any) -> SamplingConfig:
    given = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(SamplingConfig(**metadata["sampling"]["decoder"]), **given)


def noise_of(model: Any, count: int, generator: torch.Generator) -> Images:
    return torch.randn(count, *model.shape, generator=generator).to(device_of(model))


def paint_texts(
    algorithm: Algorithm,
    model: Any,
    metadata: dict[str, Any],
    texts: Sequence[str],
    config: SamplingConfig,
    seed: int = 0,
) -> Pixels:
    """A picture of each text."""
    generator = torch.Generator().manual_seed(seed)
    text = read_texts(model, metadata, texts)
    found = candidates(algorithm, model, metadata, text, generator)
    embedding = algorithm.keep_nearest(found, text.embedding)
    x_T = noise_of(model, len(texts), generator)
    return paint(algorithm, model, metadata, embedding, text, x_T, config, generator)


def paint_variations(
    algorithm: Algorithm,
    model: Any,
    metadata: dict[str, Any],
    image: Picture,
    count: int,
    config: SamplingConfig,
    seed: int = 0,
) -> Pixels:
    """Pictures with the embedding of one, from its own x_T; they differ by DDIM's noise, η."""
    generator = torch.Generator().manual_seed(seed)
    embedding, x_T = invert_image(algorithm, model, metadata, image, config)
    empty = read_texts(model, metadata, [""]).expand(count)
    x_T = x_T.expand(count, *x_T.shape[1:])
    return paint(algorithm, model, metadata, embedding.expand(count, -1), empty, x_T, config, generator)


def paint_path(
    algorithm: Algorithm,
    model: Any,
    metadata: dict[str, Any],
    first: Picture,
    last: Picture,
    count: int,
    config: SamplingConfig,
) -> Pixels:
    """Pictures from one to another: embeddings and x_T by `slerp`."""
    ends = [invert_image(algorithm, model, metadata, image, config) for image in (first, last)]
    theta = torch.linspace(0, 1, count, device=device_of(model))
    embedding, x_T = (slerp(a.flatten(1), b.flatten(1), theta) for a, b in zip(*ends, strict=True))
    empty = read_texts(model, metadata, [""]).expand(count)
    x_T, generator = x_T.unflatten(1, model.shape), torch.Generator().manual_seed(0)
    return paint(algorithm, model, metadata, embedding, empty, x_T, config, generator)


def paint_difference(
    algorithm: Algorithm,
    model: Any,
    metadata: dict[str, Any],
    image: Picture,
    texts: tuple[str, str],
    count: int,
    config: SamplingConfig,
) -> Pixels:
    """Pictures from one on in the direction from the first caption to the second."""
    embedding, x_T = invert_image(algorithm, model, metadata, image, config)
    before, after = read_texts(model, metadata, texts).embedding.split(1)
    theta = torch.linspace(0, MAX_ANGLE, count, device=device_of(model))
    embedding = slerp(embedding, F.normalize(after - before, dim=1), theta)
    empty = read_texts(model, metadata, [""]).expand(count)
    x_T, generator = x_T.expand(count, *x_T.shape[1:]), torch.Generator().manual_seed(0)
    return paint(algorithm, model, metadata, embedding, empty, x_T, config, generator)


def invert_image(
    algorithm: Algorithm, model: Any, metadata: dict[str, Any], image: Picture, config: SamplingConfig
) -> tuple[Embeddings, Images]:
    """The embedding of an image, and its x_T."""
    embedding, empty = embed_pixels(model, image), read_texts(model, metadata, [""])
    x = to_float(image.to(device_of(model)))
    return embedding, algorithm.invert(model.decoder, x, embedding, empty, config.steps)


@dataclasses.dataclass(frozen=True)
class SampleRequest:
    """The options of `torchstone sample`; what is None comes from the run's recipe.

    Args:
        prompt: a text; without it and without an image any pictures.
        init_image: an image file. Its variations; on a sheet it stands first.
        to_image: another one: pictures on the way there, both ends included.
        from_prompt: what the image is called now: pictures on the way from it in the direction of `prompt`.
        guidance_scale: s of classifier-free guidance, 1 for none.
        eta: of DDIM; by default 0, and 1 for variations.
        out: a `.png` for all of them on one sheet.
    """

    num_samples: int = 16
    seed: int = 0
    prompt: str | None = None
    init_image: str | Path | None = None
    to_image: str | Path | None = None
    from_prompt: str | None = None
    guidance_scale: float | None = None
    sampling_steps: int | None = None
    eta: float | None = None
    out: str | Path | None = None

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise BadInput(f"give a number of images of at least 1, not {self.num_samples}")
        for name, text in (("prompt", self.prompt), ("from_prompt", self.from_prompt)):
            if text is not None and not text.strip():
                raise BadInput(f"{name} is empty: describe a picture, such as 'red apple'")
        if self.init_image is None and (self.to_image is not None or self.from_prompt is not None):
            raise BadInput("give the image that it begins at: --init-image FILE")
        if (self.prompt is None) != (self.from_prompt is None) and self.init_image is not None:
            raise BadInput("an image follows the difference of two captions: give --from-prompt and --prompt")
        if self.to_image is not None and self.from_prompt is not None:
            raise BadInput("give --to-image, or two captions, not both")

    @property
    def is_varied(self) -> bool:
        return self.init_image is not None and self.to_image is None and self.from_prompt is None


def make_sample(algorithm: Algorithm) -> Callable[..., list]:
    """The system's `sample(model, metadata, **options)`, the options being fields of `SampleRequest`."""

    def sample(model: Any, metadata: dict[str, Any], **options: Any) -> list:
        """Images, uint8 (channel, height, width), or the name of the sheet they were written to."""
        check_stage(metadata, "sample")
        return sample_request(algorithm, model, metadata, SampleRequest(**options))

    return with_options(sample, SampleRequest)


def sample_request(
    algorithm: Algorithm, model: Any, metadata: dict[str, Any], request: SampleRequest
) -> list:
    """Images, uint8 (channel, height, width), or the name of the sheet they were written to.

    Raises:
        BadInput: a number out of range; a file that is no image; a decoder that takes no embeddings.
    """
    if request.init_image is not None and not metadata["sampling"]["uses_embedding"]:
        raise BadInput("this decoder is given no embeddings of images, so that it cannot begin at one")
    config = decoder_config(
        metadata,
        steps=request.sampling_steps,
        guidance_scale=request.guidance_scale,
        eta=float(request.is_varied) if request.eta is None else request.eta,
    )
    config.process(model.decoder.process)  # refused before anything is read
    own, count, columns = (algorithm, model, metadata), request.num_samples, None
    if request.init_image is None:
        images = paint_texts(*own, [request.prompt or ""] * count, config, request.seed)
    else:
        first, columns = preprocess(request.init_image, metadata["picture"]).byte(), count
        if request.to_image is not None:
            last = preprocess(request.to_image, metadata["picture"]).byte()
            images = paint_path(*own, first, last, count, config)
        elif request.prompt is not None and request.from_prompt is not None:
            images = paint_difference(*own, first, (request.from_prompt, request.prompt), count, config)
        else:
            images, columns = paint_variations(*own, first, count, config, request.seed), None
            images = images if request.out is None else torch.cat([first.cpu(), images])
    return (
        list(images) if request.out is None else [str(save_image_grid(images, request.out, columns=columns))]
    )


def check_stage(metadata: dict[str, Any], verb: str) -> None:
    """
    Raises:
        BadInput: the decoder is not trained yet.
    """
    if metadata.get("stage") != "decoder":
        stage = metadata.get("stage", "CLIP")
        raise BadInput(f"nothing to {verb} yet: the run is at its {stage}; resume it until the decoder's end")


# ----------------------------------------------------------------------------------------- metrics


def prior_metrics(
    algorithm: Algorithm,
    model: Any,
    metadata: dict[str, Any],
    split: ImageSplit,
    captions: Sequence[str],
    seed: int = 0,
) -> dict[str, float]:
    """How well the images of a split are found by the embeddings that the prior draws for their captions,
    and by the text tower's own: `prior_recall_at_10` and `text_recall_at_10`; and the `prior_cosine` of such
    an embedding with the image's. `single_recall_at_10` is without the choice among several, on average."""
    text = read_texts(model, metadata, captions)
    images = embed_pixels(model, _pixels(split))
    relevant = same_caption(captions)
    generator = torch.Generator().manual_seed(seed)
    with eval_mode(model):
        found = candidates(algorithm, model, metadata, text, generator)
    chosen = algorithm.keep_nearest(found, text.embedding)

    def recall(queries: Embeddings) -> float:
        return recall_at(retrieval_ranks((queries @ images.T).cpu(), relevant), 10)

    return {
        "text_recall_at_10": recall(text.embedding),
        "prior_recall_at_10": recall(chosen),
        "single_recall_at_10": sum(map(recall, found)) / len(found),
        "prior_cosine": float(F.cosine_similarity(chosen, images).mean()),
    }


def painted_metrics(
    algorithm: Algorithm,
    model: Any,
    metadata: dict[str, Any],
    split: ImageSplit,
    captions: Sequence[str],
    seed: int = 0,
) -> dict[str, float]:
    """Of pictures of a split's captions, up to `eval_samples` of them: `clip_r_at_10`, the share whose own
    caption is among the 10 of the split that CLIP finds nearest to the picture; that of the split's images,
    `clip_r_at_10_data`; and `match`, by pixels, as `caption_match`."""
    count = min(metadata["sampling"]["eval_samples"], len(split))
    if not count:
        return {}
    rows = evenly_spaced(len(split), count)
    texts, relevant = read_texts(model, metadata, captions).embedding, same_caption(captions)
    real = _pixels(split)[rows.to(split.labels.device)]
    chosen = [captions[row] for row in rows.tolist()]
    with eval_mode(model):
        painted = paint_texts(algorithm, model, metadata, chosen, decoder_config(metadata), seed)

    def recall(pixels: Pixels) -> float:
        similarity = (embed_pixels(model, pixels) @ texts.T).cpu()
        return recall_at(retrieval_ranks(similarity, relevant[rows]), 10)

    return {
        "clip_r_at_10": recall(painted),
        "clip_r_at_10_data": recall(real),
        "match": caption_match(painted, real.cpu()),
    }


def evaluate(
    algorithm: Algorithm, model: Any, metadata: dict[str, Any], spec: str, *, held_out: bool
) -> dict[str, float]:
    """`prior_metrics` and `painted_metrics` of the test split of `spec` if `held_out`, else of all images.

    Raises:
        BadInput: no captioned pictures; a run that has not come to its decoder.
    """
    check_stage(metadata, "evaluate")
    data = load_image_texts(spec, size=metadata["picture"]["size"], device=device_of(model))
    splits = [data.test] if held_out else [data.train, data.val, data.test]
    split = ImageSplit(torch.cat([s.labels for s in splits]), torch.cat([_pixels(s) for s in splits]))
    own = (algorithm, model, metadata, split, data.captions(split))
    metrics = prior_metrics(*own) if metadata["sampling"]["uses_embedding"] else {}
    return metrics | painted_metrics(*own) | {"images": len(split)}


def save_report(
    algorithm: Algorithm, model: Any, metadata: dict[str, Any], data: ImageTexts, folder: Path
) -> None:
    """`captions.png`: held-out captions painted, each beside the image that it belongs to;
    `variations.png`: held-out images, and variations of each; `paths.png`: from one to the next."""
    own = (algorithm, model, metadata)
    pixels, captions = _pixels(data.test).cpu(), data.captions(data.test)
    rows = evenly_spaced(len(captions), min(SHEET, len(captions)))
    with eval_mode(model):
        painted = paint_texts(*own, [captions[row] for row in rows.tolist()], decoder_config(metadata))
        pairs = [image for pair in zip(pixels[rows], painted, strict=True) for image in pair]
        save_captions(pairs, [captions[row] for row in rows.tolist()], folder / "captions.png")
        save_final_samples(painted, folder)
        if not metadata["sampling"]["uses_embedding"]:
            return
        firsts = [pixels[row][None] for row in rows[:: max(1, len(rows) // PICTURES)].tolist()]
        config = decoder_config(metadata, eta=1.0)
        sheet = [torch.cat([each, paint_variations(*own, each, VARIATIONS, config)]) for each in firsts]
        save_image_grid(torch.cat(sheet), folder / "variations.png", columns=VARIATIONS + 1)
        pairs_of = list(zip(firsts, [*firsts[1:], firsts[0]], strict=True))
        steps = decoder_config(metadata)
        paths = [torch.cat([a, paint_path(*own, a, b, VARIATIONS, steps), b]) for a, b in pairs_of]
        save_image_grid(torch.cat(paths), folder / "paths.png", columns=VARIATIONS + 2)


def save_captions(images: Sequence[Tensor], captions: Sequence[str], file: Path) -> None:
    """Pairs of images, each with its caption below."""
    from torchstone.plots.retrieval import plot_retrieval

    pairs = [list(images[i : i + 2]) for i in range(0, len(images), 2)]
    plot_retrieval(list(captions), pairs, file, title="held-out captions: the image, and what was painted")
