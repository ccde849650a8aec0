"""What was measured on a GPU, for a person."""

import json
from pathlib import Path
from typing import Any

from optsearch.bench.files import write_whole
from optsearch.tables import Table

Content = dict[str, Any]


def sentences(content: Content) -> list[str]:
    """What the tables were measured on."""
    machine = content["machine"]
    return [f"{machine['device']}, torch {machine['torch']}; at most {machine['matmul_gigaflops']:,.0f} GFLOP/s in "
            f"float32 and {machine['tf32_gigaflops']:,.0f} in TF32 (matrix products), "
            f"{machine['copy_gigabytes_per_second']:,.0f} GB/s (copies)."]


def tables(content: Content) -> list[Table]:
    """Meta-training and the step."""
    return [_meta_training(content["meta_training"]), _step(content["step"])]


def write(content: Content, directory: Path) -> list[Path]:
    """`engine_gpu.json` and `engine_gpu.md`; returns what was written."""
    figures, page = directory / "engine_gpu.json", directory / "engine_gpu.md"
    write_whole(figures, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    lines = ["# The engine on a GPU, measured", "", "Made by `optsearch bench engine --device cuda:0`.", "",
             *sentences(content)]
    for table in tables(content):
        lines += ["", *table.markdown()]
    write_whole(page, ("\n".join(lines) + "\n").encode())
    return [figures, page]


def _meta_training(rows: list[Content]) -> Table:
    return Table(
        "Meta-training: inner steps per second",
        "celo2 on four families (four times the digits) of MLPs 64-32-10, batch 64, PES, truncation 50; a particle is "
        "an antithetic pair. Published: times the 19,800 a second of Celo2's own meta-training. Ceiling, traffic: "
        "counted arithmetic and bytes as percent of what this device does at most.",
        ("particles a family", "form", "median", "min..max", "x published", "% ceiling", "% traffic"),
        [(f"{row['particles']:,}", row["form"], f"{row['inner_steps_per_second']:,.0f}",
          f"{row['lowest']:,.0f}..{row['highest']:,.0f}", f"{row['published_ratio']:.3g}",
          f"{row['ceiling_percent']:.3g}", f"{row['bytes_percent']:.3g}") for row in rows])


def _step(rows: list[Content]) -> Table:
    return Table(
        "One optimizer step: milliseconds",
        "The tensors of ViT-B/16. AdamW: how many steps of torch's fused AdamW one step takes. Published: the 99.6 ms "
        "of PyLO's CUDA kernel on an A100 ÷ ours. Floors: counted bytes and matrix products (TF32) at this device's "
        "ceilings, and the larger of them as percent of the median.",
        ("optimizer", "kernels", "parameters", "median", "min..max", "x AdamW", "x published", "bytes floor",
         "products floor", "% floor"),
        [(row["name"], ("yes" if row["has_kernels"] else "no") if "has_kernels" in row else "",
          f"{row['num_parameters']:,}", f"{row['milliseconds']:.3g}", f"{row['lowest']:.3g}..{row['highest']:.3g}",
          *(f"{row[name]:.3g}" if name in row else "" for name in
            ("adamw_fused_ratio", "published_ratio", "bytes_floor_milliseconds", "flops_floor_milliseconds",
             "floor_percent"))) for row in rows])
