"""What options with a choice may be: the command line lists it in its help, and refuses anything else.

These words stand here, and not where they are meant, because the command line must start without loading PyTorch; a
test holds them against the tables of the library.
"""

from typing import Annotated, Any, Literal, get_args

import typer

__all__ = [
    "AnnealerMode",
    "ConditionMethod",
    "Correction",
    "Device",
    "DeviceOption",
    "ImageSet",
    "LearningProtocol",
    "MachineSampler",
    "Protocol",
    "Sampler",
    "SlipPolicy",
    "Start",
    "listed",
]

Device = Literal["auto", "cpu", "cuda"]
Sampler = Literal["gibbs", "annealer"]
AnnealerMode = Literal["ideal", "calibrated", "stress"]
ConditionMethod = Literal["fold", "fields", "flux"]
SlipPolicy = Literal["reject", "repair", "report"]
Protocol = Literal["before-each", "once", "once-with-wait", "one-read-per-call", "same-reads", "tracked", "tiled"]
LearningProtocol = Literal["same-reads", "tracked"]
Correction = Literal["none", "polish", "importance"]
Start = Literal["chains", "data", "coins"]
MachineSampler = Literal["gibbs", "tempering", "trajectory"]
ImageSet = Literal["mnist", "fashion-mnist"]


def listed(kind: Any, word: str, sentence: str) -> Any:  # noqa: ANN401
    """An option whose choices are too long for the narrow column of the help: they stand in its text.

    Args:
        kind: The choice, a ``Literal``.
        word: What stands for it in the column.
        sentence: What the option is.
    """
    return typer.Option(metavar=word, help=f"{sentence}: {', '.join(get_args(kind))}.")


DeviceOption = Annotated[Device, typer.Option(help="Where the work is done.")]
