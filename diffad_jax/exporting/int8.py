"""Convolutions of an ONNX graph in 8 bits: ONNX Runtime's static quantisation."""

import pathlib
from collections.abc import Iterator

import numpy as np
import onnx
from jaxtyping import UInt8
from onnxruntime import quantization


class _Pictures(quantization.CalibrationDataReader):
    """Pictures one by one, as the calibration asks for them."""

    def __init__(self, images: UInt8[np.ndarray, "n s s 3"]):
        self._rest: Iterator = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The graph's inputs; None at the end."""
        image = next(self._rest, None)
        return None if image is None else {"picture": image[None]}


def quantise(model: onnx.ModelProto, images: UInt8[np.ndarray, "n s s 3"], to: pathlib.Path):
    """Write a graph whose convolutions compute in 8 bits, one scale for each output channel.

    The ranges of what enters and leaves them are those that good pictures give.

    Args:
      model: a float32 graph of `onnx_model.write`.
      images: good pictures of the model's size.
      to: the file to write.
    """
    own = onnx.ModelProto()
    own.CopyFrom(model)  # it moves the weights out of what it is given
    quantization.quantize_static(
        own,
        to,
        _Pictures(images),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
