"""The metrics that each system writes; `*` is a number or name. What they mean: `parts.metrics.legend`.

A test holds this against what the smoke recipes write.
"""

from fnmatch import fnmatchcase

from torchstone.parts.metrics.legend import Legend, legend

COMMON = "gradient_norm lr steps_per_second"  # of the training itself
CLASSES = "accuracy loss"
LANGUAGE = (
    "loss bits_per_character perplexity perplexity_per_character unigram zero_shot_accuracy few_shot_accuracy"
)
# of `eval --shots`
FEW_SHOT = (
    "accuracy/* accuracy_std/* normalized_accuracy/* normalized_accuracy_std/* calibrated_accuracy/* "
    "calibrated_accuracy_std/* optimal_accuracy/* majority_accuracy chance"
)
RECURRENT = (
    "loss accuracy tfidf bits_per_character perplexity perplexity_per_character unigram mse mae coverage "
    "linear_loss linear_mse linear_mae persistence_mse persistence_mae seasonal_mse seasonal_mae "
    f"symbol_accuracy memoryless_loss gradient/* {FEW_SHOT}"
)
TRANSLATION = "loss accuracy unigram bleu bleu_lowercase exact_match"
SAMPLES = (
    "frechet_distance frechet_distance_floor frechet_features frechet_samples frechet_images "
    "precision recall relative_variance covered_classes min_class_share confident_rate"
)
GAN = (
    f"loss discriminator_loss real_logit fake_logit {SAMPLES} mode_collapse frechet_distance_untrained "
    "frechet_distance_train fd_ratio_vs_untrained"
)
TRANSLATED = "partner_l1 untranslated_l1 partner_gain relative_variance mode_collapse"  # of images
SWEEP = "frechet_distance precision recall confident_rate label_accuracy diversity"
KINDS = ("category", "color", "count", "clock", "emoji_clock", "digit", "parity")  # of questions
ANSWERS = " ".join(f"{kind}_accuracy" for kind in KINDS)
BLANK_ANSWERS = " ".join(f"blank_{kind}_accuracy" for kind in KINDS)
CAPTION_ACCURACIES = "caption_color_accuracy caption_category_accuracy caption_side_accuracy"
PROMPT_ACCURACIES = "attribute_accuracy color_accuracy category_accuracy side_accuracy"
PROMPT_KINDS = ("", "short_", "upsampled_", "real_", "majority_")
EQUILIBRIUM = "exploitability nash_conv game_value loss"
TEAM = "return agent_return return_std random_return episodic_return env_steps loss"
PAYOFFS = "return return_1 return_2 cooperation cooperating_pairs loss"
NAIVE = " ".join(f"naive_{name}" for name in PAYOFFS.split())
# of treatment, in an environment whose tables are known
TREATMENT = (
    "clinicians_return uniform_return optimal_return off_policy/* off_policy_low/* off_policy_high/* "
    "effective_episodes"
)
COOLING = "hvac_saving hvac_kilowatts it_kilowatts in_band fixed_hvac_kilowatts fixed_in_band"
AGENT = "return return_std success_rate waiting episodic_return env_steps loss"

METRICS = {
    "perceptron": f"{CLASSES} mistakes total_mistakes",
    "backprop": CLASSES,
    "mlp": f"{CLASSES} balanced_accuracy rmse mae r2 logistic_* boosting_* ridge_* gradient/*",
    **dict.fromkeys(("lenet5", "alexnet", "vgg", "googlenet", "resnet", "mobilenet"), CLASSES),
    **dict.fromkeys(("senet", "cbam", "efficientnet", "vit"), CLASSES),
    "deeplab": "miou pixel_accuracy loss classes iou_*",
    **dict.fromkeys(("rnn", "lstm", "gru"), RECURRENT),
    "ctc": "label_error exact_match beam_error single_error loss",
    "seq2seq": f"{TRANSLATION} alignment_error alignment_precision alignment_recall diagonal_error",
    "transformer": TRANSLATION,
    "gpt": f"{LANGUAGE} {FEW_SHOT}",
    "performer": f"{LANGUAGE} {FEW_SHOT} accuracy cross_entropy tfidf",
    "bert": f"{CLASSES} cross_entropy next_accuracy unigram tfidf",
    "albert": f"{CLASSES} cross_entropy order_accuracy unigram tfidf",
    "distilbert": f"{CLASSES} cross_entropy next_accuracy soft_loss hidden_loss unigram tfidf teacher_* "
    "majority_accuracy gain_kept",
    **dict.fromkeys(("longformer", "bigbird"), f"{CLASSES} cross_entropy unigram tfidf"),
    "linformer": f"{CLASSES} cross_entropy unigram tfidf",
    "t5": TRANSLATION,
    "vlm": f"loss token_accuracy accuracy {ANSWERS} blank_accuracy {BLANK_ANSWERS} majority_accuracy",
    "clip": "loss logit_scale mean_reciprocal_rank recall_at_* image_to_text_recall_at_* "
    "nearest_word_recall_at_* novel_recall_at_*",
    "vqvae": f"loss mse psnr commitment_loss code_perplexity reconstruction_frechet_distance "
    f"label_accuracy {SAMPLES}",
    "audiolm": "loss l1_loss spectral_loss commitment_loss snr code_perplexity/* residual_error/* "
    "semantic_loss semantic_unigram semantic_gain coarse_loss coarse_unigram coarse_gain fine_loss "
    "fine_unigram fine_gain",
    "vae": "loss elbo iwae_5 iwae_50 kl active_latents independent_pixels",
    "gan": GAN,
    "cgan": f"{GAN} label_accuracy",
    "dcgan": GAN,
    "pix2pix": f"loss adversarial_loss l1_loss discriminator_loss {TRANSLATED}",
    "cyclegan": f"loss adversarial_loss cycle_loss identity_loss discriminator_loss {TRANSLATED} "
    "partner_gain_a partner_gain_b cycle_l1",
    "stylegan1": f"{GAN} r1 lod",
    "stylegan": f"{GAN} label_accuracy r1 path_length path_length_mean augment_p real_sign",
    "biggan": f"{GAN} label_accuracy",
    "realnvp": "loss bits_per_dimension histogram kde_loss gap_to_kde",
    "glow": "loss bits_per_dimension histogram",
    "flowpp": "loss bits_per_dimension importance_bound histogram",
    "dalle3": f"loss denoising_loss coarse_loss token_accuracy caption_words {CAPTION_ACCURACIES} "
    + " ".join(f"{kind}{name}" for kind in PROMPT_KINDS for name in PROMPT_ACCURACIES.split()),
    "ddpm": f"loss denoising_loss coarse_loss bits_per_dimension {SAMPLES} label_accuracy confident_data "
    "match match_train nn_distance_ratio "
    + " ".join(f"{by}_{metric}" for by in ("guided_*", "ddim", "ddpm") for metric in SWEEP.split()),
    "dalle2": "loss logit_scale mean_reciprocal_rank recall_at_* image_to_text_recall_at_* cosine "
    "nearest_word_recall_at_* novel_recall_at_* text_recall_at_* prior_recall_at_* single_recall_at_* "
    "prior_cosine clip_r_at_10 clip_r_at_10_data match",
    "ldm": "loss l1_loss kl mse psnr match match_train nn_distance_ratio",
    "dit": f"loss l1_loss kl mse psnr reconstruction_frechet_distance {SAMPLES} label_accuracy "
    "confident_data",
    "reinforce": f"{AGENT} value_loss entropy gradient_variance noise_scale {TREATMENT}",
    "a2c": f"{AGENT} value_loss entropy {TREATMENT}",
    "trpo": f"{AGENT} value_loss entropy kl step_fraction explained_variance {TREATMENT}",
    "ppo": f"{AGENT} value_loss entropy approx_kl clip_fraction explained_variance {TREATMENT}",
    "dqn": f"{AGENT} q_value epsilon {TREATMENT}",
    "ddpg": f"{AGENT} q_value actor_loss",
    "td3": f"{AGENT} q_value actor_loss",
    "sac": f"{AGENT} q_value actor_loss entropy alpha {COOLING}",
    "l2d": "loss entropy train_gap gap sampled_gap spt_gap fifo_gap mopnr_gap mwkr_gap random_gap",
    "alphazero": "score win_rate draw_rate loss_rate elo optimal_moves loss policy_loss value_loss env_steps "
    "games game_length first_player_score",
    "nfsp": f"{EQUILIBRIUM} q_loss epsilon episodes",
    "deep_cfr": f"{EQUILIBRIUM} policy_loss samples",
    "lola": f"{PAYOFFS} {NAIVE}",
    "dial": "return oracle_return oracle_share episodic_return loss",
    "qmix": f"{TEAM} q_value epsilon",
    "mappo": f"{TEAM} value_loss entropy approx_kl",
    "maddpg": f"{TEAM} q_value actor_loss",
    "world_models": "loss reconstruction_error kl nll end_loss memoryless_nll return return_std dream_return "
    "population_return population_best dream_population_return dream_population_best sigma",
    "muzero": f"{AGENT} policy_loss value_loss reward_loss "
    "score win_rate draw_rate loss_rate elo optimal_moves first_player_score",
    "mbpo": f"{AGENT} q_value actor_loss entropy alpha model_loss holdout_error model_epochs aleatoric "
    "epistemic rollout_length",
}


def metrics_of(system: str) -> list[str]:
    """The metrics of a system, those of the training itself last."""
    return [*METRICS[system].split(), *COMMON.split()]


def is_known(system: str, metric: str) -> bool:
    """Whether a metric, such as `loss` or `gradient/3`, is among them."""
    return any(fnmatchcase(metric, pattern) for pattern in metrics_of(system))


def legends_of(system: str) -> list[tuple[str, Legend]]:
    """The metrics of a system with their legends; a baseline has the name of what it is compared with."""
    found = []
    for name in metrics_of(system):
        meaning = legend(name, system) or legend(name.replace("_*", "_accuracy"), system)
        if meaning is not None:
            found.append((name, meaning))
    return found
