"""The legend of every metric: its name in words, its unit, which way is better, what chance gives.

One number has one name, in training, in `eval` and in pictures; this table says what the name means. A metric
that several systems share but measure in different units (a loss, mostly) has lines of its own for them.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Legend:
    title: str  # the field's term
    unit: str  # of its numbers
    better: Literal["higher", "lower", ""] = ""  # which is better; neither where it only describes
    chance: str = ""  # what guessing gives, or an untrained network

    def line(self, classes: int | None = None) -> str:
        """All of it: `accuracy, fraction that is right; higher is better; chance 1/classes`, or of so many
        `classes` in figures: `chance 1/3 = 0.333`."""
        better = f"{self.better} is better" if self.better else ""
        chance = f"chance {self.chance_of(classes)}" if self.chance else ""
        return "; ".join(filter(None, [f"{self.title}, {self.unit}", better, chance]))

    def chance_of(self, classes: int | None) -> str:
        """The chance level in figures, where it is of classes and their number is known."""
        if classes and self.chance == "1/classes":
            return f"1/{classes} = {1 / classes:.3g}"
        if classes and self.chance == "ln(classes)":
            return f"ln({classes}) = {math.log(classes):.3g}"
        return self.chance


def legend(metric: str, system: str | None = None) -> Legend | None:
    """What a metric means, by its name (`loss`, `test/loss`), in a system if its unit depends on that."""
    name = re.sub(r"^(train|val|test|best)/", "", metric)
    if (found := OF_SYSTEMS.get((system or "", name)) or LEGENDS.get(name)) is not None:
        return found
    for pattern, title in FAMILIES.items():
        if match := re.fullmatch(pattern, name):
            *which, rest = match.groups()
            inner = legend(rest, system)
            return inner and replace(inner, title=title.format(inner.title, *which), chance="")
    for pattern, family in NUMBERED.items():
        if match := re.fullmatch(pattern, name):
            return replace(family, title=family.title.format(*match.groups()))
    return None


FRACTION, NATS = "fraction from 0 to 1", "nats"
LEGENDS = {
    # classification
    "accuracy": Legend("accuracy", "fraction that is right", "higher", "1/classes"),
    "balanced_accuracy": Legend("balanced accuracy", "mean recall of the classes", "higher", "1/classes"),
    "loss": Legend("training objective", "cross-entropy in nats, for classes", "lower", "ln(classes)"),
    "cross_entropy": Legend("cross-entropy", "nats per label", "lower", "ln(classes)"),
    "mistakes": Legend("mistakes", "wrong answers in a step", "lower"),
    "total_mistakes": Legend("mistakes so far", "wrong answers since the beginning", "lower"),
    "mistakes_so_far": Legend("mistakes so far", "wrong answers since the beginning", "lower"),
    "tfidf": Legend(
        "accuracy of a linear model of TF-IDF", "fraction that is right, to compare with", "higher"
    ),
    # numbers, and forecasts
    "mse": Legend("mean squared error", "squared units of the target, standardized in forecasts", "lower"),
    "mae": Legend("mean absolute error", "units of the target, standardized in forecasts", "lower"),
    "rmse": Legend("root mean squared error", "units of the target", "lower"),
    "r2": Legend("R²", "fraction of the variance that is explained", "higher", "0"),
    "coverage": Legend("coverage of the 0.1 to 0.9 band", "fraction of the future inside; 0.8 is right"),
    # segmentation
    "miou": Legend("mean intersection over union", "mean over classes, 0 to 1", "higher"),
    "classes": Legend("classes", "number that the mean intersection over union is over"),
    "pixel_accuracy": Legend("pixel accuracy", "fraction of pixels that are right", "higher", "1/classes"),
    # text
    "bits_per_character": Legend("bits per character", "bits", "lower", "log2(characters)"),
    "perplexity": Legend(
        "perplexity", "tokens that are as good as equally likely", "lower", "vocabulary size"
    ),
    "perplexity_per_character": Legend(
        "perplexity per character", "characters", "lower", "characters there are"
    ),
    "unigram": Legend("cross-entropy of token frequencies", "nats per token, to compare with", "lower"),
    "bleu": Legend("BLEU", "0 to 100", "higher"),
    "bleu_lowercase": Legend("BLEU in lower case", "0 to 100", "higher"),
    "exact_match": Legend("exact match", "fraction of outputs without an error", "higher"),
    "next_accuracy": Legend("next-sentence accuracy", "fraction of pairs that is right", "higher", "1/2"),
    "token_accuracy": Legend("token accuracy", "fraction of the answers' tokens that is right", "higher"),
    "soft_loss": Legend("soft targets", "T² KL from the teacher's distribution, nats", "lower", ""),
    "hidden_loss": Legend("hidden states", "1 − cosine with the teacher's", "lower", "1"),
    "majority_accuracy": Legend("accuracy of the most frequent label", "to compare with"),
    "gain_kept": Legend("gain kept", "fraction of the teacher's over the most frequent label", "higher", "0"),
    "order_accuracy": Legend("sentence-order accuracy", "fraction of pairs that is right", "higher", "1/2"),
    "alignment_error": Legend("alignment error rate", FRACTION, "lower"),
    "alignment_precision": Legend("alignment precision", FRACTION, "higher"),
    "alignment_recall": Legend("alignment recall", FRACTION, "higher"),
    "diagonal_error": Legend("alignment error rate of the diagonal", f"{FRACTION}, to compare with", "lower"),
    # few-shot learning
    "zero_shot_accuracy": Legend(
        "accuracy without an example", "fraction that is right", "higher", "1/labels"
    ),
    "few_shot_accuracy": Legend(
        "accuracy after 16 examples in the context", "fraction that is right", "higher", "1/labels"
    ),
    "chance": Legend("accuracy of guessing", "1/labels, to compare with"),
    # speech
    "label_error": Legend("label error rate", "edits per label", "lower", "about 1"),
    "beam_error": Legend("label error rate of beam search", "edits per label", "lower", "about 1"),
    "single_error": Legend("label error rate of single recordings", "edits per label", "lower", "about 1"),
    # problems of memory
    "symbol_accuracy": Legend(
        "symbol accuracy", "fraction of symbols that are copied", "higher", "1/symbols"
    ),
    "memoryless_loss": Legend("loss without memory", "as the loss, to compare with", "lower"),
    # likelihoods
    "elbo": Legend("evidence lower bound", "nats per image", "higher"),
    "iwae_5": Legend("importance-weighted bound of 5 samples", "nats per image", "higher"),
    "iwae_50": Legend("importance-weighted bound of 50 samples", "nats per image", "higher"),
    "independent_pixels": Legend(
        "log-likelihood of independent pixels", "nats per image, to compare with", "higher"
    ),
    "kl": Legend("divergence from the prior", "nats per image"),
    "active_latents": Legend("active latents", "number of latent variables in use"),
    "importance_bound": Legend(
        "importance-weighted bound of several samples of noise", "bits per dimension", "lower"
    ),
    "psnr": Legend("peak signal-to-noise ratio", "dB, of reconstructions", "higher"),
    "commitment_loss": Legend("commitment loss", "squared distance to the codebook, per number", "lower"),
    "code_perplexity": Legend("perplexity of the codebook", "entries in use, were all used alike"),
    "snr": Legend("signal-to-noise ratio", "dB, of coded sounds", "higher"),
    "spectral_loss": Legend("difference of mel spectrograms", "of logarithms and of roots", "lower"),
    **{
        f"{stage}_{name}": each
        for stage in ("semantic", "coarse", "fine")
        for name, each in {
            "loss": Legend(f"cross-entropy of {stage} tokens", "nats per token", "lower"),
            "unigram": Legend(f"cross-entropy of {stage} tokens' frequencies", "nats per token", "lower"),
            "gain": Legend(f"{stage} loss below that of frequencies", "nats per token", "higher"),
        }.items()
    },
    "reconstruction_frechet_distance": Legend(
        "Fréchet distance of reconstructions", "from the images that they are of", "lower"
    ),
    "bits_per_dimension": Legend(
        "bits per dimension", "bits, of one color value", "lower", "8, of 256 values"
    ),
    "histogram": Legend("bits per dimension of a histogram", "bits, to compare with", "lower"),
    "kde_loss": Legend("negative log-likelihood of a kernel density", "nats, to compare with", "lower"),
    "gap_to_kde": Legend("loss above that of a kernel density", NATS, "lower"),
    # embeddings of pictures, out of texts
    "cosine": Legend("cosine", "of the embedding that is predicted and the picture's", "higher", "0"),
    "prior_cosine": Legend("cosine", "of the embedding that is sampled and the picture's", "higher", "0"),
    "clip_r_at_10": Legend(
        "CLIP-R at 10", "share of painted pictures with their caption among the nearest", "higher"
    ),
    "clip_r_at_10_data": Legend("CLIP-R at 10 of pictures of the data", "share, to compare with", "higher"),
    # samples
    "frechet_distance": Legend("Fréchet distance", "in features of a classifier of the data", "lower"),
    "frechet_distance_floor": Legend("Fréchet distance of halves", "between two halves of the real images"),
    "frechet_features": Legend("dimension of the features", "number of values"),
    "frechet_samples": Legend("compared samples", "number of samples of the Fréchet distance"),
    "frechet_images": Legend("compared images", "number of real images of the Fréchet distance"),
    "frechet_distance_untrained": Legend("Fréchet distance before training", "as the other", "lower"),
    "frechet_distance_train": Legend("Fréchet distance of training images", "what real images have", "lower"),
    "fd_ratio_vs_untrained": Legend(
        "Fréchet distance before training over that after", "ratio", "higher", "1"
    ),
    "precision": Legend("precision of samples", "fraction near real images", "higher"),
    "mean_reciprocal_rank": Legend(
        "mean reciprocal rank", "mean of 1 / place of the text's own picture in a search", "higher"
    ),
    "logit_scale": Legend("inverse temperature", "factor of the cosines, at most 100"),
    "recall": Legend("recall of samples", "fraction of real images near samples", "higher"),
    "relative_variance": Legend("variance of samples over that of the data", "ratio; 1 is right"),
    # translations of images
    "partner_l1": Legend("distance to the true partner", "mean |difference| of pixels, 0 to 1", "lower"),
    "untranslated_l1": Legend(
        "distance of the untranslated image to its partner", "as the other, to compare with"
    ),
    "partner_gain": Legend(
        "gain of translation", "fraction of the distance to the true partner", "higher", "0"
    ),
    "partner_gain_a": Legend("gain of translation to a", "fraction, as partner_gain", "higher", "0"),
    "partner_gain_b": Legend("gain of translation to b", "fraction, as partner_gain", "higher", "0"),
    "cycle_l1": Legend("distance there and back", "mean |difference| of pixels, 0 to 1", "lower"),
    "adversarial_loss": Legend("loss of the generators by the discriminators", "of their game"),
    "l1_loss": Legend("distance to the true partner in training", "mean |difference|, −1 to 1", "lower"),
    "cycle_loss": Legend("loss of the cycle", "mean |difference| of pixels, −1 to 1, both domains", "lower"),
    "identity_loss": Legend(
        "loss of the identity", "mean |difference| of pixels, −1 to 1, both domains", "lower"
    ),
    "diversity": Legend("variance within a class over that of the data", "ratio; 1 is right"),
    "covered_classes": Legend("covered classes", "number of classes among the samples", "higher"),
    "min_class_share": Legend("share of the rarest class", "fraction of samples", "higher"),
    "confident_rate": Legend("confident samples", "fraction the classifier is 95 % sure of", "higher"),
    "confident_data": Legend(
        "confident real images", "fraction the classifier is 95 % sure of, to compare with"
    ),
    "attribute_accuracy": Legend(
        "accuracy of attributes", "mean over attributes of samples that show what was asked for", "higher"
    ),
    "caption_words": Legend("length of captions", "words and punctuation marks"),
    "label_accuracy": Legend(
        "label accuracy of samples", "fraction with the class asked for", "higher", "1/classes"
    ),
    "mode_collapse": Legend("mode collapse", "1 if the samples have collapsed, else 0", "lower"),
    "match": Legend(
        "caption match", "fraction of other images that are farther than the caption's own", "higher", "1/2"
    ),
    "match_train": Legend("caption match of training captions", "fraction, as match", "higher", "1/2"),
    "nn_distance_ratio": Legend(
        "distance to training images over that of test images", "ratio; 1 is new, 0 copied"
    ),
    # agents
    "return": Legend("return of greedy episodes", "sum of rewards, mean over episodes", "higher"),
    "waiting": Legend(
        "waiting of a vehicle", "seconds it has been standing, mean over vehicles and time", "lower"
    ),
    "return_std": Legend("deviation of the return", "standard deviation over episodes"),
    "success_rate": Legend("success rate", "fraction of greedy episodes that end at their goals", "higher"),
    "episodic_return": Legend(
        "return of training episodes", "sum of rewards, exploration included", "higher"
    ),
    "clinicians_return": Legend("exact return of the clinicians' policy", "survival"),
    "uniform_return": Legend("exact return of actions at random", "survival"),
    "optimal_return": Legend("exact return of the optimum", "survival"),
    "effective_episodes": Legend(
        "effective number of off-policy episodes", "of equal weight, that vary as much", "higher"
    ),
    "gap": Legend("gap of greedy schedules", "mean of makespan / best known - 1", "lower", "random_gap"),
    "sampled_gap": Legend("gap of the best of some schedules", "as gap", "lower", "random_gap"),
    "train_gap": Legend("gap of training schedules", "mean of makespan / lower bound - 1", "lower"),
    "spt_gap": Legend("gap of shortest processing time first", "as gap"),
    "fifo_gap": Legend("gap of first in, first out", "as gap"),
    "mopnr_gap": Legend("gap of most operations remaining first", "as gap"),
    "mwkr_gap": Legend("gap of most work remaining first", "as gap"),
    "random_gap": Legend("gap of random dispatching", "as gap"),
    "env_steps": Legend("environment steps", "steps of all environments so far"),
    # a data centre's cooling
    "hvac_saving": Legend(
        "HVAC energy saved", "fraction of what 24 °C takes in the same weather", "higher", "0 at 24 °C"
    ),
    "hvac_kilowatts": Legend("HVAC power", "kW, mean over time", "lower"),
    "it_kilowatts": Legend("power of the servers", "kW, mean over time", "lower"),
    "in_band": Legend("time in the band", "fraction with both zones within 18 to 27 °C", "higher"),
    "fixed_hvac_kilowatts": Legend("HVAC power at 24 °C", "kW, in the same weather", "lower"),
    "fixed_in_band": Legend("time in the band at 24 °C", "fraction, in the same weather", "higher"),
    "epsilon": Legend("exploration rate ε", "probability of a random action"),
    "q_value": Legend("mean Q-value", "discounted return that is expected"),
    "entropy": Legend("entropy of the policy", "nats per action", "", "ln(actions)"),
    "value_loss": Legend("squared error of the value", "squared returns", "lower"),
    "alpha": Legend("temperature α", "reward per nat of entropy"),
    "actor_loss": Legend("loss of the actor", "minus the Q-value of its actions", "lower"),
    "approx_kl": Legend("divergence of the policy in an update", NATS),
    "step_fraction": Legend("length of the step over the longest one", "1 is whole, 0 refused"),
    "clip_fraction": Legend("clipped probability ratios", "fraction of steps"),
    "explained_variance": Legend("explained variance of the returns", "fraction", "higher", "0"),
    "gradient_variance": Legend("variance of the policy gradient", "trace of the covariance over episodes"),
    "noise_scale": Legend("gradient noise scale", "variance over squared norm", "lower"),
    # games
    "score": Legend("score against the opponent", "mean of 1 for a win, 1/2 for a draw, 0", "higher"),
    "win_rate": Legend("games won", "fraction of games", "higher"),
    "draw_rate": Legend("games drawn", "fraction of games"),
    "loss_rate": Legend("games lost", "fraction of games; against perfect play 0 is perfect", "lower"),
    "elo": Legend("Elo above the first network", "400 log10 of the odds, summed over its own past", "higher"),
    "optimal_moves": Legend(
        "moves that keep the game's value", "fraction of positions in which moves differ", "higher"
    ),
    "reward_loss": Legend("cross-entropy of rewards", "nats, over all unrolled steps", "lower"),
    "model_loss": Legend("loss of the model", "2 nats per number, of standardized outputs", "lower"),
    "holdout_error": Legend("error of the elites", "squared, of standardized held-out outputs", "lower", "1"),
    "model_epochs": Legend("epochs of a training of the model", "until no member got better"),
    "aleatoric": Legend("noise that the model sees", "deviations of the outputs, on held-out steps"),
    "epistemic": Legend(
        "disagreement of the elites", "deviations of the outputs, on held-out steps", "lower"
    ),
    "rollout_length": Legend("length of rollouts", "steps within the model"),
    "policy_loss": Legend("cross-entropy with the search's visits", "nats per move", "lower", "ln(actions)"),
    "games": Legend("games of self-play", "games so far"),
    "game_length": Legend("length of games of self-play", "moves"),
    "first_player_score": Legend("score of who moves first in self-play", "fraction; a draw is a half"),
    # teams, and learners that shape each other
    "agent_return": Legend("return of an agent", "the team's return / number of agents", "higher"),
    "random_return": Legend("return of agents that act at random", "the team's, in the same episodes"),
    "oracle_return": Legend("return of who knows everything", "mean over the same games"),
    "oracle_share": Legend("return / the oracle's", "fraction; 1 is the oracle's", "higher"),
    "return_1": Legend("mean payoff of player 1", "per step of the iterated game", "higher"),
    "return_2": Legend("mean payoff of player 2", "per step of the iterated game", "higher"),
    "cooperation": Legend("mutual cooperation", "discounted share of the steps", "higher"),
    "naive_return_1": Legend("mean payoff of player 1 of naive learners", "per step of the iterated game"),
    "naive_return_2": Legend("mean payoff of player 2 of naive learners", "per step of the iterated game"),
    "naive_cooperation": Legend("mutual cooperation of naive learners", "discounted share of the steps"),
    "naive_cooperating_pairs": Legend("pairs of naive learners that cooperate", "share of pairs"),
    "cooperating_pairs": Legend(
        "pairs that cooperate", "share of pairs that do so in more than 9 of 10 steps", "higher"
    ),
    # games with hidden cards
    "exploitability": Legend(
        "exploitability", "NashConv / 2: chips a game lost to the best response, mean of both seats", "lower"
    ),
    "nash_conv": Legend("NashConv", "chips a game that best responses gain, sum over players", "lower"),
    "game_value": Legend("value of the game", "return of the first player where both play the strategy"),
    "q_loss": Legend("squared TD error", "squared chips, sum over players", "lower"),
    "episodes": Legend("plays of the game", "plays that have ended so far"),
    "samples": Legend("strategies in memory", "samples of the average strategy that are held"),
    # world models
    "reconstruction_error": Legend("reconstruction error", "sum of squares over pixels from 0 to 1", "lower"),
    "nll": Legend("negative log-likelihood of the next latent", "nats per latent", "lower"),
    "memoryless_nll": Legend(
        "negative log-likelihood of the next latent without memory",
        "nats per latent, to compare with",
        "lower",
    ),
    "end_loss": Legend("cross-entropy of an episode's end", "nats per step", "lower"),
    "dream_return": Legend("steps that the controller lives in the dream", "mean over dreams", "higher"),
    "population_return": Legend("return of a generation", "sum of rewards, mean over candidates", "higher"),
    "population_best": Legend("return of the best candidate", "sum of rewards, mean over episodes", "higher"),
    "sigma": Legend("step size of CMA-ES", "of the controller's weights"),
    # the training itself
    "gradient_norm": Legend("norm of the gradient", "before clipping"),
    "lr": Legend("learning rate", "of the first group of parameters"),
    "steps_per_second": Legend("speed", "training steps per second", "higher"),
    "discriminator_loss": Legend("loss of the discriminator", "nats", "", "2 ln 2, about 1.39"),
    "real_logit": Legend("discriminator's output for real images", "logit"),
    "fake_logit": Legend("discriminator's output for samples", "logit"),
    "r1": Legend("squared gradient of the discriminator at real images", "squared norm"),
    "lod": Legend("level of detail that the networks have grown to", "0 is full size, 1 half of it"),
    "path_length": Legend("change of the image by a step of the style", "norm of Jᵀy"),
    "path_length_mean": Legend("running mean of path lengths", "norm of Jᵀy"),
    "augment_p": Legend("probability of each augmentation", "0 to 1"),
    "real_sign": Legend("mean sign of the discriminator's output for real images", "overfits above 0.6"),
    "denoising_loss": Legend("denoising error", "squared, of standard noise", "lower", "1"),
    "coarse_loss": Legend("denoising error of the coarse image", "squared, of standard noise", "lower", "1"),
}

GANS = ("gan", "cgan", "dcgan", "biggan", "stylegan", "stylegan1")
_POLICY_LOSS = Legend("objective of policy and value", "falls and rises with the returns")
_TD_LOSS = Legend("TD error, Huber or squared", "of the discounted return", "lower")
_GENERATOR_LOSS = Legend("loss of the generator", "of its game with the discriminator")
_TRANSLATION_LOSS = Legend("loss of the generators", "of their game, and weighted distances of pixels")
_TOKEN_LOSS = Legend("cross-entropy", "nats per token", "lower", "ln(vocabulary size)")
_RECURRENT_LOSS = Legend(
    "loss", "nats per token, label or time step; forecasts: pinball; sums: squared error", "lower"
)
_LABEL_LOSS = Legend("cross-entropy", "nats per masked token, or per label", "lower", "ln(choices)")
_LABEL_ACCURACY = Legend("accuracy", "fraction of masked tokens, or labels, that is right", "higher")
OF_SYSTEMS = {
    ("dalle3", "loss"): Legend(
        "training objective", "squared error of a pixel; of the captioner, nats per token", "lower"
    ),
    **{
        ("dalle3", f"{name}_accuracy"): Legend(
            f"accuracy of {name}", "fraction of samples that show what was asked for", "higher", "1/classes"
        )
        for name in ("color", "category", "side")
    },
    ("mlp", "loss"): Legend(
        "training objective",
        "cross-entropy in nats of classes, standardized squared error of numbers",
        "lower",
    ),
    **{(system, "loss"): _POLICY_LOSS for system in ("reinforce", "a2c", "trpo", "ppo", "l2d")},
    ("mappo", "loss"): _POLICY_LOSS,
    ("trpo", "kl"): Legend("divergence of the new policy from the old", "nats per step"),
    **{(system, "loss"): _TD_LOSS for system in ("dqn", "ddpg", "td3", "sac", "mbpo", "maddpg")},
    **{(system, "loss"): _GENERATOR_LOSS for system in GANS},
    **{(system, "loss"): _TRANSLATION_LOSS for system in ("cyclegan", "pix2pix")},
    ("vqvae", "loss"): Legend(
        "objective", "relative squared error and commitment; of the prior, nats per symbol", "lower"
    ),
    ("audiolm", "loss"): Legend(
        "objective", "of the codec its loss, of the other stages nats per token", "lower"
    ),
    ("audiolm", "l1_loss"): Legend("mean absolute error", "of samples from −1 to 1", "lower"),
    ("audiolm", "coarse_loss"): Legend("cross-entropy of coarse tokens", "nats per token", "lower"),
    ("vqvae", "mse"): Legend("mean squared error", "of pixels from −1 to 1", "lower"),
    **{(system, "loss"): _TOKEN_LOSS for system in ("gpt", "seq2seq", "transformer", "t5")},
    ("performer", "loss"): Legend("cross-entropy", "nats per token, or per label", "lower", "ln(choices)"),
    **{(system, "loss"): _RECURRENT_LOSS for system in ("rnn", "lstm", "gru")},
    **{
        (s, "accuracy"): Legend("token accuracy", "fraction of tokens that is right", "higher")
        for s in ("seq2seq", "transformer", "t5")
    },
    **{(system, "loss"): _LABEL_LOSS for system in ("bert", "albert", "longformer", "bigbird", "linformer")},
    **{
        (system, "accuracy"): _LABEL_ACCURACY
        for system in ("bert", "albert", "distilbert", "longformer", "bigbird", "linformer", "performer")
    },
    ("vlm", "loss"): Legend("cross-entropy", "nats per token of the answers", "lower", "ln(vocabulary size)"),
    ("vlm", "accuracy"): Legend("accuracy", "fraction of answers that is right in every token", "higher"),
    ("distilbert", "loss"): Legend(
        "loss", "weighted sum of the three terms with a teacher; else cross-entropy, nats", "lower"
    ),
    ("clip", "loss"): Legend("contrastive loss", "nats, of all pairs of a batch", "lower", "ln(pairs)"),
    ("alphazero", "loss"): Legend("objective", "squared error of the value, and policy_loss", "lower"),
    ("world_models", "loss"): Legend("objective", "of V in squared errors and nats, of M in nats", "lower"),
    ("world_models", "kl"): Legend("divergence from the prior", "nats per frame"),
    ("muzero", "loss"): Legend("objective", "nats: cross-entropies of policy, value and reward", "lower"),
    ("muzero", "value_loss"): Legend("cross-entropy of the value", "nats, over all unrolled steps", "lower"),
    ("alphazero", "value_loss"): Legend("squared error of the value", "squared outcomes", "lower", "1"),
    ("qmix", "loss"): Legend("squared TD error of Q_tot", "squared returns of the team", "lower"),
    ("dial", "loss"): Legend("squared TD error", "squared returns, sum over prisoners", "lower"),
    ("lola", "loss"): Legend("- mean payoff", "per step, mean of both players", "lower"),
    ("lola", "naive_loss"): Legend("- mean payoff of naive learners", "per step, mean of both players"),
    ("lola", "naive_return"): Legend("mean payoff of naive learners", "per step, from the same policies"),
    ("lola", "return"): Legend("mean payoff", "per step, mean of both players and all pairs", "higher"),
    **{
        (system, "return"): Legend(
            "the team's return", "sum of all agents' rewards, mean over episodes", "higher"
        )
        for system in ("qmix", "mappo", "maddpg")
    },
    ("dial", "return"): Legend(
        "return", "1 freed, -1 lost, 0 neither; mean over courses of the days", "higher"
    ),
    ("nfsp", "loss"): Legend("cross-entropy of the average policies", "nats, sum over players", "lower"),
    ("deep_cfr", "loss"): Legend("squared error of the advantages", "squared chips, weighted by iteration"),
    ("deep_cfr", "policy_loss"): Legend(
        "squared error of the average policy", "squared probability, weighted by iteration", "lower"
    ),
    ("ctc", "loss"): Legend("CTC loss", "nats per label", "lower"),
    ("dalle2", "loss"): Legend(
        "denoising error", "squared, of √d embeddings and of standard noise; of CLIP, nats", "lower", "1"
    ),
    ("ddpm", "loss"): Legend("denoising error", "squared, of standard noise", "lower", "1"),
    ("dit", "loss"): Legend(
        "denoising error", "squared, of the latents; of the autoencoder, absolute", "lower"
    ),
    ("dit", "mse"): Legend("mean squared error", "of pixels from −1 to 1", "lower"),
    ("dit", "l1_loss"): Legend("error of reconstructions", "mean |difference|, −1 to 1", "lower"),
    ("dit", "kl"): Legend("divergence of the latents from N(0, 1)", "nats per image"),
    ("ldm", "loss"): Legend(
        "denoising error", "squared, of the latents; of the autoencoder, absolute", "lower"
    ),
    ("ldm", "mse"): Legend("mean squared error", "of pixels from −1 to 1", "lower"),
    ("ldm", "l1_loss"): Legend("error of reconstructions", "mean |difference|, −1 to 1", "lower"),
    ("ldm", "kl"): Legend("divergence of the latents from N(0, 1)", "nats per image"),
    ("perceptron", "loss"): Legend(
        "perceptron criterion", "relative to the size of the weights", "lower", "1"
    ),
    ("realnvp", "loss"): Legend("negative log-likelihood", "bits per dimension; of points, nats", "lower"),
    ("glow", "loss"): Legend("negative log-likelihood", "bits per dimension", "lower"),
    ("flowpp", "loss"): Legend("minus the lower bound", "bits per dimension", "lower"),
    ("vae", "loss"): Legend("minus the lower bound", "nats per image", "lower"),
}

# a metric of something else, such as a baseline: pattern of the name, its title
FAMILIES = {
    r"blank_(.+)": "{0} with a blank image, to compare with",
    r"teacher_(.+)": "{0} of the teacher, to compare with",
    r"linear_(.+)": "{0} of a linear model, to compare with",
    r"seasonal_(.+)": "{0} of the season before, to compare with",
    r"persistence_(.+)": "{0} of the last value, to compare with",
    r"logistic_(.+)": "{0} of logistic regression, to compare with",
    r"ridge_(.+)": "{0} of ridge regression, to compare with",
    r"boosting_(.+)": "{0} of gradient boosting, to compare with",
    r"image_to_text_(.+)": "{0}, of captions by their pictures",
    r"text_(recall_at_.+)": "{0} by the text tower, to compare with",
    r"prior_(recall_at_.+)": "{0} by the prior's embedding",
    r"single_(recall_at_.+)": "{0} by a single embedding of the prior",
    r"novel_(.+)": "{0}, of drawings without a variant in training",
    r"nearest_word_(.+)": "{0} by the nearest words and pixels, to compare with",
    r"inception_(.+)": "{0} by Inception's features",
    r"ddim_(.+)": "{0} with DDIM",
    r"ddpm_(.+)": "{0} with all steps of DDPM",
    r"dream_(.+)": "{0} in the dream",
    r"short_(.+)": "{0} with short prompts",
    r"upsampled_(.+)": "{0} with upsampled short prompts",
    r"real_(.+)": "{0} of real held-out images, to compare with",
    r"majority_(.+_accuracy)": "{0} of the value most frequent in training, to compare with",
    r"guided_([\d.*]+)_(.+)": "{0} at guidance scale {1}",
}
# as many of a kind as there are layers, distances, classes or numbers of examples
NUMBERED = {
    r"code_perplexity/(.+)": Legend("perplexity of codebook {0}", "entries in use, were all used alike"),
    r"residual_error/(.+)": Legend("left over by {0} codebooks", "fraction of the vectors' power", "lower"),
    r"accuracy/(.+)": Legend("accuracy with {0} shots", "mean over draws of them", "higher"),
    r"normalized_accuracy/(.+)": Legend("accuracy per character with {0} shots", "mean over draws", "higher"),
    r"calibrated_accuracy/(.+)": Legend(
        "accuracy relative to an empty text with {0} shots", "mean over draws", "higher"
    ),
    r"optimal_accuracy/(.+)": Legend("best expected accuracy with {0} shots", "fraction, to compare with"),
    r"(\w*)accuracy_std/(.+)": Legend(
        "deviation of the {0}accuracy with {1} shots", "standard deviation over draws"
    ),
    r"off_policy/(.+)": Legend("off-policy estimate, {0}", "survival, from episodes of clinicians"),
    r"off_policy_low/(.+)": Legend("lower bound of the estimate, {0}", "of its 95 % interval"),
    r"off_policy_high/(.+)": Legend("upper bound of the estimate, {0}", "of its 95 % interval"),
    r"gradient/(.+)": Legend("gradient of {0}", "norm, by layer or by steps back relative to the last"),
    r"recall_at_([\d*]+)": Legend(
        "recall at {0}", "share of searches with their own among the first", "higher"
    ),
    r"(category|color|count|clock|emoji_clock|digit|parity)_accuracy": Legend(
        "accuracy of questions of {0}", "fraction of answers that is right", "higher"
    ),
    r"caption_(.+)_accuracy": Legend(
        "accuracy of captions in {0}", "fraction that says what is true", "higher"
    ),
    r"iou_(.+)": Legend("intersection over union of {0}", FRACTION, "higher"),
}
