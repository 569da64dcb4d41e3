"""Options of the commands that have scenarios vetted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tistore.errors import ConfigError

if TYPE_CHECKING:
    from tistore.vectors.vetting.kept import KeepRule
    from tistore.vectors.vetting.options import VettingOptions

JudgeUrl = Annotated[
    str | None,
    typer.Option(
        "--judge",
        metavar="URL",
        help="OpenAI-compatible address, such as http://localhost:8000/v1.",
    ),
]
JudgeModel = Annotated[str | None, typer.Option("--judge-model", help="The judging model there.")]
JudgeKey = Annotated[
    str,
    typer.Option("--judge-key", metavar="VARIABLE", help="Environment variable with its key."),
]
JudgeTimeout = Annotated[
    float, typer.Option("--judge-timeout", min=0.01, help="Seconds for one request.")
]
JudgeConcurrency = Annotated[
    int, typer.Option("--judge-concurrency", min=1, help="Requests under way at once.")
]
Threshold = Annotated[
    str, typer.Option(help="Least score of a positive, largest of a negative scenario.")
]
Paired = Annotated[bool, typer.Option("--paired", help="Keep whole pairs only.")]
Minimum = Annotated[int, typer.Option(min=1, help="Scenarios each side must keep.")]
Words = Annotated[
    int, typer.Option(min=0, help="First words of a response the judge sees; 0 for all.")
]

KEY_VARIABLE = "TISTORE_JUDGE_KEY"


def read_rule(threshold: str, paired: bool, minimum: int) -> KeepRule:
    """
    Make a rule of what the command line says.

    Raises:
        ConfigError: The threshold is not two scores.
    """
    from tistore.vectors.vetting.kept import KeepRule
    from tistore.vectors.vetting.options import read_threshold

    positive_min, negative_max = read_threshold(threshold)
    return KeepRule(positive_min, negative_max, paired, minimum)


def read_vetting(
    url: str | None,
    model: str | None,
    *,
    key_variable: str = KEY_VARIABLE,
    timeout_seconds: float = 60.0,
    concurrency: int = 8,
    threshold: str = "60/40",
    paired: bool = False,
    minimum: int = 10,
    words: int = 16,
) -> VettingOptions | None:
    """
    Make vetting options of what the command line says; None where no judge is named.

    Raises:
        ConfigError: Something of it makes no sense.
    """
    if url is None:
        return None
    if model is None:
        raise ConfigError("--judge needs to know which model to ask", mend="add --judge-model NAME")
    from tistore.vectors.vetting.endpoint import JudgeEndpoint
    from tistore.vectors.vetting.options import VettingOptions

    endpoint = JudgeEndpoint(
        url,
        model,
        key_variable=key_variable,
        timeout_seconds=timeout_seconds,
        concurrency=concurrency,
    )
    return VettingOptions(endpoint, words or None, read_rule(threshold, paired, minimum))
