"""The reward-KL frontier: how much reward a policy can have for how many nats, and what each method gets of it.

- `finite`: policies over so few responses that the frontier is exact, and every method's way to it can be followed;
- `best_of_n`: draw n, keep the best: its exact policy, its KL and the bound on it, its reward from fewer draws;
- `table`: the points that were trained with the small models, each with its error, and the texts behind them.

Read `finite` first. `table` needs no torch, so nothing is imported here.
"""
