"""The last lines of `make demo`: what was reached, and what to look at."""

import json
import sys
from pathlib import Path


def main() -> None:
    folder = Path(sys.argv[1])
    result = json.loads((folder / "result.json").read_text())
    accuracy = result["metrics"]["test/accuracy"]
    print(
        f"\nLeNet-5 tells {accuracy:.1%} of the held-out digits apart, "
        f"after {result['seconds']:.0f} seconds of training.\n\nLook at:"
    )
    says = {
        "curves.png": "how it learned",
        "confusion.png": "which digits it takes for which",
        "mistakes.png": "its worst mistakes",
        "filters.png": "the strokes its first layer looks for",
        "features.png": "one digit on its way through the layers",
    }
    for name, meaning in says.items():
        print(f"  {folder / 'pictures' / name!s:<36} {meaning}")
    print("\nThen try:")
    print(f"  .venv/bin/torchstone predict {folder} YOUR_DIGIT.png")
    print("  .venv/bin/torchstone train lenet5 --data YOUR_FOLDER   # one sub-folder a class")


if __name__ == "__main__":
    main()
