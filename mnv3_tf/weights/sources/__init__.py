"""Other packages: how they name tensors and models, and what they published."""
