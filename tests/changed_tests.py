"""Which tests a change can reach, by the import graph: python tests/changed_tests.py [COMMIT]

Prints what pytest takes, one a line: test files that changed or that import what did (directly or not, or name a
system that does), and the laws of the systems reached. Prints `tests` where everything may be meant.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "laws"), str(ROOT / "src")]

import import_rules  # noqa: E402
import module_tests  # noqa: E402

SOURCE, TESTS = ROOT / "src" / "torchstone", ROOT / "tests"

# of these everything may depend on every line
EVERYWHERE = (
    "pyproject.toml",
    "constraints.txt",
    "tests/conftest.py",
    "tests/shared_cache.py",
    "tests/typechecker.py",
)


def changed(since: str) -> list[str]:
    """Files that differ from a commit, those that git does not know included."""

    def git(*words: str) -> list[str]:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    return git("diff", "--name-only", since) + git("ls-files", "--others", "--exclude-standard")


def reached(files: list[str], source: Path = SOURCE, tests: Path = TESTS) -> list[str]:
    """Test files, and laws of single systems, that those files (by their paths in the repository) can reach."""
    if any(file in EVERYWHERE for file in files):
        return ["tests"]
    graph = import_rules.graph(source, source.name)
    modules = {
        import_rules.dotted(source.parents[1] / file, source, source.name)
        for file in files
        if file.startswith(f"src/{source.name}/") and file.endswith(".py")
    }
    # what is there no longer has no importers: nothing can be asked of it
    hit = {name for name in graph if import_rules.closure(graph, name) & modules}
    found = []
    for test in sorted(tests.rglob("test_*.py")):
        name = str(test.relative_to(tests.parent))
        if name in files or (
            test.parent.name != "laws" and module_tests.reached(test, source, graph) & modules
        ):
            found.append(name)
    systems = [
        name.rpartition(".")[2]
        for name in sorted(hit)
        if re.match(rf"{source.name}\.systems\.\w+\.\w+", name)
    ]
    if any(file.startswith("tests/laws/") for file in files):
        return [*found, "tests/laws"]
    return found + laws(systems, bool(modules), tests)


def laws(systems: list[str], source_changed: bool, tests: Path) -> list[str]:
    """The laws of those systems, and where any source changed those that read all of it."""
    file = "tests/laws/test_laws.py"
    text = (tests / "laws" / "test_laws.py").read_text()
    of_a_system = re.findall(r"^@(?:every|trained)\ndef (\w+)", text, re.MULTILINE)
    of_a_recipe = re.findall(r"^@recipes_at_hand.parametrized(?:_by_path)?\ndef (\w+)", text, re.MULTILINE)
    of_the_source = re.findall(r"^def (test_(?:7|11|12|13)\w+)\(\)", text, re.MULTILINE)
    found = [f"{file}::{law}" for law in of_the_source if source_changed]
    found += [f"{file}::{law}[{system}]" for system in systems for law in of_a_system]
    if systems:
        from recipes_at_hand import recipes

        ids = [each.id for each in recipes()]
        found += [
            f"{file}::{law}[{name}]"
            for law in of_a_recipe
            for name in ids
            if name.partition("/")[0] in systems
        ]
    return found


if __name__ == "__main__":
    print("\n".join(reached(changed(*sys.argv[1:] or ["HEAD"]))))
