"""METRO-T0's whole life in miniature: vocabulary, pretraining, finetuning, zero-shot evaluation, export, an answer."""
