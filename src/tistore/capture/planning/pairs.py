"""Who may read whose responses: readings are to differ by training, and by nothing else."""

from __future__ import annotations

from tistore.capture.config import RunConfig
from tistore.capture.models.fingerprint import hash_template, hash_tokenizer
from tistore.capture.planning.footprint import name_dtype
from tistore.capture.planning.preflight import CheckedRun, CheckedWeights
from tistore.errors import ConfigError
from tistore.schemas.model import Model, compare_models


def refuse_mixed_pairs(config: RunConfig, checked: CheckedRun) -> None:
    """
    Refuse readers that differ from an author in precision, chat template or tokenizer.

    Adapters share these with their base, so that only readers with other weights can. What
    `capture.mixed` names is let through; the `pairing` of differences in the store marks it.

    Raises:
        ConfigError: A pair differs in what was not allowed; both models are named.
    """
    known = {name: _describe(name, weights) for name, weights in checked.weights.items()}
    for author in config.answerers:
        own = config.weights_of(author)
        if own is None:
            continue
        for reader in config.readers_of(author):
            other = config.weights_of(reader)
            assert other is not None  # what cannot be loaded is no reader
            for difference in compare_models(known[own], known[other]):
                if difference.aspect not in config.capture.mixed:
                    raise ConfigError(
                        f"{reader!r} is to read the responses of {author!r}, and they differ in "
                        f"{difference.aspect}: {difference.other} and {difference.one}",
                        mend=f'give both the same, or add mixed = ["{difference.aspect}"] to '
                        "[capture]: their differences will be marked",
                    )


def _describe(name: str, weights: CheckedWeights) -> Model:
    return Model(
        name=name,
        quantization=weights.config.quantization,
        dtype=name_dtype(weights.config, weights.skeleton),
        tokenizer_hash=hash_tokenizer(weights.tokenizer),
        chat_template_hash=hash_template(weights.tokenizer),
    )
