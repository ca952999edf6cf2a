"""The training of all seeds and of several problems side by side: state, measurements, and both as arrays for a checkpoint."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaussequiv.models.problems import OnlineSGD
from gaussequiv.models.streams import Purpose
from gaussequiv.simulation.blocks import Rule, Samples, State
from gaussequiv.simulation.functions import functions
from gaussequiv.simulation.samples import Source

BLOCK = 16  # samples between updates of the first layer in torch, or one batch if that is more
CHUNK = 512  # samples of one seed drawn at once, or one batch if that is more

Array = np.ndarray[Any, np.dtype[np.float64]]
MEASURED = ("test_error", "classification_error", "Q", "R", "v", "means")


class Run:
    """The training of problems with one batch size on one stream a seed.

    `state` is (steps done, weights and readouts of every group); a group are the problems with equal numbers of units and
    equal activations. It is replaced as a whole, so that an interrupted run is never between two states.
    """

    def __init__(self, problems: Sequence[OnlineSGD], source: Source, seeds: int) -> None:
        self.source, self.seeds = source, seeds
        self.batch = problems[0].batch_size
        self.groups = _groups(problems)
        self.state = (0, tuple(self._start(group) for group in self.groups))
        self.measured: tuple[list[dict[str, Array]], ...] = ()  # per time and group
        self._rules = [_rule(group, source.device) for group in self.groups]
        self._noisy = any(p.noise > 0 for p in problems)
        self.per_chunk = max(1, CHUNK // self.batch)  # steps
        self._per_block = self.per_chunk if all(rule.compiled for rule in self._rules) else max(1, BLOCK // self.batch)
        self._chunk = -1
        self._x = torch.empty(0)
        self._y = self._zeta = self._x

    @property
    def steps(self) -> int:
        """Steps done."""
        return self.state[0]

    def finish(self, targets: Sequence[int], test_samples: int, report: Callable[[], Any]) -> None:
        """Train, and measure whenever the next of the target numbers of steps is done."""
        for index in range(len(self.measured), len(targets)):
            self.advance(targets[index], report)
            self.measured = (*self.measured, self._measure(index, test_samples))
            report()
        self._x = self._y = self._zeta = torch.empty(0)

    def advance(self, target: int, report: Callable[[], Any]) -> None:
        """Train until `target` steps are done; reports after every chunk of samples."""
        while self.steps < target:
            chunk, offset = divmod(self.steps, self.per_chunk)
            self._draw(chunk)
            end = min(self.per_chunk, offset + target - self.steps)
            for start in range(offset, end, self._per_block):
                self._block(start, min(self._per_block, end - start))
            report()

    def measured_of_each(self) -> Iterator[tuple[OnlineSGD, dict[str, Array]]]:
        """Every problem with its measured values, (times, seeds, ...)."""
        for group, values in zip(self.groups, zip(*self.measured, strict=True), strict=True):
            for p, problem in enumerate(group):
                yield problem, {name: np.stack([one[name][:, p] for one in values]) for name in MEASURED}

    def arrays(self) -> dict[str, Array]:
        """Steps, weights, readouts and measured values, by name: all that `restore` needs."""
        arrays: dict[str, Array] = {"steps": np.array([self.steps])}
        for i, (weights, readouts) in enumerate(self.state[1]):
            arrays[f"weights.{i}"], arrays[f"readouts.{i}"] = weights.cpu().numpy(), readouts.cpu().numpy()
            for name in MEASURED if self.measured else ():
                arrays[f"{name}.{i}"] = np.stack([groups[i][name] for groups in self.measured])
        return arrays

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Continue from what `arrays` returned."""

        def tensor(name: str) -> Tensor:
            return torch.tensor(arrays[name], device=self.source.device)

        groups = range(len(self.groups))
        self.state = (int(arrays["steps"][0]), tuple((tensor(f"weights.{i}"), tensor(f"readouts.{i}")) for i in groups))
        self.measured = tuple(
            [{name: arrays[f"{name}.{i}"][index] for name in MEASURED} for i in groups]
            for index in range(len(arrays.get("Q.0", ())))
        )

    def _start(self, group: Sequence[OnlineSGD]) -> State:
        """The weights (S, P, K, N) and readouts (S, P, K, outputs) that all seeds begin with."""
        weights = np.stack([p.student.weights for p in group])
        readouts = np.stack([p.student.readout.reshape(p.student.units, -1) for p in group])
        lanes = (self.seeds, 1, 1, 1)
        return self.source.tensor(weights).repeat(lanes), self.source.tensor(readouts).repeat(lanes)

    def _draw(self, chunk: int) -> None:
        """Have the samples of a chunk of every seed: x (S, n, N), y and unit noise (S, n, outputs)."""
        if chunk == self._chunk and self._x.numel():
            return
        source, n = self.source, self.per_chunk * self.batch
        if not self._x.numel():
            self._x = torch.empty(self.seeds, n, source.input_dim, dtype=source.dtype, device=source.device)
        lanes = range(self.seeds)
        self._chunk = -1
        self._y = torch.stack([source.draw_into(self._x[lane], source.training, lane, chunk) for lane in lanes])
        noise = [source.noise(n, lane, chunk) for lane in lanes] if self._noisy else None
        self._zeta = torch.stack(noise) if noise else torch.zeros_like(self._y)
        self._chunk = chunk

    def _block(self, start: int, count: int) -> None:
        """`count` steps from the step `start` of the present chunk."""
        samples = Samples((self._x, self._y, self._zeta), start * self.batch, (start + count) * self.batch)
        N, (steps, states) = self.source.input_dim, self.state
        moved = []
        for group, rule, state in zip(self.groups, self._rules, states, strict=True):
            rates = np.stack([_rates(p, steps, count, N) for p in group], axis=-1)
            moved.append(rule.advance(state, samples, rates[0], rates[1]))
        self.state = (steps + count, tuple(moved))

    def _measure(self, index: int, test_samples: int) -> list[dict[str, Array]]:
        """For every group the values of `MEASURED`, (S, P, ...), errors being those on fresh samples of each seed."""
        found = []
        errors = self._errors(index, test_samples)
        for group, (weights, readouts), (squares, wrong) in zip(self.groups, self.state[1], errors, strict=True):
            W, v = (part.double().cpu().numpy() for part in (weights, readouts))
            with np.errstate(all="ignore"):  # weights that diverged
                order = group[0].order_parameters(W, v)
            v = v.reshape(*v.shape[:2], *group[0].student.readout.shape)
            values = (squares / 2, wrong, order.Q, order.R, v, order.student_mean)
            found.append(dict(zip(MEASURED, values, strict=True)))
        return found

    def _errors(self, index: int, test_samples: int) -> list[tuple[Array, Array]]:
        """For every group the mean squared difference and the fraction of disagreement with the teacher, (S, P) each."""
        source, N = self.source, self.source.input_dim
        values = [functions(rule.activation, source.device)[0] for rule in self._rules]
        totals = [source.tensor(np.zeros((2, self.seeds, len(group)))) for group in self.groups]
        pieces = range(0, test_samples, CHUNK)
        buffer = torch.empty(min(CHUNK, test_samples), N, dtype=source.dtype, device=source.device)
        for lane in range(self.seeds):
            for piece, start in enumerate(pieces):
                x = buffer[: min(CHUNK, test_samples - start)]
                y = source.draw_into(x, Purpose.TEST, lane, index * len(pieces) + piece)
                for g, (weights, readouts), total in zip(values, self.state[1], totals, strict=True):
                    W, v = weights[lane], readouts[lane]
                    fields = (W.reshape(-1, N) @ x.T).mul_(N**-0.5).reshape(*W.shape[:2], -1)
                    outputs = g(fields).transpose(1, 2) @ v
                    total[0, lane] += ((outputs - y) ** 2).sum(dim=(1, 2))
                    total[1, lane] += (_decisions(outputs) != _decisions(y)).sum(dim=1)
        means = [total.double().cpu().numpy() / test_samples for total in totals]
        return [(mean[0], mean[1]) for mean in means]


def _decisions(outputs: Tensor) -> Tensor:
    """The sign of one output, the index of the largest of several: outputs (..., outputs) to (...)."""
    return torch.sign(outputs[..., 0]) if outputs.shape[-1] == 1 else outputs.argmax(dim=-1)


def _rates(problem: OnlineSGD, start: int, count: int, N: int) -> Array:
    """Learning rates (2, count) of the steps from `start`, each at the time of its beginning."""
    if not problem.scheduled:
        return np.repeat([[rate] for rate in problem.rates(start / N)], count, axis=1)
    return np.array([problem.rates(step / N) for step in range(start, start + count)]).T


def _rule(group: Sequence[OnlineSGD], device: torch.device) -> Rule:
    g = group[0].student.activation
    noise, decay = (np.array([getattr(p, name) for p in group], dtype=float) for name in ("noise", "weight_decay"))
    rule = Rule.fastest(g, noise, decay, group[0].batch_size, device)  # type: ignore[arg-type]
    _, slope = functions(rule.activation, device)
    slope(torch.zeros(1, dtype=torch.float64, device=device))  # a missing derivative is noticed now
    return rule


def _groups(problems: Sequence[OnlineSGD]) -> list[list[OnlineSGD]]:
    """Problems whose students have equal shapes and activations."""

    def kind(problem: OnlineSGD) -> tuple[int, object]:
        return problem.student.units, problem.student.activation

    groups: list[list[OnlineSGD]] = []
    for problem in problems:
        home = next((group for group in groups if kind(group[0]) == kind(problem)), None)
        if home is None:
            groups.append([problem])
        else:
            home.append(problem)
    return groups
