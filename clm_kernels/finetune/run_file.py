"""``run.yaml``: what a run was, for people to read and to edit, and for `train` to do again.

Every option stands in it with the value that was used, beside SHA-256s of all files that were read, and the versions of what ran.
Relative paths are those that were given, from the folder in which the command was.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

from .. import strangers
from ..errors import refuse, require
from ..extras import needs
from ..files import write_atomically
from .circumstances import other_versions, versions
from .config import PARTS, PATHS, TrainConfig
from .keys import check_names, nearest, typed
from .outputs import OF_TRANSFORMERS, READ

FORMAT = "clm_kernels.run/1"
FORGOTTEN = ("resume", "overwrite")  # of the moment, and the second would replace what is repeated
MOST, DEPTH = 1 << 18, 3
HEAD = """\
# What this run was. Again: clm-kernels train --config run.yaml --output NEW
# Options beside --config stand before what is written here; what is left out here has its default.
# Relative paths start where the command is given. The SHA-256s under files say what was read.
"""


@dataclass(frozen=True)
class RunFile:
    """What stands in a file.

    Attributes:
        options: by their names, as far as they are there.
        files: SHA-256s by option: of a file one, of a folder one for each file in it.
        versions: of what ran, by name.
    """

    path: str
    options: dict[str, Any]
    files: dict[str, Any]
    versions: dict[str, str]


def save_run_file(path: Path, config: TrainConfig, versions: Mapping[str, str]) -> None:
    """Writes what was run: a config with what ``auto`` stands for, and hashes of all that it reads."""
    yaml = needs("yaml", "train")
    parts = {name: asdict(getattr(config, name)) for name in PARTS}
    parts["run"] = {name: value for name, value in parts["run"].items() if name not in FORGOTTEN}
    content = {"format": FORMAT, **parts, "files": hashes(config.options()), "versions": dict(versions)}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
    write_atomically(path, (HEAD + text).encode())


def mend_run_file(path: Path, config: TrainConfig, versions: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Writes the file of a run that goes on anew, where it does not say what the run is: edited, broken or gone.

    Paths may be written in another way; of a run within minutes, which decides options as it goes, only a broken one is mended.
    """
    free = (*PATHS, *FORGOTTEN, "keep_checkpoints")
    try:
        told = TrainConfig().options() | load_run_file(path).options
        others = [name for name, value in config.options().items() if name not in free and told[name] != value]
        if not others or config.training.minutes is not None:
            return
    except ValueError:
        pass
    say(f"{path.name} is not what the run was begun with, and is written anew, with absolute paths")
    save_run_file(path, config, versions)


def begun_with(path: Path, config: TrainConfig) -> dict[str, Any]:
    """The options of a run by its own file, which has the paths as they were given; by `config` where that cannot be read any more."""
    try:
        return load_run_file(path).options
    except ValueError:
        return config.options()


def load_run_file(path: str | os.PathLike) -> RunFile:
    """What a file says; nothing that it names is looked at.

    Raises:
        ValueError: if there is none, it is not of this form, or has a key that there is not (names it and the nearest one).
    """
    name = strangers.cut(repr(os.fspath(path)), 4096)
    content = _parsed(path, name)
    told = content.pop("format", FORMAT)
    require(told == FORMAT, "train", name, f"a run file of the format {FORMAT}", strangers.brief(told))
    files, versions = content.pop("files", {}), content.pop("versions", {})
    hashed = strangers.fits(files, {str: (str, {str: str})}) and strangers.fits(versions, {str: str})
    require(hashed, "train", name, "a run file with names and texts under files and versions", "something else")
    options: dict[str, Any] = {}
    for part, given in content.items():
        require(part in PARTS, "train", name, f"a run file with known keys ({nearest(part)})", strangers.brief(part))
        given = given or {}  # nothing stands after the colon
        require(isinstance(given, dict), "train", f"{name}, {part}", "keys and values", strangers.brief(given))
        check_names((f"{part}.{option}" for option in given), name)
        for option, value in given.items():
            found = {str: "", list: "a list", dict: "keys and values"}[type(value)]
            require(not found, "train", f"{name}, {part}.{option}", "one value", found)
            options[option] = typed(option, value, f"{name}, {part}.{option}")
    return RunFile(str(path), options, files, versions)


def config_from(file: RunFile, options: Mapping[str, Any], say: Callable[[str], None]) -> TrainConfig:
    """The config that a file and the options beside it make; says in one line which of these replace what, and other versions.

    Raises:
        ValueError: if a file or folder that is read is another than it was, and is not named anew.
    """
    unwritten = TrainConfig().options() | file.options
    others = {name: value for name, value in options.items() if name in unwritten and value != unwritten[name]}
    if others:
        told = (f"{name} {value!r} in place of {unwritten[name]!r}" for name, value in others.items())
        say(f"{file.path}, but {', '.join(told)}")
    check_files(file, options)
    if different := other_versions(file.versions, versions() if file.versions else {}):
        say(f"{file.path} was written with other versions ({different}): results may differ in their last bits")
    default = TrainConfig().options()
    written = {name: value for name, value in file.options.items() if value != default[name]}
    return TrainConfig(**written | dict(options))


def read_run(path: str | os.PathLike, say: Callable[[str], None] = print, **options: Any) -> TrainConfig:
    """The config of a run file, for `train` to do again what it says.

    Args:
        say: takes a line about what is not as in the file.
        options: by their names, in place of what the file says.

    Raises:
        ValueError: as `load_run_file` and `config_from`.
    """
    return config_from(load_run_file(path), options, say)


def hashes(options: Mapping[str, Any]) -> dict[str, Any]:
    """SHA-256s of what the options name, as far as it lies on a disk."""
    found = {name: _hashes(Path(options[name]), name == "model") for name in READ if options[name]}
    return {name: value for name, value in found.items() if value}


def check_files(file: RunFile, given: Iterable[str]) -> None:
    """Raises ValueError for the first file or folder that is another than it was, and is not among the options given anew."""
    known = {name: value for name, value in file.files.items() if name in READ and name not in given}
    for name, expected in known.items():
        path, same = Path(file.options.get(name, "")), f"what {file.path} was written with"
        require(path != Path() and path.exists(), "train", name, same, f"{str(path)!r}, which is not there")
        now = _hashes(path, name == "model")
        changed = f"{path}, which has changed{_which(expected, now)} (give --{name} anew to take it as it is)"
        require(now == expected, "train", name, same, changed)


def _which(before: Any, now: Any) -> str:
    if not isinstance(before, dict) or not isinstance(now, dict):
        return ""
    first = min((name for name in before.keys() | now.keys() if before.get(name) != now.get(name)), default="")
    return f": {strangers.cut(first)}"


def _hashes(path: Path, model: bool) -> Any:
    """Of a model's folder those files count that are read."""
    if path.is_file():
        return _sha256(path)
    names = sorted(one.name for one in path.iterdir() if one.is_file()) if path.is_dir() else []
    read = [name for name in names if not model or any(fnmatch(name, pattern) for pattern in OF_TRANSFORMERS)]
    return {name: _sha256(path / name) for name in read}


def _sha256(path: Path) -> str:
    """Of a file that is as it was, as a base of several runs, it is not read again."""
    state = path.stat()
    return _digest(path.absolute(), (state.st_ino, state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=256)
def _digest(path: Path, state: tuple[int, ...]) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parsed(path: str | os.PathLike, name: str) -> dict[str, Any]:
    """Of scalars their texts: what 1e-3, 0.99 or no means, the option's own type says."""
    yaml = needs("yaml", "train")
    try:
        strangers.check_file(path, "train", MOST)
        text = Path(path).read_bytes().decode("utf-8-sig")
        for wrong in _strange(yaml.parse(text, Loader=yaml.BaseLoader), yaml):
            refuse("train", name, "a run file in plain YAML", wrong)
        content = _plain(yaml.compose(text, Loader=yaml.BaseLoader), name)
    except OSError as error:
        refuse("train", name, "a run file", error.strerror)
    except (yaml.YAMLError, UnicodeError) as error:
        refuse("train", name, "a run file in YAML", strangers.cut(" ".join(str(error).split()), 200))
    require(isinstance(content, dict), "train", name, "a run file with keys and values", strangers.brief(content))
    return content


def _strange(events: Iterable[Any], yaml: Any) -> Iterator[str]:
    """What a run file has no need of, found before anything is made of it: aliases grow, tags make objects, depth overflows."""
    depth = 0
    for event in events:
        line = event.start_mark.line + 1
        if getattr(event, "anchor", None):  # an alias has one too
            yield f"an anchor or alias in line {line}"
        if getattr(event, "tag", None):
            yield f"the tag {strangers.brief(event.tag)} in line {line}"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            yield f"more than {DEPTH} levels in line {line}"


def _plain(node: Any, name: str) -> Any:
    if node is None or isinstance(node.value, str):
        return node and node.value
    if node.id == "sequence":
        return [_plain(one, name) for one in node.value]
    found: dict[str, Any] = {}
    for key, value in node.value:
        once = isinstance(key.value, str) and key.value not in found
        require(
            once, "train", f"{name}, line {key.start_mark.line + 1}", "a key that stands there once", strangers.brief(key.value)
        )
        found[key.value] = _plain(value, name)
    return found
