"""At stake: the wall between public and private code, and a README that tells the truth about the tree."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mmrank", "client", "server", "simulations")


def test_import_directions_hold():
    result = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_only_the_edges_import_flower():
    allowed = {"client/app.py", "server/app.py", "simulations/engines/inline.py", "simulations/engines/flower.py"}
    importers = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"^\s*(import|from) flwr\b", path.read_text(), re.MULTILINE)
    }
    assert importers <= allowed | {"simulations/engines/_flower_app.py"}, importers - allowed


def test_the_library_reads_no_global_randomness():
    forbidden = re.compile(
        r"\b(np\.random\.(rand|randn|seed|choice|shuffle|normal)|random\.(random|choice|sample|shuffle))\("
    )
    guilty = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for match in forbidden.finditer(path.read_text())
    ]
    assert not guilty


def readme_tree() -> set[str]:
    """Paths drawn in README's tree: two spaces of indentation a level, a comment after two spaces."""
    text = (ROOT / "README.md").read_text()
    block = re.search(r"```tree\n(.*?)```", text, re.DOTALL)
    assert block, "README.md has no ```tree block"
    paths, stack = set(), []
    for line in block.group(1).splitlines():
        if not line.strip():
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        stack = [*stack[:depth], name.rstrip("/")]
        paths.add("/".join(stack))
    return paths


def test_the_readme_tree_is_what_is_on_disk():
    drawn = readme_tree()
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    missing = [path for path in drawn if not (ROOT / path).exists()]
    assert not missing, f"drawn in README's tree but not on disk: {missing}"
    sources = {
        path
        for path in tracked
        if path.endswith(".py")
        and path.split("/")[0] in PACKAGES
        and (ROOT / path).exists()
        and not Path(path).name.startswith("_")
    }
    undrawn = {
        path for path in sources if not any(path == name or path.startswith(f"{name}/") for name in leaves(drawn))
    }
    assert not undrawn, f"on disk but not in README's tree: {sorted(undrawn)}"


def leaves(drawn: set[str]) -> set[str]:
    """Entries that have no entry below them: a folder drawn as a leaf stands for all it holds."""
    return {path for path in drawn if not any(other.startswith(f"{path}/") for other in drawn)}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_module_says_what_it_is(package):
    silent = [
        str(path.relative_to(ROOT))
        for path in (ROOT / package).rglob("*.py")
        if path.read_text().strip() and not path.read_text().lstrip().startswith(('"""', 'r"""'))
    ]
    assert not silent
