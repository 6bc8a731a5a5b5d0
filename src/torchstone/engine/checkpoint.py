"""Checkpoints: written beside and renamed, checked when read, never able to run code.

    checkpoint/            the newest          checkpoint.previous/   the one before it
      model.safetensors    every tensor of every module in the run's state, as NAME.KEY
      best.safetensors     the same of the best evaluation so far, where that is not the last
      state.pt             the rest: optimizers, schedules, generators, streams
      meta.json            step, stage, system, metadata, which step was best, and the others' SHA-256

`meta.json` is written last, so a folder without it, or whose digests differ, was cut off in the
writing. There is always a whole one: the new folder is complete and on disk before it takes the
name, and the previous folder is let go only after that.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from torchstone.engine import old_names
from torchstone.errors import BadInput, did_you_mean, first_line
from torchstone.files import parse_json, read_pickle

FORMAT = 1
PAYLOAD = ("model.safetensors", "state.pt")
BEST = "best.safetensors"


def save(
    folder: Path,
    state: Mapping[str, Any],
    meta: Mapping[str, Any],
    best: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write `state` to `folder`, atomically. On any failure what was there before stays.

    Args:
        best: the best weights by NAME.KEY, if they are not those of `state`.
    """
    new, previous = folder.with_name(f"{folder.name}.new"), previous_of(folder)
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        tensors, rest = {}, {}
        for name, item in state.items():
            if isinstance(item, nn.Module):
                for key, value in item.state_dict().items():
                    tensors[f"{name}.{key}"] = value.detach().cpu().contiguous().clone()
            else:
                rest[name] = item.state_dict() if hasattr(item, "state_dict") else item
        try:
            save_file(tensors, new / PAYLOAD[0], metadata={"format": "pt"})
            torch.save(rest, new / PAYLOAD[1])
            if best is not None:
                best = {name: value.cpu().contiguous() for name, value in best.items()}
                save_file(best, new / BEST, metadata={"format": "pt"})
        except (SafetensorError, RuntimeError) as error:  # how they say that the disk is full
            raise OSError(first_line(error)) from error
        names = [*PAYLOAD, *([BEST] if best is not None else [])]
        digests = {name: _digest(new / name) for name in names}
        text = json.dumps({"format": FORMAT, **meta, "sha256": digests}, indent=1)
        (new / "meta.json").write_text(text)
        for name in (*names, "meta.json"):
            _to_disk(new / name)
        _to_disk(new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if folder.exists():
        # a previous folder may only go while `folder` itself is whole
        shutil.rmtree(previous, ignore_errors=True)
        os.rename(folder, previous)
    os.rename(new, folder)
    _to_disk(folder.parent)


def previous_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.previous")


def _candidates(folder: Path) -> tuple[Path, Path, Path]:
    return folder, folder.with_name(f"{folder.name}.new"), previous_of(folder)


def any_at(folder: Path) -> bool:
    """Whether one was ever finished there; the very first may have been cut off in the writing."""
    _, new, previous = _candidates(folder)
    if folder.exists() or previous.exists():
        return True
    try:
        return bool(_checked(new))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def find(folder: Path) -> tuple[Path, dict, list[str]]:
    """The newest whole checkpoint: its folder, its meta data, and what was wrong with newer ones.

    Raises:
        BadInput: there is none.
    """
    complaints = []
    for candidate in _candidates(folder):
        if not candidate.exists():
            continue
        if candidate == previous_of(folder) and not complaints:
            # between two renames the new one is whole, so that this is none of our doing
            complaints.append(f"{folder.name} is missing")
        try:
            return candidate, _checked(candidate), complaints
        except (OSError, ValueError, KeyError, TypeError) as error:
            complaints.append(f"{candidate.name} is unusable ({error})")
    reasons = "; ".join(complaints) or "no checkpoint was ever written there"
    raise BadInput(f"no whole checkpoint in {folder.parent}: {reasons}")


def _checked(folder: Path) -> dict:
    if not (folder / "meta.json").exists():
        raise ValueError("meta.json is missing, so its writing was cut off")
    meta = parse_json((folder / "meta.json").read_text())
    if meta["format"] != FORMAT:
        raise ValueError(f"format {meta['format']}, this version reads {FORMAT}")
    for name in (*PAYLOAD, *(name for name in meta["sha256"] if name == BEST)):
        if not (folder / name).exists():
            raise ValueError(f"{name} is missing")
        if _digest(folder / name) != meta["sha256"][name]:
            raise ValueError(f"{name} is truncated or altered")
    return old_names.new_meta(meta)


def tensors(folder: Path, prefix: str, device: torch.device | str = "cpu", *, last: bool = True) -> dict:
    """The tensors saved under `prefix` in a checkpoint folder: the last, or the best ones."""
    file_name = PAYLOAD[0] if last or not (folder / BEST).exists() else BEST
    with safe_open(folder / file_name, framework="pt", device=str(device)) as file:
        names = [name for name in file.keys() if name.startswith(f"{prefix}.")]  # noqa: SIM118
        return {name[len(prefix) + 1 :]: file.get_tensor(name) for name in names}


def weights(folder: Path, meta: Mapping[str, Any], *, last: bool = False) -> tuple[dict, dict]:
    """What inference needs of a checkpoint: the weights (the EMA, if there is one) and the metadata, of the
    best evaluation, or with `last` of the last step."""
    found = tensors(folder, "ema.module", last=last) or tensors(folder, "model", last=last)
    best = (not last and meta.get("best")) or {}
    return found, meta["metadata"] | best.get("calibration", {})


def best_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All of the best weights, if they are not the last ones."""
    return load_file(folder / BEST) if (folder / BEST).exists() else {}


def load(folder: Path, state: Mapping[str, Any]) -> dict:
    """Put a checkpoint back into the objects of `state`, all or nothing by name; return what else it holds.

    Raises:
        BadInput: it holds code (refused unread), or belongs to another run.
    """
    saved_rest = read_pickle(folder / PAYLOAD[1])
    system = json.loads((folder / "meta.json").read_text()).get("system", "")
    new_name = lambda name: name if name in state else old_names.new_entry(name, system)  # noqa: E731
    rest = {new_name(name): value for name, value in saved_rest.items()}
    with safe_open(folder / PAYLOAD[0], framework="pt") as file:
        saved = {name.split(".", 1)[0] for name in file.keys()}  # noqa: SIM118
    names = {new_name(name): name for name in saved}
    modules = {k for k, v in state.items() if isinstance(v, nn.Module)}
    for missing in (modules - set(names)) | (set(state) - modules - set(rest)):
        held = did_you_mean(missing, sorted(set(names) | set(rest)))
        raise BadInput(f"the checkpoint in {folder} has no {missing!r}: it is of another run ({held})")
    for name, item in state.items():
        if name in modules:
            try:
                item.load_state_dict(tensors(folder, names[name]))
            except RuntimeError as error:
                reason = str(error).splitlines()[-1].strip()
                raise BadInput(f"the checkpoint in {folder} does not fit {name!r}: {reason}") from None
        else:
            item.load_state_dict(rest.pop(name))
    return rest


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
