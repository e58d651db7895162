"""What both scripts share: an allocator that keeps memory, what others use of the machine, records as JSON Lines."""
import ctypes.util
import json
import os
import resource
import sys
import time

# glibc gives large tensors back after every operation and gets their pages anew, zeroed: most of the time of an
# unfused pass. All of it from the heap, which never shrinks, is what a tuned program does.
KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(1 << 26),
        "MALLOC_ARENA_MAX": "1"}


def tune_allocator():
    """Starts this script again with an allocator that keeps memory; returns its name."""
    if "PEER_ALLOCATOR" not in os.environ:
        env = dict(os.environ)
        for name in ("tcmalloc_minimal", "tcmalloc", "jemalloc"):
            library = ctypes.util.find_library(name)
            if library:
                env.update(PEER_ALLOCATOR=name, LD_PRELOAD=library)
                break
        else:
            env.update(KEPT, PEER_ALLOCATOR="glibc keeping memory")
        os.execve(sys.executable, [sys.executable] + sys.argv, env)
    return os.environ["PEER_ALLOCATOR"]


def used_ticks():
    with open("/proc/stat") as f:
        user, nice, system, _, _, irq, softirq, steal = map(int, f.readline().split()[1:9])
    return user + nice + system + irq + softirq + steal


def own_seconds():
    return sum(r.ru_utime + r.ru_stime for r in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


class Watch:
    """Share of the machine that others used since it was made."""

    def __init__(self):
        self.start = time.monotonic(), used_ticks(), own_seconds()

    def others(self):
        wall, ticks, own = self.start
        used = (used_ticks() - ticks) / os.sysconf("SC_CLK_TCK") - (own_seconds() - own)
        return max(0.0, used / ((time.monotonic() - wall) * os.cpu_count()))


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def seconds(call, repeat):
    """Median of so many calls after two that do not count."""
    times = []
    for i in range(-2, repeat):
        start = time.perf_counter()
        call()
        if i >= 0:
            times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def emit(**record):
    others = record.get("others")
    if others is not None:
        record["busy"] = others > 0.05
    print(json.dumps(record), flush=True)
