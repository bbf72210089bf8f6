"""Element types of ONNX in PyTorch, and values between NumPy and PyTorch."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor

from ..core.errors import ModelError
from ..core.weights import data_type_name

_TYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.INT16: torch.int16,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.BOOL: torch.bool,
    TensorProto.COMPLEX64: torch.complex64,
    TensorProto.COMPLEX128: torch.complex128,
}
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def torch_dtype(data_type: int) -> torch.dtype:
    """Return PyTorch's name of an ONNX element type.

    Raises:
        ModelError: if PyTorch has no such type.
    """
    if data_type not in _TYPES:
        raise ModelError(f"PyTorch has no numbers of type {data_type_name(data_type)}")
    return _TYPES[data_type]


def to_tensor(array: NDArray[Any]) -> Tensor:
    """Return a tensor with a copy of the values.

    Raises:
        ModelError: if PyTorch has no such type.
    """
    if array.dtype == _BFLOAT16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    try:
        return torch.from_numpy(np.array(array, order="C"))
    except TypeError as error:
        raise ModelError(f"PyTorch has no numbers of type {array.dtype}") from error


def to_array(tensor: Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the values as an array of that type."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return tensor.numpy().astype(dtype)
