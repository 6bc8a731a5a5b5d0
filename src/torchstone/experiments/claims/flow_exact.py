"""A flow computes the very likelihood that a VAE only bounds; what that costs, and what it is good for."""

import math
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from torchstone.data.vision.dequantized_batches import all_images
from torchstone.experiments.agents import mean
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.experiments.generators import FLOW, digit_classifier, digits, train_flow, train_system
from torchstone.parts.flow.coupling import standard_normal_log_prob
from torchstone.parts.flow.likelihood import bits_per_dim
from torchstone.systems.generative import vae
from torchstone.tasks.flow.train import image_log_prob
from torchstone.tasks.flow.train import sample_images as sample_flow
from torchstone.tasks.vae.figures import sample_images as sample_vae
from torchstone.tasks.vae.train import evaluate_bounds

CLAIM = Claim(
    "flow-exact",
    "Flows give exact likelihoods where VAEs give bounds, at a higher cost.",
    "Dinh et al. 2016; Kingma and Welling 2013; Nalisnick et al. 2018; Theis et al. 2015",
    "The 8 × 8 digits, binarized: a Real NVP and a VAE of eight latents. Exactness: log |det| of the flow "
    "against that of its Jacobian by automatic differentiation; and how far the VAE's bound rises from "
    "one latent sample to fifty. Bits a dimension of test images, CPU seconds of training and of 1,000 "
    "likelihoods, the share of 1,000 samples of which a classifier is sure, and the likelihood of images "
    "that are no digits: blank ones, and digits upside down.",
    "If a high likelihood meant a good model, the one with the fewer bits would have the better samples, "
    "and images that are no digits would score lower than digits.",
    minutes=2,
)
LEVELS, COUNT = 2, 1000
AUTOENCODER = replace(vae.RECIPES["smoke"], steps=1500, batch_size=64)
RECIPE = replace(FLOW, pixel_levels=LEVELS, steps=200)


def measure(seed: int) -> Row:
    data = digits()
    classifier, test = digit_classifier(data), all_images(data.test)
    dimensions = test[0].numel()
    flow, flow_seconds = train_flow(replace(RECIPE, seed=seed), data)
    autoencoder, vae_seconds = train_system(vae.build, replace(AUTOENCODER, seed=seed))

    def bits(images: Tensor) -> float:
        """Of the flow, in bits a dimension."""
        log_prob = image_log_prob(flow, images, LEVELS)
        return bits_per_dim(log_prob, dimensions, LEVELS).mean().item()

    began = time.process_time()
    flow_bits = bits(test)
    flow_evaluation = (time.process_time() - began) * 1000 / len(test)
    began = time.process_time()
    bounds = evaluate_bounds(autoencoder, test, "threshold")
    vae_evaluation = (time.process_time() - began) * 1000 / len(test)
    unit = dimensions * math.log(2)
    samples = {"flow": sample_flow(flow, COUNT, LEVELS, seed=seed)}
    samples["VAE"] = sample_vae(autoencoder, COUNT, seed=seed)
    return {
        "det_error": determinant_error(flow, seed),
        "bits": {
            "flow": flow_bits,
            **{name: -bounds[key] / unit for name, key in (("VAE, 1", "elbo"), ("VAE, 50", "iwae_50"))},
        },
        "training": {"flow": flow_seconds, "VAE": vae_seconds},
        "likelihoods": {"flow": flow_evaluation, "VAE": vae_evaluation},
        "confident": {name: classifier.extract(each).confident_rate for name, each in samples.items()},
        "others": {
            "digits": flow_bits,
            "blank": bits(torch.zeros_like(test[:100])),
            "upside down": bits(test.flip(2)),
        },
    }


def determinant_error(flow: Any, seed: int, count: int = 3) -> float:
    """The largest difference of log |det| from that of the Jacobian, in nats, in float64."""
    model = flow.double()
    x = torch.randn(count, *model.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    errors = []
    for each in x:
        jacobian: Any = torch.autograd.functional.jacobian(
            lambda flat: model(flat.view(1, *model.shape))[0][0], each.flatten()
        )
        z, log_det = model(each[None])
        exact = standard_normal_log_prob(z) + torch.linalg.slogdet(jacobian).logabsdet
        errors.append((standard_normal_log_prob(z) + log_det - exact).abs().item())
    model.float()
    return max(errors)


def judge(rows: list[Row]) -> Verdict:
    def column(key: str, name: str) -> list[float]:
        return [row[key][name] for row in rows]

    gap = paired(
        "bits a dimension, VAE with 1 sample − 50", column("bits", "VAE, 1"), column("bits", "VAE, 50")
    )
    cost = paired(
        "log seconds of training, flow − VAE", *(logs(column("training", n)) for n in ("flow", "VAE"))
    )
    differences = [
        gap,
        cost,
        paired("bits a dimension, flow − VAE with 50", column("bits", "flow"), column("bits", "VAE, 50")),
        paired("sure samples, VAE − flow", column("confident", "VAE"), column("confident", "flow")),
        paired("bits a dimension, digits − blank", column("others", "digits"), column("others", "blank")),
    ]
    error = max(row["det_error"] for row in rows)
    finding = (
        f"the flow's likelihood is that of its Jacobian to {error:.0e} nats; the VAE's bound is "
        f"{mean(column('bits', 'VAE, 1')):.3f} bits with one sample and "
        f"{mean(column('bits', 'VAE, 50')):.3f} with fifty, the flow's {mean(column('bits', 'flow')):.3f}; "
        f"training took {mean(column('training', 'flow')):.1f} and {mean(column('training', 'VAE')):.1f} "
        f"CPU seconds, 1,000 likelihoods {mean(column('likelihoods', 'flow')):.2f} and "
        f"{mean(column('likelihoods', 'VAE')):.2f}; the classifier is sure of "
        f"{mean(column('confident', 'flow')):.0%} of the flow's samples and "
        f"{mean(column('confident', 'VAE')):.0%} of the VAE's; to the flow blank images have "
        f"{mean(column('others', 'blank')):.2f} bits, digits upside down "
        f"{mean(column('others', 'upside down')):.2f}"
    )
    if error > 1e-6 or not gap.is_above_zero:
        return Verdict("not seen here", finding, differences)
    if not cost.is_above_zero:
        return Verdict("holds only when", f"exactness is meant, not the cost: {finding}", differences)
    return Verdict("holds", finding, differences)


def logs(values: list[float]) -> list[float]:
    return [math.log(value) for value in values]


def draw(rows: list[Row]) -> Any:
    keys = {
        "bits a dimension": ("bits", ("flow", "VAE, 1", "VAE, 50")),
        "CPU seconds of training": ("training", ("flow", "VAE")),
        "share of sure samples": ("confident", ("flow", "VAE")),
        "flow: bits of other images": ("others", ("digits", "upside down", "blank")),
    }
    return bars(
        {
            title: {name: [row[key][name] for row in rows] for name in names}
            for title, (key, names) in keys.items()
        }
    )
