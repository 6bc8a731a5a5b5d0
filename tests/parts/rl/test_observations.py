"""Scaling of observations: frames and bytes by a bound, float vectors not at all."""

import torch

from torchstone.parts.rl.actor_critic import ActorCritic
from torchstone.parts.rl.observations import scale_observations
from torchstone.parts.rl.recurrent_actor_critic import RecurrentActorCritic


def test_scale_observations_divides_frames_and_bytes_only():
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (3, 4, 6, 6), generator=generator, dtype=torch.uint8)
    vector = torch.randn(3, 5, generator=generator)
    cases = {
        "byte frames": (scale_observations(frames, 255.0), frames.float() / 255),
        "float frames, 0 to 1": (scale_observations(frames / 255, 1.0), frames / 255),
        "float frames, 0 to 255": (scale_observations(frames.float(), 255.0), frames / 255),
        "byte vector": (scale_observations(frames.flatten(1), 255.0), frames.flatten(1) / 255),
        "float vector": (scale_observations(vector, 255.0), vector),
    }
    for name, (scaled, expected) in cases.items():
        print(name, float(scaled.max()), float(expected.max()))
        assert scaled.dtype == torch.float32
        assert torch.equal(scaled, expected)


def test_update_normalizer_takes_what_features_take():
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(200, 256, (64, 1, 84, 84), generator=generator, dtype=torch.uint8)
    for network in (ActorCritic, RecurrentActorCritic):
        model = network((1, 84, 84), 2, normalize=True)
        model.update_normalizer(frames)
        assert model.normalizer is not None
        normalized = model.normalizer(scale_observations(frames, model.observation_scale))
        mean, std = float(normalized.mean()), float(normalized.std())
        print(f"{network.__name__}: normalized frames have mean {mean:.4f}, deviation {std:.4f}")
        assert abs(mean) < 0.01
        assert abs(std - 1) < 0.01
