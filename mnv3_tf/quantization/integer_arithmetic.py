"""How kernels of 8-bit operations round: XNNPACK's, and those of TFLite's reference kernels.

Both are exact in whole numbers up to the sums of products. They differ in how a sum becomes 8 bits again: XNNPACK multiplies
by a float32 number, the reference kernels by a 32-bit integer and a shift, rounding twice (gemmlowp's way). Values here are
centred, that is without their zero point, float32 tensors of whole numbers.

Every method comes in two parts. One makes the constants of an operation, as numpy arrays, once; the other computes with them,
as TensorFlow, and takes them as tensors: TensorFlow reorders products with constants that it knows, which changes their last bit.

The rules were found in the public descriptions of both and confirmed value by value: tests run single operations with random
scales and zero points through the runtime and find no difference.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

Constants = tuple[Any, ...]
# A tensor that never was anything but 0 has a step too.
_LEAST_RANGE = 1e-30
# Bits by which additions are computed finer than their result.
_XNNPACK_ADD_BITS = 20
_REFERENCE_ADD_BITS = 20


@dataclass(frozen=True)
class QuantParams:
    """The quantization parameters of an 8-bit tensor: ``real = (level - zero_point) * step``, levels -128..127.

    Attributes:
        step: as the converter computes it; a file stores :attr:`scale`.
        zero_point: the level of the number 0.
    """

    step: float
    zero_point: int

    @classmethod
    def of_range(cls, low: float, high: float) -> "QuantParams":
        """Those of a range of real numbers that holds 0."""
        step = max(high - low, _LEAST_RANGE) / 255
        return cls(step, int(np.clip(np.round(-128 - low / step), -128, 127)))

    @property
    def scale(self) -> np.float32:
        """The step as a file stores it."""
        return np.float32(self.step)

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest centred value."""
        return -128.0 - self.zero_point, 127.0 - self.zero_point


class Arithmetic(Protocol):
    """The kernels of a runtime. Results are not yet clipped to the output's 8 bits."""

    def convolving(self, source: QuantParams, kernel_scales: Any, output: QuantParams) -> Constants:
        """For the sums of a convolution; the kernel's scales are float32 (channels,)."""

    def multiplying(self, one: QuantParams, other: QuantParams, output: QuantParams) -> Constants:
        """For the product of two tensors."""

    def rescale(self, sums: Any, constants: Any) -> Any:
        """Exact products or sums of them, of any float type, in the output's levels."""

    def adding(self, one: QuantParams, other: QuantParams, output: QuantParams) -> Constants:
        """For the sum of two tensors."""

    def add(self, one: Any, other: Any, constants: Any) -> Any:
        """The sum of two tensors, in the output's levels."""

    def averaging(self, source: QuantParams, output: QuantParams, places: int) -> Constants:
        """For the mean over so many places."""

    def average(self, totals: Any, constants: Any) -> Any:
        """Means, on the output's grid, from sums over all places."""


class Xnnpack:
    """XNNPACK's kernels for signed 8 bits, channelwise: the product with a float32 number, rounded half to even."""

    def convolving(self, source: QuantParams, kernel_scales: Any, output: QuantParams) -> Constants:
        return (source.scale * kernel_scales / output.scale,)

    def multiplying(self, one: QuantParams, other: QuantParams, output: QuantParams) -> Constants:
        return (one.scale * other.scale / output.scale,)

    def rescale(self, sums: Any, constants: Any) -> Any:
        # By way of integers, for TensorFlow would multiply the smaller factor of a product by the constant first.
        return tf.round(tf.cast(tf.cast(sums, tf.int32), tf.float32) * constants[0])

    def adding(self, one: QuantParams, other: QuantParams, output: QuantParams) -> Constants:
        ratios = np.asarray([one.scale / output.scale, other.scale / output.scale], np.float32)
        # XNNPACK refuses what 32 bits cannot hold, and leaves it to TFLite's own kernels; it is computed here all the same.
        shift = int(np.clip(_XNNPACK_ADD_BITS - math.floor(math.log2(float(ratios.max()))), 1, 62))
        whole: Any = np.int32 if shift <= 30 else np.int64
        factors = np.rint(np.ldexp(ratios.astype(np.float64), shift)).astype(whole)
        return factors[0], factors[1], whole(1 << (shift - 1)), whole(shift)

    def add(self, one: Any, other: Any, constants: Any) -> Any:
        first, second, half, shift = constants
        total = tf.cast(one, first.dtype) * first + tf.cast(other, first.dtype) * second + half
        return tf.cast(tf.bitwise.right_shift(total, shift), tf.float32)

    def averaging(self, source: QuantParams, output: QuantParams, places: int) -> Constants:
        scale = source.scale / output.scale * (np.float32(1) / np.float32(places))
        levels = np.float32(places * source.zero_point)
        return levels, scale, np.float32(output.zero_point) - levels * scale, np.float32(output.zero_point)

    def average(self, totals: Any, constants: Any) -> Any:
        # The kernel adds up levels, not centred values, and has the zero points in one float32 number.
        levels, scale, offset, zero_point = constants
        return tf.round((totals + levels) * scale + offset) - zero_point


class Reference:
    """TFLite's reference kernels: a 32-bit fixed-point factor, the product rounded, shifted, and rounded again."""

    def convolving(self, source: QuantParams, kernel_scales: Any, output: QuantParams) -> Constants:
        return _fixed_point(float(source.scale) * kernel_scales.astype(np.float64) / float(output.scale))

    def multiplying(self, one: QuantParams, other: QuantParams, output: QuantParams) -> Constants:
        return _fixed_point(one.scale * other.scale / output.scale)

    def rescale(self, sums: Any, constants: Any) -> Any:
        return tf.cast(_times(tf.cast(sums, tf.int64), constants), tf.float32)

    def adding(self, one: QuantParams, other: QuantParams, output: QuantParams) -> Constants:
        common = 2.0 * max(float(one.scale), float(other.scale))
        return (*_fixed_point(float(one.scale) / common), *_fixed_point(float(other.scale) / common),
                *_fixed_point(common / (2.0 ** _REFERENCE_ADD_BITS * float(output.scale))))

    def add(self, one: Any, other: Any, constants: Any) -> Any:
        size = len(constants) // 3
        finer = [_times(tf.bitwise.left_shift(tf.cast(value, tf.int64), tf.constant(_REFERENCE_ADD_BITS, tf.int64)), factor)
                 for value, factor in ((one, constants[:size]), (other, constants[size:2 * size]))]
        return tf.cast(_times(finer[0] + finer[1], constants[2 * size:]), tf.float32)

    def averaging(self, source: QuantParams, output: QuantParams, places: int) -> Constants:
        # The division by the number of places goes into the factor, which then has few bits behind the point: rounding twice
        # shows here.
        factor, exponent = _mantissa(float(source.scale) / float(output.scale))
        shift = min(places.bit_length() - 1, 32, 31 + exponent)
        return _shifts(np.asarray((factor << shift) // places), np.asarray(exponent - shift))

    def average(self, totals: Any, constants: Any) -> Any:
        return self.rescale(totals, constants)


def _mantissa(value: float) -> tuple[int, int]:
    """A positive number as (factor, exponent): ``factor / 2**31 * 2**exponent``, the factor of 31 bits."""
    mantissa, exponent = math.frexp(value)
    factor = math.floor(mantissa * 2 ** 31 + 0.5)
    if factor == 2 ** 31:
        factor, exponent = factor // 2, exponent + 1
    return (factor, exponent) if exponent >= -31 else (0, 0)


def _fixed_point(values: Any) -> Constants:
    """What :func:`_times` takes, of positive numbers: factor, shift to the right, half of its unit, and 1 where it shifts."""
    pairs = [_mantissa(float(value)) for value in np.atleast_1d(values)]
    factors, exponents = (np.asarray(column, np.int64).reshape(np.shape(values)) for column in zip(*pairs, strict=True))
    return _shifts(factors, exponents)


def _shifts(factors: np.ndarray, exponents: np.ndarray) -> Constants:
    left, right = np.maximum(exponents, 0).astype(np.int64), np.maximum(-exponents, 0).astype(np.int64)
    return factors.astype(np.int64) << left, right, (np.int64(1) << right) >> 1, (right > 0).astype(np.int64)


def _times(values: Any, constants: Any) -> Any:
    """Whole numbers times a fixed-point factor: rounded half up at 31 bits, then half away from zero at the shift."""
    factors, right, half, shifted = constants
    product = tf.bitwise.right_shift(values * factors + (1 << 30), tf.constant(31, tf.int64))
    # A negative number is one less for the half to be rounded away from zero.
    return tf.bitwise.right_shift(product + half + tf.bitwise.right_shift(product, tf.constant(63, tf.int64)) * shifted, right)


KERNELS: dict[str, Arithmetic] = {"xnnpack": Xnnpack(), "reference": Reference()}
