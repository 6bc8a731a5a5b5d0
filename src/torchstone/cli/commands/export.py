"""`torchstone export`."""

import argparse
import json

from torchstone.cli.main import LAST_HELP

EPILOG = (
    "An .onnx or .pt2 file takes images as uint8, 0 to 255, preprocessed as in training except for "
    "normalization, which it does itself (tables: raw rows), in batches of any size, and returns logits. "
    "Classes, image size and preprocessing are stored in it: as JSON metadata of the .onnx, as card.json of "
    "the .pt2. It is moved into place once it has been read back and its outputs are within 1e-4 of the "
    "model. For .onnx: pip install 'torchstone[export]'."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument(
        "--out",
        metavar="FILE",
        required=True,
        help="model.onnx (ONNX), model.pt2 (torch.export), or with --format hf a new folder",
    )
    parser.add_argument(
        "--format",
        metavar="NAME",
        help="onnx or pt2 (default: by the ending of --out), or hf: a folder that transformers loads "
        "(bert, albert, distilbert, longformer, bigbird, gpt, t5, vit, clip)",
    )
    parser.add_argument("--last", action="store_true", help=LAST_HELP)
    parser.add_argument("--json", action="store_true", help="as JSON: the metadata of the file")


def run(args: argparse.Namespace) -> None:
    from torchstone.api import export

    result = export(args.run, out=args.out, format=args.format, last=args.last)
    if args.json:
        print(json.dumps(result, indent=1))
        return
    if "facts" not in result:
        print(f"{'folder':<16} {result['file']}")
        return
    for side in ("input", "output"):
        tensor = result["facts"][side]
        shape = " × ".join(map(str, tensor["shape"]))
        print(f"{side:<16} {tensor['name']}: {shape} ({tensor.get('values', tensor.get('use'))})")
    print(f"{'relative error':<16} {result['relative_error']:.1e} at most")
    print(f"{'file':<16} {result['file']} ({result['bytes'] / 1e6:.1f} MB)")
