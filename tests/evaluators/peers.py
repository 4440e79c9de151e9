"""Peers written from the formulas of `shared/pruning.md`, 1.1 to 1.3: slow loops in float64.

Nothing here knows the project's language, its selection or its methods. `t` maps the name of a
statistic to an array, (d_out, d_in) or flat.
"""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Given = Mapping[str, Array]
Share = float | Fraction


def loop(score: Callable[[Given, int, int], float]) -> Callable[[Given], Array]:
    """Return what rates a whole matrix, of what rates one weight."""

    def rate(t: Given) -> Array:
        rows, columns = t["W"].shape
        return np.array([[score(t, i, j) for j in range(columns)] for i in range(rows)])

    return rate


def size(t: Given, i: int, j: int) -> float:
    return abs(float(t["W"][i, j]))


def norm(t: Given, j: int) -> float:
    return float(t["x_norm"][j])


def g100(t: Given, i: int, j: int) -> float:
    return 100 * float(t["g_norm"][i, j])


def ri(t: Given, i: int, j: int) -> float:
    rows, columns = t["W"].shape
    column = sum(size(t, k, j) for k in range(rows))
    row = sum(size(t, i, k) for k in range(columns))
    return size(t, i, j) / column + size(t, i, j) / row


def ria(t: Given, i: int, j: int) -> float:
    return ri(t, i, j) * norm(t, j) ** 0.5


def ria_advanced(t: Given, i: int, j: int) -> float:
    rows, columns = t["W"].shape
    column = math.sqrt(sum(size(t, k, j) ** 2 for k in range(rows)))
    row = math.sqrt(sum(size(t, i, k) ** 2 for k in range(columns)))
    return math.log1p(size(t, i, j) / row + size(t, i, j) / column) * (norm(t, j) ** 2) ** 0.25


def min_max(values: Array) -> Array:
    low, high = min(values.ravel()), max(values.ravel())
    return np.array([[(v - low) / (high - low) for v in row] for row in values])


def deviation(values: Array) -> float:
    flat = list(values.ravel())
    mean = math.fsum(flat) / len(flat)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in flat) / len(flat))


def mean(values: Array) -> float:
    return math.fsum(values.ravel()) / values.size


def si_as_coded(t: Given) -> Array:
    z = loop(ria)(t)
    return np.array([[(v - mean(z)) / (deviation(row) + 1e-5) for v in row] for row in z])


def si_as_written(t: Given) -> Array:
    z = loop(ri)(t)
    centre, spread = mean(z), deviation(z)
    return loop(lambda t, i, j: (z[i, j] - centre) / spread * norm(t, j))(t)


def pruner_zero(t: Given) -> Array:
    gradient = min_max(100 * t["g_norm"])
    return loop(lambda t, i, j: abs(size(t, i, j) * size(t, i, j)) * gradient[i, j])(t)


def pruner_zero_2(t: Given) -> Array:
    weight, gradient = min_max(np.abs(t["W"])), min_max(100 * t["g_norm"])
    return loop(lambda t, i, j: weight[i, j] * weight[i, j] * gradient[i, j])(t)


def slope(t: Given, i: int, j: int) -> float:
    return float(t["W"][i, j]) * float(t["g"][i, j])


def fisher(t: Given, i: int, j: int) -> float:
    return size(t, i, j) ** 2 * float(t["g_norm"][i, j]) ** 2


METRICS: dict[str, Callable[[Given], Array]] = {
    "random": lambda t: t["noise"],
    "magnitude": loop(size),
    "wanda": loop(lambda t, i, j: size(t, i, j) * norm(t, j)),
    "wanda-sqrt": loop(lambda t, i, j: size(t, i, j) * norm(t, j) ** 0.5),
    "wanda-square": loop(lambda t, i, j: size(t, i, j) * norm(t, j) ** 2),
    "wanda-gradient": loop(
        lambda t, i, j: size(t, i, j) * norm(t, j) * (g100(t, i, j) / 100) ** 0.25
    ),
    "obd": loop(lambda t, i, j: size(t, i, j) ** 2 * norm(t, j) ** 2),
    "obs": loop(lambda t, i, j: size(t, i, j) ** 2 / t["h_inv"][j]),
    "obs-code": loop(lambda t, i, j: size(t, i, j) ** 2 / t["u_diag"][j] ** 2),
    "gblm": loop(lambda t, i, j: size(t, i, j) * norm(t, j) + size(t, i, j) * g100(t, i, j)),
    "gblm-gradient": loop(lambda t, i, j: size(t, i, j) * g100(t, i, j)),
    "gblm-inverse": loop(lambda t, i, j: size(t, i, j) * norm(t, j) / (g100(t, i, j) + 1e-8)),
    "ri": loop(ri),
    "ria": loop(ria),
    "ria-1": loop(lambda t, i, j: ri(t, i, j) * norm(t, j)),
    "ria-advanced": loop(ria_advanced),
    "stbllm-code": si_as_coded,
    "stbllm-paper": si_as_written,
    "snip": loop(lambda t, i, j: abs(slope(t, i, j))),
    "taylor": loop(lambda t, i, j: abs(slope(t, i, j))),
    "fisher": loop(fisher),
    "fisher-token": loop(lambda t, i, j: (size(t, i, j) * float(t["g_token"][i, j])) ** 2),
    "taylor-mix": loop(lambda t, i, j: abs(slope(t, i, j) - 0.5 * fisher(t, i, j))),
    "pruner-zero": pruner_zero,
    "pruner-zero-2": pruner_zero_2,
    "wanda++": loop(lambda t, i, j: (100 * t["g_region"][i, j] + norm(t, j)) * size(t, i, j)),
    "dass": loop(lambda t, i, j: size(t, i, j) * t["y_norm"][i] ** 0.5),
    "stade": loop(lambda t, i, j: size(t, i, j) * t["x_var"][j] ** 0.5),
}
"""Every hand-made metric: statistics in, (d_out, d_in) importance out."""


# Selection, by sorting.


def plain(value: float) -> float:
    """Return a number without its last digits: what is equal in exact arithmetic is equal."""
    return float(f"{value:.11e}")


def groups(shape: tuple[int, ...], condition: str) -> list[list[tuple[int, int]]]:
    """Return the places that are compared with one another."""
    rows, columns = shape
    if condition == "matrix":
        return [[(i, j) for i in range(rows) for j in range(columns)]]
    width = int(condition.partition(":")[2]) if ":" in condition else columns
    return [
        [(i, j) for j in range(start, start + width)]
        for i in range(rows)
        for start in range(0, columns, width)
    ]


def sorted_mask(importance: Array, condition: str, share: Share) -> NDArray[np.bool_]:
    """Return True where a weight stays: lowest dropped, of equals lowest row, then column.

    Args:
        importance: (d_out, d_in).
        condition: `row`, `matrix`, or KEEP:BLOCK.
        share: Dropped of each group; of a block as many as its name says.
    """
    mask = np.ones(importance.shape, np.bool_)
    for members in groups(importance.shape, condition):
        for i, j in ordered(importance, members)[: dropped(len(members), condition, share)]:
            mask[i, j] = False
    return mask


def ordered(importance: Array, members: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return sorted(members, key=lambda place: (plain(importance[place]), *place))


def dropped(count: int, condition: str, share: Share) -> int:
    return count - int(condition.partition(":")[0]) if ":" in condition else int(count * share)


def narrowest(importance: Array, condition: str, share: Share) -> float:
    """Return the smallest relative gap at which a group is cut, ties aside."""
    found = [math.inf]
    for members in groups(importance.shape, condition):
        order = [plain(importance[place]) for place in ordered(importance, members)]
        count = dropped(len(order), condition, share)
        low, high = order[count - 1], order[count]
        if count and low != high:
            found.append((high - low) / max(abs(low), abs(high)))
    return min(found)


# Methods.


def damped(t: Given) -> tuple[Array, list[bool]]:
    """Return H with its diagonal raised, and which inputs were ever seen."""
    h = t["moments"].copy()
    alive = [h[j, j] != 0 for j in range(len(h))]
    raised = 0.01 * sum(h[j, j] for j in range(len(h))) / len(h)
    for j in range(len(h)):
        h[j, j] = h[j, j] + raised if alive[j] else 1.0
    return h, alive


def sparsegpt(
    t: Given, condition: str, share: Share, *, width: int = 128
) -> tuple[Array, NDArray[np.bool_]]:
    """Return weights and mask: optimal brain surgery, input by input, by inverses anew each time.

    Of inputs j and later, with H' their part of H: a weight costs w^2 / [H'^-1]_11 to drop, and
    the others must move by -w / [H'^-1]_11 times the first row of H'^-1.

    Args:
        t: `W` and `moments`.
        condition: `columns`, or KEEP:BLOCK.
        share: Dropped up to the end of each block of columns.
        width: Of a block of columns.
    """
    w, (h, alive) = t["W"].copy(), damped(t)
    rows, columns = w.shape
    inverse = [np.linalg.inv(h[j:, j:]) for j in range(columns)]
    mask = np.ones(w.shape, np.bool_)

    def cost(i: int, j: int) -> float:
        seen = alive[j] or not any(alive)
        return float(w[i, j] ** 2 / inverse[j][0, 0]) if seen else 0.0

    for j in range(columns):
        for places, count in decided_at(j, w.shape, condition, share, width):
            for place in sorted(places, key=lambda p: (plain(cost(*p)), *p))[:count]:
                mask[place] = False
        for i in range(rows):
            if not mask[i, j]:
                w[i, j:] = w[i, j:] - w[i, j] / inverse[j][0, 0] * inverse[j][0]
    return np.where(mask, w, 0.0), mask


def decided_at(
    j: int, shape: tuple[int, ...], condition: str, share: Share, width: int
) -> list[tuple[list[tuple[int, int]], int]]:
    """Return the groups that are decided when input j is reached, and how many each drops."""
    rows, columns = shape
    if ":" in condition:
        keep, block = map(int, condition.split(":"))
        if j % block:
            return []
        return [([(i, k) for k in range(j, j + block)], block - keep) for i in range(rows)]
    if j % width:
        return []
    stop = min(j + width, columns)
    count = int(rows * stop * share) - int(rows * j * share)
    return [([(i, k) for i in range(rows) for k in range(j, stop)], count)]


def wanda_variant(t: Given, share: Share) -> NDArray[np.bool_]:
    """Return the mask: alpha bisected until the count is reached, or as near below as ties let."""
    importance = METRICS["wanda"](t)
    rows, columns = importance.shape
    asked = int(rows * columns * share)

    def falls(alpha: float) -> list[tuple[int, int]]:
        found = []
        for i in range(rows):
            total, so_far = math.fsum(importance[i]), 0.0
            for _, j in ordered(importance, [(i, j) for j in range(columns)]):
                so_far += importance[i, j]
                if so_far > alpha * total:
                    break
                found.append((i, j))
        return found

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if len(falls(middle)) <= asked else (low, middle)
    gone = falls(low)
    after = [place for place in falls(high) if place not in gone]  # these fall together
    mask = np.ones(importance.shape, np.bool_)
    for place in [*gone, *sorted(after)][:asked]:
        mask[place] = False
    return mask


def dsnot(t: Given, share: Share) -> tuple[NDArray[np.bool_], int]:
    """Return the mask, and how many swaps were made."""
    importance = METRICS["wanda"](t)
    mask, swaps = sorted_mask(importance, "row", share), 0
    rows, columns = mask.shape
    for i in range(rows):
        effect = [float(t["W"][i, j] * t["x_sum"][j]) for j in range(columns)]
        lack = sum(effect[j] for j in range(columns) if not mask[i, j])
        sign = math.copysign(1.0, lack)
        back = [j for j in range(columns) if not mask[i, j] and effect[j] * sign > 0]
        back.sort(key=lambda j: (-abs(effect[j]) / t["x_var"][j], j))
        gone = [j for j in range(columns) if mask[i, j] and effect[j] * sign < 0]
        gone.sort(key=lambda j: (plain(importance[i, j]), j))
        for grow, drop in list(zip(back, gone, strict=False))[:50]:
            left = lack - effect[grow] + effect[drop]
            if abs(lack) <= 0.1 or left * sign <= 0:
                break
            mask[i, grow], mask[i, drop], lack, swaps = True, False, left, swaps + 1
    return mask, swaps


def ria_permuted(t: Given, keep: int, block: int) -> tuple[NDArray[np.bool_], list[list[int]]]:
    """Return the mask and the inputs of each block, every assignment tried."""
    importance = METRICS["ria"](t)
    rows, columns = importance.shape
    order = sorted(range(columns), key=lambda j: (importance[:, j].sum(), j))
    count = columns // block
    blocks: list[list[int]] = [[] for _ in range(count)]
    for turn in range(block):
        hand = order[turn * count : (turn + 1) * count]
        for home, j in zip(blocks, hand if turn % 2 == 0 else hand[::-1], strict=True):
            home.append(j)

    def stays(inputs: list[int]) -> float:
        return sum(sum(sorted(importance[i, inputs])[-keep:]) for i in range(rows))

    for place in range(block):
        taken = [home[place] for home in blocks]
        rests = [[j for j in home if j != home[place]] for home in blocks]
        worth = [[stays([*rest, j]) for j in taken] for rest in rests]
        best = max(
            permutations(range(count)), key=lambda p: sum(worth[b][p[b]] for b in range(count))
        )
        for home, choice in zip(blocks, best, strict=True):
            home[place] = taken[choice]
    mask = np.ones(importance.shape, np.bool_)
    for i in range(rows):
        for home in blocks:
            for j in sorted(home, key=lambda j, i=i: importance[i, j])[: block - keep]:
                mask[i, j] = False
    return mask, blocks
