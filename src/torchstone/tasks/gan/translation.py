"""Translation of images between two domains: what its systems share of training, evaluation and use.

A model has `directions`, the domains that it translates to, and `translate(images, to)`, on −1..1. A
picture's partner, where it is known, measures a translation; of unpaired systems nothing is trained or chosen
by it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from torchstone.data.vision.domain_batches import PairedBatches, UnpairedBatches
from torchstone.data.vision.image_domains import DomainSplit, ImageDomains, load_domains
from torchstone.data.vision.preprocess import fit_to_square, load_upright
from torchstone.engine import parallel
from torchstone.engine.run import Examples, Run
from torchstone.errors import BadInput, NotFinite, did_you_mean
from torchstone.parts.gan.image_pool import ImagePool
from torchstone.parts.indices import evenly_spaced
from torchstone.parts.metrics.fidelity_diversity import relative_variance
from torchstone.parts.modes import eval_mode
from torchstone.plots.sample_grid import log_samples, save_animation, save_image_grid
from torchstone.tasks.gan.mode_collapse import ModeCollapseMonitor
from torchstone.tasks.inference import list_files

CHUNK_SIZE = 128  # pictures translated at a time
SHEET_ROWS, SHEET_GROUPS = 8, 4  # of a sheet of translations
OTHER = {"a": "b", "b": "a"}

Pixels = UInt8[Tensor, "count 3 height width"]
Levels = Float[Tensor, "count 3 height width"]  # 0 to 1


@torch.no_grad()
def translate(model: Any, pixels: Pixels | Levels, to: str) -> Levels:
    """Pictures translated to the domain `to`, on 0..1. The model is put in evaluation mode.

    Raises:
        NotFinite: a picture has a number that is NaN or infinite.
    """
    device, parts = next(model.parameters()).device, []
    with eval_mode(model):
        for chunk in pixels.split(CHUNK_SIZE):
            levels = chunk.to(device).float() / 255 if chunk.dtype == torch.uint8 else chunk.to(device)
            parts.append((model.translate(2 * levels - 1, to) + 1) / 2)
    levels = torch.cat(parts)
    if not torch.isfinite(levels).all():
        raise NotFinite("translated pictures are not finite: the generator's weights are broken")
    return levels


def measure(model: Any, split: DomainSplit) -> dict[str, float]:
    """How well pictures of both domains are translated.

    - `partner_l1`: mean |translation − partner| over pixels, on 0..1, and `partner_gain`, by what fraction
      that is less than `untranslated_l1`, |picture − partner|; where partners are known
    - `partner_gain_b`, `partner_gain_a`: of translations to b and to a, where there are both
    - `cycle_l1`: mean |there and back − picture|, of models of both directions
    - `relative_variance`: of the translations over that of their domain's pictures; the lesser of both
    """
    pictures = {"a": split.a, "b": split.b}
    rows = dict(zip("ab", split.pairs.unbind(1), strict=True))
    directions, has_pairs = model.directions, len(split.pairs) > 0
    metrics: dict[str, float] = {}
    distances, cycles, variances = {}, [], []
    for to in directions:
        source, target = pictures[OTHER[to]], pictures[to].float() / 255
        translated = translate(model, source, to)
        if min(len(translated), len(target)) > 1:
            variances.append(float(relative_variance(translated.flatten(1), target.flatten(1))))
        if has_pairs:
            distances[to] = float((translated[rows[OTHER[to]]] - target[rows[to]]).abs().mean())
        if OTHER[to] in directions:
            back = translate(model, translated, OTHER[to])
            cycles.append(float((back - source / 255).abs().mean()))
    if has_pairs:
        a, b = (pictures[domain][rows[domain]].float() / 255 for domain in "ab")
        untranslated = float((a - b).abs().mean())
        partner = sum(distances.values()) / len(distances)
        gains = {to: 1 - distance / max(untranslated, 1e-9) for to, distance in distances.items()}
        metrics |= {"partner_l1": partner, "untranslated_l1": untranslated}
        metrics["partner_gain"] = sum(gains.values()) / len(gains)
        if len(gains) > 1:
            metrics |= {f"partner_gain_{to}": gain for to, gain in gains.items()}
    if cycles:
        metrics["cycle_l1"] = sum(cycles) / len(cycles)
    if variances:
        metrics["relative_variance"] = min(variances)
    return metrics


def translation_run(
    recipe: Any,
    data: ImageDomains,
    stream: UnpairedBatches | PairedBatches,
    update: Callable[[Any], dict[str, Tensor]],
    state: dict[str, Any],
    eval_model: Any,
    *,
    best_metric: str | None,
    update_work: float,
    metadata: dict[str, Any],
) -> Run:
    """A Run of `update` with evaluation, a sheet of translations after each, and both in the report.

    Args:
        best_metric: of validation, that the best weights are kept by; None keeps the last.
        update_work: forward passes of a generator that a picture of a batch costs.
        metadata: of the variant, its model and what else inference needs.
    """
    monitor = state["mode_collapse"] = ModeCollapseMonitor(())
    state["stream"] = stream
    directions = eval_model.directions

    def evaluate() -> dict[str, float]:
        metrics = measure(eval_model, data.val)
        if "relative_variance" not in metrics:
            return metrics
        covered = torch.zeros(0, dtype=torch.bool)
        step = state["lr_schedule"].last_epoch
        collapsed = monitor.update({"covered_classes": 0.0, **metrics}, covered, step, recipe.steps)
        return metrics | {"mode_collapse": collapsed}

    def report(folder: Path) -> None:
        for to in directions:
            images, columns = sheet(eval_model, data.test, to)
            save_image_grid(images, folder / f"translations_{to}.png", columns=columns)
        save_animation(folder.parent / "samples", folder / "samples.gif")

    columns = sheet_columns(eval_model, data.val)
    return log_samples(
        Run(
            stream=stream,
            update=update,
            evaluate=evaluate,
            best_metric=best_metric,
            examples=Examples(
                recipe.batch_size,
                len(data.train.a),
                unit="images",
                evaluation=2 * len(directions) * len(data.val.a) + SHEET_ROWS * SHEET_GROUPS,
                update=recipe.batch_size * update_work,
            ),
            state=state,
            steps=recipe.steps,
            test=lambda: measure(eval_model, data.test),
            report=report,
            metadata={
                "task": "image_translation",
                "domains": data.metadata["domains"],
                "picture": data.metadata,
                "data": data.description,
            }
            | metadata,
        ),
        lambda: torch.cat([sheet(eval_model, data.val, to)[0] for to in directions]),
        columns=columns,
    )


def sheet_columns(model: Any, split: DomainSplit) -> int:
    return SHEET_GROUPS * (2 + (len(model.directions) > 1) + (len(split.pairs) > 0))


def sheet(model: Any, split: DomainSplit, to: str) -> tuple[Pixels, int]:
    """Pictures of a split and what becomes of each, side by side, and the columns of the sheet: the picture,
    its translation, that back again where the model has both directions, and the partner where it is
    known."""
    pictures = {"a": split.a, "b": split.b}
    has_pairs = len(split.pairs) > 0
    count = len(split.pairs) if has_pairs else len(pictures[OTHER[to]])
    rows = evenly_spaced(count, SHEET_ROWS * SHEET_GROUPS).to(split.a.device)
    index = dict(zip("ab", split.pairs[rows].unbind(1), strict=True)) if has_pairs else {OTHER[to]: rows}
    source = pictures[OTHER[to]][index[OTHER[to]]]
    translated = translate(model, source, to)
    shown = [source, as_pixels(translated)]
    if OTHER[to] in model.directions:
        shown.append(as_pixels(translate(model, translated, OTHER[to])))
    if has_pairs:
        shown.append(pictures[to][index[to]])
    return torch.stack(shown, 1).flatten(0, 1).cpu(), SHEET_GROUPS * len(shown)


def as_pixels(levels: Levels) -> Pixels:
    return (levels * 255).round().clamp(0, 255).byte()


def evaluate(model: nn.Module, metadata: dict[str, Any], spec: str, *, held_out: bool) -> dict[str, Any]:
    """`measure` on `spec`: its test split if `held_out`, else all of its pictures."""
    device = next(model.parameters()).device
    data = load_domains(spec, size=metadata["picture"]["size"], device=device)
    split = data.test if held_out else join([data.train, data.val, data.test])
    return measure(model, split) | {"images": len(split.a) + len(split.b)}


def join(splits: Sequence[DomainSplit]) -> DomainSplit:
    """Several splits as one."""
    pairs, before = [], torch.zeros(2, dtype=torch.int64, device=splits[0].a.device)
    for split in splits:
        pairs.append(split.pairs + before)
        before = before + torch.tensor([len(split.a), len(split.b)], device=before.device)
    return DomainSplit(
        torch.cat([split.a for split in splits]), torch.cat([split.b for split in splits]), torch.cat(pairs)
    )


def predict(
    model: Any,
    metadata: dict[str, Any],
    inputs: Sequence[Path | str],
    *,
    to: str | None = None,
    out: str | Path | None = None,
) -> list[dict[str, str]]:
    """Translate image files, fitted to the sides that the model was trained on; a folder stands for the
    images in it. Each is written as `out`, by default NAME-DOMAIN.png in the current folder.

    Args:
        to: the domain to translate to, by default the model's first.

    Raises:
        BadInput: a domain that the model does not translate to; `out` for several files, or one that is no
            image; a file is missing, is no image, or cannot be written.
    """
    to = model.directions[0] if to is None else to
    if to not in model.directions:
        known = ", ".join(f"{domain} ({metadata['domains'][domain]})" for domain in model.directions)
        raise BadInput(f"no domain {to!r}: {did_you_mean(to, model.directions)}; it translates to {known}")
    files = list_files(inputs)
    if out is not None and len(files) > 1:
        raise BadInput("each translation is a file of its own: leave --out out, or give one picture")
    if out is not None and Path(out).suffix.lower() != ".png":
        raise BadInput(f"a translation is written to a file that ends in .png, not {Path(out).name!r}")
    size = metadata["picture"]["size"]
    answers: list[dict[str, str]] = []
    for file in files:
        pixels = torch.from_numpy(fit_to_square(load_upright(file, 3)[0], size, ink=False))
        translated = as_pixels(translate(model, pixels[None], to))[0].permute(1, 2, 0).cpu().numpy()
        target = Path(f"{Path(file).stem}-{to}.png") if out is None else Path(out)
        names = [Path(answer["input"]).stem for answer in answers if answer["input"] != str(file)]
        if same := names.count(file.stem):  # of two folders, say
            target = target.with_stem(f"{target.stem}-{same + 1}")
        try:
            Image.fromarray(np.ascontiguousarray(translated)).save(target)
        except OSError as error:
            raise BadInput(f"cannot write {target} ({error.strerror}): choose another --out") from None
        answers.append({"input": str(file), "domain": to, "file": str(target)})
    return answers


class ProcessPools:
    """The pools of this process, as part of a run's state, which has those of every process.

    Further processes of a resumed run begin with empty pools.
    """

    def __init__(self, *pools: ImagePool):
        self.pools = pools

    def state_dict(self) -> dict[str, Any]:
        return {"processes": parallel.gather([pool.state_dict() for pool in self.pools])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if parallel.rank() < len(state["processes"]):
            for pool, saved in zip(self.pools, state["processes"][parallel.rank()], strict=True):
                pool.load_state_dict(saved)
