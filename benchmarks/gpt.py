"""GPT beside its peers: the training step, and generation with the cache.

    python benchmarks/gpt.py [--size char|char_cpu|gpt2] [--pairs N] [--threads N] [--only train|generate]

Peers, with the same sizes, threads and precision, and the same weights where texts are written:
transformers' GPT2LMHeadModel, and a plain module written out from nanoGPT's facts (one product for
queries, keys and values, the fused attention, no biases, all tokens anew for each new one). The
optimiser is the same fused AdamW for all. Times are medians over interleaved rounds, so that what
else the machine does falls on all alike; ratios are medians of each round's ratio.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

from torchstone import references
from torchstone.systems.transformer.gpt import GPT, VARIANTS
from torchstone.tasks.text.generate import generate

SIZES = {"char_cpu": ("gpt_char_cpu", 12), "char": ("gpt_char", 64), "gpt2": ("gpt2", 4)}


class PlainLayer(nn.Module):
    def __init__(self, width, heads, bias, activation):
        super().__init__()
        self.heads, self.activation = heads, activation
        self.norm_1, self.norm_2 = (nn.LayerNorm(width, bias=bias) for _ in range(2))
        self.three, self.back = nn.Linear(width, 3 * width, bias), nn.Linear(width, width, bias)
        self.wide, self.narrow = (
            nn.Linear(width, 4 * width, bias),
            nn.Linear(4 * width, width, bias),
        )
        self.drop_1, self.drop_2 = nn.Dropout(0.0), nn.Dropout(0.0)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.three(self.norm_1(x)).split(c, dim=2)
        q, k, v = (z.view(b, t, self.heads, c // self.heads).transpose(1, 2) for z in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.drop_1(self.back(y.transpose(1, 2).contiguous().view(b, t, c)))
        return x + self.drop_2(self.narrow(self.activation(self.wide(self.norm_2(x)))))


class Plain(nn.Module):
    """A character model as most people write it."""

    def __init__(self, width, depth, heads, vocabulary, context, bias, activation):
        super().__init__()
        self.context = context
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        layers = [PlainLayer(width, heads, bias, activation) for _ in range(depth)]
        self.layers, self.norm = nn.ModuleList(layers), nn.LayerNorm(width, bias=bias)
        self.out = nn.Linear(width, vocabulary, bias=False)
        self.out.weight = self.words.weight

    def forward(self, tokens, targets=None):
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        if targets is None:
            return self.out(x[:, [-1]]), None
        logits = self.out(x)
        return logits, F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1))

    @torch.no_grad()
    def write(self, tokens, new):
        for _ in range(new):
            logits, _ = self(tokens[:, -self.context :])
            tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], 1)
        return tokens


def models(variant, context=0):
    make = VARIANTS[variant].make
    torch.manual_seed(0)
    ours = make(context=max(context, make.keywords.get("context", 1024)))
    width, depth, heads = (make.keywords[name] for name in ("width", "depth", "heads"))
    biased = make.keywords.get("bias", True)
    names = {"gelu": nn.GELU(), "gelu_new": nn.GELU(approximate="tanh")}
    activation = make.keywords.get("activation", "gelu_new")
    plain = Plain(width, depth, heads, ours.vocab_size, ours.context, biased, names[activation])
    # dropout drew nothing for the others either
    config = references.transformers().GPT2Config(
        vocab_size=ours.vocab_size, n_positions=ours.context, n_embd=width, n_layer=depth,
        n_head=heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None,
        eos_token_id=None, activation_function=activation,
    )  # fmt: skip
    theirs = references.transformers().GPT2LMHeadModel(config)
    from torchstone.systems.transformer.gpt import unpublished

    weights = unpublished(variant, ours.state_dict())
    theirs.load_state_dict(weights)
    plain.load_state_dict(dict(zip(plain.state_dict(), in_order(ours), strict=True)))
    return ours, theirs, plain


def in_order(ours: GPT):
    """Our weights in the order in which the plain module has them."""
    own = ours.state_dict()
    yield from (own["tokens.weight"], own["places.weight"])
    ends = [end for end in ("weight", "bias") if f"layers.0.norm1.{end}" in own]
    parts = ("norm1", "norm2", "attention.qkv", "attention.out", "feed.up", "feed.down")
    for number in range(len(ours.layers)):
        yield from (own[f"layers.{number}.{part}.{end}"] for part in parts for end in ends)
    yield from (own[f"norm.{end}"] for end in ends)
    yield own["head.weight"]


def rounds(contenders, pairs, inner):
    """Seconds a call for each contender, a list a round; the order turns from round to round."""
    names, taken = list(contenders), {name: [] for name in contenders}
    for each in names:
        contenders[each]()
    for number in range(pairs):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            began = time.perf_counter()
            for _ in range(inner):
                contenders[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken[name].append((time.perf_counter() - began) / inner)
    return taken


def told(what, taken):
    own = taken["torchstone"]
    print(f"{what}: torchstone {statistics.median(own) * 1e3:.2f} ms")
    for name, times in taken.items():
        if name != "torchstone":
            ratio = statistics.median(t / o for t, o in zip(times, own, strict=True))
            print(f"    {name:<13} {statistics.median(times) * 1e3:.2f} ms, {ratio:.2f}x ours")


def training(variant, batch, pairs, device):
    ours, theirs, plain = (m.to(device).train() for m in models(variant))
    context = min(ours.context, 256)
    x, y = torch.randint(ours.vocab_size, (2, batch, context), device=device)

    def stepper(model, loss):
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

        def step():
            optimizer.zero_grad(set_to_none=True)
            value = loss()
            value.backward()
            optimizer.step()
            return value

        return step

    contenders = {
        "torchstone": stepper(ours, lambda: F.cross_entropy(ours(x).flatten(0, 1), y.flatten())),
        # labels are shifted by the model itself
        "transformers": stepper(theirs, lambda: theirs(x, labels=x).loss),
        "plain": stepper(plain, lambda: plain(x, y)[1]),
    }
    first = {name: float(step().detach()) for name, step in contenders.items()}
    assert abs(first["torchstone"] - first["plain"]) < 1e-4, first
    inner = 1 if variant == "gpt2" else 3
    told(f"{variant}, training step, {batch} x {context}", rounds(contenders, pairs, inner))


def writing(variant, batch, new, pairs, device):
    # transformers' model writes no further than its context
    ours, theirs, plain = (m.to(device).eval() for m in models(variant, new + 8))
    prompt = torch.randint(ours.vocab_size, (batch, 8), device=device)
    how = {"do_sample": False, "max_new_tokens": new, "min_new_tokens": new, "use_cache": True}
    mask = torch.ones_like(prompt)
    contenders = {
        "torchstone": lambda: generate(ours, prompt, new, greedy=True),
        "transformers": lambda: theirs.generate(prompt, attention_mask=mask, pad_token_id=0, **how),
    }
    if variant == "gpt_char_cpu":  # without a cache: minutes at the larger sizes
        contenders["plain"] = lambda: plain.write(prompt, new)
    texts = {name: write() for name, write in contenders.items()}
    same = {name: float((text == texts["torchstone"]).float().mean()) for name, text in texts.items()}
    print(f"{variant}, batch {batch}: the same tokens as ours: {same}")
    told(f"{variant}, {new} tokens, batch {batch}", rounds(contenders, pairs, 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, nargs="+", default=["char_cpu", "char"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, help="windows in a training step")
    parser.add_argument("--only", choices=["train", "generate"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for size in args.size:
        variant, batch = SIZES[size]
        if args.only != "generate":
            training(variant, args.batch or batch, args.pairs, args.device)
        if args.only != "train":
            for rows in (1, 8):
                writing(variant, rows, 200, args.pairs, args.device)


if __name__ == "__main__":
    main()
