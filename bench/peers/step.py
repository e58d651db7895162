#!/usr/bin/env python3
"""A training step of lra-text as the reference system does it in PyTorch: the classifier of two layers, performer
attention unfused with every intermediate a tensor, dropout, AdamW, gradients clipped by value. B = 8, N = 4096, two
threads, sequences of full length, as `spectraformer bench --kinds training --b 8` has them.

    step.py [--quick]
"""
import sys

import common

ALLOCATOR = common.tune_allocator()

import torch  # noqa: E402
from torch import nn  # noqa: E402

B, N, V, C, E, F, H, D, M, LAYERS, P, THREADS = 8, 4096, 512, 2, 64, 128, 2, 32, 128, 2, 0.1, 2
EPSILON = 1e-4


class Performer(nn.Module):
    """posrf: the maximum of each token, an epsilon on every feature, masked keys and values set to zero."""

    def __init__(self):
        super().__init__()
        self.register_buffer("w", torch.randn(M, D))

    def features(self, x):
        x = x * D ** -0.25
        dash = torch.einsum("...id,jd->...ij", x, self.w)
        diagonal = (x ** 2).sum(dim=-1, keepdim=True) / 2
        log = dash - diagonal
        return M ** -0.5 * (torch.exp(log - torch.amax(log, dim=-1, keepdim=True)) + EPSILON)

    def forward(self, q, k, v, mask):
        mask = mask[:, None, :, None]
        fq, fk = self.features(q), self.features(k * mask)
        inverse = 1.0 / torch.einsum("...nd,...d->...n", fq, fk.sum(dim=-2))
        context = torch.einsum("...nd,...ne->...de", fk, v * mask)
        return torch.einsum("...de,...nd,...n->...ne", context, fq, inverse)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(E), nn.LayerNorm(E)
        self.q, self.k, self.v = (nn.Linear(E, H * D) for _ in range(3))
        self.attention, self.out, self.drop = Performer(), nn.Linear(H * D, E), nn.Dropout(P)
        self.mlp = nn.Sequential(nn.Linear(E, F), nn.GELU(), nn.Dropout(P), nn.Linear(F, E), nn.Dropout(P))

    def forward(self, x, mask):
        y = self.norm1(x)
        q, k, v = (f(y).view(-1, N, H, D).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = self.attention(q, k, v, mask).transpose(1, 2).reshape(-1, N, H * D)
        x = x + self.drop(self.out(mixed))
        return x + self.mlp(self.norm2(x))


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions, self.drop = nn.Embedding(V, E), nn.Embedding(N, E), nn.Dropout(P)
        self.layers, self.norm = nn.ModuleList(Layer() for _ in range(LAYERS)), nn.LayerNorm(E)
        self.head = nn.Sequential(nn.Linear(E, F), nn.ReLU(), nn.Linear(F, C))

    def forward(self, ids):
        mask = (ids != 0).float()
        x = self.drop(self.tokens(ids) + self.positions(torch.arange(N)))
        for layer in self.layers:
            x = layer(x, mask)
        return self.head((self.norm(x) * mask[:, :, None]).sum(dim=1) / N)


def main():
    quick = sys.argv[1:] == ["--quick"]
    if sys.argv[1:] and not quick:
        sys.exit(f"step.py: unknown argument {sys.argv[1]}, allowed is --quick")
    torch.manual_seed(1)
    torch.set_num_threads(THREADS)
    model = Classifier()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.999), eps=1e-6, weight_decay=0)
    ids, label = torch.randint(1, V, (B, N)), torch.arange(B) % C

    def step():
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(ids), label).backward()
        nn.utils.clip_grad_value_(model.parameters(), 1.0)
        optimiser.step()

    repeat = 3 if quick else 7
    watch = common.Watch()
    taken = common.seconds(step, repeat)
    common.emit(record="peer", form="step", task="lra-text", feat="posrf", B=B, H=H, N=N, D=D, M=M, threads=THREADS,
                library="PyTorch", version=torch.__version__, allocator=ALLOCATOR, repeats=repeat, ms=1e3 * taken / B,
                parameters=sum(p.numel() for p in model.parameters()), peak_bytes=common.peak_bytes(),
                others=watch.others())


main()
