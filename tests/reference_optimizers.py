"""Optimizers that torch.optim hasn't, or not in float64, written down once more: param by param, as published."""

import torch


class Reference:
    """What the tests need of a `torch.optim.Optimizer`; subclasses say where a param's step goes."""

    def __init__(self, params, lr, base):
        self.params, self.lr, self.base = list(params), lr, base
        self.states = [{} for _ in self.params]

    def zero_grad(self):
        for param in self.params:
            param.grad = None

    @torch.no_grad()
    def step(self):
        for param, state in zip(self.params, self.states, strict=True):
            direction = self.direction(param.grad, state)
            param.sub_(self.lr * (direction + self.base.weight_decay * param))


class Lion(Reference):
    def direction(self, gradient, state):
        average = state.get("average", torch.zeros_like(gradient))
        state["average"] = self.base.beta2 * average + (1 - self.base.beta2) * gradient
        return torch.sign(self.base.beta1 * average + (1 - self.base.beta1) * gradient)


class AggMo(Reference):
    def direction(self, gradient, state):
        root = state["square"] = self.base.beta2 * state.get("square", 0) + (1 - self.base.beta2) * gradient**2
        total = 0
        for beta in self.base.betas:
            state[beta] = beta * state.get(beta, 0) + (1 - beta) * gradient
            total = total + state[beta] / torch.sqrt(root + self.base.eps)
        return total / len(self.base.betas)


def newton_schulz(matrix, num_iterations):
    """By the singular values, which is all that the iteration changes."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.square().sum().sqrt()
    for _ in range(num_iterations):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ torch.diag(values) @ right


class Muon(Reference):
    """Vectors are AdamW's."""

    def __init__(self, params, lr, base):
        params = list(params)
        super().__init__([param for param in params if param.dim() > 1], lr, base)
        self.adamw = torch.optim.AdamW([param for param in params if param.dim() < 2], lr, (base.beta1, base.beta2),
                                       base.eps, base.weight_decay)

    def zero_grad(self):
        super().zero_grad()
        self.adamw.zero_grad()

    def step(self):
        super().step()
        self.adamw.step()

    def direction(self, gradient, state):
        state["buffer"] = self.base.momentum * state.get("buffer", 0) + gradient
        ahead = (gradient + self.base.momentum * state["buffer"]).flatten(1)
        scale = 0.2 * max(ahead.shape)**0.5
        return scale * newton_schulz(ahead, self.base.num_iterations).view_as(gradient)


class SOAP(Reference):
    """With eigenvectors looked up afresh in the turned factors, one power iteration at a time, as Vyas et al. do."""

    def direction(self, gradient, state):
        base, shape = self.base, gradient.shape
        matrix = gradient.flatten(1) if gradient.dim() > 1 else gradient.reshape(-1, 1)
        turns = gradient.dim() > 1 or base.precondition_1d
        state.setdefault("bases", [torch.eye(size).double() for size in matrix.shape])
        state.setdefault("factors", [torch.zeros(size, size).double() for size in matrix.shape])
        for index, outer in enumerate((matrix @ matrix.T, matrix.T @ matrix)):
            state["factors"][index] = base.shampoo_beta * state["factors"][index] + (1 - base.shampoo_beta) * outer
            if turns and len(outer) > 1 and state.get("count", 0) % base.precondition_frequency == 0:
                factor = state["factors"][index]
                shifted = factor + 1e-3 * factor.trace() / len(outer) * torch.eye(len(outer)).double()
                state["bases"][index] = gram_schmidt(shifted @ state["bases"][index])
        left, right = state["bases"]
        count = state["count"] = state.get("count", 0) + 1
        state["first"] = base.beta1 * state.get("first", 0) + (1 - base.beta1) * matrix
        square = (left.T @ matrix @ right)**2
        if not all(torch.equal(basis, torch.eye(len(basis)).double()) for basis in state["bases"]):
            square = square + 1e-6 * square.mean()
        state["second"] = base.beta2 * state.get("second", 0) + (1 - base.beta2) * square
        first, second = state["first"] / (1 - base.beta1**count), state["second"] / (1 - base.beta2**count)
        step = left @ (left.T @ first @ right / (second.sqrt() + base.eps)) @ right.T
        return step.reshape(shape)


def gram_schmidt(matrix):
    columns = []
    for candidate in matrix.T:
        rest = candidate
        for column in 2 * columns:
            rest = rest - (column @ rest) * column
        columns.append(rest / rest.norm())
    return torch.stack(columns, 1)
