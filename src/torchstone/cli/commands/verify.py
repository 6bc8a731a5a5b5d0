"""`torchstone verify`."""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("systems", metavar="SYSTEM", nargs="*", help="default: all")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    from torchstone.api import verify

    checks = [check for name in args.systems or [None] for check in verify(name)]
    if args.json:
        print(json.dumps([check.as_dict() for check in checks], indent=1, default=str))
    else:
        for c in checks:
            mark = "ok  " if c.passed else "FAIL"
            within = f" ± {c.tolerance:g}" if c.tolerance else ""
            measured = f"{c.measured:.3g}" if isinstance(c.measured, float) else c.measured
            print(f"{mark} {c.system:<12} {c.name}: {measured} (expected {c.expected}{within})")
        failed = sum(not c.passed for c in checks)
        print(f"{len(checks) - failed} of {len(checks)} checks passed")
    return int(not all(check.passed for check in checks))
