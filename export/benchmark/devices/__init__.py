"""Benchmarks on devices: Android phones by adb, Linux boards by ssh."""
