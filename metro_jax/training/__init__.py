"""The native runtime: models, optimizers, partitioning, checkpoints and the training loop."""
