#!/usr/bin/env python3
"""posrf attention in PyTorch, forward and backward, as `make bench` compares it: eager and compiled, minimal code,
an allocator that keeps memory, two threads, the shape of bench/table.lua. Both must agree with exact sums.

    attention.py [--quick]
"""
import sys

import common

ALLOCATOR = common.tune_allocator()

import torch  # noqa: E402

B, H, N, D, M, THREADS = 16, 2, 4096, 32, 128, 2


def features(x, w, over):
    """exp(w.x - |x|^2 / 2), less a maximum that cancels: of a query, or of all keys of a head."""
    log = x @ w.T - (x * x).sum(-1, keepdim=True) / 2
    return torch.exp(log - log.detach().amax(over, keepdim=True))


def attention(q, k, v, w):
    scale = D ** -0.25
    fq, fk = features(q * scale, w, (-1,)), features(k * scale, w, (-2, -1))
    return (fq @ (fk.transpose(-1, -2) @ v)) / (fq @ fk.sum(-2).unsqueeze(-1))


def check(form, w):
    """Against the same sums in double, every pair of tokens on its own."""
    q, k, v = (0.6 * torch.randn(1, 1, 64, D) for _ in range(3))
    x, y, wd = q.double() * D ** -0.25, k.double() * D ** -0.25, w.double()
    fq = torch.exp(x @ wd.T - (x * x).sum(-1, keepdim=True) / 2)
    fk = torch.exp(y @ wd.T - (y * y).sum(-1, keepdim=True) / 2)
    a = fq @ fk.transpose(-1, -2)
    exact = (a / a.sum(-1, keepdim=True)) @ v.double()
    off = ((form(q, k, v, w).double() - exact).abs().max() / exact.abs().max()).item()
    if not off < 1e-4:
        sys.exit(f"attention.py: differs from exact sums by {off:.1e}")


def measure(name, form, repeat):
    torch.manual_seed(1)
    w = torch.randn(M, D)
    check(form, w)
    q, k, v, go = (0.6 * torch.randn(B, H, N, D) for _ in range(4))

    def forward():
        with torch.no_grad():
            form(q, k, v, w)

    def both():
        for x in (q, k, v):
            x.grad = None
        form(q, k, v, w).backward(go)

    shape = dict(record="peer", form=name, feat="posrf", kernel="gaus", B=B, H=H, N=N, D=D, DV=D, M=M, threads=THREADS,
                 library="PyTorch", version=torch.__version__, allocator=ALLOCATOR, repeats=repeat)
    for kind, call in (("forward", forward), ("forward+backward", both)):
        for x in (q, k, v):
            x.requires_grad_(call is both)
        watch = common.Watch()
        taken = common.seconds(call, repeat)
        common.emit(kind=kind, ns=1e9 * taken / (B * H * N), others=watch.others(), **shape)


def main():
    quick = sys.argv[1:] == ["--quick"]
    if sys.argv[1:] and not quick:
        sys.exit(f"attention.py: unknown argument {sys.argv[1]}, allowed is --quick")
    torch.set_num_threads(THREADS)
    repeat = 3 if quick else 9
    measure("eager", attention, repeat)
    if not hasattr(torch, "compile"):
        common.emit(record="skipped", what="compiled", why=f"PyTorch {torch.__version__} has no compiler")
        return
    try:  # dynamic=False: check's shapes must not make the timed ones dynamic
        measure("compiled", torch.compile(attention, dynamic=False), repeat)
    except Exception as e:  # its compiler needs a C++ compiler, headers ...
        why = str(e).strip().splitlines()[0][:120].replace('"', "'")
        common.emit(record="skipped", what="compiled", why=f"PyTorch's compiler failed: {why}")


main()
