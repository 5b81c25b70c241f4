"""Exports of prompts, judge and preference pairs to trainers made for many machines.

`sources` reads and checks what is to go out, `verl` and `openrlhf` lay it out as each of the two reads it, `scripts`
writes the command lines, `reward` travels along as the reward function, `check` reads a written folder again before it
is called done. `published/` holds the names of the settings each program accepts, taken from its release.
"""
