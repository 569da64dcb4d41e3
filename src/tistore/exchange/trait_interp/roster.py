"""The models of an experiment, as records of the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from tistore.datasets.trait_interp.config import ExperimentConfig, Variant
from tistore.errors import KeyConflictError
from tistore.schemas.model import Model


class Roster:
    """
    Finds the model behind a variant's name.

    Args:
        config: The experiment's.
        quantization: How all of them were loaded; no file says it.
        stored: Models the store knows, by name. One that says the same and more is taken for the
            experiment's own.
    """

    def __init__(
        self, config: ExperimentConfig, quantization: str | None, stored: Mapping[str, Model]
    ) -> None:
        self._config = config
        self._quantization = quantization
        self._stored = stored

    def resolve(self, variant: str | None) -> Variant:
        """
        Find a variant; None is the application model.

        Raises:
            ConfigError: No variant is named, and the experiment has no application model.
        """
        return self._config.resolve(variant)

    def name(self, variant: str | None) -> str:
        """Name the model of a variant; see `resolve`."""
        return self.resolve(variant).name

    def describe(self, variant: str | None) -> Model:
        """
        Describe the model of a variant.

        Raises:
            KeyConflictError: The store has another model of this name.
        """
        found = self.resolve(variant)
        model = Model(
            found.name,
            base_id=found.model,
            adapter_id=found.lora,
            quantization=self._quantization,
        )
        stored = self._stored.get(found.name)
        if stored is None:
            return model
        told = {key: value for key, value in asdict(model).items() if value is not None}
        for key, value in told.items():
            held = getattr(stored, key)
            if held != value:
                raise KeyConflictError(
                    f"the store's model {found.name!r} has {key} {held!r}, the experiment's "
                    f"{value!r}",
                    mend="import into another store, or rename the variant in a copy",
                )
        # An adapter or a precision one side does not mention is a different model.
        if (stored.adapter_id, stored.quantization) != (model.adapter_id, model.quantization):
            raise KeyConflictError(
                f"the store's model {found.name!r} has adapter {stored.adapter_id!r} and "
                f"quantization {stored.quantization!r}, the experiment's {model.adapter_id!r} and "
                f"{model.quantization!r}",
                mend="give --quantization as the store has it, or import into another store",
            )
        return stored

    @property
    def declared(self) -> tuple[Model, ...]:
        """Every model that `config.json` names."""
        return tuple(self.describe(variant.name) for variant in self._config.variants)
