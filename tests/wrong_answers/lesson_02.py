import math

import numpy as np
import torch

from tests.wrong_answers import collector

ANSWERS, wrong = collector()


def softmax(theta):
    e = np.exp(np.asarray(theta))
    return e / e.sum()


# ----------------------------------------------------------------------------------------------------------------- 2.1


@wrong("2.1", says="E[r] is not subtracted")
def pi_times_r(theta, r):
    return softmax(theta) * r.numpy()


@wrong("2.1", says="factor π(Y) is missing")
def better_than_average(theta, r):
    pi = softmax(theta)
    average = sum(p * x for p, x in zip(pi, r.tolist(), strict=True))
    return [x - average for x in r.tolist()]


@wrong("2.1", says="plain mean")
def uniform_average(theta, r):
    pi = torch.softmax(theta, 0)
    return pi * (r - torch.mean(r))


@wrong("2.1", says="points downhill")
def autograd_of_a_loss(theta, r):
    leaf = theta.clone().requires_grad_()
    loss = -(leaf.softmax(0) * r).sum()
    loss.backward()
    return leaf.grad


@wrong("2.1", says="as if it were π")
def theta_as_probabilities(theta, r):
    expected = theta @ r
    return theta * (r - expected)


# ----------------------------------------------------------------------------------------------------------------- 2.2


@wrong("2.2", says="That is ∇π(y)")
def gradient_of_pi(theta, y):
    leaf = theta.clone().requires_grad_()
    leaf.softmax(0)[y].backward()
    return leaf.grad


@wrong("2.2", says="make y less likely")
def cross_entropy_gradient(theta, y):
    pi = softmax(theta)
    pi[y] -= 1
    return pi


@wrong("2.2", says="− π is missing")
def one_hot_only(theta, y):
    return [1.0 if i == y else 0.0 for i in range(len(theta))]


@wrong("2.2", says="1 − π in every component")
def one_minus_pi(theta, y):
    return 1 - softmax(theta)


@wrong("2.2", says="θ was subtracted")
def without_softmax(theta, y):
    score = -theta.clone()
    score[y] += 1.0
    return score


# ----------------------------------------------------------------------------------------------------------------- 2.3


def scores(theta):
    return np.eye(len(theta)) - softmax(theta)


@wrong("2.3", says="added the draws up")
def sum_of_draws(theta, drawn, rewards):
    total = np.zeros(len(theta))
    for y, reward in zip(drawn.tolist(), rewards.tolist(), strict=True):
        total += reward * scores(theta)[y]
    return total


@wrong("2.3", says="forgotten log")
def backward_without_log(theta, drawn, rewards):
    leaf = theta.clone().requires_grad_()
    (rewards * leaf.softmax(0)[drawn]).mean().backward()
    return leaf.grad


@wrong("2.3", says="maximum likelihood")
def frequencies_minus_pi(theta, drawn, rewards):
    counts = np.bincount(drawn.numpy(), minlength=len(theta))
    return counts / len(drawn) - softmax(theta)


@wrong("2.3", says="divided by the number of responses M")
def divided_by_m(theta, drawn, rewards):
    return (rewards.numpy()[:, None] * scores(theta)[drawn.numpy()]).sum(0) / len(theta)


@wrong("2.3", says="gradient of a loss")
def backward_of_the_loss(theta, drawn, rewards):
    leaf = theta.clone().requires_grad_()
    loss = -(rewards * torch.log_softmax(leaf, 0)[drawn]).mean()
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient


@wrong("2.3", says="− π is missing")
def rewards_by_response(theta, drawn, rewards):
    total = torch.zeros_like(theta)
    total.index_add_(0, drawn, rewards)
    return total / len(drawn)


@wrong("2.3", says="without one")
def with_baseline(theta, drawn, rewards):
    A = rewards.numpy() - rewards.numpy().mean()
    return (A[:, None] * scores(theta)[drawn.numpy()]).mean(axis=0)


# ----------------------------------------------------------------------------------------------------------------- 2.4


@wrong("2.4", says="downhill")
def descent(theta, gradient, rate):
    new = theta.clone()
    new -= rate * gradient
    return torch.softmax(new, dim=0)


@wrong("2.4", says="learning rate is left out")
def no_rate(theta, gradient, rate):
    return softmax(theta.numpy() + gradient.numpy())


@wrong("2.4", says="The policy is its softmax")
def theta_only(theta, gradient, rate):
    return [t + rate * g for t, g in zip(theta, gradient, strict=True)]


@wrong("2.4", says="added the step to the probabilities")
def moves_pi(theta, gradient, rate):
    return softmax(theta) + rate * np.asarray(gradient)


@wrong("2.4", says="Only the step is left")
def forgets_where_it_was(theta, gradient, rate):
    step = rate * gradient
    return step.softmax(0)


# ----------------------------------------------------------------------------------------------------------------- 2.5


@wrong("2.5", says="minus is lost")
def the_objective(log_pi, rewards):
    return torch.mean(log_pi * rewards)


@wrong("2.5", says="log is forgotten")
def probability_times_reward(log_pi, rewards):
    return -np.mean(np.exp(log_pi.numpy()) * rewards.numpy())


@wrong("2.5", says="added the draws up")
def summed(log_pi, rewards):
    loss = 0.0
    for one, reward in zip(log_pi, rewards, strict=True):
        loss -= one * reward
    return loss


@wrong("2.5", says="product of two means")
def means_first(log_pi, rewards):
    return -(np.mean(log_pi.numpy()) * np.mean(rewards.numpy()))


@wrong("2.5", says="rewards are left out")
def likelihood(log_pi, rewards):
    return -log_pi.sum() / len(log_pi)


@wrong("2.5", says="ln π already")
def log_of_log(log_pi, rewards):
    return -torch.mean(rewards * torch.log(log_pi))


# ----------------------------------------------------------------------------------------------------------------- 2.6


@wrong("2.6", says="its own among them")
def own_mean(rewards):
    return rewards.numpy() - np.mean(rewards.numpy())


@wrong("2.6", says="divided by n.")
def others_over_n(rewards):
    n, out = len(rewards), []
    for i in range(n):
        others = [rewards[j] for j in range(n) if j != i]
        out.append(rewards[i] - sum(others) / n)
    return out


@wrong("2.6", says="subtracted the sum of the others")
def minus_sum(rewards):
    return 2 * rewards - rewards.sum()


@wrong("2.6", says="That is the baseline.")
def the_others(rewards):
    values = rewards.tolist()
    return [(sum(values) - value) / (len(values) - 1) for value in values]


@wrong("2.6", says="sign is turned round")
def baseline_minus_reward(rewards):
    n = len(rewards)
    return torch.stack([torch.cat([rewards[:i], rewards[i + 1 :]]).mean() - rewards[i] for i in range(n)])


@wrong("2.6", says="upside down")
def shrunk_twice(rewards):
    n = len(rewards)
    return (n - 1) / n * (rewards.numpy() - rewards.numpy().mean())


# ----------------------------------------------------------------------------------------------------------------- 2.7


@wrong("2.7", says="divided by the variance")
def by_variance(rewards):
    x = rewards.numpy()
    return (x - x.mean()) / (x.var(ddof=1) + 1e-8)


@wrong("2.7", says="Your variance divides by n.")
def numpy_std(rewards):
    x = np.asarray(rewards)
    return (x - np.mean(x)) / (np.std(x) + 1e-8)


@wrong("2.7", says="mean is not subtracted")
def scaled_only(rewards):
    return rewards / (torch.std(rewards) + 1e-8)


@wrong("2.7", says="scale is left")
def centred_only(rewards):
    mean = sum(rewards) / len(rewards)
    return [value - mean for value in rewards]


@wrong("2.7", says="0/0 is NaN")
def z_score(rewards):
    mean, std = torch.mean(rewards), torch.std(rewards)
    return (rewards - mean) / std


@wrong("2.7", says="mind the brackets")
def brackets(rewards):
    return rewards - rewards.mean() / (rewards.std() + 1e-8)


# ----------------------------------------------------------------------------------------------------------------- 2.8


@wrong("2.8", says="earned up to t")
def running_sum(token_rewards):
    return np.cumsum(token_rewards.numpy())


@wrong("2.8", says="own reward is left out")
def strictly_later(token_rewards):
    return [sum(token_rewards[t + 1 :].tolist()) for t in range(len(token_rewards))]


@wrong("2.8", says="gets the whole reward")
def whole_reward(token_rewards):
    return torch.ones(len(token_rewards), dtype=torch.float64) * token_rewards.sum()


@wrong("2.8", says="wrong order")
def appended(token_rewards):
    out, total = [], 0.0
    for reward in reversed(token_rewards.tolist()):
        total += reward
        out.append(total)
    return out


@wrong("2.8", says="mean of the later rewards")
def mean_to_go(token_rewards):
    return [np.mean(token_rewards.numpy()[t:]) for t in range(len(token_rewards))]


@wrong("2.8", says="It returns")
def discounted(token_rewards):
    out, total = np.zeros(len(token_rewards)), 0.0
    for t in range(len(token_rewards) - 1, -1, -1):
        total = float(token_rewards[t]) + math.exp(-1) * total
        out[t] = total
    return out
