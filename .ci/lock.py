"""Write pyproject.toml's list of pinned versions anew: the newest that its own ranges allow, resolved together."""

import re
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
# From the key to the bracket that closes the list, which stands alone on its line.
PINNED = re.compile(r"^constraint-dependencies = \[\n.*?^\]\n", re.MULTILINE | re.DOTALL)


def resolve(project: str) -> list[str]:
    """Resolve a project's dependencies; returns one `name==version` each, sorted."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "pyproject.toml").write_text(project)
        subprocess.run([shutil.which("uv") or "uv", "lock", "--quiet", "--project", scratch], check=True)
        lock = tomllib.loads((Path(scratch) / "uv.lock").read_text())
    # The project itself has no version in a registry.
    packages = [package for package in lock["package"] if "registry" in package["source"]]
    return sorted(f"{package['name']}=={package['version']}" for package in packages)


def main() -> None:
    """Resolve without the list, then put the new one into its place."""
    text = PROJECT.read_text()
    if not PINNED.search(text):
        raise SystemExit(f"{PROJECT}: no list `constraint-dependencies = [` under [tool.uv]")
    pins = resolve(PINNED.sub("", text))
    block = "constraint-dependencies = [\n" + "".join(f'  "{pin}",\n' for pin in pins) + "]\n"
    PROJECT.write_text(PINNED.sub(lambda _: block, text))
    print(f"{PROJECT.name}: {len(pins)} versions pinned; `uv sync` installs them")


if __name__ == "__main__":
    main()
