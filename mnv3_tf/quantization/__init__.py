"""The int8 network: folding, lowering, calibration, tfmot's fake quantization and fine-tuning. The only place of tf_keras."""
