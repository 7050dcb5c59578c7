"""Runs MediaPipe's ImageClassifier, in an environment of its own: model, pictures.npz, answers.json."""

import json
import sys

import mediapipe
import numpy as np
from mediapipe.tasks import python
from mediapipe.tasks.python import vision


def main(model: str, pictures: str, answers: str) -> None:
    options = vision.ImageClassifierOptions(base_options=python.BaseOptions(model_asset_path=model))
    found = []
    with vision.ImageClassifier.create_from_options(options) as classifier, np.load(pictures) as store:
        for name in sorted(store.files):
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(store[name]))
            categories = classifier.classify(image).classifications[0].categories
            found.append({category.category_name: category.score for category in categories})
    with open(answers, "w", encoding="utf-8") as file:
        json.dump({"version": mediapipe.__version__, "answers": found}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
