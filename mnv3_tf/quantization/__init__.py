"""The integer form: deploy form, lowering, calibration, the tfmot twin and its fine-tuning. The only place of tf_keras."""
