"""From a run or a Keras model to a `.tflite` file."""
