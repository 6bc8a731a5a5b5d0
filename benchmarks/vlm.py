"""Forward and backward pass, and a generated answer, of VLM compared with transformers' LLaVA, same weights.

    python benchmarks/vlm.py [--width 192] [--blocks 4] [--batch-size 16] [--words 24] [--pairs 7]

CLIP's tower without a stem (32 × 32 pixels, patches of 4), a projector, GPT-2. Both run in one process, in turn,
so that other load on the machine affects both alike; times are of the processor (one thread), the result is the
median of the ratios of all pairs. The outputs are compared first; dropout is off.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchstone.hub.vlm import from_config, published
from torchstone.references.transformers import import_transformers
from torchstone.systems.transformer.vlm import VLM, make_vlm
from torchstone.tasks.text.generate import generate
from torchstone.tasks.vision.answer import Reader
from torchstone.verify import relative_error

Step = Callable[[], Any]
VOCAB_SIZE, IMAGE_ID = 1000, 999


def interleaved(first: Step, second: Step, pairs: int) -> str:
    """`second` relative to `first`: median and range of the ratios, and both medians."""
    times = []
    for pair in range(pairs):
        durations = {}
        for step in (first, second) if pair % 2 else (second, first):
            start = time.process_time()
            step()
            durations[step] = time.process_time() - start
        times.append((durations[first], durations[second]))
    ratios = sorted(b / a for a, b in times)
    a, b = (statistics.median(column) for column in zip(*times, strict=True))
    spread = f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return f"{statistics.median(ratios):.2f}x {spread}, {1e3 * a:.1f} ms and {1e3 * b:.1f} ms"


def make_both(width: int, blocks: int, words: int) -> tuple[VLM, Any]:
    """Ours, and transformers' with the same weights."""
    library, heads = import_transformers(), max(1, width // 32)
    none = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    vision = library.CLIPVisionConfig(
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        image_size=32,
        patch_size=4,
    )
    text = library.GPT2Config(
        n_embd=width,
        n_layer=blocks,
        n_head=heads,
        n_positions=64 + 2 * words,
        vocab_size=VOCAB_SIZE,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        **none,
    )
    config = library.LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_ID)
    theirs = library.LlavaForConditionalGeneration(config)
    ours = make_vlm(**from_config(config.to_dict()))
    ours.load_state_dict(published("", theirs.state_dict()))
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in {"width": 192, "blocks": 4, "batch-size": 16, "words": 24, "pairs": 7}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ours, theirs = make_both(args.width, args.blocks, args.words)
    images = torch.randn(args.batch_size, 3, 32, 32)
    patches = torch.full((args.batch_size, ours.image_tokens), IMAGE_ID)
    tokens = torch.cat([patches, torch.randint(IMAGE_ID, (args.batch_size, args.words))], 1)

    def backward(logits: Tensor) -> Tensor:
        for model in (ours, theirs):
            model.zero_grad(set_to_none=True)
        logits.square().mean().backward()
        return logits

    def own() -> Tensor:
        return backward(ours(images, tokens))

    def other() -> Tensor:
        return backward(theirs(input_ids=tokens, pixel_values=images).logits)

    error = relative_error(own(), other())
    assert error < 1e-4, f"the outputs differ by {error}"
    print(
        f"forward and backward: transformers {interleaved(own, other, args.pairs)}; {error:.1e} apart",
        flush=True,
    )
    for model in (ours, theirs):
        model.eval()
    image, prompt = images[:1], tokens[:1]

    @torch.inference_mode()
    def answer() -> Tensor:
        return generate(Reader(ours, ours.encode(image)), prompt, args.words, greedy=True)

    @torch.inference_mode()
    def their_answer() -> Tensor:
        settings = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": args.words}
        return theirs.generate(input_ids=prompt, pixel_values=image, **settings)

    assert torch.equal(answer(), their_answer()), "other tokens"
    result = interleaved(answer, their_answer, args.pairs)
    print(f"{args.words} tokens after an image: transformers {result}; the same tokens", flush=True)


if __name__ == "__main__":
    main()
