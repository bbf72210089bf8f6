"""A pass for Olive, so that a prune is a step of a workflow.

Olive finds passes in a package configuration. `package_config()` is Olive's own with `OnnxPrune` in it,
for `olive.run(workflow, package_config=...)`; `python -m onnxprune.olive` prints it, for the command line.
The pass takes the options of `onnxprune.prune`, whatever these are, but for what Olive decides itself.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Union, get_type_hints

import numpy as np
from olive.common.config_utils import validate_config
from olive.common.utils import format_data
from olive.data.component.dataloader import LLMAugmentedDataLoader
from olive.data.config import DataConfig
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.package_config import OlivePackageConfig
from olive.passes import Pass
from olive.passes.pass_config import PassConfigParam

from .core.contracts import Batch
from .core.errors import DataError, ModelError, OnnxPruneError
from .pipeline.request import PruneRequest
from .pipeline.run import prune
from .pipeline.samples import Data

log = logging.getLogger("olive.onnxprune")  # Olive shows what is logged under its own name

_FROM_OLIVE = "data_config"  # the name that Olive resolves among the workflow's data
_NOT_A_PASS = (
    *("model", "output", "progress", "overwrite", "dry_run"),  # are Olive's
    *("sweep", "bench", "then"),  # make more than one model
)
_OPTIONS = {
    f.name: f.default for f in dataclasses.fields(PruneRequest) if f.name not in _NOT_A_PASS
}


def package_config() -> dict[str, Any]:
    """Return Olive's package configuration with this pass in it."""
    content = Path(OlivePackageConfig.get_default_config_path()).read_text(encoding="utf-8")
    config: dict[str, Any] = json.loads(content)
    config["passes"][OnnxPrune.__name__] = {
        "module_path": f"onnxprune.olive.{OnnxPrune.__name__}",
        "supported_providers": ["*"],
        "supported_accelerators": ["*"],
        "supported_precisions": ["*"],
        "dataset": "dataset_optional",
    }
    return config


class OnnxPrune(Pass):  # type: ignore[misc]  # Olive ships no types
    """Prunes an ONNX model; its plan goes along as an additional file of the result.

    Samples come from `data`, as of `onnxprune.prune`, or from `data_config`, one of the workflow's; with
    `labels` the second part of its batches are the labels, under that name.
    """

    @classmethod
    def _default_config(cls, accelerator_spec: object) -> dict[str, Any]:  # noqa: ARG003 - Olive's
        hints = get_type_hints(PruneRequest)
        params = {
            # in a file samples can only be named
            name: PassConfigParam(
                type_=str if hints[name] == Data | None else hints[name], default_value=default
            )
            for name, default in _OPTIONS.items()
        }
        return params | {_FROM_OLIVE: PassConfigParam(type_=Union[DataConfig, dict])}  # noqa: UP007

    @classmethod
    def generate_config(
        cls, accelerator_spec: object, config: Mapping[str, Any] | None = None, *rest: Any
    ) -> Any:
        """Refuse what makes no sense before any pass runs; Olive itself ignores unknown names.

        Raises:
            ValueError: then, in one line.
        """
        with _refusing():
            for name in config or {}:
                _known(name)
            found = super().generate_config(accelerator_spec, config, *rest)
            _asked(found, Path("model.onnx"), Path("pruned.onnx"), ())
        return found

    def _run_for_config(self, model: Any, config: Any, output_model_path: str) -> Any:
        target = Path(resolve_onnx_path(output_model_path))
        with _refusing():
            if not isinstance(model, ONNXModelHandler):
                raise ModelError(
                    f"OnnxPrune: expected an ONNX model, found {type(model).__name__}: "
                    "put a pass before it that makes one, such as OnnxConversion"
                )
            report = prune(_asked(config, Path(model.model_path), target, _batches(model, config)))
        for name, change in report.figures.items():
            log.info("%s: %s before, %s after", name, change.before, change.after)
        for note in report.notes:
            log.warning("%s", note)
        attributes = dict(model.model_attributes or {})
        files = [*(attributes.get("additional_files") or ()), str(report.plan)]
        return ONNXModelHandler(
            model_path=target.parent,
            onnx_file_name=target.name,
            inference_settings=model.inference_settings,
            use_ort_extensions=model.use_ort_extensions,
            model_attributes=attributes | {"additional_files": files},
        )


@contextmanager
def _refusing() -> Iterator[None]:
    """Raise what Olive ends a workflow for: it goes on after other errors, and makes no model."""
    try:
        yield
    except OnnxPruneError as error:
        raise ValueError(str(error)) from error


def _known(name: str) -> None:
    names = (*_OPTIONS, _FROM_OLIVE)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise OnnxPruneError(f"OnnxPrune has no option '{name}': {hint}known: {', '.join(names)}")


def _asked(config: Any, model: Path, target: Path, batches: Data) -> PruneRequest:
    """Return the prune that a configuration of the pass is."""
    options = {name: getattr(config, name) for name in _OPTIONS}
    if getattr(config, _FROM_OLIVE) is not None:
        if options["data"] is not None:
            raise DataError("OnnxPrune: data and data_config are both given: leave out one")
        options["data"] = batches
    return PruneRequest(model, target, **options)


def _batches(model: Any, config: Any) -> Iterator[Batch]:
    """Yield what the workflow's data has for the model, as Olive's quantisation reads it."""
    data = validate_config(getattr(config, _FROM_OLIVE), DataConfig).to_data_container()
    loader = data.create_dataloader()
    for inputs, labels in LLMAugmentedDataLoader(loader, model.model_path, model.io_config):
        batch: Batch = format_data(inputs, model.io_config)
        has = labels is not None and config.labels is not None
        yield {**batch, config.labels: np.asarray(labels)} if has else batch


if __name__ == "__main__":
    sys.stdout.write(json.dumps(package_config(), indent=2) + "\n")
