"""Proof that float Keras, quantized Keras and TFLite agree, or the step at which they stop agreeing."""

from mnv3_tf.export.verify.chain import Chain, open_chain
from mnv3_tf.export.verify.findings import Finding
from mnv3_tf.export.verify.layers import LayerRow, LayerTable
from mnv3_tf.export.verify.result import Verification
from mnv3_tf.export.verify.run import verify
from mnv3_tf.export.verify.stages import Check, LogitComparison, Stage

__all__ = ["Chain", "Check", "Finding", "LayerRow", "LayerTable", "LogitComparison", "Stage", "Verification", "open_chain",
           "verify"]
