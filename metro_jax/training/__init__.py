"""The native runtime: models, optimizers, partitioning, checkpoints and the training loop."""

import os

# TensorFlow only reads data here: that it finds no GPU need alarm nobody.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
