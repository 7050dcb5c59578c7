"""TFLite: conversion and its gate, the runtime, evaluation of any model, benchmarks."""
