"""One seed out of several: each source of chance has a stream of its own, and so has each of its draws."""

from enum import IntEnum

import torch


class SeedStream(IntEnum):
    """Sources of chance. Two of one run never share a number, or they would draw the same."""

    EPOCH_ORDER = 0  # which sample comes when
    AUGMENTATION = 1
    DIFFUSION_NOISE = 2  # timesteps and noise
    GAN_LATENT = 3
    LM_WINDOWS = 4  # where a language model's windows begin
    SPAN_GAPS = 5  # between the spans that T5 replaces
    MEMORY_PROBLEMS = 7
    BPTT_LANES = 8
    ROLLOUT_ACTIONS = 16
    EPISODES = 17  # where episodes begin
    PPO_MINIBATCHES = 18
    ASYNC_ACTORS = 19
    SEPARATE_ENVS = 20
    EXPLORATION = 21
    REPLAY_DRAWS = 22
    RANDOM_FEATURES = 23  # of kernel attention
    RANDOM_BLOCKS = 24  # of block-sparse attention
    IN_CONTEXT_EPISODES = 25
    FEW_SHOT_EXAMPLES = 26  # which examples a draw puts into the context
    SELF_PLAY = 27  # noise at roots, moves and openings
    TRPO_MINIBATCHES = 30
    ACTNORM_INIT = 31  # the batch that actnorm is initialized with, and its noise
    GAUSSIAN_WEIGHTS = 35  # initial weights N(0, 1), of networks whose input is N(0, 1) too
    VAE_FRAMES = 40  # which frames of random episodes, and their order
    LATENT_SEQUENCES = 41  # where a world model's sequences begin, and their latent states
    DREAMS = 42  # episodes in a world model
    SECOND_DOMAIN = 50  # the order of the second of two domains
    IMAGE_POOL = 51  # which generated images a pool keeps and returns
    LATENT_NOISE = 52  # of the latents that an autoencoder samples
    SOUND_TOKENS = 53  # that each stage of a sound samples
    MODEL_TRAINING = 33  # which transitions a model of the environment is trained on, and in which order
    MODEL_ROLLOUTS = 34  # where they branch off, what is predicted, and which of it is learned from
    # these share a number with one above; no run has both of a pair
    LENGTH_BUCKETS = 2
    LENGTH_GROUPS = 2
    MLM_MASKS = 3
    DEQUANTIZATION = 4
    CAPTIONS = 25  # which of a picture's captions
    KEYWORD_CAPTIONS = 26  # which keywords stand together
    CODEBOOK = 2  # which vector an unused entry is put at
    QUESTION_ORDER = 2  # of the questions about an image
    RESERVOIR = 18  # which items a reservoir keeps


def derive_seed(seed: int, stream: int, counter: int) -> int:
    """One 63-bit seed out of three numbers (the SplitMix64 finalizer, Steele et al. 2014).

    Args:
        seed: the run's.
        stream: what is drawn, a `SeedStream`.
        counter: which draw of that stream, such as the position in the data.
    """
    word = 0
    for number in (seed, stream, counter):
        word = (word + number + 0x9E3779B97F4A7C15) % 2**64
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) % 2**64
        word ^= word >> 31
    return word >> 1


def derive_generator(seed: int, stream: int, counter: int) -> torch.Generator:
    """A generator with the seed that `derive_seed` makes of the three; on the CPU whatever the device, so
    that every device gets the same numbers."""
    return torch.Generator().manual_seed(derive_seed(seed, stream, counter))
