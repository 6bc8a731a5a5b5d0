"""The claims by chapter, and their modules."""

import importlib
from types import ModuleType

from torchstone.errors import BadInput, did_you_mean

CHAPTERS: dict[str, tuple[str, ...]] = {
    "fundamentals": (
        "features-hierarchy",
        "features-learned",
        "data-dependency",
        "data-quality",
        "augmentation",
    ),
    "neural networks": (
        "sigmoid-vanishes",
        "relu-cures",
        "leaky-alive",
        "xavier-he",
        "batchnorm-stabilizes",
        "residual-depth",
        "exploding-clip",
        "learning-rate",
    ),
    "convolution": (
        "weight-sharing",
        "translation",
        "depth-vgg",
        "inception-cheap",
        "compound-scaling",
        "separable-cheap",
        "dilation-field",
        "channel-attention",
    ),
    "recurrent": ("rnn-forgets", "lstm-remembers", "gru-comparable", "bidirectional", "attention-translates"),
    "transformers": (
        "parallel",
        "global-context",
        "positions-needed",
        "few-shot",
        "sharing-albert",
        "distilled",
        "sparse-linear",
        "vit-data",
    ),
    "generative": (
        "vae-blurry",
        "beta-trade",
        "gan-collapse",
        "gan-memorize",
        "diffusion-stable",
        "guidance-trade",
        "flow-exact",
    ),
    "reinforcement": (
        "replay-decorrelates",
        "target-stabilizes",
        "clipping",
        "reinforce-variance",
        "ppo-clips",
        "trust-region",
        "off-policy-efficient",
        "model-efficient",
        "central-critic",
        "communication",
    ),
    "training": (
        "sgd-noise-escapes",
        "momentum-valley",
        "adam-faster",
        "sgd-generalizes",
        "adamw-decoupled",
        "cosine",
        "warm-restarts",
        "dropout",
        "decay",
        "early-stopping",
        "label-smoothing",
        "muon-faster",
    ),
}
# those without a record, and why
UNMEASURED: dict[str, str] = {}
NAMES = tuple(name for names in CHAPTERS.values() for name in names)


def read_claim(name: str) -> ModuleType:
    """The module of a claim, which holds what `claim.py` says.

    Raises:
        BadInput: there is none of that name.
    """
    if name not in NAMES:
        raise BadInput(f"no claim {name!r}: {did_you_mean(name, NAMES)} (see torchstone claims)")
    return importlib.import_module(f"torchstone.experiments.claims.{name.replace('-', '_')}")
