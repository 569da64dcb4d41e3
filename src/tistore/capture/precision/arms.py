"""Arms of a comparison of precisions: how a base is loaded in each, and what it is called then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from tistore.capture.config import BaseConfig, Quantization, RunConfig
from tistore.capture.models.architecture import build_skeleton, load_architecture
from tistore.capture.models.quantization import ROUNDED_BITS, refuse_wrong_weights
from tistore.errors import ConfigError, ModelLoadError, nearest
from tistore.schemas.model import PRECISIONS, name_in_precision
from tistore.store.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Arm:
    """
    A precision that a base can be loaded in.

    Attributes:
        name: One of `PRECISIONS`.
        dtype: Of the parameters that are not quantized, and of what runs through the model.
        quantization: Of the linear layers within the blocks; None for none.
    """

    name: str
    dtype: Literal["bfloat16", "float16", "float32"]
    quantization: Quantization | None = None

    def configure(self, config: RunConfig, name: str) -> RunConfig:
        """Have a run's base loaded in this precision, alone and under another name."""
        base = config.base.model_copy(
            update={"name": name, "dtype": self.dtype, "quantization": self.quantization}
        )
        return config.model_copy(update={"base": base, "bases": (), "organisms": ()})

    def require_libraries(self) -> None:
        """
        Check that what quantizes the weights is installed.

        Raises:
            ModelLoadError: It is not.
        """
        needs_library = self.quantization is not None and self.quantization not in ROUNDED_BITS
        if needs_library and find_spec("bitsandbytes") is None:
            raise ModelLoadError(
                f"{self.name} weights are made by bitsandbytes, which is not installed",
                mend=f"install tistore[capture], or leave {self.name} out of --arms",
            )

    def require_right_weights(self, config: RunConfig) -> None:
        """
        Check that this machine would get a run's base right in this precision.

        Raises:
            ModelLoadError: It would not, or there is no such base.
        """
        if self.quantization != "4bit":
            return
        base = self.configure(config, config.base.name).base
        try:
            refuse_wrong_weights(base, build_skeleton(base))
        except ModelLoadError as error:
            raise ModelLoadError(
                f"{self.name}: {error.message}",
                mend=f"{error.mend}; or leave {self.name} out of --arms",
            ) from error


# Quantized weights are used with bfloat16 states: then they differ from bf16 by nothing else.
ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("fp32", "float32"),
        Arm("bf16", "bfloat16"),
        Arm("fp16", "float16"),
        Arm("int8", "bfloat16", "8bit"),
        Arm("nf4", "bfloat16", "4bit"),
        Arm("int4", "bfloat16", "int4 (rounded)"),
        Arm("int3", "bfloat16", "int3 (rounded)"),
    )
}
"""Every arm by its name."""
assert tuple(ARMS) == PRECISIONS


def find_arms(names: Sequence[str]) -> list[Arm]:
    """
    Find arms by their names, each once.

    Raises:
        ConfigError: There is no such arm; the nearest is named.
        ModelLoadError: One needs a library that is not installed.
    """
    for name in names:
        if name not in ARMS:
            raise ConfigError(f"there is no precision {name!r}", mend=nearest(name, ARMS))
    found = [ARMS[name] for name in dict.fromkeys(names)]
    for arm in found:
        arm.require_libraries()
    return found


def name_reader(snapshot: Snapshot, config: RunConfig, arm: Arm) -> str:
    """
    Name who reads in a precision: a run's base where it is loaded so anyway, else a copy of it.

    The base is what the store knows by its name; what the configuration says, where it knows none.

    Raises:
        ModelLoadError: There is no such base.
    """
    base = config.base
    known = snapshot.models.get(base.name)
    if known is None or known.dtype is None:
        is_own = (base.quantization, _name_dtype(base)) == (arm.quantization, arm.dtype)
    else:
        is_own = (known.quantization, known.dtype) == (arm.quantization, arm.dtype)
    return base.name if is_own else name_in_precision(base.name, arm.name)


def _name_dtype(base: BaseConfig) -> str:
    """Name the dtype that a base has once it is loaded."""
    if base.dtype != "auto":
        return base.dtype
    return str(load_architecture(base).dtype or "float32").removeprefix("torch.")
