"""Run by several processes: trains a small model with mSAM and leaves its weights; see test_distributed.py."""

import sys

import torch
from torch import nn
from torch.nn import functional

from landscape import GradientAscent
from msam import launched, mSAM


class Rare(nn.Module):
    """One weight is used by the micro-batches with a large first entry alone, another one never."""

    def __init__(self):
        super().__init__()
        self.layer, self.rare, self.spare = nn.Linear(6, 3), nn.Parameter(torch.rand(3)), nn.Parameter(torch.rand(2))
        self.frozen = nn.Linear(6, 3).requires_grad_(False)

    def forward(self, x):
        h = self.layer(x) + self.frozen(x)
        return h * self.rare if x[:, 0].max() > 50 else h


MODELS = {
    "dropout": lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3)),
    "batch norm": lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)),
    "cumulative": lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, momentum=None), nn.Linear(8, 3)),
    "tokens": lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)),
    "rare": Rare,
    "overflow": lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)),
    "parts": lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)),
}


def trained(name, processes, num_microbatches=5, steps=4):
    """Weights and buffers after some steps, the last of two batches, and the reports on the last two."""
    torch.manual_seed(1 if processes is None else 1 + processes.rank)  # all begin with the weights of the first
    model = MODELS[name]().double()
    sgd = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0) if name == "overflow" else None
    settings = {"module": model, "processes": processes, "seed": 7, "observes": True, "scaler": scaler}
    optimizer = mSAM(sgd, GradientAscent(rho=0.1), num_microbatches=num_microbatches, **settings)
    generator = torch.Generator().manual_seed(3)
    losses, reports = [], []
    for step in range(steps):
        inputs = torch.randn(17, 6, generator=generator).double()
        targets = torch.randint(0, 3, (17,), generator=generator)
        if step == 1 and name in ("rare", "overflow"):
            inputs[16, 0] = 100.0  # in the last micro-batch of the second step
        if name == "overflow":
            closure = lambda b: (  # noqa: E731
                functional.cross_entropy(model(b[0]), b[1]) * (float("inf") if b[0].max() > 50 else 1.0)
            )
        elif name == "tokens":
            targets[:7] = -100  # the first micro-batches have nothing to learn from
            closure = lambda b: (  # noqa: E731
                functional.cross_entropy(model(b[0]), b[1]),
                (b[1] != -100).sum(),
            )
        else:
            closure = lambda b: functional.cross_entropy(model(b[0]), b[1])  # noqa: E731
        batch = inputs, targets
        if name == "parts" and processes is not None:  # as a DistributedSampler deals them out
            own = slice(processes.rank, None, processes.number)
            batch = processes.gathered((inputs[own], targets[own]))
        losses.append(optimizer.step(closure, batch))
        reports.append(optimizer.per_shard)
    optimizer.accumulate(closure, batch)
    losses.append(optimizer.step(closure, batch))
    report = {f"last {k}": v for k, v in vars(optimizer.per_shard).items()} | {
        f"before {k}": v for k, v in vars(reports[-1]).items()
    }
    numbers = {key: torch.as_tensor(value) for key, value in report.items()}
    numbers["skipped"] = torch.tensor([optimizer.skipped_steps, 8.0 if scaler is None else scaler.get_scale()])
    return {"losses": torch.stack(losses), **model.state_dict(), **numbers}


if __name__ == "__main__":
    with launched("cpu") as (processes, _):
        states = {name: trained(name, processes) for name in MODELS}
        torch.save(states, f"{sys.argv[1]}/rank{processes.rank}.pt")
