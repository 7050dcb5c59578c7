"""The sample app asks for versions that Google Play accepts: libraries aligned to pages of 16 KB, and its level of the API."""

import re
from pathlib import Path

import pytest

APP = Path(__file__).parents[3] / "android_demo_assets"
GRADLE = (APP / "app" / "build.gradle.kts").read_text(encoding="utf-8")


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


@pytest.mark.parametrize(("library", "least"), [
    ("com.google.mediapipe:tasks-vision", "0.10.26"), ("androidx.camera:camera-camera2", "1.4.2"),
    ("androidx.camera:camera-view", "1.4.2"), ("androidx.camera:camera-lifecycle", "1.4.2"),
    ("com.google.ai.edge.litert:litert", "1.4.0"), ("com.google.ai.edge.litert:litert-gpu", "1.4.0")])
def test_native_libraries_are_aligned_to_16_kb(library: str, least: str) -> None:
    found = re.search(rf'"{re.escape(library)}:([0-9.]+)"', GRADLE)
    assert found is not None and version(found[1]) >= version(least)
    assert version(found[1]) < (0, 20000000) or "tasks-vision" not in library  # a release of 2023 by a wrong number


def test_the_level_of_the_api_and_the_plugin_that_knows_it() -> None:
    levels = {name: int(re.search(rf"{name} = (\d+)", GRADLE)[1]) for name in ("compileSdk", "targetSdk")}  # type: ignore[index]
    assert levels["targetSdk"] >= 36 and levels["compileSdk"] >= levels["targetSdk"]
    plugins = (APP / "build.gradle.kts").read_text(encoding="utf-8")
    assert version(re.search(r'com\.android\.application"\) version "([0-9.]+)"', plugins)[1]) >= (8, 9, 1)  # type: ignore[index]
