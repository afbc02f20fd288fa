"""The ``pmt`` command. Options, tables and exit codes are here; the work is done elsewhere.

Whatever computes is imported by the command that needs it, so that help and complaints about usage come at once.
"""

from __future__ import annotations

import contextlib
import glob
import io
import json
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from pmtlib import __version__
from pmtlib.errors import SIGNALS, ConfigError, PMTError, interrupt, interrupted, show_slowness
from pmtlib.intake import collect, shown

if TYPE_CHECKING:
    import torch

    from pmtlib.adding import Addition
    from pmtlib.audit import Audit
    from pmtlib.inventory import Check
    from pmtlib.pipeline import Summary
    from pmtlib.report import Shard

DONE, SOME_FAILED, NOTHING_DONE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
_MANY_ROWS = 60

EXIT_CODES = (
    "Exit codes: 0 done, with warnings too; 1 inputs could not be processed (the report says which), a full disk or "
    "lack of memory ended the work, or a check failed; 2 wrong usage, or nothing to do or done; 130 interrupted, "
    "143 ended by SIGTERM (what is done is kept; run again to go on)."
)

app = typer.Typer(
    name="pmt",
    add_completion=False,
    invoke_without_command=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Obfuscate face photographs for the recognition services you authorise (PMT), and measure who else "
    "recognises them. It is no protection to rely on: `pmt verify` and `pmt audit` show some of what is left.",
    epilog=EXIT_CODES,
)


class _ListByDefault(TyperGroup):
    """``pmt networks`` and ``pmt networks NAME...`` list; ``add`` and ``remove`` are commands of their own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["list", *args]
        return super().parse_args(ctx, args)


networks_app = typer.Typer(
    cls=_ListByDefault,
    help="Recognition networks: `pmt networks [NAME...]` lists them; add one from a checkpoint, or remove it.",
)
app.add_typer(networks_app, name="networks")
assets_app = typer.Typer(
    invoke_without_command=True, help="Weights and sample photographs: where they are, and fetching them."
)
app.add_typer(assets_app, name="assets")
cache_app = typer.Typer(invoke_without_command=True, help="What pmtlib keeps on this machine, and deleting it.")
app.add_typer(cache_app, name="cache")

JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output on standard output.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no table.")]
VariantOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="pmt, as published; deep, one late map matched; decoy (experimental), drawn towards nobody's face.",
        show_default="pmt",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", show_default=True)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave the process with its exit code; an error is one line on standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if sys.platform == "win32" and arguments is None:
        given = _expanded(given)
    # Wherever it stands among the options; behind a "--" it is a file's name.
    options = given[: given.index("--")] if "--" in given else given
    debug = "--debug" in options
    given = [option for option in options if option != "--debug"] + given[len(options) :]
    code = NOTHING_DONE
    for stream in (sys.stdout, sys.stderr):
        # A terminal that lacks a letter of a file's name must not end the work.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    try:
        with _terminable(), warnings.catch_warnings():
            # Libraries' warnings are for programmers: commands say what a user must know. -W and PYTHONWARNINGS count.
            if not debug and not sys.warnoptions:
                warnings.simplefilter("ignore")
                show_slowness()
            try:
                code = _run(given)
            except Exception as error:
                # A library may put an error of its own in the place of the interruption.
                if SIGNALS or (isinstance(error, ImportError) and interrupted(error)):
                    raise KeyboardInterrupt from error
                raise
            sys.stdout.flush()
    except KeyboardInterrupt:
        if debug:
            raise
        ended = signal.SIGTERM in SIGNALS
        _complain(f"{'ended' if ended else 'interrupted'}; what was finished is kept, run again to go on")
        code = TERMINATED if ended else INTERRUPTED
    except BrokenPipeError:
        if debug:
            raise
        _drop_output()
        _complain("the reader of the output is gone")
        code = SOME_FAILED
    except PMTError as error:
        if debug:
            raise
        _complain(str(error))
    except UnicodeEncodeError as error:
        if debug:
            raise
        _complain(f"the name of a file cannot be written in {error.encoding}, this locale's; set PYTHONUTF8=1")
    except OSError as error:
        if debug:
            raise
        _drop_output()
        place = f"{error.filename}: " if error.filename is not None else ""
        _complain(f"{place}{error.strerror or error}; make room or check the permissions, and run again")
    except Exception as error:
        if debug:
            raise
        said = " ".join(str(error).split())[:300]
        _complain(f"unexpected {type(error).__name__}: {said}; run again with --debug and report what it shows")
    sys.exit(code)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, which schedulers and shutdowns send, do what Ctrl-C does, and note both in ``SIGNALS``."""
    SIGNALS.clear()
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        SIGNALS.append(number)
        # A training waits until an update is whole, whichever of the two it is.
        usual = signal.getsignal(signal.SIGINT)
        if not callable(usual):
            raise KeyboardInterrupt
        usual(signal.SIGINT, frame)

    signal.signal(signal.SIGTERM, end)
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if usual is signal.default_int_handler:
            signal.signal(signal.SIGINT, usual)


def _expanded(arguments: Sequence[str]) -> list[str]:
    """Patterns such as ``*.jpg`` as the files that they fit, which the shells of Windows leave to the program."""
    return [one for argument in arguments for one in (sorted(glob.glob(argument)) or [argument])]  # noqa: PTH207


def _run(arguments: list[str]) -> int:
    """Dispatch; click's own complaints about usage become one line as well."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("pmt", arguments) as context:
            code = command.invoke(context)
    except typer.Exit as leave:
        return leave.exit_code
    except Exception as error:
        # Typer brings its own copy of click or uses the installed one, by its version: the class is not importable.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        where = getattr(error, "ctx", None)
        help_of = "pmt" if where is None else where.command_path
        raise ConfigError(f"{message().rstrip('.')}; see `{help_of} --help`") from error
    return code if isinstance(code, int) else DONE


def _drop_output() -> None:
    """Let go of a standard output that takes nothing: flushing it again at exit would complain a second time."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str) -> None:
    line = shown(" ".join(message.split()))
    try:
        print(f"error: {line}", file=sys.stderr)
    except OSError:
        # Standard error is gone too; the exit code still tells.
        return


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pmt {__version__}")
        raise typer.Exit(DONE)


@app.callback()
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(DONE)


@app.command(epilog=EXIT_CODES)
def protect(
    photos: Annotated[
        list[str], typer.Argument(metavar="PHOTOS...", help="Photographs, and folders with all below them.")
    ],
    authorise: Annotated[
        list[str],
        typer.Option(
            "--authorise",
            "--authorize",
            "-a",
            metavar="NETWORK[,...]",
            help="Networks that shall recognise the results; `pmt networks` lists them. Commas, or given repeatedly.",
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", metavar="DIR", help="Folder of the results and the report.")],
    largest: Annotated[bool, typer.Option("--largest", help="Only the largest face of a photograph.")] = False,
    aligned: Annotated[bool, typer.Option("--aligned", help="PHOTOS are aligned 112x112 crops already.")] = False,
    min_face: Annotated[
        int | None,
        typer.Option(min=1, metavar="PIXELS", help="Shorter side below which a face is refused.", show_default="32"),
    ] = None,
    features: Annotated[
        bool,
        typer.Option("--features", help="Write obfuscated shallow features (safetensors) instead of an image."),
    ] = False,
    cut: Annotated[
        str | None,
        typer.Option(
            metavar="UNITS",
            help="Where the networks are cut: units, a unit's name, or a map's size; the variant deep has 7x7.",
            show_default="5",
        ),
    ] = None,
    variant: VariantOption = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML of the transform's fields; see `pmt config`.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Updates (K of Algorithm 1).")] = None,
    step_size: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Change of a step (alpha); fractions as 4/255.")
    ] = None,
    rule: Annotated[str | None, typer.Option(help="raw, sign, l1, mean-abs or adam.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Base of all randomness, with the photograph's pixels and the networks' names. A secret one keeps who "
            "has a photograph from telling its upload by the noise that it starts from."
        ),
    ] = None,
    precision: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Faces optimised together; where short batches are filled up, 1 is fastest."),
    ] = None,
    device: DeviceOption = "auto",
    force: Annotated[bool, typer.Option("--force", help="Do again what is done.")] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Do the I-th of N parts, beside other shards; `env` takes I and N from Slurm or torchrun.",
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(help="local, or ray: a cluster, and addresses as s3://bucket/folder (pip install -e '.[ray]')."),
    ] = "local",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Obfuscate the faces of photographs.

    DIR gets NAME.png for the largest face of NAME.jpg, NAME-face2.png for the next and so on, in the folders that
    PHOTOS has; two photographs that would share a name keep their suffix (NAME.jpg.png). With --features it is
    NAME.NETWORK.safetensors, and model-card.json beside them. report.jsonl has a line a face, report.txt the same as
    a table. What is done with the same photograph and configuration is not done again. A result that an authorised
    network itself rejects at its threshold, or that took no step, is written and warned about.

    With --shard, processes on one or several machines share the work and DIR; each has a report of its own,
    report-I-of-N.jsonl, and the next run without --shard does what is left and gathers them into report.jsonl.
    """
    # Before anything large is imported, and before the folder is made.
    part = None if shard is None else _shard(shard, os.environ)
    if engine not in ("local", "ray"):
        raise ConfigError(f"--engine: {shown(engine)!r} is none; there are local and ray")
    if engine == "ray" and part is not None:
        raise ConfigError("--shard is for --engine local; Ray shares the work itself")
    for place in (*photos, out):
        if engine == "local" and "://" in place and not os.path.lexists(place):
            raise ConfigError(f"{shown(place)} is an address, which needs --engine ray")
    if engine == "local":
        collect([Path(photo) for photo in photos], Path(out))
    _warm_up(quiet)
    from pmtlib import cluster, devices, faces, pipeline
    from pmtlib.settings import configure

    given = {
        "steps": steps,
        "step_size": None if step_size is None else _fraction(step_size),
        "rule": rule,
        "seed": seed,
        "precision": precision,
        "batch_size": batch_size,
    }
    job = pipeline.Job(
        photos=[Path(photo) for photo in photos],
        out=Path(out),
        authorised=_listed(authorise),
        config=configure(config, given, variant),
        cut=None if cut is None else _cut(cut),
        largest=largest,
        aligned=aligned,
        min_face=faces.MIN_FACE if min_face is None else min_face,
        features=features,
        device=devices.for_process(device, os.environ) if shard == "env" else device,
        force=force,
        shard=part,
    )
    show = not quiet
    if show and not as_json and engine == "local":
        _warn_of_slowness(devices.resolve(device), job.config.precision)
    summary = cluster.run(job, photos, out, show=show) if engine == "ray" else pipeline.run(job, show=show)
    if as_json:
        _print_json(summary.to_dict())
    elif not quiet:
        _show_rows(summary)
        if summary.batch_size is not None:
            print(
                f"warning: memory sufficed for {_count(summary.batch_size, 'face')} at once: images that were made so "
                "may differ in their last bits from those of a full batch (batch_size in the report)"
            )
        for name in summary.torn:
            print(f"warning: {shown(name)} cannot be read, and its faces were done again; remove it")
        print(_sentence(summary, out, part))
    if summary.stopped:
        _complain(summary.stopped)
        return SOME_FAILED if summary.done else NOTHING_DONE
    return SOME_FAILED if summary.failed else DONE


def _warn_of_slowness(device: torch.device, precision: str) -> None:
    from pmtlib import devices

    if devices.crawls(device, precision):
        print(f"warning: this processor has no instructions for {precision}; float32 is far faster on it")


def _show_rows(summary: Summary) -> None:
    """Faces that are done, warnings and what failed, as far as that fits a screen or two; report.txt has all."""
    from pmtlib.report import table

    failed = [row for row in summary.rows if row.status == "failed"]
    if 0 < summary.done <= _MANY_ROWS:
        Console().print(table(summary.rows))
    warned = [row for row in summary.rows if row.warning is not None]
    for kind, rows in (("warning", warned), ("failed", failed)):
        for row in rows[:_MANY_ROWS]:
            face = "" if row.face is None or (row.faces == 1 and kind == "warning") else f", face {row.face}"
            print(f"{kind}: {shown(row.input)}{face}: {shown(row.warning or row.reason or '')}")
        if len(rows) > _MANY_ROWS:
            print(f"{kind}: {len(rows) - _MANY_ROWS} more")


def _sentence(summary: Summary, out: str, shard: Shard | None) -> str:
    from pmtlib.report import TABLE, lines_name

    done = _count(summary.done, "face") + " done"
    parts = [done + (f" ({summary.reused} by an earlier run)" if summary.reused else "")]
    if summary.replaced:
        parts.append(f"{summary.replaced} in place of results of another configuration")
    if summary.failed:
        parts.append(f"{summary.failed} failed")
    if summary.ignored:
        parts.append(f"{_count(summary.ignored, 'other file')} ignored")
    warned = f"{_count(summary.warned, 'face')} with a warning; " if summary.warned else ""
    name = "manifest/" if "://" in out else TABLE if shard is None else lines_name(shard)
    where = f"{shown(out).rstrip('/')}/{name}"
    count = _count(summary.photographs, "photograph")
    return f"{count}: {', '.join(parts)}; {warned}{summary.seconds:.0f} s{_spent(summary)}; see {where}"


def _spent(summary: Summary) -> str:
    """Where the time of a longer run went; finding faces goes on beside the rest."""
    stages = summary.stages
    if summary.seconds < 10 or not any(stages.values()):
        return ""
    optimising, finding, writing = (f"{stages[name]:.0f} s" for name in ("optimising", "finding", "writing"))
    return f" (optimising {optimising}, reading and finding faces beside it {finding}, writing {writing})"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


@app.command(epilog=EXIT_CODES)
def verify(
    original: Annotated[
        Path,
        typer.Argument(
            metavar="ORIGINAL", help="The photograph; its largest face counts. Exactly 112x112 is an aligned crop."
        ),
    ],
    protected: Annotated[
        Path, typer.Argument(metavar="PROTECTED", help="What `pmt protect` saved: a PNG or a safetensors file.")
    ],
    networks: Annotated[
        list[str] | None,
        typer.Option("--networks", "-n", metavar="NETWORK[,...]", help="All whose weights are here, by default."),
    ] = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="ORIGINAL is an aligned 112x112 crop.")] = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> int:
    """Say which networks recognise a protected image as its photograph, and how much of it can be seen.

    PROTECTED is judged as it was saved; no face is looked for in it. A network accepts where the cosine of its two
    embeddings is above its calibrated threshold, that of its highest accuracy on LFW (`pmt audit` has another, of a FAR
    of 1e-2). What is rejected here may still be restored or recognised by somebody who knows the filter.
    """
    collect([original], Path(os.devnull))
    collect([protected], Path(os.devnull))
    _warm_up(as_json)
    from pmtlib.verify import compare

    found = compare(original, protected, _listed(networks or []), aligned=aligned, device=device)
    if as_json:
        _print_json(found.to_dict())
        return DONE
    shape = _table(("network", ""), ("cosine", "r"), ("threshold", "r"), ("verdict", ""))
    for opinion in found.networks:
        shape.add_row(opinion.network, _number(opinion.cosine), _number(opinion.threshold), _coloured(opinion.verdict))
    Console().print(shape)
    if found.uploaded == "image":
        measures = ("SSIM", found.ssim), ("PSNR", found.psnr), ("LPIPS-VGG", found.lpips_vgg)
        shown_measures = (*measures, ("LPIPS-AlexNet", found.lpips_alex))
        print("  ".join(f"{name} {_number(value)}{' dB' if name == 'PSNR' else ''}" for name, value in shown_measures))
    print(f"original: {found.original}")
    if found.note:
        print(found.note)
    return DONE


@app.command(epilog=EXIT_CODES)
def audit(
    originals: Annotated[Path, typer.Argument(metavar="ORIGINALS", help="A photograph, or the folder of them.")],
    protected: Annotated[
        Path, typer.Argument(metavar="PROTECTED", help="Its PNG, or the output folder of `pmt protect`.")
    ],
    authorise: Annotated[
        list[str] | None,
        typer.Option(
            "--authorise",
            "--authorize",
            "-a",
            metavar="NETWORK[,...]",
            help="Networks that may recognise it; those of the report by default.",
        ),
    ] = None,
    networks: Annotated[
        list[str] | None,
        typer.Option("--networks", "-n", metavar="NETWORK[,...]", help="Attackers; all whose weights are here."),
    ] = None,
    learn: Annotated[
        str | None,
        typer.Option(
            metavar="SET",
            help="Also train two networks on these people: a set of PMT_DATA, a folder, or `samples`. Without "
            "a GPU it takes minutes for `samples` and hours for a large set.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates of each of those trainings.")] = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="ORIGINALS are aligned 112x112 crops.")] = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Attack one's own protected photographs as someone would who knows the filter.

    Every filter at every strength, attribute networks and, with --learn, a network that has seen other people's
    uploads and one that translates what they match to embeddings of other networks. Recognised means: above the
    threshold of a FAR of 1e-2 on LFW (for translations: among people held out), held against the photograph itself. The
    best strength is picked by looking at the result, in the attacker's favour. Nothing is written but
    what --learn has trained, into the cache.
    """
    for given in (originals, protected):
        collect([given], Path(os.devnull))
    _warm_up(quiet or as_json)
    from pmtlib import audit as own

    if steps is not None and learn is None:
        raise ConfigError("--steps is of the trainings that --learn asks for; give both or neither")
    cases, failed = own.gather(originals, protected, aligned=aligned)
    found = own.run(
        cases,
        authorised=_listed(authorise or []),
        networks=_listed(networks or []) or None,
        learn=learn,
        steps=steps,
        device=device,
        failed=failed,
        show=not quiet,
    )
    if as_json:
        _print_json(found.to_dict())
    else:
        _show_audit(found)
    return SOME_FAILED if found.failed else DONE


def _show_audit(found: Audit) -> None:
    from pmtlib import metrics

    console = Console()
    columns = [("attack", ""), ("others %", "r"), ("cosine", "r"), ("SSIM", "r"), ("highest SSIM", "r"), ("of", "fold")]
    shape = _table(*columns)
    print("Means over the networks that are not authorised, and over faces:")
    strength = {attack.name: "" if attack.strength is None else f" {attack.strength:g}" for attack in found.attacks}
    for attack in found.attacks:
        shape.add_row(
            attack.name + strength[attack.name],
            f"{100 * attack.others:.0f}",
            _number(attack.cosine),
            f"{attack.ssim:.2f}",
            f"{attack.ssim_highest:.2f}",
            shown(attack.worst),
        )
    console.print(shape)
    console.print()
    print(
        f"Faces of {found.faces} that a network recognises as their photograph, at a FAR of 1e-2, with 95% Wilson "
        "interval; highest: after any one attack:"
    )

    def rate(share: float) -> str:
        low, high = metrics.wilson(round(share * found.faces), found.faces)
        return f"{100 * share:.0f} [{100 * low:.0f}, {100 * high:.0f}]"

    columns = [("network", ""), ("as it is %", "r"), ("highest %", "r"), ("threshold", "r")]
    if found.translated:
        columns += [("translated %", "r"), ("threshold", "r")]
    detail = _table(*columns)
    for name, share in found.service.items():
        empty = [""] * (len(columns) - 4)
        detail.add_row(f"{name} (service)", rate(share), "", _number(found.thresholds[name]), *empty)
    for name, share in found.attacks[0].accepted.items():
        highest = max(attack.accepted[name] for attack in found.attacks)
        cells = [name, rate(share), rate(highest), _number(found.thresholds[name])]
        if name in found.translated:
            cells += [rate(found.translated[name]), _number(found.translation_thresholds[name])]
        detail.add_row(*cells)
    console.print(detail)
    if found.attributes:
        console.print()
        read = _table(("same attribute read", ""), ("as it is %", "r"), ("best attack %", "r"))
        for name, (plain, best) in found.attributes.items():
            read.add_row(name, f"{100 * plain:.0f}", f"{100 * best:.0f}")
        console.print(read)
    console.print()
    print(found.verdict)
    if found.note:
        print(found.note)
    for name, why in found.failed.items():
        print(f"failed: {shown(name)}: {shown(why)}")


@networks_app.command("list", epilog=EXIT_CODES)
def networks(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="All, by default.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Verify with each now; one at chance is refused.")] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure the stored figures and thresholds anew.")
    ] = False,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SET", help="lfw, cfp_ff, ..., samples or a path; for --check, --calibrate."),
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """List the networks: size, training set, licence, accuracy, threshold, and whether the weights are here."""
    if check and calibrate:
        raise ConfigError("--check and --calibrate exclude each other; give one")
    if sets and not (check or calibrate):
        raise ConfigError("--set needs --check or --calibrate")
    if check and len(sets or []) > 1:
        raise ConfigError("--check takes one --set")
    _warm_up(quiet or as_json)
    from pmtlib import inventory

    chosen = _listed(names or [])
    if check:
        return _show_checks(inventory.check(chosen, sets[0] if sets else None, device=device, show=not quiet), as_json)
    if calibrate:
        count = inventory.calibrate(chosen, sets or (), device=device, show=not quiet)
        if as_json:
            _print_json({"stored": count})
        elif not quiet:
            print(f"{_count(count, 'operating point')} {'is' if count == 1 else 'are'} stored")
        return DONE
    rows = inventory.networks(chosen)
    if as_json:
        _print_json([row.to_dict() for row in rows])
        return DONE
    shape = _table(
        ("network", ""),
        ("parameters", "r"),
        ("accuracy", "r"),
        ("TAR@1e-3", "r"),
        ("threshold", "r"),
        ("weights", "fold"),
    )
    origin = _table(("network", ""), ("training set", "fold"), ("loss", "fold"), ("licence", "fold"))
    for row in rows:
        accuracy = "-" if row.accuracy is None else f"{row.accuracy:.4f} ({row.dataset})"
        shape.add_row(
            row.name,
            f"{row.parameters / 1e6:.2f} M",
            accuracy,
            _number(row.tar_far_1e3),
            _number(row.threshold),
            escape(row.source),
        )
        origin.add_row(row.name, *map(escape, (row.training_set, row.loss, row.licence)))
    console = Console()
    console.print(shape)
    console.print()
    console.print(origin)
    return DONE


@networks_app.command("add", epilog=EXIT_CODES)
def add_network(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="onnx, or whose checkpoint it is: robfr, evolve (face.evoLVe), insightface (arcface_torch), facenet, "
            "deepface, timm.",
        ),
    ],
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", metavar="FILE", help="A file of torch.save, or an ONNX file.")
    ],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="By which you will ask for it.")],
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="The backbone's name in timm.")] = None,
    channels: Annotated[
        str,
        typer.Option(
            help="rgb, bgr, or auto: by the file's name, else as is usual, unless the other is surely better."
        ),
    ] = "auto",
    mean: Annotated[
        float | None,
        typer.Option(help="Subtracted from 0..255 (onnx, deepface, timm); measured where it is not given."),
    ] = None,
    scale: Annotated[float | None, typer.Option(help="The difference is divided by it.")] = None,
    sets: Annotated[
        str | None,
        typer.Option(
            "--set",
            metavar="SET",
            help="Verified on: lfw, cfp_ff, ..., samples or a path.",
            show_default="the first at hand",
        ),
    ] = None,
    replacing: Annotated[bool, typer.Option("--replace", help="Replace an added network of that name.")] = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Add the network of a checkpoint: recognise its architecture, verify with it, keep it unless it is at chance."""
    _warm_up(quiet or as_json)
    from pmtlib import adding

    if channels not in get_args(adding.Channels):
        raise ConfigError(f"no channel order {channels!r}; give rgb, bgr or auto")
    found = adding.add(
        checkpoint,
        kind,
        name,
        model=model,
        channels=cast(adding.Channels, channels),
        mean=mean,
        scale=scale,
        dataset=sets,
        device=device,
        replacing=replacing,
        show=not quiet,
    )
    if as_json:
        _print_json(found.to_dict())
    elif not quiet:
        _print_addition(found)
    return DONE


def _print_addition(found: Addition) -> None:
    record, measured = found.record, found.measured
    order = "BGR" if record.bgr else "RGB"
    print(
        f"{record.name}: {record.title} ({record.architecture}), {record.parameters / 1e6:.2f} M parameters, "
        f"{record.embedding} dimensions, input {order} (x - {record.mean:g}) / {record.scale:g}"
    )
    shape = "x".join(map(str, list(found.units.values())[record.default_cut - 1]))
    last = list(found.units)[record.default_cut - 1]
    print(f"{_count(len(found.units), 'unit')}, cut by default behind unit {record.default_cut}, {last}, at {shape}")
    if found.ignored:
        print(f"left out, as it belongs to the training: {_count(found.ignored, 'tensor')}")
    if found.tried:
        tried = ", ".join(f"{label} {area:.4f}" for label, area in found.tried.items())
        print(f"input by AUC: {tried}")
    low, high = measured.accuracy_interval
    print(
        f"{measured.dataset}, {measured.n} pairs: accuracy {measured.accuracy_mean:.4f} [{low:.4f}, {high:.4f}], "
        f"TAR@1e-3 {measured.tar_far_1e3:.3f}, threshold {measured.threshold_accuracy:.3f}"
    )
    if found.published is not None:
        print(f"its publisher gives {found.published:.4f} on LFW")
    if found.note:
        print(found.note)
    print(f"stored; use it as --authorise {record.name}")


@networks_app.command("remove", epilog=EXIT_CODES)
def remove_network(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An added network.")], quiet: QuietOption = False
) -> int:
    """Remove a network that was added; those of the package stay."""
    from pmtlib import added

    added.remove(name)
    if not quiet:
        print(f"{name} is removed")
    return DONE


def _show_checks(checks: Iterable[Check], as_json: bool) -> int:
    found = list(checks)
    if as_json:
        _print_json([check.to_dict() for check in found])
    else:
        shape = _table(
            ("network", ""), ("set", ""), ("pairs", "r"), ("accuracy", "r"), ("stored", "r"), ("AUC", "r"), ("", "fold")
        )
        for check in found:
            stored = "-" if check.stored is None else f"{check.stored.accuracy_mean:.4f}"
            if check.measured is None:
                why = Text("at chance", style="red") if check.refused else escape(check.absent)
                shape.add_row(check.name, escape(check.dataset), "", "", stored, "", why)
            else:
                measured = check.measured
                accuracy = f"{measured.accuracy_mean:.4f} ± {measured.accuracy_std:.4f}"
                shape.add_row(
                    check.name,
                    escape(check.dataset),
                    str(measured.n),
                    accuracy,
                    stored,
                    f"{measured.auc:.4f}",
                    "stands",
                )
        Console().print(shape)
    for check in found:
        if check.refused:
            _complain(check.refused)
    if any(check.refused for check in found):
        return SOME_FAILED
    return DONE if any(check.measured for check in found) else NOTHING_DONE


@app.command("train-recface", epilog=EXIT_CODES)
def train_recface(
    network: Annotated[str, typer.Option("--network", "-n", metavar="NETWORK", help="Whose features are attacked.")],
    cut: Annotated[
        str, typer.Option(metavar="UNITS", help="Units of the shallow model: a number or a unit's name.")
    ] = "5",
    data: Annotated[
        str,
        typer.Option(
            metavar="SET",
            help="A set of PMT_DATA or a folder of aligned crops or of people, or `samples` (a handful of faces).",
        ),
    ] = "lfw_rest",
    steps: Annotated[int | None, typer.Option(min=1, help="Updates.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, max=4096, help="Images an update.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="Of weights, order and augmentation.")] = None,
    device: DeviceOption = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder of the result; in the cache by default.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on from the last checkpoint, or start anew.")
    ] = True,
    quiet: QuietOption = False,
) -> int:
    """Train the network that reconstructs faces from shallow features (black-box attack, Eq. 1).

    It sees the shallow model's features of other people's photographs, and nothing else. Experiments find the result in
    the cache by network, cut, configuration and people. An interrupted training goes on from its last checkpoint.
    """
    _warm_up(quiet)
    from pmtlib import devices, zoo
    from pmtlib.attacks import reconstruction
    from pmtlib.progress import progress_bar
    from pmtlib.shallow import ShallowModel

    zoo.card(network)
    given = {"steps": steps, "batch_size": batch_size, "seed": seed}
    base = reconstruction.SAMPLE_CONFIG if data == "samples" else reconstruction.RecFaceConfig()
    config = base.model_copy(update={name: value for name, value in given.items() if value is not None})
    people = reconstruction.training_people(data)
    shallow = ShallowModel(zoo.load(network), _cut(cut), name=network).to(devices.resolve(device))
    key = reconstruction.recface_key(zoo.weights_checksum(network), shallow.cut, config, people.fingerprint)
    folder = out or reconstruction.recface_folder(key)
    if data == "samples" and not quiet:
        print(f"trains on {', '.join(people.names)}; not on {', '.join(reconstruction.ATTACKED)}")
    with progress_bar("RecFace", config.steps, show=not quiet) as advance:
        reconstruction.train_recface(shallow, people, config, folder=folder, progress=advance, resume=resume)
    if not quiet:
        last = reconstruction.recface_record(folder)["curve"][-1]
        if last["val_ssim"] is not None:
            print(f"on people held out: SSIM {last['val_ssim']:.3f}, PSNR {last['val_psnr']:.2f} dB")
        print(f"{_count(last['step'], 'step')}: {shown(folder)}")
    return DONE


@app.command(epilog=EXIT_CODES)
def train(
    corpus: Annotated[
        str,
        typer.Argument(
            metavar="CORPUS",
            help="A folder of people, a set of PMT_DATA, InsightFace's train.rec, or WebDataset shards; aligned crops.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of state, checkpoint and curve.")],
    architecture: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="mobileface, ir-50, resnet-50, iresnet-100, mobilenet, ...", show_default="mobileface"
        ),
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="softmax, sphereface, cosface, arcface.", show_default="arcface")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the corpus.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Images an update, of all processes.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="At its highest.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.", show_default="float32")] = None,
    held_out: Annotated[int | None, typer.Option(min=0, help="People left out, for the curve.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="Of weights, order and mirroring.")] = None,
    file: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="YAML; options go before it.")] = None,
    validate: Annotated[
        str | None, typer.Option(metavar="SET", help="A verification set for the curve: lfw, cfp_ff, ... or a path.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images.")] = 0,
    device: DeviceOption = "auto",
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on from the last checkpoint, or start anew.")
    ] = True,
    quiet: QuietOption = False,
) -> int:
    """Train a recognition network (Section 6.1), with the accuracy on people it has not seen as it goes.

    On several GPUs: `torchrun --nproc-per-node 4 -m pmtlib train ...`. An interrupted training goes on from its last
    checkpoint. The result is a checkpoint for `pmt networks add`.
    """
    first = os.environ.get("RANK", "0") == "0"
    quiet = quiet or not first
    _warm_up(quiet)
    from pmtlib import datasets, devices, settings
    from pmtlib.progress import progress_bar
    from pmtlib.training import corpora, recogniser

    given = {
        "architecture": architecture,
        "head": head,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "precision": precision,
        "held_out": held_out,
        "seed": seed,
    }
    chosen = settings.layered(
        recogniser.RecogniserConfig, file, given, "the reference of pmtlib.training.recogniser lists them"
    )
    place = devices.resolve(devices.for_process(device, os.environ))
    if not quiet:
        _warn_of_slowness(place, chosen.precision)
    people = corpora.load_corpus(corpus)
    pairs = None if validate is None else datasets.load(validate)
    steps = recogniser.updates(people, chosen)
    with progress_bar("training", steps, show=not quiet) as advance:
        done = recogniser.train_recogniser(
            people, chosen, out, device=place, pairs=pairs, resume=resume, workers=workers, progress=advance
        )
    if not quiet:
        last = done.record["curve"][-1]
        for label, title in (("held_out", "people held out"), ("validation", validate or "")):
            if label in last:
                low, high = last[label]["interval"]
                print(
                    f"{title}: accuracy {last[label]['accuracy']:.4f} [{low:.4f}, {high:.4f}], {last[label]['n']} pairs"
                )
        model = shown(out / recogniser.MODEL)
        print(f"use it: pmt networks add {done.publisher} --checkpoint {model} --channels rgb --name NAME")
    return DONE


@app.command()
def config(variant: VariantOption = None) -> None:
    """Print a variant's default configuration as YAML, each field explained; for `pmt protect --config`."""
    _warm_up(True)
    from pmtlib import settings

    print(settings.as_yaml(settings.configure(variant=variant)), end="")


@assets_app.callback()
def _assets(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(DONE)


@assets_app.command("list")
def list_assets(as_json: JsonOption = False) -> None:
    """List the files: size, licence, and where each is or can come from. Downloads nothing."""
    from pmtlib import assets

    rows = assets.status()
    if as_json:
        _print_json(
            [
                {
                    "name": row.name,
                    "bytes": row.size,
                    "licence": row.licence,
                    "where": row.where,
                    "present": row.where in ("cache", "PMT_WEIGHTS"),
                    "fault": row.fault or None,
                }
                for row in rows
            ]
        )
        return
    shape = _table(("asset", ""), ("MB", "r"), ("where", ""), ("licence", "fold"))
    for row in rows:
        where = f"{row.where}; {row.fault}" if row.fault else row.where
        shape.add_row(row.name, f"{row.size / 1e6:.1f}", Text(shown(where)), escape(row.licence))
    Console().print(shape)


@assets_app.command("fetch", epilog=EXIT_CODES)
def fetch_assets(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="By default all that can be downloaded.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every file; those that cannot be downloaded are complained about.")
    ] = False,
    quiet: QuietOption = False,
) -> int:
    """Fetch files and check them; what is here already is not fetched again."""
    from pmtlib import assets

    chosen = _listed(names or [])
    if chosen and everything:
        raise ConfigError("--all and names exclude each other; give one")
    for name in chosen:
        assets.asset(name)
    chosen = chosen or [name for name in assets.ASSETS if everything or assets.obtainable(name)]
    failed = 0
    for group in _same_origin(chosen):
        try:
            for name, path in assets.fetch(group).items():
                if not quiet:
                    print(f"{name}: {shown(path)}")
        except PMTError as error:
            failed += 1
            _complain(str(error))
    if not chosen:
        raise ConfigError("nothing can be downloaded here; see `pmt assets list`")
    return SOME_FAILED if failed else DONE


@cache_app.callback()
def cache_files(context: typer.Context, as_json: JsonOption = False) -> None:
    """What pmtlib keeps on this machine, and deleting it."""
    if context.invoked_subcommand is not None:
        return
    from pmtlib import cache, paths

    rows = cache.usage()
    if as_json:
        _print_json({"folder": str(paths.cache_dir()), "kinds": [one._asdict() for one in rows]})
    else:
        shape = _table(("kind", ""), ("files", "r"), ("MB", "r"), ("what it is", "fold"))
        for one in rows:
            shape.add_row(one.kind, str(one.files), f"{one.size / 1e6:.1f}", cache.KINDS[one.kind])
        print(f"in {shown(paths.cache_dir())}, which PMT_CACHE can change:")
        Console().print(shape)
    raise typer.Exit(DONE)


@cache_app.command("clear", epilog=EXIT_CODES)
def clear_cache(
    kinds: Annotated[list[str] | None, typer.Argument(metavar="[KIND...]", help="As listed; all by default.")] = None,
    quiet: QuietOption = False,
) -> int:
    """Delete what is cached; it is fetched or computed again when it is needed."""
    from pmtlib import cache

    gone = cache.clear(_listed(kinds or []))
    if not quiet:
        size = sum(one.size for one in gone) / 1e6
        print(f"{_count(sum(one.files for one in gone), 'file')} deleted, {size:.1f} MB")
    return DONE


def _same_origin(names: Iterable[str]) -> list[list[str]]:
    """Names in groups that come from the same archive, so that it is downloaded once."""
    from pmtlib import assets

    groups: dict[Any, list[str]] = {}
    for name in names:
        sources = [getattr(source, "archive", None) for source in assets.asset(name).sources]
        groups.setdefault(next((source for source in sources if source is not None), name), []).append(name)
    return list(groups.values())


def _listed(values: Iterable[str]) -> list[str]:
    """Names given by commas, by repetition, or both; each once."""
    return list(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))


def _fraction(text: str) -> float:
    try:
        above, _, below = text.partition("/")
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"--step-size: {shown(text)!r} is no number; give one as 0.016 or 4/255") from error


def _cut(text: str) -> int | str:
    """A number of units, or a unit's name."""
    return int(text) if re.fullmatch(r"-?\d{1,9}", text) else text


def _shard(text: str, environment: Mapping[str, str]) -> Shard:
    """A part of the photographs from ``I/N``, or from what Slurm or torchrun says of a process."""
    if text == "env":
        # Torchrun first: Slurm may have started it, as one task.
        for rank, count in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
            if environment.get(rank, "").isdecimal() and count in environment:
                text = f"{int(environment[rank]) + 1}/{environment[count]}"
                break
        else:
            raise ConfigError("--shard env: neither Slurm nor torchrun says which part this is; give I/N")
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--shard: {shown(text)!r} is no part; give I/N with I from 1 to N, as 2/8")
    return int(match[1]), int(match[2])


def _warm_up(quiet: bool) -> None:
    """Say that something is going on while the large libraries are imported."""
    if not quiet and sys.stderr.isatty() and "torch" not in sys.modules:
        with Console(stderr=True).status("loading"):
            import torch  # noqa: F401


def _table(*columns: tuple[str, str]) -> Table:
    """A plain table; ``r`` is right-aligned, ``fold`` may take several lines."""
    shape = Table(box=None, pad_edge=False, header_style="bold")
    for name, kind in columns:
        overflow: Any = "fold"
        shape.add_column(name, justify="right" if kind == "r" else "left", overflow=overflow, no_wrap=kind != "fold")
    return shape


def _coloured(verdict: str | None) -> Text:
    return Text(verdict or "no threshold", style={"accepted": "green", "rejected": "red"}.get(verdict or "", ""))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, allow_nan=False))


if __name__ == "__main__":
    main()
