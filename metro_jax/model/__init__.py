"""The network: configuration, layers, encoder-decoder, and what pretraining adds to it."""
