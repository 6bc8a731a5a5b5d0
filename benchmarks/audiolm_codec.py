"""The codec's speed beside transformers' EnCodec: the same weights, pairs in one run, CPU time.

python benchmarks/audiolm_codec.py
"""

import statistics
import time

import torch

from torchstone.references.encodec import ours_of
from torchstone.references.transformers import import_transformers

PAIRS, SECONDS = 7, 1.0


def cpu_seconds(function):
    began = time.process_time()
    function()
    return time.process_time() - began


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    theirs = import_transformers().EncodecModel(import_transformers().EncodecConfig()).eval()
    for layer in theirs.quantizer.layers:
        layer.codebook.embed.normal_(std=0.1)
    ours = ours_of(theirs).float()
    x = torch.randn(1, 1, int(SECONDS * 24_000))
    with torch.no_grad():
        codes = theirs.encode(x, bandwidth=6.0).audio_codes
        z = theirs.encoder(x)
        same = float((ours.encode_frames(x, 8) == codes[0]).float().mean())
        print(f"{same:.2%} of the codes are the same")

    def no_grad(function):
        def call():
            with torch.no_grad():
                function()

        return call

    def backward(encoder, decoder):
        def call():
            decoder(encoder(x)).abs().mean().backward()

        return call

    tasks = {
        "encode at 6 kbit/s": (
            no_grad(lambda: ours.encode_frames(x, 8)),
            no_grad(lambda: theirs.encode(x, bandwidth=6.0)),
        ),
        "quantize, 32 books": (
            no_grad(lambda: ours.quantizer.encode(z)),
            no_grad(lambda: theirs.quantizer.encode(z, 24.0)),
        ),
        "decode at 6 kbit/s": (
            no_grad(lambda: ours.decode_frames(codes[0])),
            no_grad(lambda: theirs.decode(codes, [None])),
        ),
        "forward and backward": (
            backward(ours.encoder, ours.decoder),
            backward(theirs.encoder, theirs.decoder),
        ),
    }
    for name, (one, other) in tasks.items():
        one(), other()
        pairs = []
        for number in range(PAIRS):
            order = (one, other) if number % 2 else (other, one)
            times = {f: cpu_seconds(f) for f in order}
            pairs.append((times[one], times[other]))
        ratio = statistics.median(b / a for a, b in pairs)
        a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{name:<22} {1000 * a:7.1f} ms, transformers {1000 * b:7.1f} ms: {ratio:.2f} ×", flush=True)


if __name__ == "__main__":
    main()
