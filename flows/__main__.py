"""The command line `r1`. Each verb calls one function below it and imports inside the verb."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.queries import help_text

# Threads that wait must not spin for long: beside another busy process a step would take several times as long.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

app = typer.Typer(
    name="r1",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The DeepSeek-R1 training pipeline as cached, restartable, audited stages.\n\n"
    "Begin with `r1 run micro`: the whole of R1 at miniature scale, in minutes. Then `r1 show micro`, "
    "`r1 trace micro/r1` and `r1 chat micro/r1`.",
)

Recipe = Annotated[
    str, typer.Argument(help="A shipped recipe (micro, small, tiny, seeds, paper) or the path of a .toml file.")
]
Runs = Annotated[Path, typer.Option(help="Folder of artifacts, tracking and locks.", envvar="R1_RUNS", file_okay=False)]
Changes = Annotated[
    list[str],
    typer.Option(
        "--set",
        help="Change one setting, as in --set zero.num_generations=16, or a table of them, as in "
        "--set 'problems.columns={prompt=\"question\"}'. Repeatable.",
    ),
]
Processes = Annotated[
    int,
    typer.Option(
        min=0, envvar="R1_PROCESSES", help="Processes that heavy stages take on this host, each a GPU; 0 is one."
    ),
]


Server = Annotated[
    str, typer.Option(help="Prefect of a shared installation, as in http://host:4200.", envvar="R1_SERVER")
]
Mlflow = Annotated[str, typer.Option(help="Its MLflow; port 5000 of the same host when left out.", envvar="R1_MLFLOW")]
Depot = Annotated[
    str,
    typer.Option(help="Where its machines share artifacts: s3://bucket/prefix or file:///folder.", envvar="R1_DEPOT"),
]


@app.command()
def run(
    recipe: Recipe,
    changes: Changes = [],  # noqa: B006
    runs: Runs = Path("runs"),
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1; the best there is when left out.")] = "",
    save_every: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Time between the states that a stopped stage goes on from.")
    ] = 30.0,
    remake: Annotated[
        list[str], typer.Option(metavar="NAME", help="Make a stage again, as in --remake dev1. Repeatable.")
    ] = [],  # noqa: B006
    processes: Processes = 0,
    plain: Annotated[bool, typer.Option("--plain", help="Without Prefect and MLflow, as plain functions.")] = False,
    until: Annotated[
        list[str], typer.Option(metavar="NAME", help="With --plain: no more than this stage needs. Repeatable.")
    ] = [],  # noqa: B006
    server: Server = "",
    mlflow: Mlflow = "",
    depot: Depot = "",
) -> None:
    """Make everything a recipe asks for that is not there yet. The last line printed is the report's path."""
    from flows import recipe as recipes
    from flows.inspect import inspect
    from flows.plan import forget, launcher_for, placed
    from flows.run import run as make
    from flows.shared import Installation

    loaded = recipes.load(recipe, changes)
    inspect(loaded)
    shared = Installation.at(server, mlflow, depot) if server and not plain else None
    launcher_for(processes, *placed(device, shared is not None))
    forget(loaded, runs, remake, shared.artifacts() if shared else None)
    print(make(loaded, runs, device, plain, save_every, processes, shared, until))


@app.command()
def up(
    recipes: Annotated[list[str], typer.Argument(metavar="[RECIPE]...", help="Recipes to serve.")] = ["micro", "tiny"],  # noqa: B006
    runs: Runs = Path("runs"),
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Prefect's pages, on loopback.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of MLflow's pages, on loopback.")] = 5000,
    server: Server = "",
    mlflow: Mlflow = "",
    depot: Depot = "",
    device: Annotated[
        str, typer.Option(help="With --server: the device that this machine gives, or none.", envvar="R1_DEVICE")
    ] = "",
) -> None:
    """Start Prefect, MLflow and a runner of the flows: trigger, watch, resume and audit in a browser.

    With --server it starts no servers but works for a shared installation (see mlflow/README.md).
    """
    from flows import up as serving
    from flows.plan import given_device
    from flows.shared import Installation

    if server:
        serving.join(runs, recipes, Installation.at(server, mlflow, depot), given_device(device))
    else:
        serving.up(runs, recipes, prefect_port, mlflow_port)


@app.command()
def show(recipe: Recipe, changes: Changes = [], runs: Runs = Path("runs")) -> None:  # noqa: B006
    """Print the plan: which stage is done, which would run, and which changed setting or parent is why."""
    from flows import recipe as recipes
    from flows.inspect import inspect
    from flows.plan import outdated, plan, reasons

    loaded = recipes.load(recipe, changes)
    inspect(loaded)
    for step in plan(loaded, runs):
        state = "done" if step.artifact.done else "would run"
        print(f"{step.index + 1:>3} {step.artifact.name:<36} {state:<10} {step.artifact.key}")
        if outdated(step):
            print(f"      warning: the source of {step.artifact.stage} changed since, its version did not")
        if not step.artifact.done:
            for reason in reasons(step, runs, loaded.name):
                print(f"      {reason}")


@app.command()
def check(
    recipe: Recipe,
    changes: Changes = [],  # noqa: B006
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1; the best there is when left out.")] = "",
    processes: Processes = 0,
) -> None:
    """Try a recipe without making anything: its rows, gold answers, base, time and memory; exit code 1 for a fault."""
    from flows import recipe as recipes
    from flows.check import check as told
    from flows.inspect import inspect
    from flows.plan import default_device, launcher_for, usable

    loaded = recipes.load(recipe, changes)
    inspect(loaded)
    faults = 0
    where = usable(device) if device else default_device()
    for line, fault in told(loaded, where, launcher_for(processes, where).processes):
        print(line)
        faults += fault
    print(f"{faults} would fail" if faults else "nothing found that would fail")
    raise typer.Exit(1 if faults else 0)


@app.command()
def trace(
    identity: Annotated[
        str, typer.Argument(metavar="ID", help="micro/r1, an artifact's key, or a row in one: micro/dev3/ROW.")
    ],
    runs: Runs = Path("runs"),
    down: Annotated[
        bool,
        typer.Option("--down", help="What came of it: of a row, the checkpoints that learned from it."),
    ] = False,
    rows: Annotated[bool, typer.Option("--rows", help="Of a checkpoint: every row that it saw.")] = False,
) -> None:
    """Follow a row, a dataset or a checkpoint up to the base, or down to what was made from it."""
    from flows import trace as tracing

    told = tracing.down if down else tracing.rows if rows else tracing.lines
    for line in told(identity, runs):
        print(line)


@app.command()
def curate(
    recipe: Recipe,
    changes: Changes = [],  # noqa: B006
    runs: Runs = Path("runs"),
    part: Annotated[str, typer.Option(help="Which set: rejection or cold.")] = "rejection",
    sweep: Annotated[
        str,
        typer.Option(
            metavar="SETTING=A,B,C",
            help="A build for each value of a filter's threshold or of max_rows, and a curve of rows kept and quality.",
        ),
    ] = "",
    truth: Annotated[Path | None, typer.Option(help="Of a sweep: JSONL or Parquet with id and planted defect.")] = None,
    name: Annotated[
        str,
        typer.Option(help="Call the build NAME/rejection_rows; RECIPE-what-if when left out, until the next."),
    ] = "",
    plain: Annotated[bool, typer.Option("--plain", help="Without Prefect and MLflow, as plain functions.")] = False,
) -> None:
    """Build another set from the trajectories that a recipe has, without sampling again, or from your own.

    Your own are those of rejection.trajectories (path, map, columns), and no model is needed then. The set is the one
    that the same change would give in a run, and a run takes it. The last line printed is its folder, or the curve's.
    """
    from flows import curate as what_if
    from flows import recipe as recipes

    loaded = recipes.load(recipe, changes, absent=what_if.NO_MODELS)
    print(what_if.run(what_if.ask(loaded, runs, part, sweep, truth, name), runs, plain))


@app.command()
def diff(
    before: Annotated[str, typer.Argument(metavar="BUILD", help="micro/rejection_rows, or a build's key.")],
    after: Annotated[str, typer.Argument(metavar="BUILD")],
    runs: Runs = Path("runs"),
) -> None:
    """Show how the second of two builds of a fine-tuning set differs from the first: in settings, and in rows gained
    and lost by reason, domain and language, with examples."""
    from flows.diff import lines

    for line in lines(before, after, runs):
        print(line)


@app.command(help=help_text())
def sql(
    query: Annotated[str, typer.Argument(metavar="[SELECT]", help="The question; a prompt when left out.")] = "",
    runs: Runs = Path("runs"),
    jsonl: Annotated[bool, typer.Option("--jsonl", help="JSON lines instead of a table.")] = False,
) -> None:
    """Ask all runs at once."""
    from flows import sql as asking

    if query:
        asking.answer(query, runs, jsonl)
    else:
        asking.prompt(runs)


@app.command()
def verify(runs: Runs = Path("runs")) -> None:
    """Check every file of every artifact against its record; exit code 1 where one was changed or is missing."""
    from flows.keep import broken

    found = 0
    for line in broken(runs):
        found += 1
        print(line)
    print("everything is as it was made" if not found else f"{found} broken")
    raise typer.Exit(1 if found else 0)


@app.command()
def gc(
    runs: Runs = Path("runs"),
    delete: Annotated[bool, typer.Option("--delete", help="Delete it; only shown otherwise.")] = False,
) -> None:
    """Show what no recipe's last run needs, and what deleting it would free."""
    from flows.keep import collect_garbage

    for line in collect_garbage(runs, delete):
        print(line)


@app.command()
def redteam(recipe: Recipe, changes: Changes = [], runs: Runs = Path("runs")) -> None:  # noqa: B006
    """Let known cheats at a recipe's rewards; exit code 1 where one gets through. RL stages ask the same first."""
    from flows import recipe as recipes
    from flows.redteam import lines

    states = []
    for line, state in lines(recipes.load(recipe, changes), runs):
        print(line)
        states.append(state)
    through, unpromised = states.count("OPEN"), states.count("open")
    print(f"\n{through} got through; {unpromised} open, since resource limits do not promise to hold them")
    raise typer.Exit(1 if through else 0)


@app.command()
def score(
    file: Annotated[
        Path, typer.Argument(help="JSONL or Parquet: prompt, solution, completion, optionally verifier, language.")
    ],
    template: Annotated[
        str, typer.Option(help="auto, by each row's tags; zero: <answer> tags; chat: a summary after </think>.")
    ] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Processes at a time that judge what no exact rule does.")] = 2,
    allow_rlimit: Annotated[
        bool, typer.Option("--allow-rlimit", help="Run programs under resource limits alone where no room can be had.")
    ] = False,
    judge: Annotated[
        str, typer.Option(help="For rows of the verifier judge: the address before /chat/completions, or a policy.")
    ] = "",
    judge_model: Annotated[str, typer.Option(help="The model to ask for at the judge's address.")] = "default",
    runs: Runs = Path("runs"),
) -> None:
    """Print a verdict for each row of a file, with every part of its reward, as JSON lines on standard output."""
    from flows.score import score as print_scores

    print_scores(file, template, workers, allow_rlimit, judge, judge_model, runs)


@app.command()
def chat(
    identity: Annotated[str, typer.Argument(metavar="ID", help="micro/r1, or a checkpoint's key.")],
    runs: Runs = Path("runs"),
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.6,
    max_tokens: Annotated[int, typer.Option(min=1, help="A longer answer is cut off.")] = 256,
) -> None:
    """Talk to a checkpoint; the thinking and the summary are shown apart. An empty line or Ctrl-D ends."""
    from flows.chat import converse

    converse(identity, runs, temperature, max_tokens)


@app.command()
def export(
    identity: Annotated[str, typer.Argument(metavar="ID", help="micro/r1, micro/rejection_rows, or a key.")],
    folder: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    runs: Runs = Path("runs"),
) -> None:
    """Write a checkpoint as a Hugging Face folder of its own, or a fine-tuning set as Parquet and as JSON lines in
    chat form, which datasets.load_dataset, Polars and DuckDB load."""
    from flows.export import export as write
    from flows.trace import find

    print(write(find(identity, runs), folder))


def main() -> None:
    """Run the command line; bad input is one line on standard error and exit code 2."""
    try:
        sys.exit(app(standalone_mode=False))
    except typer.Abort:
        sys.exit(130)
    except ValueError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    except Exception as error:
        if not type(error).__module__.startswith(("click", "typer")):
            raise
        message = error.format_message() if hasattr(error, "format_message") else str(error)
    print(f"r1: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
