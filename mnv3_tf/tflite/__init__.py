"""`.tflite` files: their structure, the runtime, what delegates take."""
