"""Takes over a whole Keras model, of Keras 3 or Keras 2, whoever made it.

Every call of a layer is read (`calls`), translated into the layers that this kit works with (`translate`), and built again, under
the kit's own names where it is a MobileNetV3 (`importing`).
"""
