"""Latent diffusion from captions: the data of its training, and its use: text to image, image to image and
in-painting."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from torchstone.data.text.tokenizers import from_metadata, to_metadata
from torchstone.data.vision.captioned import load_captioned, token_ids, tokenize_prompt, word_tokenizer
from torchstone.data.vision.preprocess import preprocess
from torchstone.engine.console import notify, track
from torchstone.errors import BadInput, did_you_mean
from torchstone.metrics import memorization
from torchstone.parts.diffusion.solvers import SOLVERS, Solver
from torchstone.parts.modes import eval_mode
from torchstone.parts.vae.kl_autoencoder import KLAutoencoderConfig
from torchstone.plots.sample_grid import save_image_grid, symmetric_range, to_uint8
from torchstone.tasks.anomaly import check_finite
from torchstone.tasks.diffusion.sampler import SamplingConfig
from torchstone.tasks.diffusion.train import MAX_TOKENS, ConditionedData, caption_context
from torchstone.tasks.inference import with_options

Pixels = UInt8[Tensor, "count channel height width"]
Images = Float[Tensor, "count channel height width"]
Tokens = Int64[Tensor, "count tokens"]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
CHUNK_SIZE = 64  # images generated at a time


# -------------------------------------------------------------------------------------------- data


def load_captions(recipe: Any, model_config: dict[str, Any], device: torch.device) -> ConditionedData:
    """The recipe's captioned images, and the network's configuration with the captions' vocabulary.

    Args:
        model_config: the variant's arguments.

    Raises:
        BadInput: the data cannot be read; the network is a published one, which is not trained here.
    """
    if not model_config.get("init"):
        raise BadInput(
            f"{recipe.variant} is a published network, used by its folder: choose ldm_emoji to train"
        )
    size = model_config["unet"]["size"] * KLAutoencoderConfig(**model_config["autoencoder"]).downsampling
    data: Any = load_captioned(recipe.data, size=size, device=device)
    tokenizer = word_tokenizer([data.captions[row] for row in data.train.labels.tolist()])
    text = {**model_config["text"], "vocab_size": tokenizer.get_vocab_size(), "max_length": MAX_TOKENS}
    table = token_ids(tokenizer, list(data.captions), MAX_TOKENS).to(device)
    empty = token_ids(tokenizer, [""], MAX_TOKENS).to(device)
    sampling = SamplingConfig(recipe.sampling_steps, "ddim", guidance_scale=recipe.guidance_scale)
    metadata = {
        "sampling": dataclasses.asdict(sampling),
        "source": recipe.data,
        "tokenizer": to_metadata(tokenizer),
        "length": MAX_TOKENS,
    }
    return ConditionedData(data, {"text": text}, caption_context(table, empty), metadata)


def metadata_of(recipe: Any, conditioned: ConditionedData) -> dict[str, Any]:
    """What the first stage's checkpoint holds beside its weights, as the second's does."""
    return {
        "task": "diffuse",
        "variant": recipe.variant,
        "model_config": conditioned.model_config,
        "picture": symmetric_range(conditioned.data.metadata),
        "data": conditioned.data.description,
        **conditioned.metadata,
    }


# ----------------------------------------------------------------------------------------- samples


@dataclass(frozen=True)
class LatentRequest:
    """The options of `torchstone sample`; what is None comes from the run or the folder.

    Args:
        num_samples: number of images.
        seed: of the noise.
        prompt: what the images show; without one the empty text.
        negative_prompt: what guidance leads away from; by default the empty text.
        out: a `.png` for all of them on one sheet.
        guidance_scale: s of classifier-free guidance, 1 for none.
        sampling_steps: number of sampling steps.
        sampler: `ddim`, `plms`, `dpm_solver++` or `euler`.
        init_image, strength: an image to begin with, and how far back towards noise it is taken, 0 to 1.
        inpaint_image, mask: an image, and one of its size that is white where it is to be generated anew.
        precision: `fp32`, or `bf16` at half the memory.
        attention_slices: number of parts that each self-attention is computed in, for less memory.
    """

    num_samples: int | None = None
    seed: int = 0
    prompt: str | None = None
    negative_prompt: str | None = None
    out: str | Path | None = None
    guidance_scale: float | None = None
    sampling_steps: int | None = None
    sampler: str | None = None
    init_image: str | Path | None = None
    strength: float | None = None
    inpaint_image: str | Path | None = None
    mask: str | Path | None = None
    precision: str = "fp32"
    attention_slices: int = 1

    def __post_init__(self) -> None:
        if self.num_samples is not None and self.num_samples < 1:
            raise BadInput(f"num_samples must be at least 1, not {self.num_samples}")
        if (self.inpaint_image is None) != (self.mask is None):
            raise BadInput("give both an image to inpaint and a mask, which is white where to generate")
        if self.init_image is not None and self.inpaint_image is not None:
            raise BadInput("give an image to begin with or one to inpaint, not both")
        if self.strength is not None and self.init_image is None and self.inpaint_image is None:
            raise BadInput("strength is of an image: give --init-image, or --inpaint-image with --mask")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise BadInput(f"strength must be above 0 and at most 1, not {self.strength}")
        if self.precision not in PRECISIONS:
            raise BadInput(
                f"unknown precision {self.precision!r}: {did_you_mean(self.precision, tuple(PRECISIONS))}"
            )
        if self.attention_slices < 1:
            raise BadInput(f"attention_slices must be at least 1, not {self.attention_slices}")


def make_sample(generate: Callable[..., Iterator[Tensor]], known: Callable[..., Any]) -> Callable[..., list]:
    """The system's `sample(model, metadata, **options)`, the options being fields of `LatentRequest`.

    Args:
        generate, known: `ldm.generate` and `ldm.Known`.
    """

    def sample(model: Any, metadata: dict[str, Any], **options: Any) -> list:
        """Images, uint8 (channel, height, width), or the name of the sheet they were written to."""
        return sample_request(generate, known, model, metadata, LatentRequest(**options))

    return with_options(sample, LatentRequest)


def sample_request(
    generate: Callable[..., Iterator[Tensor]],
    make_known: Callable[..., Any],
    model: Any,
    metadata: dict[str, Any],
    request: LatentRequest,
) -> list:
    """Images, uint8 (channel, height, width), or the name of the sheet they were written to.

    Raises:
        BadInput: a number, a word or a file that is not possible.
    """
    sampling = metadata["sampling"]
    name = request.sampler or sampling["sampler"]
    if name is None:
        raise BadInput(
            f"the scheduler of this folder, {metadata['scheduler']}, is not implemented here: give --sampler "
            f"{', '.join(SOLVERS)}"
        )
    steps = request.sampling_steps or sampling["steps"]
    scale = sampling["guidance_scale"] if request.guidance_scale is None else request.guidance_scale
    Solver(model.process, name, steps)  # refused now
    count = request.num_samples or metadata.get("num_samples", 16)
    is_inpainting = request.inpaint_image is not None
    if not is_inpainting and model.unet.config.channels != model.shape[0]:
        raise BadInput("this network completes images: give --inpaint-image and --mask")
    tokens = [tokenize(metadata, text) for text in (request.prompt, request.negative_prompt)]
    given = None if request.init_image is None else read_image(request.init_image, metadata)
    mask = None
    if request.inpaint_image is not None and request.mask is not None:
        given, mask = read_image(request.inpaint_image, metadata), read_mask(request.mask, metadata)
    set_precision(model, request.precision)
    model.unet.set_attention_slices(request.attention_slices)
    text, empty = (encode_prompt(model, each) for each in tokens)
    if scale in (0, 1):  # one of the two alone, in one pass
        text, empty = (text if scale else empty), None
    generator = torch.Generator().manual_seed(request.seed)
    images: list[Tensor] = []
    for rows in torch.arange(count).split(CHUNK_SIZE):
        solver = Solver(model.process, name, steps)
        known = None
        strength = 1.0 if request.strength is None and is_inpainting else request.strength or 0.8
        if given is not None:
            known, noise = prepare_known(
                model, make_known, solver, given, mask, strength, len(rows), generator, steps
            )
        else:
            noise = draw(model, len(rows), generator)
        # here too: a type checker around `generate` hides from its own no_grad that it is a generator
        with torch.no_grad(), eval_mode(model):
            loop = generate(
                model,
                solver.to(noise.device),
                noise,
                text.expand(len(rows), -1, -1),
                None if empty is None else empty.expand(len(rows), -1, -1),
                scale,
                known,
            )
            title = f"sampling {rows[0] + 1} to {rows[-1] + 1} of {count}, step"
            z = None
            for z in track(loop, title, len(solver.timesteps) - (known.start if known else 0)):  # noqa: B007
                pass
            assert z is not None
            images.append(decode(model, z))
    return write_images(torch.cat(images), metadata, request, count)


@torch.no_grad()
def decode(model: Any, z: Tensor) -> Pixels:
    """Images of latents, an image at a time where they are large, on the CPU."""
    size = 1 if z.shape[-1] >= 64 else CHUNK_SIZE  # the decoder takes more memory than all else
    z = (z / model.autoencoder.latent_scale).to(model.unet.conv_in.weight.dtype)
    parts = [
        check_finite(model.autoencoder.decode(rows).float(), "decoded samples") for rows in z.split(size)
    ]
    return torch.cat([to_uint8(x, symmetric_range({"channels": x.shape[1]})).cpu() for x in parts])


def write_images(images: Pixels, metadata: dict[str, Any], request: LatentRequest, count: int) -> list:
    """The images, or the sheet that they are written to; of a run below each the nearest training image."""
    if request.out is None:
        return list(images)
    if request.prompt is not None and "source" in metadata:
        try:
            data = load_captioned(metadata["source"], size=metadata["picture"]["size"])
        except BadInput as error:
            notify(f"without the nearest training images: {error}")
        else:
            captions = [request.prompt] * count
            return [str(memorization.save_nearest_sheet(images, data, request.out, captions=captions))]
    return [str(save_image_grid(images, request.out))]


def tokenize(metadata: dict[str, Any], text: str | None) -> Tokens:
    """The token ids of a text, the empty one if it is None, filled up to the network's length.

    Raises:
        BadInput: a word that no caption of the run had.
    """
    tokenizer, length = from_metadata(metadata["tokenizer"]), metadata["length"]
    if "start_id" not in metadata:  # of a run: words
        return tokenize_prompt(tokenizer, text, length) if text else token_ids(tokenizer, [""], length)
    ids = tokenizer.encode(text or "", add_special_tokens=False).ids
    if len(ids) > length - 2:
        unread = tokenizer.decode(ids[length - 2 :])
        notify(f"the prompt has {len(ids)} tokens, and {length - 2} are read: not {unread!r}")
    ids = [metadata["start_id"], *ids[: length - 2], metadata["end_id"]]
    return torch.tensor([ids + [metadata["pad_id"]] * (length - len(ids))])


@torch.no_grad()
def encode_prompt(model: Any, tokens: Tokens) -> Float[Tensor, "count tokens context"]:
    with eval_mode(model):
        return model.encode_text(tokens.to(model.text.token_embedding.weight.device))


def set_precision(model: Any, precision: str) -> None:
    """Weights of this precision; one at a time, so that memory is never that of both. The latents' scale, a
    buffer, stays as it is: rounded to bfloat16 it is wrong by 0.3 %."""
    for weight in model.parameters():
        weight.data = weight.data.to(PRECISIONS[precision])


def draw(model: Any, count: int, generator: torch.Generator) -> Tensor:
    """Standard normal latents, generated on the CPU in single precision."""
    return torch.randn(count, *model.shape, generator=generator).to(model.unet.conv_in.weight.device)


def prepare_known(
    model: Any,
    make_known: Callable[..., Any],
    solver: Solver,
    image: Images,
    mask: Float[Tensor, "1 1 height width"] | None,
    strength: float,
    count: int,
    generator: torch.Generator,
    steps: int,
) -> tuple[Any, Tensor]:
    """What an image gives to `generate`, and the noise of `count` samples. Numbers are drawn in the order of
    published pipelines: the image's latents, the noise, the latents of the masked image.

    Raises:
        BadInput: so little strength that no step is left.
    """
    start = steps - min(int(steps * strength), steps)
    if start >= steps:
        raise BadInput(f"a strength of {strength} of {steps} steps is less than one: give more of either")
    weight = model.unet.conv_in.weight
    image = image.to(weight.device)

    def encode(x: Images) -> Tensor:
        with torch.no_grad(), eval_mode(model):
            posterior = model.autoencoder.encode(x.to(weight.dtype))
        epsilon = torch.randn(posterior.mean.shape, generator=generator).to(weight.device)
        return model.autoencoder.latent_scale * posterior.sample(epsilon).float()

    is_given_mask = model.unet.config.channels > model.shape[0]
    if is_given_mask and strength == 1:  # the image itself is not looked at, and no number is drawn for it
        latents = torch.zeros(1, *model.shape, device=weight.device)
    else:
        latents = encode(image)
    latents, noise = latents.expand(count, -1, -1, -1), draw(model, count, generator)
    if mask is None:
        return make_known(latents, noise, start), noise
    mask = mask.to(weight.device)
    small = F.interpolate(mask, size=model.shape[1:])
    masked = None
    if is_given_mask:
        masked = encode(image * (mask < 0.5)).expand(count, -1, -1, -1)
    return make_known(latents, noise, start, small, masked), noise


def read_image(file: str | Path, metadata: dict[str, Any]) -> Images:
    """An image file as the autoencoder takes it, from −1 to 1."""
    return preprocess(file, metadata["picture"] | {"ink": False}).float() / 127.5 - 1


def read_mask(file: str | Path, metadata: dict[str, Any]) -> Float[Tensor, "1 1 height width"]:
    """1 where an image file is white, else 0."""
    gray = preprocess(file, metadata["picture"] | {"ink": False, "channels": 1, "mean": [0.5], "std": [0.5]})
    return (gray >= 128).float()
