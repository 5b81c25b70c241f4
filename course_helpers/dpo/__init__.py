"""DPO: the loss from scratch, and TRL's `DPOTrainer` set up so that it is right on a laptop and on a GPU.

Read `losses` first. `training` sets up TRL's trainer, `curves` draws what it logs, and `saving` writes models that load
anywhere. They import TRL and PEFT, which takes seconds; hence nothing is imported here.
"""
