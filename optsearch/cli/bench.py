"""`optsearch bench ...`: how fast it is here, how good designs are, and how good those who search for them."""

from pathlib import Path
from typing import Annotated

import typer

from optsearch.cli import bench_search
from optsearch.cli.options import JsonOption, QuietOption, WorkersOption, emit, run_as_workers_do
from optsearch.tables import columns

benches = typer.Typer(no_args_is_help=True,
                      help="Measure how fast optsearch is here, and how good designs and searchers are.")
benches.command("table")(bench_search.table)
benches.command("search")(bench_search.search)


@benches.command("engine")
def engine(quick: Annotated[bool, typer.Option("--quick", help="Under a minute: not compiled, no peers.")] = False,
           output: Annotated[Path | None, typer.Option(help="A folder for engine.json, .md and .png.")] = None,
           device: Annotated[str, typer.Option(help="cpu, or a GPU such as cuda:0: two other lines.")] = "cpu",
           quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """Time meta-training and the exported step against plain torch, AdamW and what else is installed; takes minutes.

    Example: optsearch bench engine --quick
    """
    run_as_workers_do()
    if device != "cpu":
        return _engine_on(device, quick, output, quiet, as_json)
    from optsearch import bench

    content = bench.measure(bench.QUICK if quick else bench.FULL, quiet=quiet or as_json)
    written = [] if output is None else bench.write(content, output)
    lines = bench.sentences(content)
    for table in bench.tables(content):
        lines += ["", table.title, table.note, "", *columns([table.header, *table.rows])]
    emit(content, as_json, [*lines, *([""] if written else []), *(f"wrote {path}" for path in written)])


def _engine_on(device: str, quick: bool, output: Path | None, quiet: bool, as_json: bool) -> None:
    from optsearch.bench import gpu, gpu_page

    content = gpu.measure(gpu.device_of(device), gpu.QUICK if quick else gpu.FULL, quiet=quiet or as_json)
    written = [] if output is None else gpu_page.write(content, output)
    lines = gpu_page.sentences(content)
    for table in gpu_page.tables(content):
        lines += ["", *table.plain()]
    emit(content, as_json, [*lines, *([""] if written else []), *(f"wrote {path}" for path in written)])


@benches.command("designs")
def designs(names: Annotated[list[str] | None, typer.Argument(help="Designs; by default one of every family.")] = None,
            task: Annotated[list[str] | None, typer.Option(help="Tasks, one at a time; by default digits_mlp.")] = None,
            budget: Annotated[int, typer.Option(min=1000, help="Inner steps of a meta-training.")] = 150_000,
            horizon: Annotated[int, typer.Option(min=20, help="Inner steps of a training.")] = 200,
            seeds: Annotated[int, typer.Option(min=1, help="Meta-trainings of each.")] = 3,
            ablate: Annotated[bool, typer.Option("--ablate", help="Also without their controllers.")] = False,
            without_rules: Annotated[bool, typer.Option("--without-rules", help="Controllers and bases only.")] = False,
            output: Annotated[Path, typer.Option(help="A folder for designs.json, .md and .png.")] = Path("reports"),
            workers: WorkersOption = 2, quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """Meta-train designs for the same budget and rank them; takes minutes a design, goes on where it was stopped.

    Example: optsearch bench designs adamw_mlp opt2vec --task digits_mlp --seeds 3
    """
    run_as_workers_do()
    from optsearch import bench

    contest = bench.Contest(tuple(names or bench.FAMILIES), tuple(task or ["digits_mlp"]), horizon, budget, seeds,
                            ablate, without_rules)
    rows = bench.hold(contest, output / "designs.json", workers, quiet=quiet or as_json)
    written = bench.write_contest(rows, output)
    lines = []
    for table in bench.contest_tables(rows):
        lines += [table.title, table.note, "", *columns([table.header, *table.rows]), ""]
    emit({"runs": rows}, as_json, [*lines, *(f"wrote {path}" for path in written)])


@benches.command("online")
def online(file: Annotated[Path | None, typer.Argument(help="A learned optimizer; by default one is learned.")] = None,
           seeds: Annotated[int, typer.Option(min=2, help="Trainings of each.")] = 8,
           output: Annotated[Path, typer.Option(help="A folder for online.md.")] = Path("reports"),
           workers: WorkersOption = 2, quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """Hold online adaptation against the frozen optimizer, on problems that change and one that doesn't.

    Example: optsearch bench online best.safetensors
    """
    run_as_workers_do()
    from optsearch.bench import online as bench

    quiet = quiet or as_json
    path = file or output / "online.safetensors"
    if file is None:
        bench.meta_trained(path, quiet=quiet)
    rows = bench.measure(path, seeds, workers, quiet=quiet)
    written = bench.write(rows, output)
    lines = [line for table in bench.tables(rows) for line in table.plain()]
    emit({"runs": rows}, as_json, [*lines, *(f"wrote {path}" for path in written)])


@benches.command("few-shot")
def few_shot(design: Annotated[str, typer.Option(help="A named design.")] = "adamw_mlp",
             seeds: Annotated[int, typer.Option(min=2, help="Meta-trainings of each.")] = 3,
             budget: Annotated[int, typer.Option(min=1000, help="Inner steps that a family would be given.")] = 100_000,
             start_budget: Annotated[int, typer.Option(min=1000, help="Inner steps of a start.")] = 60_000,
             output: Annotated[Path, typer.Option(help="A folder for few_shot.json and .md.")] = Path("reports"),
             workers: WorkersOption = 2, quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """Hold adapting with 5 % of a budget, by each few-shot method, against learning from scratch with 30 %.

    Example: optsearch bench few-shot --seeds 3
    """
    run_as_workers_do()
    from optsearch.bench import few_shot as bench
    from optsearch.bench import few_shot_page as page

    comparison = bench.Comparison(design, start_budget=start_budget, budget=budget, num_seeds=seeds)
    rows = bench.compare(comparison, output, workers, quiet=quiet or as_json)
    written = page.write(rows, comparison, output)
    lines = [line for table in page.tables(rows) for line in [*table.plain(), ""]]
    emit({"runs": rows}, as_json, [*lines, *(f"wrote {path}" for path in written)])


@benches.command("specialists")
def specialists(seeds: Annotated[int, typer.Option(min=2, help="Meta-trainings of each.")] = 3,
                output: Annotated[Path, typer.Option(help="A folder for specialists.json and .md.")] = Path("reports"),
                workers: WorkersOption = 2, quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """Hold what is meant for a domain against the same meta-training without it; takes minutes, goes on where stopped.

    Example: optsearch bench specialists --seeds 3
    """
    run_as_workers_do()
    from optsearch.bench import specialists as bench

    rows = bench.compare(seeds, output, workers, quiet=quiet or as_json)
    written = bench.write(rows, output)
    lines = [line for table in bench.tables(rows) for line in [*table.plain(), ""]]
    emit({"runs": rows}, as_json, [*lines, *(f"wrote {path}" for path in written)])


@benches.command("opt2vec")
def opt2vec(seeds: Annotated[int, typer.Option(min=2, help="Meta-trainings.")] = 5,
            budget: Annotated[int, typer.Option(min=1000, help="Inner steps of each.")] = 60_000,
            output: Annotated[Path, typer.Option(help="A folder for opt2vec.json, .md and .png.")] = Path("reports"),
            workers: WorkersOption = 2, quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """Meta-train Opt2Vec from several seeds, measure it on families it never saw, and probe its embeddings.

    Example: optsearch bench opt2vec --seeds 5
    """
    run_as_workers_do()
    from optsearch.bench import opt2vec as bench
    from optsearch.bench import opt2vec_page as page

    stability = bench.Stability(budget=budget, num_seeds=seeds)
    rows = bench.measure(stability, output, workers, quiet=quiet or as_json)
    written = page.write(rows, stability, output)
    lines = [line for table in page.tables(rows) for line in [*table.plain(), ""]]
    emit({"runs": rows}, as_json, [*lines, *(f"wrote {path}" for path in written)])


@benches.command("continual")
def continual(seeds: Annotated[int, typer.Option(min=2, help="Meta-trainings of each.")] = 3,
              budget: Annotated[int, typer.Option(min=1000, help="Inner steps a domain.")] = 40_000,
              output: Annotated[Path, typer.Option(help="A folder for continual.json and .md.")] = Path("reports"),
              workers: WorkersOption = 2, quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """Learn three domains one after the other, and measure what is forgotten; goes on where it was stopped.

    Example: optsearch bench continual --seeds 3
    """
    run_as_workers_do()
    from optsearch.bench import continual as bench

    rows = bench.compare(bench.Comparison(budget=budget, num_seeds=seeds), output, workers, quiet=quiet or as_json)
    written = bench.write(rows, output)
    lines = [bench.verdict(rows), ""] + [line for table in bench.tables(rows) for line in [*table.plain(), ""]]
    emit({"runs": rows}, as_json, [*lines, *(f"wrote {path}" for path in written)])


@benches.command("multi-task")
def multi_task(seeds: Annotated[int, typer.Option(min=2, help="Meta-trainings of each.")] = 3,
               budget: Annotated[int, typer.Option(min=1000, help="Inner steps a domain.")] = 40_000,
               output: Annotated[Path, typer.Option(help="A folder for multi_task.json and .md.")] = Path("reports"),
               workers: WorkersOption = 2, quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """Hold one optimizer with adapters for four domains against one without and one for each; goes on where stopped.

    Example: optsearch bench multi-task --seeds 3
    """
    run_as_workers_do()
    from optsearch.bench import multi_task as bench

    rows = bench.hold(bench.Comparison(budget, seeds), output / "multi_task.json", workers, quiet=quiet or as_json)
    written = bench.write(rows, output)
    lines = [line for table in bench.tables(rows) for line in [*table.plain(), ""]]
    emit({"runs": rows}, as_json, [*lines, *(f"wrote {path}" for path in written)])
