#!/usr/bin/env python3
"""Writes the figures of README's demo from the result of the demo, so that no number is written by hand.

From the root of the project, after `make demo`:

    python tools/readme_results.py runs/demo   # keeps what is quoted in docs/results/demo.json, writes README.md
    python tools/readme_results.py --check     # is README what docs/results/demo.json says? Exit code 1 if not

Usage: python tools/readme_results.py RUN | --check
"""

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
KEPT = ROOT / "docs" / "results" / "demo.json"
OPENING, CLOSING = "<!-- demo-results: written by tools/readme_results.py -->\n", "<!-- end of demo-results -->\n"
FAMILIES = {
    "response": "mean response",
    "response width": "width of the response",
    "occupancy": "occupancy",
    "longitudinal profile": "profile, worst layer",
    "voxel spectrum": "voxel spectrum, worst half-decade",
}
SAMPLES = ("Boltzmann prior", "independent bits", "posterior bits")


def kept_of(run: Path) -> dict[str, Any]:
    """What README quotes of a run's report."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    provenance = json.loads((run / "provenance.json").read_text(encoding="utf-8"))
    samples = metrics["samples"]
    return {
        "command": "make demo",
        "seed": provenance["seed"],
        "versions": provenance["versions"],
        "n_reference": metrics["reference"]["n_showers"],
        "n_generated": {name: samples[name]["n_showers"] for name in SAMPLES},
        "checks": {
            name: [samples[name]["acceptance"]["n_passed"], samples[name]["acceptance"]["n_rows"]] for name in SAMPLES
        },
        "acceptance": {
            family: [worst(samples[SAMPLES[0]]["acceptance"]["rows"], family, third) for third in thirds(samples)]
            for family in FAMILIES
        },
        "thirds": thirds(samples),
        "fluctuations": {
            name: [fluctuation(row) for row in samples[name]["layer_fluctuations"] if row["sample"] == name]
            for name in SAMPLES
        },
    }


def thirds(samples: dict[str, Any]) -> list[str]:
    """Bins of energy in words, in their order."""
    return [row["third"] for row in samples[SAMPLES[0]]["layer_fluctuations"] if row["sample"] == SAMPLES[0]]


def worst(rows: list[dict[str, Any]], family: str, third: str) -> dict[str, float]:
    """The row of a family and third that comes nearest to its limit, or goes farthest beyond it."""
    own = [row for row in rows if (row["family"], row["third"]) == (family, third)]
    row = max(own, key=lambda row: strain(row["deviation"]["value"], row["allowed"]))
    return {
        "value": row["deviation"]["value"],
        "error": row["deviation"]["error"],
        "floor": row["geant4_against_geant4"]["median"],
        "passed": all(other["passed"] for other in own),
    }


def strain(value: float, allowed: list[float]) -> float:
    """Deviation as a fraction of the limit on its side."""
    return value / allowed[1] if value >= 0 else value / allowed[0]


def fluctuation(row: dict[str, Any]) -> dict[str, float]:
    """Width ratio, and correlation distance at equal size beside its floor."""
    return {
        "width": row["width_ratio"]["value"],
        "width_error": row["width_ratio"]["error"],
        "distance": row["correlation_matched"]["median"],
        "floor": row["correlation_geant4_against_geant4"]["median"],
    }


def table(kept: dict[str, Any]) -> str:
    """The block of README."""
    first, independent, _ = SAMPLES
    generated = kept["n_generated"][first]
    told = [f"{passed} of {total}" for passed, total in (kept["checks"][name] for name in (first, independent))]
    torch = kept["versions"]["torch"].partition("+")[0]
    said = (
        f"`{kept['command']}`, seed {kept['seed']}, torch {torch}: {generated:,} generated showers against "
        f"{kept['n_reference']:,} held-out Geant4 ones, in thirds of incident energy. With the Boltzmann prior "
        f"{told[0]} checks pass, with independent bits {told[1]}. In brackets what one half of the held-out showers "
        "shows against the other, the median of many splits."
    )
    lines = [
        "",
        textwrap.fill(said, 119, break_on_hyphens=False),
        "",
        "| deviation from Geant4 | " + " | ".join(kept["thirds"]) + " |",
        "|---" * (1 + len(kept["thirds"])) + "|",
    ]
    for family, name in FAMILIES.items():
        cells = [
            f"{100 * cell['value']:+.1f} ± {100 * cell['error']:.1f} % ({100 * cell['floor']:.1f} %)"
            + ("" if cell["passed"] else " FAIL")
            for cell in kept["acceptance"][family]
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for number, name in enumerate(SAMPLES):
        cells = [f"{cell['width']:.3f} ± {cell['width_error']:.3f}" for cell in kept["fluctuations"][name]]
        head = "width of layer fractions: " if number == 0 else "the same: "
        lines.append(f"| {head}{name} | " + " | ".join(cells) + " |")
    for number, name in enumerate(SAMPLES):
        cells = [f"{cell['distance']:.2f} ({cell['floor']:.2f})" for cell in kept["fluctuations"][name]]
        head = "distance of layer correlations at equal size: " if number == 0 else "the same: "
        lines.append(f"| {head}{name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", ""])


def page(text: str, kept: dict[str, Any]) -> str:
    """README with its block made anew."""
    before, opening, rest = text.partition(OPENING)
    _, closing, after = rest.partition(CLOSING)
    if not (opening and closing):
        raise ValueError(f"README.md has no block between {OPENING.strip()} and {CLOSING.strip()}")
    return before + OPENING + table(kept) + CLOSING + after


def is_stale() -> bool:
    """Whether README differs from what the kept result says."""
    text = README.read_text(encoding="utf-8")
    return page(text, json.loads(KEPT.read_text(encoding="utf-8"))) != text


def main() -> None:
    """Keeps and writes, or checks."""
    if sys.argv[1:] == ["--check"]:
        raise SystemExit(1 if is_stale() else 0)
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    kept = kept_of(Path(sys.argv[1]))
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    README.write_text(page(README.read_text(encoding="utf-8"), kept), encoding="utf-8")


if __name__ == "__main__":
    main()
