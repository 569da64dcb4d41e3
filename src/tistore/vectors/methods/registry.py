"""Methods by their names."""

from __future__ import annotations

from collections.abc import Sequence

from tistore.errors import ConfigError, nearest
from tistore.vectors.methods.discriminant import fit_discriminant
from tistore.vectors.methods.feature_machine import fit_feature_machine
from tistore.vectors.methods.fit import Method
from tistore.vectors.methods.gradient import fit_gradient
from tistore.vectors.methods.mean_difference import fit_mean_difference
from tistore.vectors.methods.on_clean import ON_CLEAN, on_clean
from tistore.vectors.methods.probe import fit_probe
from tistore.vectors.methods.random_direction import draw_direction

METHODS: dict[str, Method] = {
    "mean_diff": fit_mean_difference,
    "probe": fit_probe,
    "gradient": fit_gradient,
    "lda": fit_discriminant,
    "rfm": fit_feature_machine,
    "random": draw_direction,
}


def find_method(name: str, massive: Sequence[int] | None = None) -> Method:
    """
    Find a method by its name, such as "probe" or "probe-on-clean".

    Args:
        name: The name, as the `method` of a vector has it.
        massive: Dimensions of the site that a name with "-on-clean" leaves out, as
            `MassiveDims` finds them; other names do not look at them.

    Raises:
        ConfigError: There is no such method, or it leaves out dimensions that are not given.
    """
    base = name.removesuffix(ON_CLEAN)
    if base not in METHODS:
        raise ConfigError(f"there is no method {name!r}", mend=nearest(base, METHODS))
    if base == name:
        return METHODS[base]
    if massive is None:
        raise ConfigError(
            f"{name} leaves out massive dimensions, and they are not known",
            mend=f"find them first: tistore calibrate STORE; or fit {base}",
        )
    return on_clean(METHODS[base], massive)
