"""Between which values a recipe's numbers make sense, by the name of the field.

Outside of them torch ends in an error of its own, or trains the wrong way without a word: a negative
`max_grad_norm` turns every gradient around.
"""

import math
from typing import Any, NamedTuple

from torchstone.errors import BadInput


class Range(NamedTuple):
    """From `low` to `high`, each included or not."""

    low: float
    high: float = math.inf
    has_low: bool = True
    has_high: bool = True

    def holds(self, number: float) -> bool:
        above = number >= self.low if self.has_low else number > self.low
        return above and (number <= self.high if self.has_high else number < self.high)

    def text(self) -> str:
        if self == POSITIVE:
            return "a positive number"
        if self.has_low and self.has_high and self.high < math.inf:
            return f"{self.low:g} to {self.high:g}"
        low = "at least" if self.has_low else "above"
        high = "at most" if self.has_high else "below"
        parts = [f"{low} {self.low:g}"] if self.low > -math.inf else []
        return " and ".join([*parts, f"{high} {self.high:g}"] if self.high < math.inf else parts)


COUNT, NOT_NEGATIVE, POSITIVE = Range(1), Range(0), Range(0, has_low=False)
SHARE, BELOW_ONE = Range(0, 1), Range(0, 1, has_high=False)
NAMES = {
    COUNT: "discriminator_channels discriminator_layers "
    "steps total_timesteps total_episodes attention_window batch_size base_channels beam_size bins "
    "buffer_size channels context discriminator_steps embedding epochs eval_episodes eval_games "
    "r1_interval path_interval "
    "exploration_steps features grad_accum_steps gradient_steps heads hidden horizon latent_dim "
    "latent_samples layers max_examples max_length max_ngram mean_span_length n_mels n_step num_envs "
    "num_steps patch patch_size pretrain_batch_size projected recordings_per_utterance sample_rate "
    "sampling_steps seq_len size stride teacher_steps block_size timesteps vocab_size widths window "
    "num_games num_moves num_simulations blocks traversals advantage_steps policy_steps policy_interval "
    "memory_size circular_size reservoir_size policy_delay value_epochs cg_steps "
    "unroll_steps reward_support value_support "
    "episodes frames vae_steps vae_batch_size rnn_steps rnn_batch_size dream_steps population rollouts "
    "eval_dreams prior_steps prior_batch_size prior_samples prior_sampling_steps clip_steps "
    "model_hidden ensemble_size num_elites model_interval model_batch_size model_epochs rollouts_per_step "
    "min_rollout_length max_rollout_length model_retain "
    "initial_size level_images lr_period lr_period_mult "
    "captioner_steps captioner_batch_size drop_block_size "
    "autoencoder_steps "
    "pairs embed test_samples "
    "semantic_steps coarse_steps fine_steps lm_batch_size "
    "samples",
    # of the first three, 0 is none: no limit, no translations, no target network of its own
    NOT_NEGATIVE: "max_episode_steps eval_examples target_update_interval weight_decay momentum beta "
    "cycle_weight identity_weight l1_weight pool_size r1_weight path_weight ada_images "
    "free_bits ent_coef vf_coef gp_weight guidance_scale input_noise_std sigma length_penalty eval_samples "
    "prior_guidance_scale "
    "guidance_sweep_samples learning_starts pretrain_steps maxout projection transpose f_min edge_seconds "
    "soft_weight hard_weight hidden_weight redraw_interval random_blocks "
    "gap_seconds theta attenuation_db temperature_moves random_opening eval_positions "
    "cg_damping target_sigma target_noise_clip line_search_steps "
    "reanalyse value_coef model_patience model_weight_decay rollout_growth_start rollout_growth_end "
    "kl_tolerance commitment_weight importance_samples ortho_weight l1_decay grad_noise lr_patience "
    "eval_prompts "
    "kl_weight "
    "lookahead logit_penalty hypernet "
    "her_k",
    POSITIVE: "lr init_std actor_lr discriminator_lr pretrain_lr eps max_grad_norm clip_coef depth width dt "
    "frame_beats hop_ms window_ms log_floor temperature c_puct dirichlet_alpha "
    "rl_lr sl_lr target_kl init_alpha model_lr vae_lr rnn_lr prior_lr max_grad_value "
    "captioner_lr "
    "autoencoder_lr policy_gain "
    "lm_lr crop_seconds",
    SHARE: "style_mixing delay "
    "dropout dropout_input gae_lambda gamma teacher_forcing_ratio warmup_ratio min_lr_ratio "
    "cond_drop_prob final_epsilon per_alpha per_beta token_dropout translation_prob "
    "prior_dropout prior_drop_prob embedding_drop_prob text_drop_prob "
    "keyword_prob eval_fraction dirichlet_fraction q_weight anticipatory epsilon real_ratio "
    "synthetic_caption_ratio "
    "pair_probability label_dropout lm_dropout",
    BELOW_ONE: "beta1 beta2 ema_decay label_smoothing drop_path_rate speed_change codebook_decay "
    "revive_below prior_ema_decay swa_start drop_block",
    Range(0, 1, has_low=False): "tau mask_prob lr_decay",
    Range(0, 1, has_low=False, has_high=False): "noise_density quantiles line_search_shrink holdout_ratio",
    Range(2, 256): "pixel_levels",
    Range(0, 2**63, has_high=False): "seed",
}
ANY = Range(-math.inf)  # finite, as all are
RANGES = {name: span for span, names in NAMES.items() for name in names.split()}
RANGES |= dict.fromkeys(("init_log_std", "forget_bias", "snr_db", "target_entropy"), ANY)


def check_range(name: str, value: Any) -> None:
    """Refuse a number, or one of several, that the field `name` (or `optim.NAME`) cannot have.

    Raises:
        BadInput: with the range.
    """
    span = RANGES.get(name.rpartition(".")[2], ANY)
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if isinstance(number, float) and not math.isfinite(number):
            raise BadInput(f"{name} must be a finite number, not {number:g}")
        if not span.holds(number):
            raise BadInput(f"{name} must be {span.text()}, not {number}")
