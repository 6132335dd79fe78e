"""From an exception to one sentence, for errors that a user's file, key or machine can cause. Our own faults keep
their traceback.

Code that knows more (which key, which sample) raises UserError itself. The other exceptions are sorted here, by their
type and by the package that raised them.
"""

from __future__ import annotations

import errno
import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from diptych.base.errors import NotTaken, UserError
from diptych.base.files import PACKAGE, refused
from diptych.base.terminal import shell
from diptych.commands.overrides import wrong_override

MACHINE = {  # what to do when the system refuses
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room in the quota",
    errno.EROFS: "name a folder that can be written",
    errno.EMFILE: "raise `ulimit -n`, or take fewer workers",
    errno.ENFILE: "close files of other programs",
    errno.ENOMEM: "take a smaller data.batch_size, or fewer workers",
    errno.EACCES: "change its permissions, or name another",
    errno.EPERM: "change its permissions, or name another",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path, a part of it is not a folder",
    errno.EISDIR: "name a file, not a folder",
    errno.ENAMETOOLONG: "take a shorter name",
    errno.ELOOP: "remove the link that leads to itself",
    errno.EIO: "look at the disk",
}
TO_GIVE = {
    "checkpoint": "RUN_DIR or a checkpoint file",
    "data.path": "DIR",
    "format": "diptych, openai, open_clip or huggingface",
    "out": "a new name",
}


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those that caused it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def user_error(error: BaseException | None) -> UserError | None:
    """The UserError that Hydra or Lightning wrapped, if any."""
    return next((each for each in chain(error) if isinstance(each, UserError)), None)


def sentence(error: BaseException, conf: Path, command: str = "", arguments: Sequence[str] = ()) -> str | None:
    """One sentence for a user's error, None for a fault of ours.

    conf: the folder of configs; command, arguments: the command line, if composing its config may have failed
    """
    if found := user_error(error):
        return _without(found, arguments) if isinstance(found, NotTaken) else str(found)
    if said := refused(error):
        return said
    if isinstance(error, InstantiationException):
        return _not_built(error)
    if isinstance(error, HydraException | OmegaConfBaseException) or _raised_by(error, "hydra", "omegaconf"):
        if command and (wrong := wrong_override(conf, command, arguments)):
            return wrong
        if isinstance(error, HydraException | OmegaConfBaseException):
            return _of_config(error)
        return None
    if isinstance(error, RuntimeError) and "not used in producing" in str(error):  # torch's words, and Lightning's
        return (
            "On several ranks every trained parameter needs a gradient, and this loss gives some none: freeze what it"
            " does not use, such as finetune.logit_scale=false for a loss without a temperature."
        )
    return _of_machine(error)


def _without(error: NotTaken, arguments: Sequence[str]) -> str:
    """What to type instead: if the command line gave the key, the same command line without it."""
    given = next((each for each in arguments if each.lstrip("+").partition("=")[0] == error.key), None)
    return str(error) if given is None else f"{error.what}: leave {shell(given)} out{error.other}."


def _of_config(error: BaseException) -> str:
    """OmegaConf's or Hydra's message, with the key and without their advice."""
    for each in chain(error):
        key = getattr(each, "full_key", None)
        if behind := re.search(r"Missing mandatory value: ([\w.]+)", str(each)):
            key = behind[1]  # the key that was asked for only refers to it
        if key and (behind or isinstance(each, MissingMandatoryValue)):
            return f"{key}= is missing: type {key}={TO_GIVE.get(key, 'VALUE')}."
        if key and isinstance(each, OmegaConfBaseException):
            return f"{key} can't be read: {_one_line(str(each))}."
    return f"{_one_line(str(error))}."


def _one_line(text: str) -> str:
    """Without OmegaConf's lines about the position and Hydra's link to its manual."""
    lines = [
        line.strip() for line in text.split("\n") if not re.match(r"\s*(full_key|object_type|reference_type)", line)
    ]
    return re.sub(r" ?See https?://\S+( for details)?", "", " ".join(filter(None, lines))).rstrip(".")


def _not_built(error: InstantiationException) -> str | None:
    """For a part of the config that its class refuses. A TypeError raised by our own code is a fault of ours."""
    cause = error.__cause__
    if isinstance(cause, ValueError | ArithmeticError | RuntimeError) or (
        isinstance(cause, TypeError) and not _raised_by(cause, "diptych")
    ):
        found = re.search(r"target '([^']+)'(?s:.*)full_key: (\S+)", str(error))
        where = f"{found[2]} ({found[1]})" if found else "A part of the config"
        return f"{where} can't be built: {_one_line(str(cause))}: look at its values (`--cfg job` prints them)."
    if cause is None or isinstance(cause, ImportError):
        return f"A part of the config can't be built: {_one_line(str(error)).partition(', set env')[0]}."
    return None


def _raised_by(error: BaseException, *packages: str) -> bool:
    """Whether the innermost frame of an error is in one of these packages."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    name = "" if frame is None else str(frame.tb_frame.f_globals.get("__name__", ""))
    return name.partition(".")[0] in packages


def _of_machine(error: BaseException) -> str | None:
    """For files, disks, memory, network and packages."""
    if isinstance(error, OSError):
        remedy = MACHINE.get(error.errno or 0)
        if error.filename is not None and not Path(str(error.filename)).is_relative_to(PACKAGE):
            return f"{error.filename}: {error.strerror}: {remedy or 'name another'}."
        return f"The system refuses: {error.strerror}: {remedy}." if remedy and error.errno != errno.ENOENT else None
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            "Out of memory: take a smaller data.batch_size, trainer.accumulate=K, or a smaller model"
            f" ({_one_line(str(error))[:200] or type(error).__name__})."
        )
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if package != "diptych" and importlib.util.find_spec(package) is None:
            return f"{package} is not installed, and this needs it: type `pip install {package}`."
    return None
