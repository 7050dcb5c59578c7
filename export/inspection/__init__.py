"""What is in a `.tflite` file, and what a delegate leaves out."""
