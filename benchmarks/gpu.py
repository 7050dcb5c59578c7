"""Training speed on an accelerator: pictures a second at 224x224 and 1000 classes, on Keras's backend as it is set.

The training step alone, compiled as `mnv3 train` compiles it, fed with one batch of random pixels that is sent to the device
again each time; the same of timm's network on PyTorch, where both are installed, with its own mixed precision and memory
layout, but without averaged weights; and the input pipeline alone, from made-up JPEG photos of 500x375 with all of the kit's
augmentation, by numbers of threads, first decoding and then from its cache. Building and compiling are not timed.

On a machine without an accelerator give a small `--batch` and `--steps`: it takes minutes.
"""

import argparse
import json
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

SIZE, CLASSES = 224, 1000
PHOTO = (500, 375)


def main() -> None:
    """Measures and prints, line by line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=["small", "large"])
    parser.add_argument("--policies", nargs="*", default=["mixed_bfloat16", "mixed_float16", "float32"])
    parser.add_argument("--timm", action="store_true", help="measure timm's networks, too")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=60, help="of a slice; there are three")
    parser.add_argument("--photos", type=int, default=2048, help="JPEG files for the input pipeline; 0: leave it out")
    parser.add_argument("--json", type=Path, help="also write the measurements to this file, as they come")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"steps": [], "pipeline": []}

    def keep(kind: str, row: dict[str, Any], text: str) -> None:
        results[kind].append(row)
        print(text, flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=2))

    print(f"{device()}, {cores()} cores", flush=True)
    for network in arguments.networks:
        for policy in [*arguments.policies, *(["timm, float16"] if arguments.timm else [])]:
            measure = measure_timm if policy.startswith("timm") else measure_step
            row = {"network": network, "policy": policy, "batch": arguments.batch,
                   **measure(network, policy, arguments.batch, arguments.steps)}
            low, middle, high = sorted(row["rates"])
            keep("steps", row, f"{network}, {policy}, batches of {arguments.batch}: {middle:,.0f} pictures/s ({low:,.0f} to "
                               f"{high:,.0f}); ready after {row['ready_seconds']:.0f} s")
    if arguments.photos:
        with tempfile.TemporaryDirectory() as folder:
            write_photos(Path(folder), arguments.photos)
            for workers in sorted({1, 2, 4, 8, 16, cores()}):
                if workers <= cores():
                    rates = measure_pipeline(Path(folder), workers)
                    keep("pipeline", {"workers": workers, "rates": rates}, f"input pipeline, {workers} threads: {rates[0]:,.0f} "
                         f"pictures/s decoding, {rates[1]:,.0f} from the cache")


def device() -> str:
    """What Keras computes on."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        name = jax.devices()[0].device_kind
    else:
        name = ", ".join(keras.distribution.list_devices())
    return f"{keras.backend.backend()} on {name}"


def cores() -> int:
    """Usable ones."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure_step(network: str, policy: str, batch: int, steps: int) -> dict[str, Any]:
    """Rates of three slices in pictures per second, and the seconds until the first one could begin."""
    import keras
    import numpy as np

    from mnv3_tf.config import load_config
    from mnv3_tf.models import MobileNetV3
    from mnv3_tf.network.build import dtype_policy
    from mnv3_tf.training.averaging import AveragedModel
    from mnv3_tf.training.defaults import decide, make_optimizer

    began = time.perf_counter()
    keras.backend.clear_session()
    settings = load_config(None, [f"train.batch_size={batch}"]).train
    choices = decide(settings, batch, 1000)
    with dtype_policy(policy):
        model = AveragedModel(MobileNetV3(network, input_shape=(SIZE, SIZE, 3), classes=CLASSES,
                                          batchnorm_momentum=choices.batchnorm_momentum), settings.ema_decay)
    model.compile(make_optimizer(settings, choices),
                  keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=settings.label_smoothing),
                  metrics=[keras.metrics.CategoricalAccuracy("accuracy")], jit_compile=choices.xla)
    rng = np.random.default_rng(0)
    one = (rng.integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8),
           np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, batch)], np.ones(batch, np.float32))
    ends: list[float] = []
    callback = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: ends.append(time.perf_counter()),
                                              on_epoch_end=lambda *_: ends.append(time.perf_counter()))

    def fit(epochs: int, length: int) -> None:
        model.fit((one for _ in range(epochs * length)), steps_per_epoch=length, epochs=epochs, shuffle=False, verbose=0,
                  callbacks=[callback])

    fit(1, 2)
    ready = time.perf_counter() - began
    ends.clear()
    fit(3, steps)
    return {"rates": [batch * steps / (end - start) for start, end in zip(ends[::2], ends[1::2], strict=True)],
            "ready_seconds": ready}


def measure_timm(network: str, policy: str, batch: int, steps: int) -> dict[str, Any]:
    """The same of timm's network, as its own training script runs it with --amp --channels-last."""
    import timm
    import torch

    began = time.perf_counter()
    torch.backends.cudnn.benchmark = True
    model = timm.create_model(f"mobilenetv3_{network}_100", num_classes=CLASSES).cuda()
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    scaler, loss_of = torch.amp.GradScaler(), torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    pixels = torch.randint(0, 256, (batch, 3, SIZE, SIZE), dtype=torch.uint8).to(memory_format=torch.channels_last).pin_memory()
    labels = torch.randint(0, CLASSES, (batch,)).cuda()

    def train(length: int) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(length):
            given = pixels.cuda(non_blocking=True).float().sub_(127.5).div_(127.5)
            with torch.autocast("cuda", torch.float16):
                loss = loss_of(model(given), labels)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        torch.cuda.synchronize()
        return batch * length / (time.perf_counter() - start)

    train(10)
    ready = time.perf_counter() - began
    return {"rates": [train(steps) for _ in range(3)], "ready_seconds": ready}


def write_photos(folder: Path, count: int) -> None:
    """Smooth colours at several scales with some grain, about as large as ImageNet's files, in eight class folders."""
    with ProcessPoolExecutor(cores(), get_context("spawn")) as pool:
        list(pool.map(write_photo, [folder] * count, range(count), chunksize=16))


def write_photo(folder: Path, number: int) -> None:
    """One of them."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(number)
    pixels = rng.normal(128, 12, (PHOTO[1], PHOTO[0], 3))
    for cells, strength in ((2, 60), (6, 40), (20, 25), (60, 15)):
        small = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        pixels += (np.asarray(small.resize(PHOTO, Image.Resampling.BICUBIC), np.float32) - 128) * (strength / 128)
    path = folder / f"class_{number % 8}" / f"{number:05d}.jpg"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=92)


def measure_pipeline(folder: Path, workers: int) -> list[float]:
    """Pictures per second of the first epoch, which decodes, and of the second."""
    from mnv3_tf.artefacts.run_folder import contract_from
    from mnv3_tf.config import load_config
    from mnv3_tf.data import open_dataset
    from mnv3_tf.training.batches import TrainingBatches

    settings = load_config(None, [f"data.image_size={SIZE}"])
    dataset = open_dataset(folder, validation_fraction=0)
    samples = dataset.split("train")[:max(256, 256 * workers)]
    batches = TrainingBatches(samples, contract_from(settings), len(dataset.class_names), batch_size=64,
                              augmentation=settings.augment, cache_mb=4096, workers=workers)
    rates = []
    for epoch in range(2):
        began = time.perf_counter()
        pictures = sum(len(pixels) for pixels, *_ in batches.epoch(epoch))
        rates.append(pictures / (time.perf_counter() - began))
    return rates


if __name__ == "__main__":
    main()
