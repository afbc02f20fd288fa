"""Notebook sources to executed pages of the book: ``python -m pmtlib.runner execute`` and ``check``.

A source (``notebooks/NAME.ipynb``) holds prose, parameters and calls, and no outputs. A profile
(``notebooks/profiles/PROFILE.yaml``) holds parameter values: one top-level key a notebook, and ``common`` for
parameters that several notebooks share. The runner executes the source with the profile's values and puts the result
into ``book/results/``, from where the book shows it without executing anything; ``manifest.json`` beside it says from
which source, parameters and stored results each page came, so that :func:`check` can tell when a page is out of date.
The numbers behind figures and tables go to ``data/`` beside the pages (:mod:`pmtlib.page_data`), and the tables of all
claims and of all stored results are written anew (:mod:`pmtlib.publication`).
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from pmtlib import __version__, page_data, publication, reproduction
from pmtlib.errors import ConfigError, PMTError, ResultError
from pmtlib.images import write_atomic
from pmtlib.paths import cache_dir, data_dir, exclusive, project_dir, results_dir, weights_dir

PAGE_LIMIT = 1_500_000
"""Largest executed notebook in bytes: pages are committed, and a clone should stay small."""

MANIFEST = "manifest.json"

_TAG = "parameters"
_INJECTED = "injected-parameters"
# Metadata that changes what a page shows. Everything else comes from editors and would make a source look changed.
_MEANINGFUL_METADATA = ("tags", "mystnb")
_PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")


@dataclass(frozen=True)
class Executed:
    """What came of executing a source.

    Attributes:
        page: the notebook, normalised and checked.
        used: stored results that it was made from or looked for, by their path below the results folder.
        refused: those of them that are stored and were not used, and why.
        data: the CSV files behind its figures and tables, by name.
    """

    page: bytes
    used: frozenset[str]
    refused: Mapping[str, str]
    data: Mapping[str, bytes]


@dataclass(frozen=True)
class Source:
    """A notebook source that may be executed.

    Attributes:
        name: file name without ``.ipynb``; also its key in a profile and its folder below ``results/``.
        path: the file.
        parameters: names that its cell tagged ``parameters`` assigns.
        digest: sha256 over what matters in it: cell types, cell sources, and the metadata that a page shows.
    """

    name: str
    path: Path
    parameters: frozenset[str]
    digest: str


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str).encode()


def _shown(path: Path) -> str:
    """``path`` relative to the project where it lies inside it."""
    root = project_dir()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def notebooks_dir() -> Path:
    """Folder of the notebook sources and, below it, of the profiles."""
    return project_dir() / "notebooks"


def pages_dir() -> Path:
    """Folder of the executed notebooks, inside the book."""
    return project_dir() / "book" / "results"


def names() -> tuple[str, ...]:
    """Names of all notebook sources, sorted."""
    return tuple(sorted(path.stem for path in notebooks_dir().glob("*.ipynb")))


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}"
    return f"no {what} {name!r}; {hint}"


def read_source(name: str) -> Source:
    """Read and check one notebook source.

    Args:
        name: the file's name without ``.ipynb``.

    Raises:
        ConfigError: there is no such notebook, it is not a notebook, it has not exactly one cell tagged
            ``parameters``, or that cell does more than assign literals.
    """
    path = notebooks_dir() / f"{name}.ipynb"
    if not path.is_file():
        raise ConfigError(_unknown("notebook", name, names()))
    shown = _shown(path)
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts = ["".join(cell["source"]) for cell in cells]
        metadata = [cell["metadata"] for cell in cells]
        kinds = [cell["cell_type"] for cell in cells]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{shown} is not a notebook of format 4 ({error}); restore it or save it anew") from None
    tagged = [index for index, entry in enumerate(metadata) if _TAG in entry.get("tags", ())]
    if len(tagged) != 1:
        raise ConfigError(f"{shown} has {len(tagged)} cells tagged 'parameters'; tag exactly one")
    meaning = [
        (kind, text, {key: entry[key] for key in _MEANINGFUL_METADATA if key in entry})
        for kind, text, entry in zip(kinds, texts, metadata, strict=True)
    ]
    return Source(name, path, _assigned_literals(texts[tagged[0]], shown), _sha256(_canonical(meaning)))


def _assigned_literals(code: str, shown: str) -> frozenset[str]:
    """Names that ``code`` assigns literals to; anything else in it is refused, since a value cannot replace it."""
    try:
        statements = ast.parse(code).body
    except SyntaxError as error:
        raise ConfigError(f"{shown}: the cell tagged 'parameters' is not Python ({error.msg}); correct it") from None
    found: set[str] = set()
    for statement in statements:
        target: ast.expr | None = None
        if isinstance(statement, ast.AnnAssign):
            target = statement.target
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
        if not isinstance(target, ast.Name) or not _is_literal(getattr(statement, "value", None)):
            raise ConfigError(
                f"{shown}: {ast.unparse(statement)!r} in the cell tagged 'parameters' does not assign a literal to a"
                " name; move it to the next cell"
            )
        found.add(target.id)
    return frozenset(found)


def _is_literal(value: ast.expr | None) -> bool:
    if value is None:
        return False
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError):
        return False
    return True


def read_profile(profile: str) -> dict[str, dict[str, Any]]:
    """Parameter values of a profile, for each notebook, ``common`` merged in.

    A value under ``common`` goes to every notebook that has the parameter; the notebook's own value wins. A notebook
    with a parameter ``profile`` reads its own group, so its keys are not compared with its parameters here.

    Args:
        profile: the file's name in ``notebooks/profiles/`` without ``.yaml``.

    Returns:
        dict: notebook name -> parameter name -> value. Every notebook has an entry.

    Raises:
        ConfigError: there is no such profile, it is malformed, or it names a notebook or a parameter that does not
            exist. (papermill would pass an unknown parameter over in silence, and the page would show the default.)
    """
    folder = notebooks_dir() / "profiles"
    path = folder / f"{profile}.yaml"
    if not path.is_file():
        raise ConfigError(_unknown("profile", profile, sorted(entry.stem for entry in folder.glob("*.yaml"))))
    shown = _shown(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{shown} is not YAML ({' '.join(str(error).split())}); correct it") from None
    if not isinstance(content, dict) or not all(isinstance(group or {}, dict) for group in content.values()):
        raise ConfigError(f"{shown} must map notebook names to parameters and their values; correct it")
    groups = {str(key): dict(group or {}) for key, group in content.items()}
    common = groups.pop("common", {})
    for name in groups:
        if name not in names():
            raise ConfigError(f"{shown}: {_unknown('notebook', name, names())}")
    sources = {name: read_source(name) for name in names()}
    everywhere: set[str] = set().union(*(source.parameters for source in sources.values()))
    for parameter in common:
        if parameter not in everywhere:
            raise ConfigError(f"{shown}: common: {_unknown('parameter', parameter, sorted(everywhere))}")
    values: dict[str, dict[str, Any]] = {}
    for name, source in sources.items():
        own = groups.get(name, {})
        for parameter in own if "profile" not in source.parameters else ():
            if parameter not in source.parameters:
                raise ConfigError(f"{shown}: {name}: {_unknown('parameter', parameter, sorted(source.parameters))}")
        values[name] = {key: value for key, value in common.items() if key in source.parameters} | own
    return values


def parameters(source: Source, profile: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What is injected into a notebook: its values, or the profile's name where it has a parameter ``profile``.

    A notebook with that parameter reads its own group of the profile, for values that no parameter of it stands for.
    """
    return {"profile": profile} if "profile" in source.parameters else dict(values)


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Entries of the manifest in ``folder``, by notebook; {} when there is no manifest.

    Raises:
        ResultError: the file is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["notebooks"]
        return {str(name): dict(entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultError(f"{_shown(path)} is damaged ({error}); execute the notebooks anew: make notebooks") from None


def _write_manifest(folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    content = json.dumps({"notebooks": dict(sorted(entries.items()))}, indent=2, sort_keys=True) + "\n"
    write_atomic(folder / MANIFEST, content.encode())


def _digests(names: Iterable[str]) -> dict[str, str | None]:
    """sha256 of each stored result, by its path below the results folder; None where there is none."""
    root = results_dir()
    return {
        name: _sha256((root / name).read_bytes()) if (root / name).is_file() else None for name in sorted(set(names))
    }


def _drawn_by(name: str) -> str:
    """sha256 over the code and tables that turn stored results into the page of a notebook.

    That is every module of the experiments and figures that the source imports, or that such a module imports, and the
    stored benchmarks that these name. The version of an experiment stands in one of them.
    """
    package = Path(__file__).resolve().parent
    cells = json.loads((notebooks_dir() / f"{name}.ipynb").read_text("utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    found: set[Path] = set()
    ahead = [code]
    while ahead:
        new = _imported(ahead.pop(), package) - found
        found |= new
        ahead += [path.read_text("utf-8") for path in new]
    files = [path for path in sorted((package / "data").rglob("*.*")) if path.suffix in (".json", ".csv")]
    files += [package / "page_data.py", *sorted(found)]
    content = b"".join(path.relative_to(package).as_posix().encode() + path.read_bytes() for path in files)
    # Benchmarks have no request and no version: what they stored is part of what draws.
    benchmarks = {
        one for path in found for one in re.findall(r"\"(benchmarks/[\w-]+\.json)\"", path.read_text("utf-8"))
    }
    stored = [project_dir() / name for name in sorted(benchmarks)]
    return _sha256(content + b"".join(path.read_bytes() for path in stored if path.is_file()))


def _imported(code: str, package: Path) -> set[Path]:
    """Files of ``pmtlib.experiments`` and ``pmtlib.figures`` that some code imports; none where it is not Python."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return set()
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    parts = [module.split(".") for module in modules]
    paths = {
        package / part[1] / f"{part[2]}.py"
        for part in parts
        if len(part) > 2 and part[0] == package.name and part[1] in ("experiments", "figures")
    }
    return {path for path in paths if path.is_file()}


def _entry(source: Source, profile: str, values: Mapping[str, Any], done: Executed) -> dict[str, Any]:
    return {
        "data": {name: _sha256(content) for name, content in sorted(done.data.items())},
        "drawn_by": _drawn_by(source.name),
        "page": _sha256(done.page),
        "parameters": _sha256(_canonical(values)),
        "pmtlib": __version__,
        "profile": profile,
        "refused": dict(sorted(done.refused.items())),
        "results": _digests(done.used),
        "source": source.digest,
    }


@contextmanager
def _own_kernel() -> Iterator[str]:
    """A kernel named ``python3`` that is this interpreter, whatever the user's Jupyter folders hold.

    Neither those folders nor IPython's are read or written: profiles and start-up files of a user must not reach a
    page, and a run must leave nothing behind.
    """
    with tempfile.TemporaryDirectory(prefix="pmtlib-kernel-") as folder:
        root = Path(folder)
        spec = {
            "argv": [sys.executable, "-m", "ipykernel_launcher", "--log-level=ERROR", "-f", "{connection_file}"],
            "display_name": "Python 3",
            "language": "python",
        }
        write_atomic(root / "kernels" / "python3" / "kernel.json", json.dumps(spec).encode())
        changes: dict[str, str | None] = {
            "JUPYTER_PATH": folder,
            "JUPYTER_RUNTIME_DIR": str(root / "runtime"),
            "IPYTHONDIR": str(root / "ipython"),
            "PYTHONHASHSEED": "0",
            "TQDM_DISABLE": "1",  # a progress bar in a page would differ from run to run
            "PMT_PROFILE": None,
            "PMT_PROJECT": str(project_dir()),
        }
        before = {key: os.environ.get(key) for key in changes}
        _set_environment(changes)
        try:
            yield "python3"
        finally:
            _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for key, value in values.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


def _normalise(notebook: dict[str, Any]) -> None:
    """Take out of an executed notebook what differs between two runs of the same thing, or names this machine."""
    for number, cell in enumerate(notebook["cells"], start=1):
        cell["metadata"] = {key: cell["metadata"][key] for key in _MEANINGFUL_METADATA if cell["metadata"].get(key)}
        if "outputs" in cell:  # a finished progress bar leaves an empty output behind
            cell["outputs"] = [output for output in cell["outputs"] if not _is_empty(output)]
        cell["id"] = f"cell-{number}"  # papermill draws new ones for cells that have none
    notebook["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def _is_empty(output: Mapping[str, Any]) -> bool:
    data = output.get("data", {})
    return list(data) == ["text/plain"] and not "".join(data["text/plain"])


def _machine_folders() -> dict[str, str]:
    """Absolute folders that must not show in a page -> what each is, the most specific first."""
    folders = {
        "the data folder (PMT_DATA)": data_dir(),
        "the weights folder (PMT_WEIGHTS)": weights_dir(),
        "the cache": cache_dir(),
        "the project folder": project_dir().resolve(),
        "the Python environment": Path(sys.prefix),
        "the home folder": Path.home(),
        "the temporary folder": Path(tempfile.gettempdir()),
    }
    found: dict[str, str] = {}
    for what, folder in folders.items():
        if folder is not None and folder != Path(folder.anchor):
            found.setdefault(str(folder), what)
    return found


def _texts(value: Any) -> Iterator[str]:
    """All strings in the outputs, encoded pictures left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            if key not in _PICTURES:
                yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _refuse_machine_paths(source: Source, notebook: dict[str, Any]) -> None:
    folders = _machine_folders()
    pattern = re.compile("|".join(rf"(?<![\w./-]){re.escape(folder)}(?![\w-])" for folder in folders))
    for number, cell in enumerate(_source_cells(notebook), start=1):
        for text in _texts(cell.get("outputs", [])):
            match = pattern.search(text)
            if match:
                raise ResultError(
                    f"notebook {source.name}, cell {number}: its output shows {folders[match[0]]} of this machine;"
                    " print names, not absolute paths"
                )


def _source_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Cells as the source has them: without the one that papermill injects and the marks it leaves at an error."""
    foreign = {_INJECTED, "papermill-error-cell-tag"}
    return [cell for cell in notebook["cells"] if not foreign & set(cell["metadata"].get("tags", []))]


def _run(source: Source, values: Mapping[str, Any], kernel: str) -> Executed:
    """Execute one source in a temporary file.

    Raises:
        ResultError: a cell failed, or the page may not be published (size, paths of this machine).
    """
    import papermill
    from nbclient.exceptions import CellControlSignal, CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillException, PapermillExecutionError

    with tempfile.TemporaryDirectory(prefix="pmtlib-notebook-") as folder:
        output = Path(folder) / source.path.name
        log = Path(folder) / "results.log"
        kept_data = Path(folder) / "data" / source.name
        _set_environment({"PMT_RESULTS_LOG": str(log), page_data.VARIABLE: str(kept_data)})
        try:
            papermill.execute_notebook(
                str(source.path),
                str(output),
                parameters=dict(values),
                kernel_name=kernel,
                language="python",
                cwd=str(source.path.parent),
                progress_bar={"desc": source.name, "disable": None},
            )
        except PapermillExecutionError as error:
            kept = _keep_failed(source, output)
            cells = _source_cells(json.loads(output.read_text(encoding="utf-8")))
            number = 1 + next(
                index
                for index, cell in enumerate(cells)
                if any(part["output_type"] == "error" for part in cell.get("outputs", []))
            )
            reason = " ".join(f"{error.ename}: {error.evalue}".split())[:300]
            raise ResultError(f"notebook {source.name}, cell {number} failed: {reason}; see {kept}") from None
        except (PapermillException, CellControlSignal, CellTimeoutError, DeadKernelError) as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ResultError(f"notebook {source.name}: its kernel did not finish ({reason}); run it again") from None
        finally:
            _set_environment({"PMT_RESULTS_LOG": None, page_data.VARIABLE: None})
        notebook: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
        lines = log.read_text("utf-8").splitlines() if log.is_file() else []
        data = {path.name: path.read_bytes() for path in sorted(kept_data.glob("*.csv"))}
    _normalise(notebook)
    _refuse_machine_paths(source, notebook)
    page = (json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
    if len(page) > PAGE_LIMIT:
        raise ResultError(
            f"notebook {source.name}: the executed page has {len(page):,} bytes, more than {PAGE_LIMIT:,}; show fewer"
            " or smaller figures"
        )
    looked_for = [line.partition("\t") for line in lines]
    refused = {path: reason for path, _, reason in looked_for if reason}
    return Executed(page, frozenset(path for path, _, _ in looked_for), refused, data)


def _keep_failed(source: Source, output: Path) -> str:
    target = project_dir() / "_build" / "failed" / source.path.name
    write_atomic(target, output.read_bytes())
    return _shown(target)


def execute(
    profile: str = "paper",
    only: Sequence[str] = (),
    output_dir: Path | None = None,
    *,
    report: Callable[[str], object] = print,
) -> list[str]:
    """Execute notebooks and publish those that succeed.

    Each page is replaced, and its manifest entry written, only once its notebook has run to its end and passed the
    checks; a failure leaves the page that was there. The other notebooks are run all the same.

    Args:
        profile: parameter values, see :func:`read_profile`.
        only: names of notebooks; all of them when empty.
        output_dir: where pages and manifest go; ``book/results/`` by default.
        report: is told one line a notebook.

    Returns:
        list: one line for each notebook that failed.

    Raises:
        ConfigError: a notebook, a profile or a parameter does not exist, or a source is malformed. Nothing has run.
    """
    target = output_dir or pages_dir()
    values = read_profile(profile)
    sources = [read_source(name) for name in (only or names())]
    read_manifest(target)  # a damaged one is told of before the work, not after it
    failures: list[str] = []
    begun = time.monotonic()
    with _own_kernel() as kernel:
        for source in sources:
            started = time.monotonic()
            try:
                done = _run(source, parameters(source, profile, values[source.name]), kernel)
            except ResultError as error:
                failures.append(str(error))
                continue
            # Read anew: another process may have published a page since.
            target.mkdir(parents=True, exist_ok=True)
            with exclusive(target):
                write_atomic(target / source.path.name, done.page)
                _write_data(target / "data" / source.name, done.data)
                entry = _entry(source, profile, values[source.name], done)
                _write_manifest(target, {**read_manifest(target), source.name: entry})
            report(f"{source.name}: executed with profile {profile} in {time.monotonic() - started:.0f} s")
    report(f"{len(sources) - len(failures)} of {len(sources)} notebook(s) in {time.monotonic() - begun:.0f} s")
    if not only and target.is_dir():
        with exclusive(target):
            manifest = read_manifest(target)
            gone = set(manifest) - set(names())
            for name in gone:
                (target / f"{name}.ipynb").unlink(missing_ok=True)
                _write_data(target / "data" / name, {})
            if gone:
                _write_manifest(target, {name: entry for name, entry in manifest.items() if name not in gone})
    if target.is_dir():
        write_tables(target)
    return failures


def _write_data(folder: Path, data: Mapping[str, bytes]) -> None:
    """Publish a page's CSV files, and remove those that it no longer has."""
    for path in folder.glob("*.csv"):
        if path.name not in data:
            path.unlink()
    for name, content in data.items():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / name, content)
    if not data and folder.is_dir():
        folder.rmdir()


def write_tables(output_dir: Path | None = None) -> None:
    """Write the tables of all claims and of all stored results anew; executes nothing.

    Raises:
        ResultError: a stored result or the manifest is damaged.
    """
    target = output_dir or pages_dir()
    with exclusive(target):
        for name, content in publication.files(target, read_manifest(target), names()).items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target / name, content)


def check(output_dir: Path | None = None) -> list[str]:
    """Compare the executed pages with what they came from.

    Args:
        output_dir: folder of the pages and the manifest; ``book/results/`` by default.

    Returns:
        list: one line for each thing that is out of date; empty when every page is current.

    Raises:
        ConfigError: a source or a profile is malformed.
        ResultError: the manifest is damaged.
    """
    target = output_dir or pages_dir()
    manifest = read_manifest(target)
    stale: list[str] = []
    for name in names():
        source = read_source(name)
        entry = manifest.get(name)
        page = target / source.path.name
        if entry is None or not page.is_file():
            stale.append(f"{name}: has never been executed")
            continue
        if entry.get("source") != source.digest:
            stale.append(f"{name}: {_shown(source.path)} has changed since")
        if entry.get("parameters") != _sha256(_canonical(read_profile(str(entry.get("profile")))[name])):
            stale.append(f"{name}: its parameters in profile {entry.get('profile')} have changed since")
        if entry.get("drawn_by") != _drawn_by(name):
            stale.append(f"{name}: the code or tables of pmtlib that draw it have changed since")
        before = entry.get("results", {})
        stale += [f"{name}: {line}" for line in _changed(before, _digests(before))]
        for result, reason in entry.get("refused", {}).items():
            stale.append(
                f"{name}: stored result {result} does not answer what the page asks: {reason}; compute it again"
            )
        stale += [f"{name}: {line}" for line in _edited(target / "data" / name, entry.get("data", {}))]
        if entry.get("page") != _sha256(page.read_bytes()):
            stale.append(f"{name}: {_shown(page)} was not written by the runner")
    known = set(names())
    pages = {path.stem for path in target.glob("*.ipynb")}
    stale += [f"{name}: has a page but no source" for name in sorted((pages | set(manifest)) - known)]
    if pages:
        for name, content in publication.files(target, manifest, known).items():
            if not (target / name).is_file() or (target / name).read_bytes() != content:
                stale.append(f"{_shown(target / name)} is not what the pages and stored results give")
    return stale


def _edited(folder: Path, digests: Mapping[str, str]) -> Iterator[str]:
    """Lines about a page's CSV files that the runner did not write, or that are gone."""
    there = {path.name: _sha256(path.read_bytes()) for path in folder.glob("*.csv")}
    for name in sorted(set(digests) | set(there)):
        if digests.get(name) != there.get(name):
            yield f"{_shown(folder / name)} {'is gone' if name not in there else 'was not written by the runner'}"


def _changed(before: Mapping[str, str | None], now: Mapping[str, str | None]) -> Iterator[str]:
    for path in sorted(before):
        if before[path] == now[path]:
            continue
        state = "is new" if before[path] is None else "is gone" if now[path] is None else "has changed since"
        yield f"stored result {path} {state}"


app = typer.Typer(add_completion=False, no_args_is_help=True, help="Execute the notebooks of the book.")


def _fail(lines: Sequence[str]) -> None:
    for line in lines:
        typer.echo(line, err=True)
    if lines:
        raise typer.Exit(1)


@app.command("execute")
def _execute(
    profile: Annotated[str, typer.Option(help="A file in notebooks/profiles/, without .yaml.")] = "paper",
    only: Annotated[list[str] | None, typer.Option(help="A notebook; may be given again. All by default.")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Folder for the pages; book/results/ by default.")] = None,
) -> None:
    """Execute notebooks and put the pages into the book."""
    _fail(execute(profile, only or (), output_dir, report=typer.echo))


@app.command("check")
def _check(
    output_dir: Annotated[Path | None, typer.Option(help="Folder of the pages; book/results/ by default.")] = None,
) -> None:
    """Fail when a page is out of date, and say why."""
    stale = check(output_dir)
    _fail([*stale, "execute these notebooks anew: make notebooks"] if stale else [])
    typer.echo(f"{len(names())} executed notebook(s) up to date")


@app.command("tables")
def _tables() -> None:
    """Write anew what pages include: claims, stored results, tables of code, drawings. Executes no notebook."""
    # They read every card and weight; the other commands should not wait for it.
    from pmtlib import book_tables
    from pmtlib.figures import diagrams

    write_tables()
    for path in (*book_tables.write(), *diagrams.write()):
        typer.echo(_shown(path))


@app.command("frames")
def _frames(
    output_dir: Annotated[Path | None, typer.Option(help="Folder; book/_static/interactive/ by default.")] = None,
) -> None:
    """Make the frames of the interactive page anew."""
    # What draws is imported where it is called: the other commands should not wait for it.
    from pmtlib.figures import frames

    started = time.monotonic()
    made = frames.make(show=True)
    folder = output_dir or frames.default_folder()
    size = frames.write(made, folder, seconds=time.monotonic() - started)
    typer.echo(f"{len(made.measurements)} frames, {size:,} bytes in {_shown(folder)}")


@app.command("pdf")
def _pdf(
    output: Annotated[Path | None, typer.Option(help="The file; _build/pmtlib.pdf by default.")] = None,
) -> None:
    """Print the built book with a Chromium that is on this machine."""
    from pmtlib import printing

    target = output or project_dir() / "_build" / "pmtlib.pdf"
    size = printing.pdf(target)
    typer.echo(f"{_shown(target)}: {size:,} bytes")


@app.command("reproduced")
def _reproduced() -> None:
    """Say how many stored results were computed twice, and by how much they moved."""
    typer.echo(reproduction.summary())


def main() -> None:
    """Entry point: a user's error is one line on standard error and exit status 1."""
    try:
        app()
    except PMTError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
