"""GPT against its peers: the training step, and generation with the cache.

    python benchmarks/gpt.py [--size char|char_cpu|gpt2] [--pairs N] [--threads N] [--only train|generate]

Peers, with the same sizes, threads and precision, and the same weights for generation: transformers'
GPT2LMHeadModel, and a plain module like nanoGPT's (one projection for queries, keys and values, the fused
attention, no biases, all tokens recomputed for each new one). All use the same fused AdamW. Times are
medians over interleaved rounds, so that other load on the machine affects all alike; ratios are medians
of each round's ratio.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

from torchstone.references.transformers import import_transformers
from torchstone.systems.transformer.gpt import GPT, VARIANTS
from torchstone.tasks.text.generate import generate

SIZES = {"char_cpu": ("gpt_char_cpu", 12), "char": ("gpt_char", 64), "gpt2": ("gpt2", 4)}


class PlainBlock(nn.Module):
    def __init__(self, width, heads, bias, activation):
        super().__init__()
        self.heads, self.activation = heads, activation
        self.norm_1, self.norm_2 = (nn.LayerNorm(width, bias=bias) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width, bias), nn.Linear(width, width, bias)
        self.up, self.down = (nn.Linear(width, 4 * width, bias), nn.Linear(4 * width, width, bias))
        self.drop_1, self.drop_2 = nn.Dropout(0.0), nn.Dropout(0.0)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm_1(x)).split(c, dim=2)
        q, k, v = (z.view(b, t, self.heads, c // self.heads).transpose(1, 2) for z in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.drop_1(self.out(y.transpose(1, 2).contiguous().view(b, t, c)))
        return x + self.drop_2(self.down(self.activation(self.up(self.norm_2(x)))))


class Plain(nn.Module):
    """A character model as most people write it."""

    def __init__(self, width, depth, heads, vocab_size, context, bias, activation):
        super().__init__()
        self.context = context
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding = nn.Embedding(context, width)
        blocks = [PlainBlock(width, heads, bias, activation) for _ in range(depth)]
        self.blocks, self.norm = nn.ModuleList(blocks), nn.LayerNorm(width, bias=bias)
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.head.weight = self.token_embedding.weight

    def forward(self, tokens, targets=None):
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.token_embedding(tokens) + self.position_embedding(positions)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if targets is None:
            return self.head(x[:, [-1]]), None
        logits = self.head(x)
        return logits, F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1))

    @torch.no_grad()
    def generate(self, tokens, new):
        for _ in range(new):
            logits, _ = self(tokens[:, -self.context :])
            tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], 1)
        return tokens


def models(variant, context=0):
    make = VARIANTS[variant].make
    torch.manual_seed(0)
    ours = make(context=max(context, make.keywords.get("context", 1024)))
    width, depth, heads = (make.keywords[name] for name in ("width", "depth", "heads"))
    bias = make.keywords.get("bias", True)
    names = {"gelu": nn.GELU(), "gelu_new": nn.GELU(approximate="tanh")}
    activation = make.keywords.get("activation", "gelu_new")
    plain = Plain(width, depth, heads, ours.vocab_size, ours.context, bias, names[activation])
    # no dropout, as in the others
    config = import_transformers().GPT2Config(
        vocab_size=ours.vocab_size,
        n_positions=ours.context,
        n_embd=width,
        n_layer=depth,
        n_head=heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        activation_function=activation,
    )
    theirs = import_transformers().GPT2LMHeadModel(config)
    from torchstone.systems.transformer.gpt import unpublished

    weights = unpublished(variant, ours.state_dict())
    theirs.load_state_dict(weights)
    plain.load_state_dict(dict(zip(plain.state_dict(), in_order(ours), strict=True)))
    return ours, theirs, plain


def in_order(ours: GPT):
    """Our weights in the plain module's order."""
    weights = ours.state_dict()
    yield from (weights["token_embedding.weight"], weights["position_embedding.weight"])
    ends = [end for end in ("weight", "bias") if f"blocks.0.norm1.{end}" in weights]
    parts = ("norm1", "norm2", "attention.qkv", "attention.out", "mlp.up", "mlp.down")
    for number in range(len(ours.blocks)):
        yield from (weights[f"blocks.{number}.{part}.{end}"] for part in parts for end in ends)
    yield from (weights[f"final_norm.{end}"] for end in ends)
    yield weights["head.weight"]


def rounds(contenders, pairs, inner):
    """Seconds per call of each contender in each round; the order rotates from round to round."""
    names, times = list(contenders), {name: [] for name in contenders}
    for each in names:
        contenders[each]()
    for number in range(pairs):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.perf_counter()
            for _ in range(inner):
                contenders[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append((time.perf_counter() - start) / inner)
    return times


def print_times(title, times):
    ours = times["torchstone"]
    print(f"{title}: torchstone {statistics.median(ours) * 1e3:.2f} ms")
    for name, theirs in times.items():
        if name != "torchstone":
            ratio = statistics.median(t / o for t, o in zip(theirs, ours, strict=True))
            print(f"    {name:<13} {statistics.median(theirs) * 1e3:.2f} ms, {ratio:.2f}x ours")


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
    print_times(f"{variant}, training step, {batch} x {context}", rounds(contenders, pairs, inner))


def generation(variant, batch, new, pairs, device):
    # transformers' model writes no further than its context
    ours, theirs, plain = (m.to(device).eval() for m in models(variant, new + 8))
    prompt = torch.randint(ours.vocab_size, (batch, 8), device=device)
    settings = {"do_sample": False, "max_new_tokens": new, "min_new_tokens": new, "use_cache": True}
    mask = torch.ones_like(prompt)
    contenders = {
        "torchstone": lambda: generate(ours, prompt, new, greedy=True),
        "transformers": lambda: theirs.generate(prompt, attention_mask=mask, pad_token_id=0, **settings),
    }
    if variant == "gpt_char_cpu":  # without a cache: minutes at the larger sizes
        contenders["plain"] = lambda: plain.generate(prompt, new)
    texts = {name: generate_text() for name, generate_text in contenders.items()}
    same = {name: float((text == texts["torchstone"]).float().mean()) for name, text in texts.items()}
    print(f"{variant}, batch {batch}: the same tokens as ours: {same}")
    print_times(f"{variant}, {new} tokens, batch {batch}", rounds(contenders, pairs, 1))


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
                generation(variant, rows, 200, args.pairs, args.device)


if __name__ == "__main__":
    main()
