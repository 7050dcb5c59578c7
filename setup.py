"""Packaging of the MobileNetV3 mobile deployment kit.

The repository keeps three packages side by side (``mnv3_tf/``, ``cli/``, ``export/``) and a folder of Android files. They
are installed below one import name, so that nothing called ``cli`` or ``export`` ever appears at top level.
"""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
FOLDERS = {"mnv3_tf": "mnv3_tf", "mnv3_tf.cli": "cli", "mnv3_tf.export": "export",
           "mnv3_tf.android_demo_assets": "android_demo_assets"}


def packages() -> list[str]:
    """Every package, named as it is imported."""
    names = []
    for name, folder in FOLDERS.items():
        names.append(name)
        names += [f"{name}.{below}" for below in find_packages(str(HERE / folder))]
    return names


# The ranges that were tested together. TensorFlow's plain wheel carries no CUDA libraries; the extra `gpu` brings them.
TENSORFLOW = ">=2.21,<2.22"
REQUIRES = [
    f"tensorflow{TENSORFLOW}",
    "keras>=3.15,<3.16",
    "tf-keras>=2.21,<2.22",
    "tensorflow-model-optimization>=0.8.1,<0.9",
    "ai-edge-litert>=2.3,<2.4",
    "numpy>=1.26,<3",
    "click>=8.1,<9",
    "rich>=13.7,<16",
    "PyYAML>=6.0.1,<7",
    "Pillow>=11,<14",
    "flatbuffers>=24.3.25",
    "matplotlib>=3.10,<4",
    "scipy>=1.11,<2",
    "Jinja2>=3.1,<4",
    "natsort>=8.4,<9",
    "pooch>=1.8,<2",
    "safetensors>=0.4.3,<0.9",
    "tensorboardX>=2.6.2,<3",
]
ZIG = "ziglang>=0.13,<0.18"
EXTRAS = {
    "gpu": [f"tensorflow[and-cuda]{TENSORFLOW}"],
    "jax": ["jax>=0.7,<0.11"],
    "demo": ["scikit-learn>=1.5,<2"],
    # What `train.tracker` names.
    "wandb": ["wandb>=0.17,<1"],
    "mlflow": ["mlflow>=2.14,<4"],
    # Compiles the program that measures on a phone.
    "device": [ZIG],
    # What `inspect --require micro` and `ethos-u` run.
    "micro": ["tflite-micro>=0.dev20261023182759,<1", "ethos-u-vela>=5.2,<6"],
    "test": [ZIG, "adbutils>=2.8,<3", "jsonschema>=4.21,<5", "pytest>=8.2,<10", "pytest-timeout>=2.3,<3", "pytest-xdist>=3.6,<4",
             "hypothesis>=6.100,<7", "ruff>=0.9", "mypy>=1.11", "types-PyYAML"],
}

setup(
    name="mnv3-tf",
    version="0.1.0",
    description="MobileNetV3 image classifiers on a phone: train, quantize, convert, prove and measure, in Keras",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=packages(),
    package_dir=FOLDERS,
    package_data={
        "mnv3_tf": ["py.typed", "recipes/*.yaml"],
        "mnv3_tf.weights.sources": ["*.json"],
        "mnv3_tf.android_demo_assets": ["**/*"],
        "mnv3_tf.export": ["*.css"],
        "mnv3_tf.export.benchmark": ["*.j2", "*.json"],
        "mnv3_tf.export.benchmark.runners": ["*.json", "*.c"],
        "mnv3_tf.export.verify": ["*.j2"],
    },
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["mnv3 = mnv3_tf.cli.main:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
