"""`metro-jax plan`: what a recipe costs on a machine one does not have, from the compiler of that machine.

* `topology.py`: names of TPU slices, the compiler's description of them, data sheets of the chips.
* `recipe.py`: gin files -> model, trainer and shapes of a batch, without data.
* `steps.py`: the step functions that the runtime jits, lowered for shapes and compiled.
* `hlo.py`, `collectives.py`: the compiled program read back: how often each instruction runs, what it moves.
* `estimate.py`: memory, FLOPs, and a roofline estimate of the time.
* `search.py`: meshes, recomputation and microbatches tried in turn.
* `report.py`, `picture.py`, `command.py`: table, JSON, picture, command line.
"""
