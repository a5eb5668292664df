"""Show that every package of the base install has a wheel for Linux on x86-64 and on Arm, at the pinned versions.

    python scripts/check_wheels.py [--glibc 28]

pip resolves the dependencies of pyproject.toml under constraints.txt for Python 3.11 and each machine, from wheels
alone and without installing anything. Exit code 1 when a package has no wheel, or no version that fits its pin. Markers
that ask for the machine are answered for the one this runs on: pip has no option for them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
MACHINES = ("x86_64", "aarch64")
OLDEST_GLIBC = 5
NOT_A_TAG = "-"


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package as pip resolved it: version, and the wheel's tags (`cp311-cp311-manylinux_2_28_aarch64`)."""

    name: str
    version: str
    tags: str


def normalized(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return name.lower().replace("_", "-").replace(".", "-")


def pins(constraints: Path) -> dict[str, str]:
    """Version by package of all `name==version` lines."""
    lines = (line.partition("#")[0].strip() for line in constraints.read_text().splitlines())
    pairs = (line.split("==") for line in lines if "==" in line)
    return {normalized(name.strip()): version.strip() for name, version in pairs}


def resolve(dependencies: list[str], machine: str, glibc: int) -> dict[str, Wheel]:
    """What pip would install on a machine with at least glibc 2.`glibc`; raises RuntimeError with pip's own reason."""
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(glibc, OLDEST_GLIBC - 1, -1)]
    platforms += [f"{name}_{machine}" for name in ("manylinux2014", "manylinux2010", "manylinux1")]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--only-binary=:all:", "--target", str(Path(folder, "target")), "--report", str(report)]
        command += ["--python-version", "3.11", "--implementation", "cp", "--disable-pip-version-check"]
        for abi in ("cp311", "abi3", "none"):
            command += ["--abi", abi]
        for platform in platforms:
            command += ["--platform", platform]
        command += ["--constraint", str(ROOT / "constraints.txt"), *dependencies]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
            raise RuntimeError("\n".join(errors) or done.stderr.strip())
        document = json.loads(report.read_text())
    wheels = [_wheel(entry) for entry in document["install"]]
    return {normalized(wheel.name): wheel for wheel in wheels}


def _wheel(entry: dict[str, dict[str, str]]) -> Wheel:
    file = unquote(urlsplit(entry["download_info"]["url"]).path).rpartition("/")[2]
    tags = "-".join(file.removesuffix(".whl").split("-")[-3:])
    return Wheel(entry["metadata"]["name"], entry["metadata"]["version"], tags)


def table(found: dict[str, dict[str, Wheel]], pinned: dict[str, str]) -> str:
    """One line a package: its version, whether it is pinned, and its wheel for each machine."""
    names = sorted({name for wheels in found.values() for name in wheels})
    rows = [("package", "version", "pinned", *found)]
    for name in names:
        wheels = [found[machine].get(name) for machine in found]
        versions = sorted({wheel.version for wheel in wheels if wheel})
        tags = (_short(wheel.tags) if wheel else NOT_A_TAG for wheel in wheels)
        rows.append((name, " / ".join(versions), "yes" if name in pinned else "no", *tags))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def _short(tags: str) -> str:
    """`py3-none-any` is pure Python; of several platform tags the first says enough."""
    python, abi, platform = tags.split("-")
    return "pure Python" if platform == "any" else f"{python}-{abi}-{platform.partition('.')[0]}"


def main() -> int:
    """Print the table; 0 when every package has both wheels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glibc", type=int, default=28, help="oldest glibc of the clusters, 2.N (default: 28)")
    glibc = parser.parse_args().glibc
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    pinned = pins(ROOT / "constraints.txt")
    found: dict[str, dict[str, Wheel]] = {}
    problems: list[str] = []
    for machine in MACHINES:
        try:
            found[machine] = resolve(dependencies, machine, glibc)
        except RuntimeError as error:
            problems.append(f"{machine}: {error}")
            continue
        for name, wheel in found[machine].items():
            if name in pinned and wheel.version != pinned[name]:
                problems.append(f"{machine}: {name} {wheel.version} was taken, {pinned[name]} is pinned")
    if not problems:
        differing = sorted(set(found[MACHINES[0]]) ^ set(found[MACHINES[1]]))
        problems += [f"{name}: needed on one kind of machine only; pin what asks for it" for name in differing]
    if found:
        sys.stdout.write(table(found, pinned) + "\n")
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    if not problems:
        sys.stdout.write(f"{len(found[MACHINES[0]])} packages, each with a wheel for {' and '.join(MACHINES)}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
